//! The engine thread: it takes events from the one queue into the member, and alone drives the replica.
//!
//! ```text
//! workers ── Event ──▶ Inbox ──▶ Driver { Replica, LeaseKeeper } ──▶ Mail ──▶ each worker's mailbox
//!                                   │                            (answers, events of a whole commit group: one wake)
//!                                   └──▶ Shared (term, leader, ...), read by every request without a lock
//! ```
//!
//! It takes all events that have arrived, proposes them, lets the replica write and sync once, applies, and answers in
//! one batch per worker. Answers are found by the request's id, never by position.

mod engine_handle;
mod event;
mod group;
mod held;
mod jobs;
mod leases;
mod peer_message;
mod peer_sink;
mod states;
#[cfg(test)]
mod tests;
mod waiters;

pub use engine_handle::{EngineHandle, EventSink, NoAnswer};
pub use event::{Answer, DuplicateProcess, Event, LeaseEnd, Mail, TimeToLive, Waiter};
pub use group::Advertised;
pub use jobs::Jobs;
pub use leases::LEASES_AT_ONCE;
pub use peer_sink::PeerSink;
pub use states::Intake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use metastore_engine::Version;
use metastore_replica::{ExpiryBounds, Fatal, LeaseKeeper, NotProposed, Output, Replica, Retired};
use metastore_store::Reply;
use metastore_store::watch::RevisionEvents;
use tokio::sync::{oneshot, watch as signal};

use crate::auth::Authenticator;
use crate::io::inbox::Inbox;
use crate::io::mailbox;
use crate::metrics::Metrics;
use crate::metrics::engine::Stopwatch;
use crate::peer::Transport;
use crate::shared::{Shared, WorkerFlags};
use group::{Group, Post};
use held::{Held, Proposal, What};
use waiters::{Goal, GoalKind, Waiters};

/// The interval between searches for expired leases, as in etcd. The next search follows at once while there are more
/// expired leases than one search revokes.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// At most this many bytes of events wait for a worker. A worker that is further behind reads the rest from history.
const EVENTS_BYTES: usize = 64 << 20;
/// The pause before dropping old versions is tried again while a reader holds them.
const COMPACTION_RETRY: Duration = Duration::from_millis(10);
/// While requests arrive, a compaction takes a step, and leaves the thread to them for so many times as long.
const COMPACTION_REST: u32 = 7;

/// The driver's end of one worker.
pub struct WorkerLink {
    pub mailbox: mailbox::Sender<Mail>,
    pub flags: Arc<WorkerFlags>,
}

struct Link {
    to: WorkerLink,
    batch: Vec<Mail>,
    losing: bool,
}

/// The engine thread's state.
pub struct Driver {
    replica: Replica,
    leases: LeaseKeeper,
    shared: Arc<Shared>,
    auth: Arc<Authenticator>,
    inbox: Inbox<Event>,
    links: Vec<Link>,
    waiters: Waiters,
    held: Held,
    /// Waiters whose events were being handled when the member failed.
    unheard: Vec<Waiter>,
    heartbeat: Duration,
    started: Instant,
    output: Output,
    group: Group,
    transport: Transport,
    /// States that another one has replaced, and that are still read.
    retired: Vec<Retired>,
    jobs: Jobs,
    compacting_since: Option<Instant>,
    /// Until when a compaction leaves this thread to requests.
    compaction_rests_until: Instant,
    /// Whether events had arrived when the thread last looked for them.
    busy: bool,
    metrics: Arc<Metrics>,
    ready: signal::Sender<bool>,
}

/// The heartbeat interval of the cluster, and the election timeout in such intervals.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    pub interval: Duration,
    pub election_ticks: usize,
}

