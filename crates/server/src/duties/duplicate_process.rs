//! Duplicate processes: a data directory was copied, and two processes run as one member.
//!
//! ```text
//!   the others ── peer URL of member 7, as the cluster knows it ──▶ process a   asks there, and meets itself: goes on
//!                                 ▲
//!                                 └──── GET /raft/probing ───────── process b   asks there, and meets a: ends
//! ```
//!
//! The second process listens elsewhere, so neither a port nor a lock stops it. It dials the other members, and takes
//! over their streams to the first process. Entries that it then acknowledges count for the leader as held by the first
//! process, which never got them.
//!
//! So each process takes a random name when it starts, and answers probes with it and with the name of its data
//! directory. A member probes its own peer URLs, as the membership records them: before another member hears of it, and
//! every few seconds as long as it runs. If another process answers there as this member, twice in a row, then the
//! other members reach that process.
//!
//! - A single member does not probe: no other member dials it, so two processes that were founded alike disturb each
//!   other as little as two etcds do.
//! - A process that starts then ends, whatever the data directory of the other process: no other member has heard of it
//!   yet.
//! - A process that runs ends only if the other process works on a copy of its directory. A process that was founded
//!   alike on a directory of its own is a stranger with the same ids. It must not end a healthy member, and is only
//!   warned about.
//! - The first URL at which this member answers decides: if each of two processes has one of the URLs, only one process
//!   ends.
//! - No answer means nothing: otherwise a member that cannot reach its own URL from inside would never run. Nor does an
//!   answer without a process name mean anything: it comes from an older version, an etcd or a stranger.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::url;
use crate::driver::{DuplicateProcess, Event};
use crate::member::MemberHandle;
use crate::peer::client::request;
use crate::peer::headers::{CLUSTER_ID, DIRECTORY, PROCESS, SERVER_FROM, said};
use crate::peer::names::process;
use crate::peer::probe;
use crate::tls::Connector;

/// How often a member that runs looks for a duplicate process.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer may take. A start waits for this time if the member cannot be reached at its own URL.
const PATIENCE: Duration = Duration::from_secs(1);
/// A finding is checked again after this time, because a process that is about to end may still have answered.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The identity of this member, without its process.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    pub cluster_id: u64,
    pub id: u64,
    /// The name of its data directory.
    pub directory: Option<u64>,
}

/// The process that answers as this member.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Itself,
    Another { copy: bool },
}

/// Returns the duplicate process, if the first of these URLs at which this member answers leads to one. Blocks for at
/// most some seconds. Needs no runtime, but the peer port must be served.
pub fn look(own: Own, tls: &Connector, urls: &[String]) -> Option<DuplicateProcess> {
    if urls.is_empty() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .inspect_err(|error| tracing::warn!(error = %error, "cannot look whether another process is this member"))
        .ok()?;
    let duplicate = runtime.block_on(find_twice(own, tls, urls));
    // Otherwise this would wait for a name that does not resolve.
    runtime.shutdown_background();
    duplicate
}

/// Looks again and again, until a duplicate process is found that works on a copy of this member's directory. For a
/// local runtime, once in a process.
pub async fn watch(member: Rc<MemberHandle>, own: Own) {
    let shared = &member.shared;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The start has just looked.
    ticks.reset();
    let mut warned_of = String::new();
    loop {
        ticks.tick().await;
        let members = shared.members();
        let Some(record) = members.iter().find(|member| member.id == own.id) else { continue };
        if members.len() == 1 {
            continue;
        }
        match find_twice(own, member.transport.tls(), &record.peer_urls).await {
            Some(duplicate) if duplicate.copy => {
                member.engine.tell(Event::DuplicateProcess(duplicate));
                return;
            }
            Some(DuplicateProcess { url, .. }) if url != warned_of => {
                seldom!(
                    warn, (own.id, &url),
                    "local-member-id" = %format_args!("{:x}", own.id), url,
                    "another process, founded with the same names, peer URLs and token on a data directory of its \
                     own, answers at a peer URL of this member; give it peer URLs or an --initial-cluster-token of \
                     its own"
                );
                warned_of = url;
            }
            _ => {}
        }
    }
}

async fn find_twice(own: Own, tls: &Connector, urls: &[String]) -> Option<DuplicateProcess> {
    let first = find(own, tls, urls).await?;
    tracing::debug!(
        "local-member-id" = %format_args!("{:x}", own.id), url = first.url,
        "another process answers as this member; looking again"
    );
    sleep(LOOK_AGAIN_AFTER).await;
    find(own, tls, urls).await
}

async fn find(own: Own, tls: &Connector, urls: &[String]) -> Option<DuplicateProcess> {
    for text in urls {
        // A URL that was recorded long ago, perhaps by another program, need not be valid here.
        let Ok(url) = url::parse(text) else { continue };
        let answer = request(tls, &url, Method::GET, probe::PATH, HeaderMap::new(), Bytes::new(), PATIENCE).await;
        match answer.ok().and_then(|reply| judge(own, process(), &reply.headers)) {
            Some(Found::Itself) => return None,
            Some(Found::Another { copy }) => return Some(DuplicateProcess { url: text.clone(), copy }),
            None => {}
        }
    }
    None
}

