//! The question for the hash of another member's keys at a revision: its bytes, which [`crate::questions`] also reads
//! and writes, and the side that asks.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use metastore_store::Member as ClusterMember;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::config::url;
use crate::peer::Transport;
use crate::peer::client::{Reply, request_up_to};
use crate::peer::headers::CLUSTER_ID_MISMATCH;
use crate::shared::Shared;

pub const PATH: &str = "/members/hashkv";

/// Errors that members tell apart by these texts, which are etcd's, without the prefix that the client API adds.
pub const COMPACTED: &str = "mvcc: required revision has been compacted";
pub const FUTURE_REVISION: &str = "mvcc: required revision is a future revision";

/// The longest answer that is read. A valid one takes about a hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The question, as Go writes it. The revision 0 is left out, and means the current revision.
#[derive(Deserialize, Serialize)]
pub struct Question {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: i64,
}

/// The answer. Go leaves out fields that are 0.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub header: Header,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hash: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compact_revision: i64,
    /// etcd 3.5 does not say it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hash_revision: i64,
}

/// The part of the header that is said.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Header {
    /// The newest revision of the member.
    #[serde(default)]
    pub revision: i64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Another member, and what it has answered.
#[derive(Debug)]
pub struct Peer {
    pub id: u64,
    pub urls: Vec<String>,
    pub answer: Result<Answer, NoHash>,
}

/// Why a member has given no hash.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHash {
    #[error("{COMPACTED}")]
    Compacted,
    #[error("{FUTURE_REVISION}")]
    FutureRevision,
    #[error("{CLUSTER_ID_MISMATCH}")]
    OtherCluster,
    /// No answer, or none that can be read.
    #[error("{0}")]
    Unknown(String),
}

/// Asks all other members at a time, and each at one of its URLs after the other, as long as none answers; each may
/// take `patience`. In the order of their ids. For a local runtime.
pub async fn ask_all(shared: &Shared, transport: &Transport, revision: i64, patience: Duration) -> Vec<Peer> {
    let mut asking = JoinSet::new();
    for member in shared.members() {
        if member.id != shared.member_id && !member.peer_urls.is_empty() {
            asking.spawn_local(ask(transport.clone(), shared.member_id, member, revision, patience));
        }
    }
    let mut peers = asking.join_all().await;
    peers.sort_by_key(|peer| peer.id);
    peers
}

async fn ask(transport: Transport, own: u64, member: ClusterMember, revision: i64, patience: Duration) -> Peer {
    let ClusterMember { id, peer_urls: urls, .. } = member;
    let mut answer = Err(NoHash::Unknown("no URL".into()));
    for text in &urls {
        answer = ask_at(&transport, id, text, revision, patience).await;
        let Err(error) = &answer else { break };
        seldom!(
            warn, (own, id, text),
            "local-member-id" = %format_args!("{own:x}"), "requested-revision" = revision,
            "remote-peer-endpoint" = text, error = %error, "failed hash kv request"
        );
    }
    Peer { id, urls, answer }
}

async fn ask_at(
    transport: &Transport,
    id: u64,
    peer_url: &str,
    revision: i64,
    patience: Duration,
) -> Result<Answer, NoHash> {
    let url = url::parse(peer_url).map_err(NoHash::Unknown)?;
    let mut headers = transport.headers(id);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = Bytes::from(serde_json::to_vec(&Question { revision }).expect("plain structures become JSON"));
    let what = (headers, body);
    let reply = request_up_to(transport.tls(), &url, Method::GET, PATH, what, patience, MAX_ANSWER_BYTES).await;
    read(&reply.map_err(|error| NoHash::Unknown(error.to_string()))?)
}

fn read(reply: &Reply) -> Result<Answer, NoHash> {
    let text = String::from_utf8_lossy(&reply.body);
    match reply.status {
        StatusCode::OK => {
            let unread = |error| NoHash::Unknown(format!("the answer {:?} cannot be read: {error}", text.trim_end()));
            serde_json::from_slice(&reply.body).map_err(unread)
        }
        StatusCode::BAD_REQUEST if text.contains(COMPACTED) => Err(NoHash::Compacted),
        StatusCode::BAD_REQUEST if text.contains(FUTURE_REVISION) => Err(NoHash::FutureRevision),
        StatusCode::PRECONDITION_FAILED if text.contains(CLUSTER_ID_MISMATCH) => Err(NoHash::OtherCluster),
        status => Err(NoHash::Unknown(format!("the answer was {status}: {}", text.trim_end()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &'static str) -> Result<Answer, NoHash> {
        read(&Reply { status: StatusCode::from_u16(status).unwrap(), headers: Default::default(), body: body.into() })
    }

    #[test]
    fn answers_of_etcds_are_read() {
        let said =
            |hash_revision| Answer { header: Header { revision: 7 }, hash: 5, compact_revision: -1, hash_revision };
        let newest = r#"{"header":{"revision":7},"hash":5,"compact_revision":-1,"hash_revision":6}"#;
        assert_eq!(reply(200, newest), Ok(said(6)));
        assert_eq!(reply(200, r#"{"header":{"revision":7},"hash":5,"compact_revision":-1}"#), Ok(said(0)));
        assert_eq!(reply(400, "mvcc: required revision has been compacted\n"), Err(NoHash::Compacted));
        assert_eq!(reply(400, "mvcc: required revision is a future revision\n"), Err(NoHash::FutureRevision));
        assert_eq!(reply(412, "cluster ID mismatch\n"), Err(NoHash::OtherCluster));
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_none() {
        let unknown = |status, body| match reply(status, body) {
            Err(NoHash::Unknown(why)) => why,
            other => panic!("{other:?}"),
        };
        for body in ["", "[]", "{}", r#"{"header":{"revision":7},"hash":-5}"#, r#"{"header":{},"hash":"5"}"#] {
            assert!(unknown(200, body).starts_with("the answer "), "{body}");
        }
        assert_eq!(unknown(404, "404 page not found\n"), "the answer was 404 Not Found: 404 page not found");
        assert!(unknown(500, "mvcc: required revision has been compacted").contains("500"));
    }
}