impl Driver {
    /// `ready` turns true once this member is known to the cluster, and the cluster has a version.
    pub fn new(
        mut replica: Replica,
        (shared, auth): (Arc<Shared>, Arc<Authenticator>),
        (inbox, transport): (Inbox<Event>, Transport),
        links: Vec<WorkerLink>,
        heartbeat: Heartbeat,
        advertised: Advertised,
        (ready, metrics): (signal::Sender<bool>, Arc<Metrics>),
    ) -> Self {
        let links = links.into_iter().map(|to| Link { to, batch: Vec::new(), losing: false }).collect();
        replica.connect(Box::new(Post(transport.clone())));
        replica.observe(Box::new(Stopwatch::new(&metrics, replica.id())));
        let election = heartbeat.interval * heartbeat.election_ticks as u32;
        Self {
            replica,
            leases: LeaseKeeper::new(election.as_millis() as u64, ExpiryBounds::default()),
            shared,
            auth,
            inbox,
            links,
            waiters: Waiters::default(),
            held: Held::default(),
            unheard: Vec::new(),
            heartbeat: heartbeat.interval,
            started: Instant::now(),
            output: Output::default(),
            group: Group::new(advertised),
            transport,
            retired: Vec::new(),
            jobs: Jobs::default(),
            compacting_since: None,
            compaction_rests_until: Instant::now(),
            busy: false,
            metrics,
            ready,
        }
    }

    /// Runs until [`Event::Stop`]. `look` is called once, before this member sends its first message. It is given the
    /// peer URLs of this member as the other members know them, and returns a duplicate process that runs as this
    /// member at one of them. `check` is called after that, once what the log knows as committed is published. Also
    /// returns the threads that may still run beside this one.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end; nothing was or will be acknowledged after the failure.
    pub fn run(
        mut self,
        look: impl FnOnce(&[String]) -> Option<DuplicateProcess>,
        check: impl FnOnce() -> Result<(), Fatal>,
    ) -> (Result<(), Fatal>, Jobs) {
        let ended = self.enter(look, check).and_then(|()| self.work());
        if ended.is_err() {
            self.turn_away();
        }
        (ended, self.jobs)
    }

    fn work(&mut self) -> Result<(), Fatal> {
        let mut events = Vec::new();
        let (mut next_tick, mut next_expiry) = (Instant::now(), Instant::now());
        loop {
            self.shared.beat();
            let patience = self.advance()?.min(next_tick.saturating_duration_since(Instant::now()));
            let more_expired = self.leases.has_more_expired(self.now_ms());
            self.inbox.drain(&mut events, if more_expired { Duration::ZERO } else { patience });
            self.busy = !events.is_empty();
            let mut arrived = events.drain(..);
            while let Some(event) = arrived.next() {
                if matches!(event, Event::Stop) {
                    return Ok(());
                }
                let asked = event.waiter();
                if let Err(fatal) = self.take(event) {
                    self.unheard.extend(asked.into_iter().chain(arrived.filter_map(|event| event.waiter())));
                    return Err(fatal);
                }
            }
            drop(arrived);
            let now = Instant::now();
            self.leave(now)?;
            if now >= next_tick {
                // As in etcd, a heartbeat counts as late once it is late by a whole interval.
                if now >= next_tick + self.heartbeat && self.has_followers() {
                    self.metrics.engine.heartbeat_was_late();
                }
                // One tick, however late: the time that this thread was held up must not make the member campaign.
                self.replica.tick();
                next_tick = now + self.heartbeat;
            }
            if now >= next_expiry || more_expired {
                self.revoke_expired();
            }
            if now >= next_expiry {
                self.checkpoint_leases();
                self.forget_unanswered(now);
                self.remove_retired();
                next_expiry = now + EXPIRY_INTERVAL;
            }
        }
    }

    /// Closes the inbox, and answers all waiters `Stopped`.
    fn turn_away(&mut self) {
        let mut waiters = std::mem::take(&mut self.unheard);
        waiters.extend(self.inbox.close().iter().filter_map(Event::waiter));
        waiters.extend(self.held.drain());
        waiters.extend(self.waiters.drain());
        for waiter in waiters {
            self.answer(waiter, Answer::Stopped);
        }
        for link in &mut self.links {
            link.to.mailbox.post(&mut link.batch);
        }
    }

