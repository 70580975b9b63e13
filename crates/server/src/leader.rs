//! Questions that only the leader can answer: both ends of each question in a file.
//!
//! ```text
//!   a client's request ──▶ renewal::renew ──▶ ask_leader ──▶ this member leads: renewal::renew_here ──▶ engine thread
//!                                                 │                                ▲
//!                                                 └─▶ POST at the leader's peer port, answered by renewal::answer
//! ```
//!
//! Leadership may move at any moment, so a question is asked again until it is answered or its time is up (etcd:
//! `waitLeader` and its callers). It is asked here if this member leads, otherwise at each of the leader's URLs in
//! turn.

pub mod promotion;
pub mod renewal;
pub mod time_to_live;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use metastore_proto::Message;
use metastore_store::Member as ClusterMember;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::config::url;
use crate::grpc::{Call, Code, Status};
use crate::member::{MemberHandle, errors};
use crate::peer::client::Reply;
use crate::peer::{HttpError, answer_with};

/// The pause between two attempts, as in etcd.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a request that waits for the leader's answer checks whether the leader has changed.
const LEADER_TICK: Duration = Duration::from_millis(100);

/// How long an answer may take here; after that, the other member asks again. etcd waits as long for the applied index,
/// and longer for the end of an expired lease.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a path of the peer port belongs to these questions.
pub fn concerns(path: &str) -> bool {
    matches!(path, renewal::PATH | renewal::BATCH_PATH | time_to_live::PATH) || path.starts_with(promotion::PREFIX)
}

/// Answers the question of another member at a path that [`concerns`] this room.
pub async fn answer(member: &MemberHandle, path: &str, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    match path {
        renewal::PATH => renewal::answer(member, body).await,
        renewal::BATCH_PATH => renewal::answer_batch(member, body).await,
        time_to_live::PATH => time_to_live::answer(member, body).await,
        path => promotion::answer(member, path.strip_prefix(promotion::PREFIX).unwrap_or(path)).await,
    }
}

/// A request to the leader's peer port.
struct Question<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
}

/// Asks until there is an answer. `here` returns `None` if this member does not lead after all. `read` returns `None`
/// for a reply after which the question is worth asking again.
///
/// # Errors
/// The errors of `here` and `read`. If there is no leader until the time is up, `no leader`; otherwise a timeout.
async fn ask_leader<T, E: From<Status>>(
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

/// The answer of this member about a lease.
#[derive(Debug)]
pub(crate) enum Lookup<T> {
    Found(T),
    NotFound,
    NotLeader,
}

impl<T> Lookup<T> {
    /// `None` if this member cannot say; inside, `None` if there is no such lease.
    fn answered(self) -> Option<Option<T>> {
        match self {
            Self::Found(found) => Some(Some(found)),
            Self::NotFound => Some(None),
            Self::NotLeader => None,
        }
    }
}

fn call() -> Call {
    Call::of_member(Instant::now() + PATIENCE)
}

fn protobuf(message: &impl Message) -> Response<Bytes> {
    answer_with(StatusCode::OK, "application/protobuf", message.encode_to_vec().into())
}

fn unreadable() -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

fn not_primary() -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "not a primary lessor")
}

fn not_found() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "lease not found")
}

/// No answer in time, or none at all: in both cases the other member asks again.
fn late(status: Status) -> HttpError {
    match status.code {
        Code::DeadlineExceeded | Code::Unavailable => {
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "waiting for node to catch up its applied index has timed out")
        }
        _ => HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, status.message),
    }
}

#[cfg(test)]
mod tests;
