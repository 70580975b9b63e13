//! Questions that only the leader can answer, sent to its peer port (etcd: `waitLeader` and its callers).
//!
//! Leadership may move at any moment, so a question is asked again until it is answered or its time is up. It is asked
//! here if this member leads, otherwise at each of the leader's URLs in turn.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use metastore_store::Member as ClusterMember;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::{MemberHandle, errors};
use crate::config::url;
use crate::grpc::{Call, Status};
use crate::peer::client::Reply;

/// The pause between two attempts, as in etcd.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a request that waits for the leader's answer checks whether the leader has changed.
const LEADER_TICK: Duration = Duration::from_millis(100);

/// A request to the leader's peer port.
pub(super) struct Question<'a> {
    pub method: Method,
    pub path: &'a str,
    pub body: Bytes,
}

/// Asks until there is an answer. `here` returns `None` if this member does not lead after all. `read` returns `None`
/// for a reply after which the question is worth asking again.
///
/// # Errors
/// The errors of `here` and `read`. If there is no leader until the time is up, `no leader`; otherwise a timeout.
pub(super) async fn ask_leader<T, E: From<Status>>(
    member: &MemberHandle,
    call: &Call,
    question: Question<'_>,
    here: impl AsyncFn() -> Result<Option<T>, E>,
    read: impl Fn(Reply) -> Option<Result<T, E>>,
) -> Result<T, E> {
    let limit = member.time_limit(call);
    loop {
        if member.shared.is_leader()
            && let Some(answer) = here().await?
        {
            return Ok(answer);
        }
        let leader = wait_for_leader(member, limit.at).await?;
        if leader.id != member.shared.member_id {
            let answer = tokio::select! {
                answer = ask_there(member, &leader, &question, limit.at, &read) => answer,
                () = replaced(member, leader.id) => None,
            };
            if let Some(answer) = answer {
                return answer;
            }
        }
        if Instant::now() + PAUSE >= limit.at {
            sleep_until(limit.at).await;
            return Err(limit.passed().into());
        }
        sleep(PAUSE).await;
    }
}

async fn ask_there<T, E>(
    member: &MemberHandle,
    leader: &ClusterMember,
    question: &Question<'_>,
    deadline: Instant,
    read: impl Fn(Reply) -> Option<Result<T, E>>,
) -> Option<Result<T, E>> {
    let Question { method, path, body } = question;
    for url in leader.peer_urls.iter().filter_map(|text| url::parse(text).ok()) {
        let mut headers = member.transport.headers(leader.id);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
        let left = deadline.saturating_duration_since(Instant::now());
        let what = (headers, body.clone());
        match member.pool.request(&url, method.clone(), path, what, left).await {
            Ok(reply) => {
                if let Some(answer) = read(reply) {
                    return Some(answer);
                }
            }
            Err(error) => tracing::debug!(error = %error, "could not ask the leader"),
        }
    }
    None
}

/// The leader, once there is one that is a member.
async fn wait_for_leader(member: &MemberHandle, deadline: Instant) -> Result<ClusterMember, Status> {
    loop {
        let id = member.shared.leader();
        let leader = if id == 0 { None } else { member.shared.members().into_iter().find(|member| member.id == id) };
        if let Some(leader) = leader {
            return Ok(leader);
        }
        if Instant::now() >= deadline {
            return Err(errors::no_leader());
        }
        sleep(PAUSE).await;
    }
}

/// Returns when this member no longer sees `leader` as the leader, because an answer from it might take long.
async fn replaced(member: &MemberHandle, leader: u64) {
    while member.shared.leader() == leader {
        sleep(LEADER_TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::api::fake_engine::FakeEngine;

    /// Answers each connection with the next of `replies`, and all further ones with the last.
    async fn peer(replies: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            for at in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\nq") {
                    seen.push(stream.read_u8().await.unwrap());
                }
                assert!(seen.starts_with(b"POST /leases HTTP/1.1\r\n"));
                let body = replies[at.min(replies.len() - 1)];
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        url
    }

    /// The answer to a question that is asked again until a reply begins with "yes".
    async fn ask(fake: &FakeEngine, call: &Call, here: Option<&'static str>) -> Result<String, Status> {
        let question = Question { method: Method::POST, path: "/leases", body: Bytes::from_static(b"q") };
        let here = async || Ok(here.map(str::to_owned));
        let read = |reply: Reply| {
            let text = String::from_utf8(reply.body.to_vec()).unwrap();
            text.starts_with("yes").then_some(Ok(text))
        };
        ask_leader(&fake.member, call, question, here, read).await
    }

    fn call() -> Call {
        Call::of_member(Instant::now() + Duration::from_secs(60))
    }

    #[tokio::test(flavor = "local")]
    async fn the_leader_is_asked_until_it_answers() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", &peer(&["no", "no", "yes"]).await]);
        fake.led_by(2);
        assert_eq!(ask(&fake, &call(), Some("not asked")).await.unwrap(), "yes");
    }

    #[tokio::test(flavor = "local")]
    async fn each_url_of_the_leader_is_tried() {
        let urls: [&str; 3] = ["http://127.0.0.1:2", &peer(&["no"]).await, &peer(&["yes, the third"]).await];
        let fake = FakeEngine::new(&["http://127.0.0.1:1", &urls.join(",")]);
        fake.led_by(2);
        assert_eq!(ask(&fake, &call(), None).await.unwrap(), "yes, the third");
    }

    #[tokio::test(flavor = "local")]
    async fn who_leads_after_all_answers_here() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", &peer(&["no"]).await]);
        fake.led_by(1);
        assert_eq!(ask(&fake, &call(), Some("here")).await.unwrap(), "here");
    }

    #[tokio::test(flavor = "local")]
    async fn a_leader_that_is_silent_is_left_for_the_next() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent_url = format!("http://{}", silent.local_addr().unwrap());
        let fake = Rc::new(FakeEngine::new(&["http://127.0.0.1:1", &silent_url, &peer(&["yes, the third"]).await]));
        fake.led_by(2);
        let asked = Rc::new(Cell::new(false));
        let (replacing, seen) = (fake.clone(), asked.clone());
        tokio::task::spawn_local(async move {
            let _open = silent.accept().await.unwrap();
            seen.set(true);
            replacing.led_by(3);
            std::future::pending::<()>().await;
        });
        assert_eq!(ask(&fake, &call(), None).await.unwrap(), "yes, the third");
        assert!(asked.get());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn the_time_is_limited() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let began = Instant::now();
        assert_eq!(ask(&fake, &call(), None).await.unwrap_err(), errors::no_leader());
        assert!(began.elapsed() >= Duration::from_secs(7) && began.elapsed() < Duration::from_secs(8));
        fake.led_by(1);
        assert_eq!(ask(&fake, &call(), None).await.unwrap_err(), errors::timeout(), "it never says that it leads");
        let impatient = Call::of_member(Instant::now() + Duration::from_secs(1));
        assert_eq!(ask(&fake, &impatient, None).await.unwrap_err(), Status::deadline_exceeded());
    }
}
