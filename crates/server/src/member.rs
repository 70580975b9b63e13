//! One thread's way to the member: everything that a handler, a question of another member, or a duty needs.
//!
//! A handler reads through [`MemberHandle::view`], or proposes through [`MemberHandle::propose`]. A linearizable read
//! passes [`MemberHandle::read_barrier`] first.

mod barrier;
pub mod errors;
#[cfg(test)]
pub mod fake_engine;
mod leader_watch;
mod long_read;
mod membership;
mod permission;
mod quota;
mod reconfiguration;
mod timeout_cause;

pub use barrier::Barrier;
pub use leader_watch::LeaderWatch;
pub use long_read::{on_pool, open_reads};
pub use permission::{may_range, may_read, permit_keys_of};
pub use quota::{COST_OF_LEASE, cost_of_put, cost_of_txn};

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use metastore_proto::Message;
use metastore_proto::etcdserverpb::ResponseHeader;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::View;
use metastore_store::{Outcome, Reply};
use tokio::time::{Instant, timeout_at};

use crate::audit::Audit;
use crate::auth::Authenticator;
use crate::auth::methods::Need;
use crate::config::Quota;
use crate::driver::{Answer, EngineHandle, Event, NoAnswer, Waiter};
use crate::grpc::{Call, Status};
use crate::metrics::Metrics;
use crate::peer::{Pool, Transport};
use crate::shared::{Counts, Shared, WorkerFlags};

/// Settings of the API; the same on all workers.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    /// How long a proposal may take: etcd's 5 s for disk and network, and two election timeouts.
    pub request_timeout: Duration,
    pub election_timeout: Duration,
    /// Whether changes of the membership that endanger the quorum are refused.
    pub strict_reconfig_check: bool,
    pub quota: Quota,
    /// The version that the server reports.
    pub version: String,
}

/// One worker's way to the member.
pub struct MemberHandle {
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub engine: EngineHandle,
    /// Finds out the users behind calls.
    pub auth: Arc<Authenticator>,
    pub audit: Audit,
    /// How the other members are reached.
    pub transport: Transport,
    /// Connections of this worker to the leader.
    pub pool: Pool,
    pub barrier: Barrier,
    /// Held while a list of all leases is made: one at a time on this worker.
    pub listing: tokio::sync::Mutex<()>,
    /// The leader that takes renewals only one by one, and its term.
    pub takes_singly: Cell<Option<(u64, u64)>>,
    /// Whether a change of the alarm NOSPACE is under way.
    pub sets_alarm: Cell<bool>,
    /// Index of this worker.
    pub worker: usize,
    /// The flags and counters of all workers.
    pub all: Arc<[Arc<WorkerFlags>]>,
}

impl MemberHandle {
    /// The state as it is now. A request takes one view and reads from it to the end.
    pub fn view(&self) -> View {
        self.shared.views.now()
    }

    pub fn counts(&self) -> &Counts {
        &self.all[self.worker].counts
    }

    /// Proposes a command and waits until it is durable, committed and applied.
    ///
    /// # Errors
    /// etcd's errors: what the state machine refuses, too large or too many requests, no answer in time.
    pub async fn propose(&self, call: &Call, kind: Kind, request: &impl Message) -> Result<(i64, Reply), Status> {
        self.check_leader(call)?;
        let id = self.shared.next_id();
        let data = Command::encode_as(&call.caller, id, kind, request);
        if data.len() > self.limits.max_request_bytes {
            return Err(errors::request_too_large());
        }
        self.may_propose(&data)?;
        let (bytes, began) = (data.len(), Instant::now());
        let request = (id, bytes, began);
        let answer = self.ask_for_change(call, request, |waiter| Event::Propose { waiter, id, data }).await;
        self.counts().requests.ended(kind as u32, began.elapsed(), answer.is_ok());
        match answer.inspect_err(|_| self.counts().proposals_failed.add(1))? {
            Answer::Outcome(Outcome { revision, reply, .. }) => {
                reply.map(|reply| (revision, reply)).map_err(errors::refused)
            }
            _ => Err(another_question()),
        }
    }

    /// Sends a question to the engine thread, and waits for the answer within the time limit of the call.
    pub async fn ask(
        &self,
        call: &Call,
        bytes: usize,
        question: impl FnOnce(Waiter) -> Event,
    ) -> Result<Answer, Status> {
        let limit = self.time_limit(call);
        let answer = self.engine.ask(Some(limit.at), bytes, question).await;
        answer.map_err(|why| errors::no_answer(why, || limit.passed()))
    }

