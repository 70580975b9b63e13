//! `POST /members/promote/<id>`: a member asks the leader to promote a learner to a voter. In etcd, `promoteMemberHTTP`
//! of `etcdhttp/peer.go` does this.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use metastore_proto::raftpb::ConfChangeType;
use metastore_store::{Member as ClusterMember, Outcome, Refusal, promotion_json};
use tokio::time::Instant;

use super::{Question, ask_leader};
use crate::driver::{Answer, Event};
use crate::grpc::{Call, Status};
use crate::member::{MemberHandle, errors};
use crate::peer::client::Reply;
use crate::peer::{HttpError, answer_with};

/// The beginning of the path; the id in decimal digits follows.
pub(super) const PREFIX: &str = "/members/promote/";

const NOT_FOUND: &str = "membership: ID not found";
const NOT_LEARNER: &str = "membership: can only promote a learner member";
const NOT_READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";

/// The path at which the leader is asked to promote the learner `id`.
pub(super) fn path(id: u64) -> String {
    format!("{PREFIX}{id}")
}

/// The reason why a learner is not promoted.
#[derive(Debug)]
pub enum Unpromoted {
    NotFound,
    NotLearner,
    NotReady,
    Other(Status),
}

impl From<Unpromoted> for Status {
    fn from(why: Unpromoted) -> Status {
        match why {
            Unpromoted::NotFound => errors::refused(Refusal::MemberNotFound),
            Unpromoted::NotLearner => errors::refused(Refusal::MemberNotLearner),
            Unpromoted::NotReady => errors::learner_not_ready(),
            Unpromoted::Other(status) => status,
        }
    }
}

impl From<Status> for Unpromoted {
    fn from(status: Status) -> Self {
        Self::Other(status)
    }
}

/// Promotes a learner to a voter, here or at the leader; returns the members.
pub async fn promote(member: &MemberHandle, call: &Call, id: u64) -> Result<Vec<ClusterMember>, Unpromoted> {
    let here = async || {
        let promoted = promote_here(member, call, id).await;
        if let Some(result) = promoted.as_ref().map_or_else(|why| Some(Err(why)), |done| done.as_ref().map(Ok)) {
            member.metrics.learner_promoted(result.map(drop).map_err(etcds_text));
        }
        promoted
    };
    let path = path(id);
    let question = Question { method: Method::POST, path: &path, body: Default::default() };
    ask_leader(member, call, question, here, read_reply).await
}

/// `None` if this member does not lead.
async fn promote_here(member: &MemberHandle, call: &Call, id: u64) -> Result<Option<Vec<ClusterMember>>, Unpromoted> {
    let change = member.change_of_members(ConfChangeType::ConfChangeAddNode, id, Some(promotion_json(id)));
    let known = || member.shared.members().iter().any(|member| member.id == id);
    if known() {
        member.may_promote()?;
    }
    match member
        .ask_for_change(call, (change.id(), 0, Instant::now()), |waiter| Event::Promote { waiter, change })
        .await?
    {
        Answer::NotLeader => Ok(None),
        Answer::LearnerNotReady => Err(if known() { Unpromoted::NotReady } else { Unpromoted::NotFound }),
        Answer::Outcome(Outcome { reply: Err(Refusal::MemberNotLearner), .. }) => Err(Unpromoted::NotLearner),
        Answer::Outcome(Outcome { reply: Err(Refusal::MemberNotFound | Refusal::MemberRemoved), .. }) => {
            Err(Unpromoted::NotFound)
        }
        answer => Ok(Some(member.changed_members(answer)?)),
    }
}

/// The text of etcd's own error, which its members look for in the answer; the metrics show it as well.
fn etcds_text(why: &Unpromoted) -> &str {
    match why {
        Unpromoted::NotFound => NOT_FOUND,
        Unpromoted::NotLearner => NOT_LEARNER,
        Unpromoted::NotReady => NOT_READY,
        Unpromoted::Other(status) => &status.message,
    }
}

/// Answers a path that begins with [`PREFIX`]. A member that does not lead asks the leader in turn, as in etcd.
pub(super) async fn answer(member: &MemberHandle, id: &str) -> Result<Response<Bytes>, HttpError> {
    let Ok(number) = id.parse() else {
        return Err(HttpError::new(StatusCode::NOT_FOUND, format!("member {id} not found in cluster")));
    };
    let call = Call::of_member(Instant::now() + member.limits.request_timeout);
    let mut response = match promote(member, &call, number).await {
        Ok(members) => {
            let json = serde_json::to_vec(&members).expect("plain structures become JSON");
            answer_with(StatusCode::OK, "application/json", json.into())
        }
        Err(why) => {
            seldom!(
                warn, number,
                "member-id" = %format!("{number:x}"), error = etcds_text(&why), "failed to promote a member"
            );
            refuse(&why)?
        }
    };
    let cluster = HeaderValue::from_str(&format!("{:x}", member.shared.cluster_id)).expect("hexadecimal digits");
    response.headers_mut().insert("x-etcd-cluster-id", cluster);
    Ok(response)
}

fn refuse(why: &Unpromoted) -> Result<Response<Bytes>, HttpError> {
    let status = match why {
        Unpromoted::NotFound => StatusCode::NOT_FOUND,
        Unpromoted::NotLearner | Unpromoted::NotReady => StatusCode::PRECONDITION_FAILED,
        Unpromoted::Other(_) => {
            let body = Bytes::from_static(br#"{"message":"Internal Server Error"}"#);
            return Ok(answer_with(StatusCode::INTERNAL_SERVER_ERROR, "application/json", body));
        }
    };
    Err(HttpError::new(status, etcds_text(why).to_owned()))
}

/// Reads the answer: the members. `None` if asking again may help.
fn read_reply(reply: Reply) -> Option<Result<Vec<ClusterMember>, Unpromoted>> {
    let says = |text: &str| String::from_utf8_lossy(&reply.body).contains(text);
    match reply.status {
        StatusCode::OK => serde_json::from_slice(&reply.body).ok().map(Ok),
        StatusCode::NOT_FOUND => Some(Err(Unpromoted::NotFound)),
        StatusCode::PRECONDITION_FAILED if says(NOT_READY) => Some(Err(Unpromoted::NotReady)),
        StatusCode::PRECONDITION_FAILED if says(NOT_LEARNER) => Some(Err(Unpromoted::NotLearner)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &'static str) -> Option<Result<Vec<ClusterMember>, Unpromoted>> {
        let (status, body) = (StatusCode::from_u16(status).unwrap(), Bytes::from_static(body.as_bytes()));
        read_reply(Reply { status, headers: Default::default(), body })
    }

    #[test]
    fn what_is_refused_reads_back() {
        for why in [Unpromoted::NotFound, Unpromoted::NotLearner, Unpromoted::NotReady] {
            let refused = refuse(&why).unwrap_err();
            let back = read(refused.status.as_u16(), Box::leak(format!("{}\n", refused.text).into_boxed_str()));
            assert_eq!(format!("{:?}", back.unwrap().unwrap_err()), format!("{why:?}"));
        }
    }

    #[test]
    fn members_are_read_and_anything_else_is_asked_again() {
        let members = r#"[{"id":5,"peerURLs":["http://a:1"],"name":"m"},{"id":6,"peerURLs":null}]"#;
        let members = read(200, members).unwrap().unwrap();
        assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [5, 6]);
        for (status, body) in [(200, "["), (408, ""), (412, "cluster ID mismatch"), (500, "")] {
            assert!(read(status, body).is_none(), "{status} {body}");
        }
    }
}
