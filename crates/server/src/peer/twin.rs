//! Two processes as one member: a data directory was copied, and both copies run.
//!
//! ```text
//!   the others ── peer URL of member 7, as the cluster knows it ──▶ process a   asks there, and meets itself: goes on
//!                                 ▲
//!                                 └──── GET /raft/probing ───────── process b   asks there, and meets a: ends
//! ```
//!
//! The second one listens elsewhere, so no port and no lock is in its way; and it dials the others, whose streams to the first
//! one it takes over. What it then says it holds, the leader takes for held by the first one, which never got it.
//!
//! So each process draws a name when it starts, and tells it to whoever probes it. A member asks at its own peer URLs, as the
//! membership records them: before anybody hears of it, and every few seconds as long as it runs. If a process of another
//! name answers there as this member, twice in a row, then the others know that one, and this one ends.
//!
//! - The first URL at which this member answers decides, so that of two that each have one of its URLs only one ends.
//! - No answer means nothing: whoever cannot reach its own URL from inside would never run. Nor does one without a name,
//!   which is an older version's, an etcd's or a stranger's.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::client::request;
use super::headers::{CLUSTER_ID, PROCESS, SERVER_FROM, said};
use super::probe;
use crate::api::Member;
use crate::config::url;
use crate::driver::Event;

/// How often a member that runs looks for another one.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer may take. A start waits for that if the member cannot be reached at its own URL.
const PATIENCE: Duration = Duration::from_secs(1);
/// What was seen is looked at again after this, because a process that is about to end may still have answered.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Who a member is, beside the process that it runs in.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    pub cluster_id: u64,
    pub id: u64,
}

/// Who answers as this member.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Itself,
    Another,
}

/// The name of this process: random, the same until it ends.
pub(super) fn process() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        // The keys of the standard library's maps come from the system's random numbers.
        format!("{:016x}", RandomState::new().build_hasher().finish())
    });
    &NAME
}

/// The first of these URLs at which another process runs as this member. Blocks for some seconds at most; needs no runtime,
/// but somebody who serves the peer port.
pub fn look(own: Own, urls: &[String]) -> Option<String> {
    if urls.is_empty() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .inspect_err(|error| tracing::warn!(error = %error, "cannot look whether another process is this member"))
        .ok()?;
    let twin = runtime.block_on(find_twice(own, urls));
    // A name that does not resolve would be waited for.
    runtime.shutdown_background();
    twin
}

/// Looks again and again, until another process is found to run as this member. For a local runtime; one in a process.
pub async fn watch(member: Rc<Member>) {
    let shared = &member.shared;
    let own = Own { cluster_id: shared.cluster_id, id: shared.member_id };
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The start has just looked.
    ticks.reset();
    loop {
        ticks.tick().await;
        let record = shared.members().into_iter().find(|member| member.id == own.id);
        let Some(record) = record else { continue };
        if let Some(url) = find_twice(own, &record.peer_urls).await {
            member.inbox.push_control(Event::Twin(url));
            return;
        }
    }
}

async fn find_twice(own: Own, urls: &[String]) -> Option<String> {
    let url = find(own, urls).await?;
    tracing::warn!(
        "local-member-id" = %format_args!("{:x}", own.id), url,
        "another process answers as this member; looking again before this one ends"
    );
    sleep(LOOK_AGAIN_AFTER).await;
    find(own, urls).await
}

async fn find(own: Own, urls: &[String]) -> Option<String> {
    for text in urls {
        // What was recorded long ago, by another program perhaps, need not be a URL of ours.
        let Ok(url) = url::parse(text) else { continue };
        let answer = request(&url, Method::GET, probe::PATH, HeaderMap::new(), Bytes::new(), PATIENCE).await;
        match answer.ok().and_then(|reply| judge(own, process(), &reply.headers)) {
            Some(Found::Itself) => return None,
            Some(Found::Another) => return Some(text.clone()),
            None => {}
        }
    }
    None
}

/// Who answered with these headers; `None` if it is not this member, or does not say which process it is.
fn judge(own: Own, process: &str, headers: &HeaderMap) -> Option<Found> {
    let says = |name: &HeaderName, id: u64| said(headers, name).is_some_and(|text| text == format!("{id:x}"));
    let name = said(headers, &PROCESS)?;
    let same = says(&CLUSTER_ID, own.cluster_id) && says(&SERVER_FROM, own.id);
    same.then_some(if name == process { Found::Itself } else { Found::Another })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::api::bench::Bench;
    use crate::peer::Identity;

    /// The member of [`Bench`].
    const OWN: Own = Own { cluster_id: 9, id: 1 };

    fn answer(cluster_id: u64, id: u64, process: &str) -> HeaderMap {
        let identity = Identity { id, cluster_id, version: "3.7.0".into(), peer_urls: Vec::new() };
        let mut headers = HeaderMap::new();
        identity.introduce(process, &mut headers);
        headers
    }

    #[test]
    fn only_who_answers_as_this_member_and_has_another_name_is_a_twin() {
        let judged = |headers| judge(OWN, "aa", &headers);
        assert_eq!(judged(answer(9, 1, "aa")), Some(Found::Itself));
        assert_eq!(judged(answer(9, 1, "ab")), Some(Found::Another));
        assert_eq!(judged(answer(9, 2, "ab")), None, "another member at an address that was this one's");
        assert_eq!(judged(answer(8, 1, "ab")), None, "another cluster");
        assert_eq!(judged(HeaderMap::new()), None, "an etcd");
        let mut unnamed = answer(9, 1, "ab");
        unnamed.remove(PROCESS);
        assert_eq!(judged(unnamed), None, "an older version");
    }

    /// A member at the other end; and the URL that leads to it.
    async fn listens(headers: HeaderMap) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    seen.push(stream.read_u8().await.unwrap());
                }
                assert!(seen.starts_with(b"GET /raft/probing "));
                let head = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", head.collect::<String>());
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test(flavor = "local")]
    async fn the_first_url_at_which_this_member_answers_decides() {
        let (own, twin) = (listens(answer(9, 1, process())).await, listens(answer(9, 1, "other")).await);
        let (stranger, nobody) = (listens(HeaderMap::new()).await, "http://127.0.0.1:1".to_owned());
        let found = async |urls: &[&String]| {
            let urls: Vec<String> = urls.iter().map(|url| url.to_string()).collect();
            find(OWN, &urls).await
        };
        assert_eq!(found(&[&own, &twin]).await, None);
        assert_eq!(found(&[&nobody, &stranger, &twin, &own]).await, Some(twin.clone()));
        assert_eq!(found(&[&nobody, &stranger]).await, None);
        assert_eq!(found(&[&"not a url".to_owned(), &twin]).await, Some(twin));
    }

    #[tokio::test(flavor = "local")]
    async fn a_member_that_runs_is_told_of_its_twin() {
        let twin = listens(answer(9, 1, "other")).await;
        let bench = Bench::new(&[&twin]);
        tokio::task::spawn_local(watch(bench.member.clone()));
        let told = async {
            let mut events = Vec::new();
            loop {
                bench.member.inbox.drain(&mut events, Duration::ZERO);
                if let Some(Event::Twin(url)) = events.drain(..).find(|event| matches!(event, Event::Twin(_))) {
                    return url;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        assert_eq!(tokio::time::timeout(INTERVAL * 12, told).await.expect("not told"), twin);
    }
}