    /// The same for a request that is to be proposed, given its id, its size in bytes, and when it began. If the time
    /// runs out before the request was proposed, the call ends as one whose deadline has passed, as in etcd, whose
    /// client then tries again. Otherwise the error names the likely timeout cause.
    pub async fn ask_for_change(
        &self,
        call: &Call,
        (id, bytes, began): (u64, usize, Instant),
        question: impl FnOnce(Waiter) -> Event,
    ) -> Result<Answer, Status> {
        let limit = self.time_limit_from(call, began);
        let open = self.engine.open_request(id);
        let answer = match self.engine.ask(Some(limit.at), bytes, question).await {
            Err(NoAnswer::Late) if self.engine.withdraw(id).await || limit.theirs => Err(Status::deadline_exceeded()),
            answer => answer.map_err(|why| errors::no_answer(why, || self.why_late(began))),
        };
        open.closed();
        answer
    }

    /// Returns once no compaction is under way. As in etcd, this may take as long as the client waits.
    pub async fn compacted(&self, call: &Call) -> Result<(), Status> {
        let id = self.shared.next_id();
        let _open = self.engine.open_request(id);
        match self.engine.ask(call.deadline, 0, |waiter| Event::AwaitCompaction { waiter, id }).await {
            Ok(Answer::Compacted) => Ok(()),
            Ok(_) => Err(another_question()),
            Err(why) => Err(errors::no_answer(why, Status::deadline_exceeded)),
        }
    }

    /// A call of this member itself, which has the time of a request.
    pub fn own_call(&self) -> Call {
        Call::of_member(Instant::now() + self.limits.request_timeout)
    }

    /// How long a call may take: until the client's deadline, but not longer than the request timeout.
    pub fn time_limit(&self, call: &Call) -> TimeLimit {
        self.time_limit_from(call, Instant::now())
    }

    pub fn time_limit_from(&self, call: &Call, began: Instant) -> TimeLimit {
        let ours = began + self.limits.request_timeout;
        match call.deadline {
            Some(theirs) if theirs < ours => TimeLimit { at: theirs, theirs: true },
            _ => TimeLimit { at: ours, theirs: false },
        }
    }

    /// The header of an answer given now.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let Shared { cluster_id, member_id, .. } = *self.shared;
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.shared.term() }
    }

    /// Whether this member may serve a call at all, which etcd checks before every call, and whether the caller may
    /// make it. A learner serves almost nothing, and a call that requires a leader is refused without one.
    pub async fn admit(&self, call: &mut Call, need: Need) -> Result<(), Status> {
        self.check_learner()?;
        self.admit_anywhere(call, need).await
    }

    /// The same for calls that a learner serves, too.
    pub async fn admit_anywhere(&self, call: &mut Call, need: Need) -> Result<(), Status> {
        self.check_leader(call)?;
        call.caller = self.identify(call, need).await?;
        self.meets(&call.caller, need)
    }

    /// Refuses a call on a learner.
    pub fn check_learner(&self) -> Result<(), Status> {
        if self.shared.is_learner() { Err(errors::learner_unsupported()) } else { Ok(()) }
    }

    /// Refuses a call that requires a leader while there is none. Clients ask for that with the metadata `hasleader`.
    pub fn check_leader(&self, call: &Call) -> Result<(), Status> {
        if call.requires_leader() && self.shared.leader() == 0 { Err(errors::no_leader()) } else { Ok(()) }
    }

    /// Returns once this member has applied everything that was acknowledged before, for a request that etcd sends
    /// through its log: it needs a quorum, and without one it ends like a write.
    pub async fn quorum(&self, call: &Call) -> Result<(), Status> {
        let (limit, leaderless) = (self.time_limit(call), self.shared.leader() == 0);
        let known = async {
            loop {
                match self.read_barrier(call).await {
                    // Read-index rounds are shared by reads, and end at times of their own.
                    Err(status) if status == errors::leader_changed() || status == errors::timeout() => {}
                    passed => return passed,
                }
            }
        };
        let timed_out = || if leaderless { Status::deadline_exceeded() } else { limit.passed() };
        timeout_at(limit.at, known).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Returns once a read of this member's state sees everything that was acknowledged before.
    ///
    /// A leader that is the only voter asks no other member: everything acknowledged was published here first, and no
    /// other member can acknowledge anything.
    pub async fn read_barrier(&self, call: &Call) -> Result<(), Status> {
        self.check_leader(call)?;
        if self.shared.sole_leader() { Ok(()) } else { self.barrier.pass(call.deadline).await }
    }
}

/// When a call that has no answer ends.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit {
    pub at: Instant,
    /// Whether this is the client's deadline, not the request timeout.
    pub theirs: bool,
}

impl TimeLimit {
    /// The error of a call that reached its limit.
    pub fn passed(self) -> Status {
        if self.theirs { Status::deadline_exceeded() } else { errors::timeout() }
    }
}

/// The engine thread sent an answer of another kind than the question has: requests and answers were mixed up.
pub fn another_question() -> Status {
    Status::internal("the member answered another question")
}

/// The member answered with a reply of another kind: requests and answers were mixed up, so no result may be sent.
pub fn mismatch(reply: &Reply) -> Status {
    Status::internal(format!("an answer of another kind: {reply:?}"))
}
