//! The Maintenance service: Status, Hash and HashKV (which compare members), alarms, Defragment, MoveLeader and
//! Downgrade.

use std::rc::Rc;
use std::time::Instant;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DowngradeInfo, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, StatusRequest, StatusResponse,
};
use metastore_store::Reply;
use metastore_store::command::Kind;

use super::{defragment, downgrade, unary, unary_on_learners};
use crate::auth::methods::Need;
use crate::driver::{Answer, Event};
use crate::grpc::{Call, Frame, Router, Status};
use crate::member::{MemberHandle, another_question, errors, on_pool};

const SERVICE: &str = "etcdserverpb.Maintenance";

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    unary_on_learners!(router, member, SERVICE, "Status", status);
    unary!(router, member, SERVICE, "Hash", hash);
    unary!(router, member, SERVICE, "HashKV", hash_kv);
    unary!(router, member, SERVICE, "Alarm", alarm);
    unary!(router, member, SERVICE, "Defragment", defragment::defragment);
    unary!(router, member, SERVICE, "MoveLeader", move_leader);
    unary!(router, member, SERVICE, "Downgrade", downgrade::downgrade);
}

async fn status(member: &MemberHandle, _call: Call, _request: StatusRequest) -> Result<Frame, Status> {
    let shared = &member.shared;
    let sizes = shared.sizes();
    let storage_version = shared.cluster_version().unwrap_or_default();
    let no_leader = (shared.leader() == 0).then(|| errors::no_leader().message.into_owned());
    let (alarms, downgrade) = (shared.alarms(), shared.downgrade());
    Frame::of(&StatusResponse {
        header: Some(member.header(member.view().revision())),
        version: member.limits.version.clone(),
        db_size: sizes.allocated as i64,
        leader: shared.leader(),
        raft_index: shared.commit(),
        raft_term: shared.term(),
        raft_applied_index: shared.applied(),
        errors: no_leader.into_iter().chain(alarms.iter().map(alarm_text)).collect(),
        db_size_in_use: sizes.in_use as i64,
        is_learner: shared.is_learner(),
        storage_version,
        db_size_quota: member.limits.quota.bytes,
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.is_some(),
            target_version: downgrade.unwrap_or_default(),
        }),
    })
}

async fn hash(member: &MemberHandle, _call: Call, _request: HashRequest) -> Result<Frame, Status> {
    let (view, began) = (member.view(), Instant::now());
    let hash = on_pool(move || view.hash().map_err(errors::unreadable)).await?;
    member.metrics.hash_seconds.observe(began.elapsed().as_secs_f64());
    Frame::of(&HashResponse { header: Some(member.header(member.view().revision())), hash })
}

async fn hash_kv(member: &MemberHandle, _call: Call, request: HashKvRequest) -> Result<Frame, Status> {
    let (view, began) = (member.view(), Instant::now());
    let answer = on_pool(move || view.hash_kv(request.revision).map_err(errors::unreadable)).await?;
    member.metrics.hash_rev_seconds.observe(began.elapsed().as_secs_f64());
    Frame::of(&HashKvResponse {
        header: Some(member.header(answer.revision)),
        hash: answer.hash,
        compact_revision: answer.compact_revision,
        hash_revision: answer.hash_revision,
    })
}

/// Alarms of any member, at the request of a client; a member raises NOSPACE by itself as well.
async fn alarm(member: &MemberHandle, mut call: Call, request: AlarmRequest) -> Result<Frame, Status> {
    if request.action() != AlarmAction::Get {
        call.caller = member.caller_of(&call, Need::Root).await?;
    }
    let alarms = if request.action() == AlarmAction::Get {
        member.quorum(&call).await?;
        let (wanted, mut alarms) = (request.alarm, member.shared.alarms());
        alarms.retain(|alarm| wanted == AlarmType::None as i32 || alarm.alarm == wanted);
        alarms
    } else {
        match member.propose(&call, Kind::Alarm, &request).await? {
            (_, Reply::Alarms(alarms)) => alarms,
            _ => return Err(another_question()),
        }
    };
    Frame::of(&AlarmResponse { header: Some(member.header(member.view().revision())), alarms })
}

/// An alarm as Go prints it.
fn alarm_text(alarm: &AlarmMember) -> String {
    let member = if alarm.member_id == 0 { String::new() } else { format!("memberID:{}  ", alarm.member_id) };
    format!("{member}alarm:{}", alarm.alarm().as_str_name())
}

/// The header of the answer is empty, as in etcd. The answer is sent once this member knows the new leader.
async fn move_leader(member: &MemberHandle, call: Call, request: MoveLeaderRequest) -> Result<Frame, Status> {
    let (shared, to) = (&member.shared, request.target_id);
    if !shared.is_leader() {
        return Err(errors::not_leader());
    }
    if !shared.members().iter().any(|member| member.id == to && !member.is_learner) {
        return Err(errors::bad_leader_transferee());
    }
    let [own, to_text] = [shared.member_id, to].map(|id| format!("{id:x}"));
    seldom!(
        CHANGES: info, (&own, &to_text),
        "local-member-id" = %own, "transferee-member-id" = %to_text, "leadership transfer starting"
    );
    let began = Instant::now();
    let deadline = Some(member.time_limit(&call).at);
    let moved = member.engine.ask(deadline, 0, |waiter| Event::MoveLeader { waiter, to }).await;
    match moved.map_err(|why| errors::no_answer(why, errors::leader_transfer_timeout))? {
        Answer::LeaderMoved => {}
        Answer::NotLeader => return Err(errors::not_leader()),
        _ => return Err(another_question()),
    }
    seldom!(
        CHANGES: info, (&own, &to_text),
        "local-member-id" = %own, "new-leader-member-id" = %to_text, took = ?began.elapsed(),
        "leadership transfer finished"
    );
    Frame::of(&MoveLeaderResponse::default())
}