    /// Processes the replica, publishes the results, and returns how long there is nothing more to do.
    fn advance(&mut self) -> Result<Duration, Fatal> {
        self.replica.set_shortage(self.shared.shortage());
        self.replica.process(&mut self.output)?;
        let rest = self.compaction_rest();
        let worked = rest.is_none() && self.compact_step()?;
        self.answer_compacted();
        self.shared.set_standing(&self.replica.standing());
        self.publish()?;
        // After the answers, as the lease keeper requires. Also, a member must not be called ready before all readers
        // see the state that makes it ready.
        let proposed = self.follow_leadership() | self.submit_held();
        Ok(match (worked | proposed, self.replica.store().compacting()) {
            (true, _) => Duration::ZERO,
            (false, true) => rest.unwrap_or(COMPACTION_RETRY),
            (false, false) => Duration::MAX,
        })
    }

    fn has_followers(&self) -> bool {
        let standing = self.replica.standing();
        standing.is_leader() && !standing.sole_leader
    }

    /// How long a compaction still leaves this thread to requests. Between two steps it rests as long as
    /// [`COMPACTION_REST`] says, unless nothing else is to be done: so few requests wait for one of its steps.
    fn compaction_rest(&self) -> Option<Duration> {
        if !self.busy || !self.replica.store().compacting() {
            return None;
        }
        let left = self.compaction_rests_until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Takes a step of the compaction that is under way, and measures it.
    fn compact_step(&mut self) -> Result<bool, Fatal> {
        if !self.replica.store().compacting() {
            return self.replica.compact_step();
        }
        let (began, before) = (Instant::now(), self.replica.store().dropped_versions());
        let since = *self.compacting_since.get_or_insert(began);
        let worked = self.replica.compact_step()?;
        if worked {
            let dropped = self.replica.store().dropped_versions() - before;
            let took = began.elapsed();
            self.compaction_rests_until = began + took * (1 + COMPACTION_REST);
            self.metrics.engine.compaction_step(took, dropped);
        }
        if !self.replica.store().compacting() {
            self.compacting_since = None;
            self.metrics.engine.compacted(since.elapsed());
        }
        Ok(worked)
    }

    /// As in etcd, the wait for the end of a compaction has no limit but the client's.
    fn await_compaction(&mut self, waiter: Waiter, id: u64) {
        if self.replica.store().compacting() {
            self.wait(id, waiter, Goal::Compaction);
        } else {
            self.answer(waiter, Answer::Compacted);
        }
    }

    fn answer_compacted(&mut self) {
        if !self.replica.store().compacting() {
            for waiter in self.waiters.take_all(&[GoalKind::Compaction], |_| true) {
                self.answer(waiter, Answer::Compacted);
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Propose { waiter, id, data } => self.propose(waiter, id, What::Command(data)),
            Event::Withdraw { waiter, id } => self.withdraw(waiter, id),
            Event::Read { waiter } => self.read(waiter),
            Event::KeepAlive { waiter, leases } => self.renew(waiter, &leases),
            Event::AwaitEnd { waiter, lease } => self.await_end(waiter, lease),
            Event::AwaitCompaction { waiter, id } => self.await_compaction(waiter, id),
            Event::TimeToLive { waiter, lease } => self.time_to_live(waiter, lease),
            Event::Leases { waiter, after } => self.list_leases(waiter, after),
            Event::State { waiter } => {
                let state = self.replica.state_to_send()?;
                self.answer(waiter, Answer::State(Box::new(state)));
            }
            Event::ChangeMembers { waiter, change } => self.change_members(waiter, change),
            Event::Promote { waiter, change } => self.promote(waiter, change),
            Event::MoveLeader { waiter, to } => self.move_leader(waiter, to),
            Event::HandOver(done) => self.hand_over(done),
            Event::Message(heard) => self.hear(heard.take())?,
            Event::Unreachable(id) => self.replica.unreachable(id),
            Event::StateReceived(received) => self.take_state(*received)?,
            Event::StateSent { to, arrived } => self.replica.state_sent(to, arrived),
            Event::ClusterVersion(version) => self.agree_on_version(version),
            Event::Removed => self.was_removed(),
            Event::DuplicateProcess(duplicate) => return Err(self.duplicate(duplicate)),
            Event::SnapshotWritten(written) => {
                self.replica.snapshot_written(written?)?;
                self.shared.set_state_written(0);
            }
            Event::CompactionHashed(computed) => computed?,
            Event::LowerMark(done) => self.lower_mark(done)?,
            Event::MarkLost(fatal) => return Err(fatal),
            Event::Stop => {}
        }
        Ok(())
    }

    /// Proposes, or holds the proposal if there is no leader.
    fn propose(&mut self, waiter: Waiter, id: u64, what: What) {
        let proposal = Proposal { waiter, id, what, since: Instant::now() };
        if !self.waiters.has_room(GoalKind::Outcome) {
            return self.answer(waiter, Answer::NoRoom);
        }
        let waits = !self.held.is_empty() || !self.reaches_leader();
        let held = if waits { Some(proposal) } else { self.submit(proposal) };
        if let Some(proposal) = held
            && let Err(waiter) = self.held.push(proposal)
        {
            self.answer(waiter, Answer::NoRoom);
        }
    }

    /// Withdraws a request that no client waits for any more.
    fn withdraw(&mut self, waiter: Option<Waiter>, id: u64) {
        self.waiters.take(id);
        let held = self.held.remove(id);
        if let Some(waiter) = waiter {
            self.answer(waiter, Answer::Withdrawn(held));
        }
    }

    /// Proposes. Returns a proposal that may be taken later; one that will never be taken is answered.
    fn submit(&mut self, proposal: Proposal) -> Option<Proposal> {
        // It may have been held since there was room.
        if !self.waiters.has_room(GoalKind::Outcome) {
            self.answer(proposal.waiter, Answer::NoRoom);
            return None;
        }
        match proposal.submit(&mut self.replica) {
            Ok(()) => {
                let Proposal { id, waiter, since, .. } = proposal;
                let added = self.waiters.add(id, waiter, Goal::Outcome, since);
                debug_assert!(added.is_ok(), "there was room");
            }
            Err(NotProposed::Dropped) => return Some(proposal),
            Err(why @ (NotProposed::TooLarge | NotProposed::Inapplicable)) => {
                self.answer(proposal.waiter, Answer::NotProposed(why));
            }
        }
        None
    }

    /// Whether a proposal would reach a leader. A leader that has just failed is still called leader for an election
    /// timeout, and proposals sent to it are lost.
    fn reaches_leader(&self) -> bool {
        let leader = self.replica.standing().leader;
        leader == self.replica.id() || (leader != 0 && self.transport.connected_since(leader).is_some())
    }

    /// Proposes the held proposals. Returns whether there were any.
    fn submit_held(&mut self) -> bool {
        let mut any = false;
        if self.held.is_empty() || !self.reaches_leader() {
            return any;
        }
        while let Some(proposal) = self.held.pop() {
            if let Some(proposal) = self.submit(proposal) {
                self.held.put_back(proposal);
                break;
            }
            any = true;
        }
        any
    }

    fn read(&mut self, waiter: Waiter) {
        if self.replica.standing().sole_leader {
            self.answer(waiter, Answer::Readable);
            return;
        }
        let id = self.shared.next_id();
        if self.wait(id, waiter, Goal::Read) {
            self.replica.read(id);
        }
    }

    /// Another leader was elected: as in etcd, clients must repeat the reads that were under way.
    fn fail_reads(&mut self) {
        for waiter in self.waiters.take_all(&[GoalKind::Read], |_| true) {
            self.answer(waiter, Answer::LeaderChanged);
        }
    }

    /// Defragment has given space back to the disk: lowers the high-water mark of the state's size.
    fn lower_mark(&mut self, done: oneshot::Sender<()>) -> Result<(), Fatal> {
        let (job, inbox) = (self.replica.lower_mark()?, self.inbox.clone());
        // Waits for the disk.
        self.jobs.start(move || match job() {
            // The caller may be gone.
            Ok(()) => _ = done.send(()),
            Err(error) => _ = inbox.push_control(Event::MarkLost(error.into())),
        });
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn forget_unanswered(&mut self, now: Instant) {
        self.waiters.forget(now);
        let waiters = &self.waiters;
        self.replica.forget(|id| waiters.contains(id));
    }

    /// Lets a request wait. Returns false, and answers it, if there is no room.
    fn wait(&mut self, id: u64, waiter: Waiter, goal: Goal) -> bool {
        let refused = self.waiters.add(id, waiter, goal, Instant::now());
        refused.map_err(|waiter| self.answer(waiter, Answer::NoRoom)).is_ok()
    }

    fn answer(&mut self, to: Waiter, answer: Answer) {
        self.links[to.worker].batch.push(Mail::Answer(to.key, answer));
    }

    fn publish(&mut self) -> Result<(), Fatal> {
        let mut output = std::mem::take(&mut self.output);
        let now_ms = self.now_ms();
        for outcome in output.outcomes.drain(..) {
            if let Some(id) = self.leases.applied(&outcome, now_ms) {
                self.lease_revoked(id);
            }
            match &outcome.reply {
                Ok(Reply::Recorded | Reply::Alarms(_) | Reply::MembersChanged) => self.members_changed(),
                Ok(Reply::LoggedIn { user, token, .. }) if !token.is_empty() => self.auth.logged_in(user, token),
                Ok(Reply::LoggedOut { user }) => self.auth.logged_out(user),
                Ok(Reply::AllLoggedOut) => {
                    self.auth.all_logged_out();
                    self.members_changed();
                }
                _ => {}
            }
            match self.waiters.take(outcome.id) {
                // A renewal has taken a checkpoint back.
                Some((waiter, Goal::Proof(renewing))) => self.proven(waiter, *renewing),
                Some((waiter, _)) => self.answer(waiter, Answer::Outcome(outcome)),
                None => {}
            }
        }
        for entry in output.passed_over.drain(..) {
            tracing::error!(
                index = entry.index,
                term = entry.term,
                "passed over an entry of the log, because --unsafe-skip-entry names it or named it; every member must \
                    pass over it"
            );
        }
        for id in output.readable.drain(..) {
            match self.waiters.take(id) {
                Some((waiter, Goal::Proof(renewing))) => self.proven(waiter, *renewing),
                Some((waiter, _)) => self.answer(waiter, Answer::Readable),
                None => {}
            }
        }
        if std::mem::take(&mut output.state_replaced) {
            self.state_replaced();
        }
        self.retired.append(&mut output.retired);
        self.send_states(std::mem::take(&mut output.states_wanted))?;
        for events in output.events.drain(..) {
            self.links.iter_mut().for_each(|link| link.push_events(&events));
        }
        if let Some(mut job) = output.snapshot.take() {
            let (inbox, shared) = (self.inbox.clone(), self.shared.clone());
            let seconds = self.metrics.snap_save_seconds.clone();
            // On a thread of its own: writes go on while the snapshot is written.
            self.jobs.start(move || {
                let began = Instant::now();
                let written = loop {
                    match job.step().map_err(Fatal::from).transpose() {
                        Some(written) => break written,
                        None => shared.set_state_written(job.written_bytes()),
                    }
                };
                seconds.observe(began.elapsed().as_secs_f64());
                inbox.push_control(Event::SnapshotWritten(written));
            });
        }
        if let Some(job) = output.compaction_hash.take() {
            let inbox = self.inbox.clone();
            // Reads every version, so it must not hold up the writer.
            self.jobs.start(move || _ = inbox.push_control(Event::CompactionHashed(job.run().map_err(Fatal::from))));
        }
        self.output = output;
        self.shared.set_applied(self.replica.store());
        self.shared.set_pending(self.waiters.count(GoalKind::Outcome));
        for link in &mut self.links {
            link.to.mailbox.post(&mut link.batch);
        }
        Ok(())
    }
}

impl Link {
    /// A worker without watchers gets no events. Its first stream sets the flag before a watcher reads its revision.
    fn push_events(&mut self, events: &Arc<RevisionEvents>) {
        let flags = &self.to.flags;
        if !flags.watched() {
            return;
        }
        let bytes = bytes_of(events);
        if flags.take_room(bytes, EVENTS_BYTES) {
            self.losing = false;
            self.batch.push(Mail::Events(events.clone(), bytes));
        } else if !self.losing {
            self.losing = true;
            self.batch.push(Mail::EventsLost);
        }
    }
}

/// About how many bytes the rows of these events take.
fn bytes_of(events: &RevisionEvents) -> usize {
    let row = |version: &Version| version.row.len() + size_of::<Version>();
    events.changes.iter().map(|change| row(&change.version) + change.previous.as_ref().map_or(0, |row| row.len())).sum()
}
