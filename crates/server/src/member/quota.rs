//! The quota: requests that would make the state too large are refused before they are proposed, and raise an alarm
//! that all members know (etcd: `server/storage/quota.go`, `server/etcdserver/api/v3rpc/quota.go`). The same goes for
//! requests that need space while a disk of this member is short of it.
//!
//! Members may have different quotas, so a quota decides nothing when a command is applied.

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest};
use metastore_store::Refusal;
use metastore_store::command::Kind;

use super::{MemberHandle, errors};
use crate::grpc::Status;

/// Bytes that a lease takes, as etcd reckons.
pub const COST_OF_LEASE: u64 = 64;
/// Bytes that a put takes beside its key and value.
const COST_OF_PUT: u64 = 256;

/// Bytes that a put takes, as etcd reckons.
pub fn cost_of_put(request: &PutRequest) -> u64 {
    COST_OF_PUT + (request.key.len() + request.value.len()) as u64
}

/// Bytes that a transaction takes, by the branch that takes more.
pub fn cost_of_txn(request: &TxnRequest) -> u64 {
    let cost = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => cost_of_put(put),
        Some(Request::RequestTxn(txn)) => cost_of_txn(txn),
        _ => 0,
    };
    let branch = |ops: &[RequestOp]| ops.iter().map(cost).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

impl MemberHandle {
    /// Refuses a request that takes so many bytes, if the quota or the disk does not allow them, and raises the alarm.
    pub async fn has_room(&self, bytes: u64) -> Result<(), Status> {
        // A request without cost writes nothing.
        if bytes == 0 || !self.exceeds_quota(bytes) && self.shared.shortage().is_none() {
            return Ok(());
        }
        self.set_no_space(AlarmAction::Activate, self.shared.member_id).await;
        Err(errors::refused(Refusal::NoSpace))
    }

    fn exceeds_quota(&self, bytes: u64) -> bool {
        let Some(limit) = self.limits.quota.limit() else { return false };
        let is_beyond = |allocated: u64| allocated.saturating_add(bytes) >= limit;
        is_beyond(self.shared.allocated()) && is_beyond(self.shared.sizes().allocated)
    }

    /// Whether a member has raised the alarm NOSPACE.
    pub fn lacks_space(&self, member_id: u64) -> bool {
        self.has_alarm(AlarmType::Nospace, member_id)
    }

    /// Whether an alarm stands that was raised in the name of a member.
    pub fn has_alarm(&self, kind: AlarmType, member_id: u64) -> bool {
        self.shared.alarms().iter().any(|alarm| alarm.alarm() == kind && alarm.member_id == member_id)
    }

    /// Raises an alarm in the name of a member, or takes it back, through the log.
    ///
    /// # Errors
    /// As any proposal.
    pub async fn set_alarm(&self, action: AlarmAction, kind: AlarmType, member_id: u64) -> Result<(), Status> {
        let request = AlarmRequest { action: action.into(), member_id, alarm: kind.into() };
        self.propose(&self.own_call(), Kind::Alarm, &request).await.map(drop)
    }

    /// Raises the alarm NOSPACE in the name of a member, or takes it back, unless that is done or under way.
    pub async fn set_no_space(&self, action: AlarmAction, member_id: u64) {
        if self.lacks_space(member_id) == (action == AlarmAction::Activate) || self.sets_alarm.replace(true) {
            return;
        }
        if let Err(error) = self.set_alarm(action, AlarmType::Nospace, member_id).await {
            seldom!(warn, (), error = %error.message, "cannot change the alarm NOSPACE");
        }
        self.sets_alarm.set(false);
    }
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use metastore_store::command::Command;
    use metastore_store::{Outcome, Reply};

    use super::*;
    use crate::driver::{Answer, Event};
    use crate::member::fake_engine::FakeEngine;

    fn put(bytes: usize) -> PutRequest {
        PutRequest { key: "k".into(), value: vec![0; bytes].into(), ..PutRequest::default() }
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch() {
        let op = |request| RequestOp { request: Some(request) };
        let inner = TxnRequest { failure: vec![op(Request::RequestPut(put(100)))], ..TxnRequest::default() };
        let txn = TxnRequest {
            success: vec![op(Request::RequestPut(put(9))), op(Request::RequestTxn(inner))],
            failure: vec![op(Request::RequestPut(put(300))), op(Request::RequestRange(Default::default()))],
            ..TxnRequest::default()
        };
        assert_eq!(cost_of_txn(&txn), 257 + 9 + 257 + 100);
        assert_eq!(cost_of_txn(&TxnRequest { success: Vec::new(), ..txn }), 257 + 300);
    }

    #[tokio::test(flavor = "local")]
    async fn a_short_disk_refuses_what_needs_space() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        assert_eq!(fake.member.has_room(1).await, Ok(()));
        fake.member.shared.set_shortage(Some(0));
        assert_eq!(fake.member.has_room(0).await, Ok(()), "a delete");
        // The alarm is under way.
        fake.member.sets_alarm.set(true);
        assert_eq!(fake.member.has_room(1).await, Err(errors::refused(Refusal::NoSpace)));
        fake.member.shared.set_shortage(None);
        assert_eq!(fake.member.has_room(1).await, Ok(()));
    }

    #[tokio::test(flavor = "local")]
    async fn a_request_beyond_the_quota_raises_the_alarm_once() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let limit = fake.member.limits.quota.limit().unwrap();
        let room = limit - fake.member.shared.sizes().allocated;
        assert_eq!(fake.member.has_room(room - 1).await, Ok(()));
        assert_eq!(fake.member.has_room(0).await, Ok(()));
        let refused = Err(errors::refused(Refusal::NoSpace));
        let answered = async {
            loop {
                for event in fake.events() {
                    let Event::Propose { waiter, id, data } = event else { continue };
                    let request = AlarmRequest::decode(Command::decode(data).unwrap().body).unwrap();
                    // Another request is refused meanwhile, and raises nothing.
                    assert_eq!(fake.member.has_room(room).await, refused);
                    assert!(fake.events().is_empty());
                    let outcome = Outcome { id, revision: 1, reply: Ok(Reply::Alarms(Vec::new())) };
                    fake.reply(waiter, Answer::Outcome(outcome));
                    return request;
                }
                tokio::task::yield_now().await;
            }
        };
        let (result, request) = tokio::join!(fake.member.has_room(room), answered);
        assert_eq!(result, refused);
        assert_eq!(
            (request.action(), request.member_id, request.alarm()),
            (AlarmAction::Activate, 1, AlarmType::Nospace)
        );
    }
}