/// The process that answered with these headers; `None` if it is not this member, or does not say which process it is.
fn judge(own: Own, process: &str, headers: &HeaderMap) -> Option<Found> {
    let says = |name: &HeaderName, id: u64| said(headers, name).is_some_and(|text| text == format!("{id:x}"));
    let name = said(headers, &PROCESS)?;
    let same = says(&CLUSTER_ID, own.cluster_id) && says(&SERVER_FROM, own.id);
    let found = || {
        if name == process {
            return Found::Itself;
        }
        let theirs = said(headers, &DIRECTORY).and_then(|text| u64::from_str_radix(text, 16).ok());
        // A directory whose name is not known may be a copy.
        Found::Another { copy: theirs.is_none() || own.directory.is_none() || theirs == own.directory }
    };
    same.then(found)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::member::fake_engine::FakeEngine;
    use crate::peer::Identity;

    /// The member of [`FakeEngine`].
    const OWN: Own = Own { cluster_id: 9, id: 1, directory: Some(0xd) };

    fn answer(cluster_id: u64, id: u64, process: &str, directory: Option<u64>) -> HeaderMap {
        let identity = Identity { id, cluster_id, directory, version: "3.7.0".into(), peer_urls: Vec::new() };
        let mut headers = HeaderMap::new();
        identity.introduce(process, &mut headers);
        headers
    }

    #[test]
    fn only_another_process_that_answers_as_this_member_is_a_twin() {
        let judged = |headers| judge(OWN, "aa", &headers);
        assert_eq!(judged(answer(9, 1, "aa", Some(0xd))), Some(Found::Itself));
        assert_eq!(judged(answer(9, 1, "ab", Some(0xd))), Some(Found::Another { copy: true }));
        assert_eq!(judged(answer(9, 1, "ab", Some(0xe))), Some(Found::Another { copy: false }), "founded alike");
        assert_eq!(judged(answer(9, 1, "ab", None)), Some(Found::Another { copy: true }), "an older version");
        let unnamed = Own { directory: None, ..OWN };
        assert_eq!(judge(unnamed, "aa", &answer(9, 1, "ab", Some(0xe))), Some(Found::Another { copy: true }));
        assert_eq!(judged(answer(9, 2, "ab", Some(0xd))), None, "another member at an address that was this one's");
        assert_eq!(judged(answer(8, 1, "ab", Some(0xd))), None, "another cluster");
        assert_eq!(judged(HeaderMap::new()), None, "an etcd");
        let mut unnamed = answer(9, 1, "ab", Some(0xd));
        unnamed.remove(PROCESS);
        assert_eq!(judged(unnamed), None, "an older version still");
    }

    /// A process that answers probes with `headers`. Returns its URL.
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

    fn copy_at(url: &str) -> DuplicateProcess {
        DuplicateProcess { url: url.to_owned(), copy: true }
    }

    #[tokio::test(flavor = "local")]
    async fn the_first_url_at_which_this_member_answers_decides() {
        let own = listens(answer(9, 1, process(), Some(0xd))).await;
        let duplicate = listens(answer(9, 1, "other", Some(0xd))).await;
        let (stranger, nobody) = (listens(HeaderMap::new()).await, "http://127.0.0.1:1".to_owned());
        let found = async |urls: &[&String]| {
            let urls: Vec<String> = urls.iter().map(|url| url.to_string()).collect();
            find(OWN, &Connector::default(), &urls).await
        };
        assert_eq!(found(&[&own, &duplicate]).await, None);
        assert_eq!(found(&[&nobody, &stranger, &duplicate, &own]).await, Some(copy_at(&duplicate)));
        assert_eq!(found(&[&nobody, &stranger]).await, None);
        assert_eq!(found(&[&"not a url".to_owned(), &duplicate]).await, Some(copy_at(&duplicate)));
    }

    /// The duplicate process that a running member reports within some rounds.
    async fn told(members: &[&str]) -> Option<DuplicateProcess> {
        let fake = FakeEngine::new(members);
        tokio::task::spawn_local(watch(fake.member.clone(), OWN));
        let told = async {
            loop {
                if let Some(Event::DuplicateProcess(duplicate)) =
                    fake.events().into_iter().find(|event| matches!(event, Event::DuplicateProcess(_)))
                {
                    return duplicate;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(INTERVAL * 2, told).await.ok()
    }

    #[tokio::test(flavor = "local")]
    async fn a_member_that_runs_is_told_of_a_copy_and_not_of_one_that_was_founded_alike() {
        let other = "http://127.0.0.1:1";
        let copy = listens(answer(9, 1, "other", Some(0xd))).await;
        let founded_alike = listens(answer(9, 1, "other", Some(0xe))).await;
        let (cluster, alone, other) = ([&*copy, other], [&*copy], [&*founded_alike, other]);
        let (told_of_copy, alone, namesake) = tokio::join!(told(&cluster), told(&alone), told(&other));
        assert_eq!(told_of_copy, Some(copy_at(&copy)));
        assert_eq!(alone, None, "no other member dials a single one");
        assert_eq!(namesake, None);
    }
}
