//! `GET /members/hashkv` and `GET /downgrade/enabled`: members that run etcd ask here whether the states are equal, and
//! whether the cluster is being downgraded (etcd: `etcdserver/corrupt.go`, `etcdserver/server.go`).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use metastore_store::Refusal;
use metastore_store::mvcc::{HashKv, ReadError};
use tokio::time::Instant;

use crate::duties::corruption::question::{self, Answer, Header, Question};
use crate::grpc::{Call, Status};
use crate::member::{MemberHandle, on_pool};
use crate::peer::headers::{CLUSTER_ID, CLUSTER_ID_MISMATCH, said};
use crate::peer::{HttpError, answer_with};

pub(super) const HASH_PATH: &str = question::PATH;
pub(super) const DOWNGRADE_PATH: &str = "/downgrade/enabled";

/// Whether a path of the peer port belongs to these questions.
pub(super) fn concerns(path: &str) -> bool {
    matches!(path, HASH_PATH | DOWNGRADE_PATH)
}

/// Answers a question at a path that [`concerns`] this file.
pub(super) async fn answer(
    member: &MemberHandle,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Bytes>, HttpError> {
    if path == HASH_PATH { hash(member, headers, body).await } else { downgrade(member).await }
}

/// Answers [`HASH_PATH`].
async fn hash(member: &MemberHandle, headers: &HeaderMap, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    if said(headers, &CLUSTER_ID).is_some_and(|id| id != cluster_id(member)) {
        return Err(HttpError::new(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH));
    }
    let request: Question = serde_json::from_slice(&body)
        .map_err(|_| HttpError::new(StatusCode::BAD_REQUEST, "error unmarshalling request"))?;
    let view = member.view();
    let hashed = on_pool(move || Ok::<_, Status>(view.hash_kv(request.revision))).await;
    let hashed = hashed.map_err(|status| HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, status.message))?;
    let HashKv { hash, compact_revision, hash_revision, revision } = hashed.map_err(unhashed)?;
    let answer = Answer { header: Header { revision }, hash, compact_revision, hash_revision };
    let json = serde_json::to_vec(&answer).expect("plain structures become JSON");
    Ok(sign(member, answer_with(StatusCode::OK, "application/json", json.into())))
}

/// The texts that etcd looks for: without the prefix that the client API adds.
fn unhashed(error: ReadError) -> HttpError {
    let text = match error {
        ReadError::Refused(Refusal::Compacted) => question::COMPACTED.into(),
        ReadError::Refused(Refusal::FutureRevision) => question::FUTURE_REVISION.into(),
        ReadError::Refused(refusal) => refusal.to_string(),
        ReadError::Engine(error) => error.to_string(),
    };
    HttpError::new(StatusCode::BAD_REQUEST, text)
}

/// Answers [`DOWNGRADE_PATH`], with the current state.
async fn downgrade(member: &MemberHandle) -> Result<Response<Bytes>, HttpError> {
    let call = Call::of_member(Instant::now() + member.limits.request_timeout);
    let late = |status: Status| {
        let text = format!("failed linearized read: {}", status.message);
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    member.read_barrier(&call).await.map_err(late)?;
    let enabled = if member.shared.downgrade().is_some() { "true" } else { "false" };
    Ok(sign(member, answer_with(StatusCode::OK, "text/plain", Bytes::from_static(enabled.as_bytes()))))
}

fn cluster_id(member: &MemberHandle) -> String {
    format!("{:x}", member.shared.cluster_id)
}

fn sign(member: &MemberHandle, mut response: Response<Bytes>) -> Response<Bytes> {
    let id = HeaderValue::from_str(&cluster_id(member)).expect("hexadecimal digits");
    response.headers_mut().insert(CLUSTER_ID, id);
    response
}
