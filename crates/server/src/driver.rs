//! The engine thread: the one queue into the member, and the only place that drives it.
//!
//! ```text
//!   workers ── Event ──▶ Inbox ──▶ Driver { Replica, LeaseKeeper } ──▶ Mail ──▶ each worker's mailbox
//!                                     │                            (answers and events of a whole commit group: one wake)
//!                                     └──▶ Shared (term, leader, ...), read by every request without a lock
//! ```
//!
//! It takes everything that has arrived, proposes it, lets the replica write and sync once, applies, and answers in one
//! batch per worker. Answers are found by the request's id, never by position.

mod event;
mod group;
mod hearing;
mod held;
mod jobs;
mod leases;
mod states;
#[cfg(test)]
mod tests;

pub use event::{Answer, Event, LeaseEnd, Mail, TimeToLive, Waiter};
pub use group::Advertised;
pub use hearing::Ear;
pub use jobs::Jobs;
pub use leases::LEASES_AT_ONCE;
pub use states::Intake;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metastore_engine::Version;
use metastore_replica::{ExpiryBounds, Fatal, LeaseKeeper, NotProposed, Output, Replica, Retired};
use metastore_store::Reply;
use metastore_store::watch::RevisionEvents;
use tokio::sync::{oneshot, watch as signal};

use crate::io::inbox::Inbox;
use crate::io::mailbox;
use crate::metrics::Metrics;
use crate::metrics::engine::Stopwatch;
use crate::peer::Transport;
use crate::peer::twin::Twin;
use crate::shared::{Shared, WorkerFlags};
use group::{Group, Post};
use held::{Held, Proposal, What};
use leases::{Proving, TooLate};

/// How often expired leases are looked for, as in etcd; more often while there are more than one look revokes.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of events that a worker has not taken yet. A worker that is further behind reads the rest from history.
const EVENTS_BYTES: usize = 64 << 20;
/// How long a request is remembered whose answer never came: its client was told long before that the time is up.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Proposals that wait for their outcome; more are told to come back. A quorum that answers leaves far fewer.
const WAITING: usize = 256 << 10;
/// Reads that wait for a word of the leader; more are told to come back. Those of one I/O thread share one.
const READING: usize = 64 << 10;
/// How soon dropping old versions is tried again while a reader holds them.
const COMPACTION_RETRY: Duration = Duration::from_millis(10);

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
    inbox: Inbox<Event>,
    links: Vec<Link>,
    waiting: HashMap<u64, (Waiter, Instant), BuildHasherDefault<IdHasher>>,
    held: Held,
    /// Who asked in the same moment in which this member failed.
    unheard: Vec<Waiter>,
    /// Renewals that wait for the proof that this member leads, by the id of the read round or the proposal.
    proving: HashMap<u64, Proving, BuildHasherDefault<IdHasher>>,
    too_late: TooLate,
    heartbeat: Duration,
    started: Instant,
    output: Output,
    group: Group,
    transport: Transport,
    /// States whose place another one has taken, and that are still read.
    retired: Vec<Retired>,
    /// Who wants to read what was acknowledged by then.
    reading: HashMap<u64, (Waiter, Instant), BuildHasherDefault<IdHasher>>,
    jobs: Jobs,
    compacting_since: Option<Instant>,
    metrics: Arc<Metrics>,
    ready: signal::Sender<bool>,
}

/// Request ids are distinct in their low bits already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// How a group keeps time.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    pub interval: Duration,
    pub election_ticks: usize,
}

impl Driver {
    /// `ready` turns true once this member is known to the cluster, and the cluster has a version.
    pub fn new(
        mut replica: Replica,
        shared: Arc<Shared>,
        (inbox, transport): (Inbox<Event>, Transport),
        links: Vec<WorkerLink>,
        heartbeat: Heartbeat,
        advertised: Advertised,
        (ready, metrics): (signal::Sender<bool>, Arc<Metrics>),
    ) -> Self {
        let links = links.into_iter().map(|to| Link { to, batch: Vec::new(), losing: false }).collect();
        replica.connect(Box::new(Post(transport.clone())));
        replica.observe(Box::new(Stopwatch::new(metrics.engine.clone())));
        let election = heartbeat.interval * heartbeat.election_ticks as u32;
        Self {
            replica,
            leases: LeaseKeeper::new(election.as_millis() as u64, ExpiryBounds::default()),
            shared,
            inbox,
            links,
            waiting: HashMap::default(),
            held: Held::default(),
            unheard: Vec::new(),
            proving: HashMap::default(),
            too_late: TooLate::default(),
            heartbeat: heartbeat.interval,
            started: Instant::now(),
            output: Output::default(),
            group: Group::new(advertised),
            transport,
            retired: Vec::new(),
            reading: HashMap::default(),
            jobs: Jobs::default(),
            compacting_since: None,
            metrics,
            ready,
        }
    }

