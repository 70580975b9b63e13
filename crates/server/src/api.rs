//! The client API: each service in a file, from the request's check to the encoded reply.
//!
//! A handler is plain: check the message as etcd does, read through [`MemberHandle::view`] or propose through
//! [`MemberHandle::propose`], encode. Everything a handler needs is in [`MemberHandle`], one per worker.

mod barrier;
pub mod check;
pub(crate) mod cluster;
pub(crate) mod defragment;
mod encode;
mod errors;
#[cfg(test)]
pub(crate) mod fake_engine;
mod forward;
pub(crate) mod kv;
mod leader;
pub(crate) mod lease;
mod maintenance;
mod reconfiguration;
mod timeout_cause;
mod unimplemented;
mod view;
mod watch;

pub use barrier::Barrier;
pub use watch::Watchers;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metastore_proto::Message;
use metastore_proto::etcdserverpb::ResponseHeader;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::View;
use metastore_store::{Outcome, Reply};
use tokio::time::Instant;

use crate::driver::{Answer, Event, Waiter};
use crate::grpc::{Call, Router, Status};
use crate::io::inbox::{Inbox, NotQueued};
use crate::io::slots::{Expired, Slots};
use crate::metrics::Metrics;
use crate::peer::{Pool, Transport};
use crate::shared::{Counts, Shared, WorkerFlags};

/// How long the engine thread may take to say whether a request that ran out of time was proposed.
const WITHDRAWAL_PATIENCE: Duration = Duration::from_millis(500);

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
    /// The version that the server reports.
    pub version: String,
}

/// One worker's way to the member.
pub struct MemberHandle {
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub watchers: Rc<Watchers>,
    pub metrics: Arc<Metrics>,
    pub inbox: Inbox<Event>,
    /// How the other members are reached.
    pub transport: Transport,
    /// Connections of this worker to the leader.
    pub pool: Pool,
    pub slots: Slots<Answer>,
    pub barrier: Barrier,
    /// Held while a list of all leases is made: one at a time on this worker.
    pub listing: tokio::sync::Mutex<()>,
    /// The leader that takes renewals only one by one, and its term.
    pub takes_singly: Cell<Option<(u64, u64)>>,
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

    fn counts(&self) -> &Counts {
        &self.all[self.worker].counts
    }

    /// Proposes a command and waits until it is durable, committed and applied.
    ///
    /// # Errors
    /// etcd's errors: what the state machine refuses, too large or too many requests, no answer in time.
    async fn propose(&self, call: &Call, kind: Kind, request: &impl Message) -> Result<(i64, Reply), Status> {
        self.check_leader(call)?;
        let id = self.shared.next_id();
        let data = Command::encode(id, kind, request);
        if data.len() > self.limits.max_request_bytes {
            return Err(errors::request_too_large());
        }
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
    async fn ask(&self, call: &Call, bytes: usize, event: impl FnOnce(Waiter) -> Event) -> Result<Answer, Status> {
        let limit = self.time_limit(call);
        self.ask_until(Some(limit.at), bytes, event).await?.ok_or_else(|| limit.passed())
    }

    /// The same for a request that is to be proposed, given its id, its size in bytes, and when it began. If the time
    /// runs out before the request was proposed, the call ends as one whose deadline has passed, as in etcd, whose
    /// client then tries again. Otherwise the error names the likely timeout cause.
    async fn ask_for_change(
        &self,
        call: &Call,
        (id, bytes, began): (u64, usize, Instant),
        event: impl FnOnce(Waiter) -> Event,
    ) -> Result<Answer, Status> {
        let limit = self.time_limit_from(call, began);
        let mut open = OpenRequest { member: self, id: Some(id) };
        let answer = self.ask_until(Some(limit.at), bytes, event).await;
        if matches!(answer, Ok(None)) {
            let withdrawn = self.withdraw(id).await;
            open.id = None;
            return Err(if withdrawn || limit.theirs { Status::deadline_exceeded() } else { self.why_late(began) });
        }
        open.id = None;
        answer?.ok_or_else(errors::timeout)
    }

    /// Returns once no compaction is under way. As in etcd, this may take as long as the client waits.
    async fn compacted(&self, call: &Call) -> Result<(), Status> {
        let id = self.shared.next_id();
        let _open = OpenRequest { member: self, id: Some(id) };
        match self.ask_until(call.deadline, 0, |waiter| Event::AwaitCompaction { waiter, id }).await? {
            Some(Answer::Compacted) => Ok(()),
            Some(_) => Err(another_question()),
            None => Err(Status::deadline_exceeded()),
        }
    }

    /// Withdraws a request that has no answer yet; returns whether it was not proposed yet. An engine thread that is
    /// held up does not answer, which counts as proposed.
    async fn withdraw(&self, id: u64) -> bool {
        let deadline = Instant::now() + WITHDRAWAL_PATIENCE;
        let answer = self.ask_until(Some(deadline), 0, |waiter| Event::Withdraw { waiter: Some(waiter), id }).await;
        matches!(answer, Ok(Some(Answer::Withdrawn(true))))
    }

    /// How long a call may take: until the client's deadline, but not longer than the request timeout.
    fn time_limit(&self, call: &Call) -> TimeLimit {
        self.time_limit_from(call, Instant::now())
    }

    fn time_limit_from(&self, call: &Call, began: Instant) -> TimeLimit {
        let ours = began + self.limits.request_timeout;
        match call.deadline {
            Some(theirs) if theirs < ours => TimeLimit { at: theirs, theirs: true },
            _ => TimeLimit { at: ours, theirs: false },
        }
    }

    /// Sends a question to the engine thread; `None` if there is no answer before the deadline, if there is one.
    async fn ask_until(
        &self,
        deadline: Option<Instant>,
        bytes: usize,
        event: impl FnOnce(Waiter) -> Event,
    ) -> Result<Option<Answer>, Status> {
        let wait = self.slots.register(deadline);
        let waiter = Waiter { worker: self.worker, key: wait.key() };
        self.inbox.push(event(waiter), bytes).map_err(|refused| match refused {
            NotQueued::Full(_) => errors::too_many_requests(),
            NotQueued::Closed(_) => errors::stopped(),
        })?;
        match wait.await {
            Ok(Answer::Stopped) => Err(errors::stopped()),
            Ok(Answer::NoRoom) => Err(errors::too_many_requests()),
            Ok(Answer::NotProposed(why)) => Err(errors::not_proposed(why)),
            Ok(answer) => Ok(Some(answer)),
            Err(Expired) => Ok(None),
        }
    }

    /// The header of an answer given now.
    fn header(&self, revision: i64) -> ResponseHeader {
        let Shared { cluster_id, member_id, .. } = *self.shared;
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.shared.term() }
    }

