//! The Cluster service: the list of members, and its changes (etcd: `server/etcdserver/server.go`).
//!
//! A change is checked here ([`crate::member`]), and again by the state machine when it is committed. Only the
//! leader knows whether a learner may become a voter, so every other member asks the leader.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use metastore_proto::etcdserverpb::{
    Member as MemberMessage, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader,
};
use metastore_proto::raftpb::ConfChangeType;
use metastore_replica::identity::member_id;
use metastore_store::Member as ClusterMember;
use tokio::time::Instant;

use super::{check, unary};
use crate::driver::Event;
use crate::grpc::{Call, Frame, Router, Status};
use crate::leader::promotion::promote;
use crate::member::{MemberHandle, errors};

const SERVICE: &str = "etcdserverpb.Cluster";

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    unary!(router, member, SERVICE, "MemberList", member_list);
    unary!(router, member, SERVICE, "MemberAdd", member_add);
    unary!(router, member, SERVICE, "MemberRemove", member_remove);
    unary!(router, member, SERVICE, "MemberUpdate", member_update);
    unary!(router, member, SERVICE, "MemberPromote", member_promote);
}

async fn member_list(member: &MemberHandle, call: Call, request: MemberListRequest) -> Result<Frame, Status> {
    if request.linearizable {
        member.read_barrier(&call).await?;
    }
    Frame::of(&MemberListResponse { header: header(member), members: messages(member.shared.members()) })
}

/// The id depends on the time, so that a removed member can be added again under another id.
async fn member_add(member: &MemberHandle, call: Call, request: MemberAddRequest) -> Result<Frame, Status> {
    let peer_urls = check::peer_urls(&request.peer_ur_ls)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = member_id(&peer_urls, &now.as_secs().to_string());
    let is_learner = request.is_learner;
    let new = ClusterMember { id, peer_urls, is_learner, ..ClusterMember::default() };
    member.may_add(is_learner)?;
    let kind = if is_learner { ConfChangeType::ConfChangeAddLearnerNode } else { ConfChangeType::ConfChangeAddNode };
    let members = configure(member, &call, kind, id, Some(json(&new)?)).await?;
    Frame::of(&MemberAddResponse { header: header(member), member: Some(message(new)), members: messages(members) })
}

async fn member_remove(member: &MemberHandle, call: Call, request: MemberRemoveRequest) -> Result<Frame, Status> {
    member.may_remove(request.id)?;
    let members = configure(member, &call, ConfChangeType::ConfChangeRemoveNode, request.id, None).await?;
    Frame::of(&MemberRemoveResponse { header: header(member), members: messages(members) })
}

/// The checks are stricter than etcd's.
async fn member_update(member: &MemberHandle, call: Call, request: MemberUpdateRequest) -> Result<Frame, Status> {
    let id = request.id;
    let moved = ClusterMember { id, peer_urls: check::peer_urls(&request.peer_ur_ls)?, ..ClusterMember::default() };
    let members = configure(member, &call, ConfChangeType::ConfChangeUpdateNode, id, Some(json(&moved)?)).await?;
    Frame::of(&MemberUpdateResponse { header: header(member), members: messages(members) })
}

async fn member_promote(member: &MemberHandle, call: Call, request: MemberPromoteRequest) -> Result<Frame, Status> {
    let members = promote(member, &call, request.id).await?;
    Frame::of(&MemberPromoteResponse { header: header(member), members: messages(members) })
}

fn json(member: &ClusterMember) -> Result<Vec<u8>, Status> {
    member.to_json().map_err(|error| Status::internal(format!("a member that is no JSON: {error}")))
}

/// Proposes a change and waits until it is applied; returns the members after it.
async fn configure(
    member: &MemberHandle,
    call: &Call,
    kind: ConfChangeType,
    id: u64,
    context: Option<Vec<u8>>,
) -> Result<Vec<ClusterMember>, Status> {
    let bytes = context.as_ref().map_or(0, Vec::len);
    if bytes > member.limits.max_request_bytes {
        return Err(errors::request_too_large());
    }
    let waits = || call.deadline.is_none_or(|deadline| Instant::now() < deadline);
    let answer = loop {
        let change = member.change_of_members(kind, id, context.clone());
        let request = (change.id(), bytes, Instant::now());
        match member.ask_for_change(call, request, |waiter| Event::ChangeMembers { waiter, change }).await {
            // It was not proposed; it waits for a leader as long as its client waits, as in etcd.
            Err(status) if status == Status::deadline_exceeded() && waits() => {}
            answer => break answer?,
        }
    };
    let members = member.changed_members(answer)?;
    seldom!(
        CHANGES: info, (member.shared.member_id, id),
        "local-member-id" = %format!("{:x}", member.shared.member_id), "raft-conf-change" = kind.as_str_name(),
        "raft-conf-change-node-id" = %format!("{id:x}"), "applied a configuration change through raft"
    );
    Ok(members)
}

/// The revision stays 0 here, as in etcd.
fn header(member: &MemberHandle) -> Option<ResponseHeader> {
    Some(member.header(0))
}

fn messages(members: Vec<ClusterMember>) -> Vec<MemberMessage> {
    members.into_iter().map(message).collect()
}

fn message(member: ClusterMember) -> MemberMessage {
    MemberMessage {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metastore_store::{Outcome, Reply};

    use super::*;
    use crate::driver::Answer;
    use crate::member::fake_engine::FakeEngine;

    /// How long a change without a leader goes on, how it ends, and how often it was proposed. A leader comes after
    /// `elected_s`.
    async fn change_of_members(patience_s: u64, elected_s: u64) -> (u64, Result<(), Status>, usize) {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let began = Instant::now();
        let call = Call::of_member(began + Duration::from_secs(patience_s));
        let proposed = std::cell::RefCell::new(Vec::new());
        let engine = |event: &Event| match event {
            Event::Withdraw { .. } => Answer::Withdrawn(true),
            Event::ChangeMembers { change, .. } => {
                proposed.borrow_mut().push(change.id());
                let reply = Ok(Reply::MembersChanged);
                Answer::Outcome(Outcome { id: change.id(), revision: 1, reply })
            }
            _ => Answer::NotLeader,
        };
        let elected = began + Duration::from_secs(elected_s);
        let answering = async {
            loop {
                for (event, waiter) in fake.asked() {
                    let answer = engine(&event);
                    if matches!(event, Event::Withdraw { .. }) || Instant::now() >= elected {
                        fake.reply(waiter, answer);
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let urls = vec!["http://127.0.0.1:3".to_owned()];
        let update = member_update(&fake.member, call, MemberUpdateRequest { id: 2, peer_ur_ls: urls });
        let ended = tokio::select! {
            ended = update => ended.map(drop),
            () = answering => unreachable!("it goes on for ever"),
        };
        let proposed = proposed.into_inner();
        (began.elapsed().as_secs(), ended, proposed.len())
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_change_of_members_waits_for_a_leader_as_long_as_its_client() {
        let (seconds, ended, _) = change_of_members(30, 60).await;
        assert_eq!((seconds, ended), (30, Err(Status::deadline_exceeded())));
        let (seconds, ended, _) = change_of_members(100, 21).await;
        assert_eq!((seconds, ended), (21, Ok(())));
    }
}