    /// Runs until it is told to stop. `look` is asked once, before another member hears of this one: at which of the peer
    /// URLs of this member, as the others know them, does another process run as it? Also returns what goes on beside it.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end; nothing was or will be acknowledged after the failure.
    pub fn run(mut self, look: impl FnOnce(&[String]) -> Option<Twin>) -> (Result<(), Fatal>, Jobs) {
        let ended = self.enter(look).and_then(|()| self.work());
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
                // etcd, too, counts what is late by a whole interval.
                if now >= next_tick + self.heartbeat && self.has_followers() {
                    self.metrics.engine.heartbeat_was_late();
                }
                // One, however late: time that this thread was held up must not make it campaign.
                self.replica.tick();
                next_tick = now + self.heartbeat;
            }
            if now >= next_expiry || more_expired {
                self.revoke_expired();
            }
            if now >= next_expiry {
                self.forget_unanswered(now);
                self.remove_retired();
                next_expiry = now + EXPIRY_INTERVAL;
            }
        }
    }

    /// Lets nobody in any more, and tells all who wait.
    fn turn_away(&mut self) {
        let mut waiters = std::mem::take(&mut self.unheard);
        waiters.extend(self.inbox.close().iter().filter_map(Event::waiter));
        waiters.extend(self.held.drain());
        waiters.extend(self.group.drain_moves());
        waiters.extend(self.waiting.drain().chain(self.reading.drain()).map(|(_, (waiter, _))| waiter));
        waiters.extend(self.proving.drain().map(|(_, proving)| proving.waiter));
        waiters.extend(self.too_late.drain());
        for waiter in waiters {
            self.answer(waiter, Answer::Stopped);
        }
        for link in &mut self.links {
            link.to.mailbox.post(&mut link.batch);
        }
    }

    /// Does what is due, tells everyone, and says how long there is nothing more to do.
    fn advance(&mut self) -> Result<Duration, Fatal> {
        // Before the log is cut, or what an etcd still lacks might go as soon as it is met.
        self.replica.set_beside_etcd(self.transport.has_foreign_peers());
        self.replica.process(&mut self.output)?;
        let worked = self.compact_step()?;
        self.shared.set_standing(&self.replica.standing());
        self.publish()?;
        // After the answers, as the lease keeper asks. Nor may a member be called ready before everyone can read what makes it
        // so.
        let proposed = self.follow_leadership() | self.submit_held();
        Ok(match (worked | proposed, self.replica.store().compacting()) {
            (true, _) => Duration::ZERO,
            (false, true) => COMPACTION_RETRY,
            (false, false) => Duration::MAX,
        })
    }

    fn has_followers(&self) -> bool {
        let standing = self.replica.standing();
        standing.is_leader() && !standing.sole_leader
    }

    /// A step of the compaction that is under way, measured.
    fn compact_step(&mut self) -> Result<bool, Fatal> {
        if !self.replica.store().compacting() {
            return self.replica.compact_step(&mut self.output);
        }
        let rows = |replica: &Replica| replica.store().view().engine().usage().rows;
        let (began, before) = (Instant::now(), rows(&self.replica));
        let since = *self.compacting_since.get_or_insert(began);
        let worked = self.replica.compact_step(&mut self.output)?;
        if worked {
            // The first compaction's note of its end is a row more, and hides one.
            let dropped = before.saturating_sub(rows(&self.replica));
            self.metrics.engine.compaction_step(began.elapsed(), dropped);
        }
        if !self.replica.store().compacting() {
            self.compacting_since = None;
            self.metrics.engine.compacted(since.elapsed());
        }
        Ok(worked)
    }

    fn take(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Propose { waiter, id, data } => self.propose(waiter, id, What::Command(data)),
            Event::Withdraw { waiter, id } => self.withdraw(waiter, id),
            Event::Read { waiter } => self.read(waiter),
            Event::KeepAlive { waiter, leases } => self.renew(waiter, &leases),
            Event::AwaitEnd { waiter, lease } => self.await_end(waiter, lease),
            Event::TimeToLive { waiter, lease } => self.time_to_live(waiter, lease),
            Event::Leases { waiter, after } => self.list_leases(waiter, after),
            Event::ChangeMembers { waiter, change } => self.change_members(waiter, change),
            Event::Promote { waiter, change } => self.promote(waiter, change),
            Event::MoveLeader { waiter, to } => self.move_leader(waiter, to),
            Event::HandOver(done) => self.hand_over(done),
            Event::Message(heard) => self.hear(heard.take())?,
            Event::Unreachable(id) => self.replica.unreachable(id),
            Event::StateReceived(received) => self.take_state(*received)?,
            Event::ForeignState { from, index } => self.foreign_state(from, index)?,
            Event::StateSent { to, arrived } => self.replica.state_sent(to, arrived),
            Event::ClusterVersion(version) => self.agree_on_version(version),
            Event::Removed => self.was_removed(),
            Event::Twin(twin) => return Err(self.twin(twin)),
            Event::SnapshotWritten(written) => self.replica.snapshot_written(written?)?,
            Event::CompactionHashed(computed) => computed?,
            Event::LowerMark(done) => self.lower_mark(done)?,
            Event::MarkLost(fatal) => return Err(fatal),
            Event::Stop => {}
        }
        Ok(())
    }

    /// Proposes, or keeps what finds no leader.
    fn propose(&mut self, waiter: Waiter, id: u64, what: What) {
        let proposal = Proposal { waiter, id, what, since: Instant::now() };
        if self.waiting.len() >= WAITING {
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

    /// Forgets a request that is waited for no longer.
    fn withdraw(&mut self, waiter: Option<Waiter>, id: u64) {
        self.waiting.remove(&id);
        let held = self.held.remove(id);
        if let Some(waiter) = waiter {
            self.answer(waiter, Answer::Withdrawn(held));
        }
    }

    /// Proposes. What may be taken later comes back; what will never be taken is answered.
    fn submit(&mut self, proposal: Proposal) -> Option<Proposal> {
        match proposal.submit(&mut self.replica) {
            Ok(()) => _ = self.waiting.insert(proposal.id, (proposal.waiter, proposal.since)),
            Err(NotProposed::Dropped) => return Some(proposal),
            Err(why @ (NotProposed::TooLarge | NotProposed::Inapplicable)) => {
                self.answer(proposal.waiter, Answer::NotProposed(why));
            }
        }
        None
    }

    /// Whether a proposal would get to a leader: one that has just died is still called leader for an election timeout, and
    /// what is sent to it is lost.
    fn reaches_leader(&self) -> bool {
        let leader = self.replica.standing().leader;
        leader == self.replica.id() || (leader != 0 && self.transport.connected_since(leader).is_some())
    }

    /// Proposes what has waited for a leader. Returns whether there was anything.
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
        if self.reading.len() >= READING {
            return self.answer(waiter, Answer::NoRoom);
        }
        let id = self.shared.next_id();
        self.reading.insert(id, (waiter, Instant::now()));
        self.replica.read(id);
    }

    /// Another leader was elected: as in etcd, reads that were under way are to be asked for again.
    fn fail_reads(&mut self) {
        for (waiter, _) in std::mem::take(&mut self.reading).into_values() {
            self.answer(waiter, Answer::LeaderChanged);
        }
    }

    /// The medium gave space back.
    fn lower_mark(&mut self, done: oneshot::Sender<()>) -> Result<(), Fatal> {
        let (job, inbox) = (self.replica.lower_mark()?, self.inbox.clone());
        // Waits for the disk.
        self.jobs.start(move || match job() {
            // Whoever asked may be gone.
            Ok(()) => _ = done.send(()),
            Err(error) => _ = inbox.push_control(Event::MarkLost(error.into())),
        });
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn forget_unanswered(&mut self, now: Instant) {
        for asked in [&mut self.waiting, &mut self.reading] {
            asked.retain(|_, (_, since)| now.duration_since(*since) < FORGET_AFTER);
        }
        self.proving.retain(|_, proving| now.duration_since(proving.since) < FORGET_AFTER);
        let (waiting, reading, proving) = (&self.waiting, &self.reading, &self.proving);
        self.replica.forget(|id| waiting.contains_key(&id) || reading.contains_key(&id) || proving.contains_key(&id));
        self.forget_moves(now);
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
            if let Ok(Reply::Recorded | Reply::Alarms(_) | Reply::MembersChanged) = outcome.reply {
                self.members_changed();
            }
            if let Ok(Reply::LeaseCheckpoint) = outcome.reply {
                self.prove(outcome.id);
            }
            if let Some((waiter, _)) = self.waiting.remove(&outcome.id) {
                self.answer(waiter, Answer::Outcome(outcome));
            }
        }
        for entry in output.passed_over.drain(..) {
            tracing::error!(
                index = entry.index,
                term = entry.term,
                "passed over an entry of the log, because --unsafe-skip-entry names it or named it; every member must pass over it"
            );
        }
        for id in output.readable.drain(..) {
            match self.reading.remove(&id) {
                Some((waiter, _)) => self.answer(waiter, Answer::Readable),
                None => self.prove(id),
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
        if let Some(job) = output.snapshot.take() {
            let (inbox, seconds) = (self.inbox.clone(), self.metrics.snap_save_seconds.clone());
            // Beside the running member: writes go on meanwhile.
            self.jobs.start(move || {
                let began = Instant::now();
                let written = job.run().map_err(Fatal::from);
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
        self.shared.set_pending(self.waiting.len());
        for link in &mut self.links {
            link.to.mailbox.post(&mut link.batch);
        }
        Ok(())
    }
}

impl Link {
    /// A worker without watchers gets no events: its first watcher says so before it looks at the current revision.
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

/// What the rows of these events take, about.
fn bytes_of(events: &RevisionEvents) -> usize {
    let row = |version: &Version| version.row.len() + size_of::<Version>();
    events.changes.iter().map(|change| row(&change.version) + change.previous.as_ref().map_or(0, |row| row.len())).sum()
}