    /// Whether this member may serve a call at all, which etcd checks before every call. A learner serves almost
    /// nothing, and a call that requires a leader is refused without one.
    fn admit(&self, call: &Call) -> Result<(), Status> {
        if self.shared.is_learner() {
            return Err(errors::learner_unsupported());
        }
        self.admit_anywhere(call)
    }

    /// The same for calls that a learner serves, too.
    fn admit_anywhere(&self, call: &Call) -> Result<(), Status> {
        if self.shared.auth_enabled() {
            return Err(unimplemented::no_authentication());
        }
        self.check_leader(call)
    }

    /// Refuses a call that requires a leader while there is none. Clients ask for that with the metadata `hasleader`.
    fn check_leader(&self, call: &Call) -> Result<(), Status> {
        if call.requires_leader() && self.shared.leader() == 0 { Err(errors::no_leader()) } else { Ok(()) }
    }

    /// Returns once a read of this member's state sees everything that was acknowledged before.
    ///
    /// A leader that is the only voter asks no other member: everything acknowledged was published here first, and no
    /// other member can acknowledge anything.
    pub(crate) async fn read_barrier(&self, call: &Call) -> Result<(), Status> {
        self.check_leader(call)?;
        if self.shared.sole_leader() { Ok(()) } else { self.barrier.pass(call.deadline).await }
    }
}

/// A request that the engine thread may hold. If this is dropped with an id, the client has gone, and the request is
/// withdrawn: it need not be proposed, or answered, any more.
struct OpenRequest<'a> {
    member: &'a MemberHandle,
    id: Option<u64>,
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.member.inbox.push_control(Event::Withdraw { waiter: None, id });
        }
    }
}

/// When a call that has no answer ends.
#[derive(Clone, Copy, Debug)]
struct TimeLimit {
    at: Instant,
    /// Whether this is the client's deadline, not the request timeout.
    theirs: bool,
}

impl TimeLimit {
    /// The error of a call that reached its limit.
    fn passed(self) -> Status {
        if self.theirs { Status::deadline_exceeded() } else { errors::timeout() }
    }
}

/// The engine thread sent an answer of another kind than the question has: requests and answers were mixed up.
fn another_question() -> Status {
    Status::internal("the member answered another question")
}

/// Adds every service to a worker's router.
pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    kv::register(router, member);
    watch::register(router, member);
    lease::register(router, member);
    maintenance::register(router, member);
    cluster::register(router, member);
    unimplemented::register(router, member);
}

/// Adds a unary method that learners do not serve. The handler is
/// `async fn(&MemberHandle, Call, T) -> Result<Frame, _>`.
macro_rules! unary {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {{
        let member = $member.clone();
        $router.unary($service, $method, move |call, request| {
            let member = member.clone();
            async move {
                member.admit(&call)?;
                $handler(&member, call, request).await
            }
        });
    }};
}
use unary;

/// The same for a method that a learner serves, too, or whose handler decides that itself.
macro_rules! unary_on_learners {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {{
        let member = $member.clone();
        $router.unary($service, $method, move |call, request| {
            let member = member.clone();
            async move {
                member.admit_anywhere(&call)?;
                $handler(&member, call, request).await
            }
        });
    }};
}
use unary_on_learners;
