//! The client API: each service in a file, from the request's check to the encoded reply.
//!
//! A handler is plain: check the message as etcd does, read through [`Member::view`] or propose through
//! [`Member::propose`], encode. Everything a handler needs is in [`Member`], one per worker.

mod absent;
mod barrier;
mod check;
mod cluster;
mod defragment;
mod encode;
mod errors;
mod kv;
mod lease;
mod maintenance;
mod view;
mod watch;

pub use barrier::Barrier;
pub use watch::Watchers;

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
use crate::io::inbox::{Inbox, Refused};
use crate::io::slots::{Expired, Slots};
use crate::metrics::Metrics;
use crate::shared::{Counts, Shared, WorkerFlags};

/// Settings of the API; the same on all workers.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    /// How long a proposal may take: etcd's 5 s for disk and network, and two election timeouts.
    pub request_timeout: Duration,
    pub election_timeout: Duration,
    /// Leases live at least this long.
    pub min_lease_ttl_s: i64,
    /// The version that the server reports.
    pub version: String,
}

/// One worker's way to the member.
pub struct Member {
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub watchers: Rc<Watchers>,
    pub metrics: Arc<Metrics>,
    pub inbox: Inbox<Event>,
    pub slots: Slots<Answer>,
    pub barrier: Barrier,
    /// Index of this worker.
    pub worker: usize,
    /// What all workers count.
    pub all: Arc<[Arc<WorkerFlags>]>,
}

impl Member {
    /// The state as it is now. A request asks for it once and reads to its end from that.
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
        let bytes = data.len();
        match self.ask(call, bytes, |waiter| Event::Propose { waiter, id, data }).await {
            Ok(Answer::Outcome(Outcome { revision, reply, .. })) => {
                reply.map(|reply| (revision, reply)).map_err(errors::refused)
            }
            Ok(_) => Err(Status::internal("the member answered another question")),
            Err(status) => {
                self.counts().proposals_failed.add(1);
                Err(status)
            }
        }
    }

    /// Puts a question to the engine thread.
    async fn ask(&self, call: &Call, bytes: usize, event: impl FnOnce(Waiter) -> Event) -> Result<Answer, Status> {
        let ours = Instant::now() + self.limits.request_timeout;
        let (deadline, late) = match call.deadline {
            Some(theirs) if theirs < ours => (theirs, Status::deadline_exceeded as fn() -> Status),
            _ => (ours, errors::timeout as fn() -> Status),
        };
        let wait = self.slots.register(Some(deadline));
        let waiter = Waiter { worker: self.worker, key: wait.key() };
        self.inbox.push(event(waiter), bytes).map_err(|refused| match refused {
            Refused::Full(_) => errors::too_many_requests(),
            Refused::Closed(_) => errors::stopped(),
        })?;
        match wait.await {
            Ok(Answer::Stopped) => Err(errors::stopped()),
            Ok(answer) => Ok(answer),
            Err(Expired) => Err(late()),
        }
    }

    /// The header of an answer given now.
    fn header(&self, revision: i64) -> ResponseHeader {
        let Shared { cluster_id, member_id, .. } = *self.shared;
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.shared.term() }
    }

    /// Clients may ask for an error at once where there is no leader.
    fn check_leader(&self, call: &Call) -> Result<(), Status> {
        if call.requires_leader() && self.shared.leader() == 0 { Err(errors::no_leader()) } else { Ok(()) }
    }

    /// Returns once a read of this member's state sees everything that was acknowledged before.
    ///
    /// A member that leads and votes alone need not ask anybody: whatever was acknowledged was published here first,
    /// and nobody else can acknowledge anything.
    async fn read_barrier(&self, call: &Call) -> Result<(), Status> {
        self.check_leader(call)?;
        if self.shared.sole_leader() { Ok(()) } else { self.barrier.pass(call.deadline).await }
    }
}

/// Adds every service to a worker's router.
pub fn register(router: &mut Router, member: &Rc<Member>) {
    kv::register(router, member);
    watch::register(router, member);
    lease::register(router, member);
    maintenance::register(router, member);
    cluster::register(router, member);
    absent::register(router);
}

/// Adds a unary method whose handler is `async fn(&Member, Call, T) -> Result<Frame, Status>`.
macro_rules! unary {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {{
        let member = $member.clone();
        $router.unary($service, $method, move |call, request| {
            let member = member.clone();
            async move { $handler(&member, call, request).await }
        });
    }};
}
use unary;
