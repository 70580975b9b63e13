//! Questions that only the leader can answer, put to it on its peer port (etcd: `waitLeader` and its callers).
//!
//! Leadership may move at any moment, so a question is asked again until somebody answers or the time is up: here if this
//! member leads, otherwise at each of the leader's URLs in turn.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use metastore_store::Member as ClusterMember;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::{Member, errors};
use crate::config::url;
use crate::grpc::{Call, Status};
use crate::peer::client::{Reply, request};

/// The pause between two attempts, as in etcd.
const PAUSE: Duration = Duration::from_millis(50);
/// How often whoever waits looks who leads now.
const LEADER_TICK: Duration = Duration::from_millis(100);

/// What is asked at the peer port.
pub(super) struct Question<'a> {
    pub method: Method,
    pub path: &'a str,
    pub body: Bytes,
}

/// Asks until there is an answer. `here` gives `None` when this member does not lead after all; `read` gives `None` for a
/// reply after which it is worth trying again.
///
/// # Errors
/// Those of `here` and `read`; without a leader until the time is up that there is none; else that the time is up.
pub(super) async fn ask_leader<T, E: From<Status>>(
    member: &Member,
    call: &Call,
    question: Question<'_>,
    here: impl AsyncFn() -> Result<Option<T>, E>,
    read: impl Fn(Reply) -> Option<Result<T, E>>,
) -> Result<T, E> {
    let limit = member.time_limit(call);
    loop {
        if member.shared.is_leader() {
            if let Some(answer) = here().await? {
                return Ok(answer);
            }
        }
        let leader = wait_for_leader(member, limit.at).await?;
        if leader.id != member.shared.member_id {
            let answer = tokio::select! {
                answer = ask_there(&leader, &question, limit.at, &read) => answer,
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
    leader: &ClusterMember,
    question: &Question<'_>,
    deadline: Instant,
    read: impl Fn(Reply) -> Option<Result<T, E>>,
) -> Option<Result<T, E>> {
    let Question { method, path, body } = question;
    for url in leader.peer_urls.iter().filter_map(|text| url::parse(text).ok()) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
        let left = deadline.saturating_duration_since(Instant::now());
        match request(&url, method.clone(), path, headers, body.clone(), left).await {
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
async fn wait_for_leader(member: &Member, deadline: Instant) -> Result<ClusterMember, Status> {
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

/// Returns when `leader` leads no longer, as far as is known here: an answer of it might be long in coming.
async fn replaced(member: &Member, leader: u64) {
    while member.shared.leader() == leader {
        sleep(LEADER_TICK).await;
    }
}
