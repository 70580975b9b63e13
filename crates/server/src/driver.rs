//! The engine thread: the one queue into the member, and the only place that drives it.
//!
//! ```text
//!   workers ── Event ──▶ Inbox ──▶ Driver { Replica, Expiry } ──▶ Mail ──▶ each worker's mailbox
//!                                     │                            (answers and events of a whole commit group: one wake)
//!                                     └──▶ Shared (term, leader, ...), read by every request without a lock
//! ```
//!
//! It takes everything that has arrived, proposes it, lets the replica write and sync once, applies, and answers in one
//! batch per worker. Answers are found by the request's id, never by position.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_engine::Version;
use metastore_proto::etcdserverpb::LeaseRevokeRequest;
use metastore_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use metastore_replica::{Fatal, Output, Replica, SnapshotWritten};
use metastore_store::command::{Command, Kind};
use metastore_store::lease::{Expiry, Renewal};
use metastore_store::watch::RevisionEvents;
use metastore_store::{Outcome, Reply};
use tokio::sync::watch as signal;

use crate::io::inbox::Inbox;
use crate::io::mailbox;
use crate::io::slots::Key;
use crate::shared::{Shared, WorkerFlags};

/// How often expired leases are looked for, as in etcd.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Leases revoked in one look, so that a mass expiry leaves room for other proposals.
const EXPIRED_AT_ONCE: usize = 1000;
/// Bytes of events that a worker has not taken yet. A worker that is further behind reads the rest from history.
const EVENTS_BYTES: usize = 64 << 20;
/// How long a request is remembered whose answer never came: its client was told long before that the time is up.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// How soon dropping old versions is tried again while a reader holds them.
const COMPACTION_RETRY: Duration = Duration::from_millis(10);

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    pub worker: usize,
    pub key: Key,
}

/// What happens to a member.
pub enum Event {
    /// Proposes a command whose header carries `id`.
    Propose {
        waiter: Waiter,
        id: u64,
        data: Bytes,
    },
    /// Renews a lease.
    KeepAlive {
        waiter: Waiter,
        lease: i64,
    },
    /// Asks how long a lease has to live, and for its keys.
    TimeToLive {
        waiter: Waiter,
        lease: i64,
        keys: bool,
    },
    /// Asks for all leases, those that expire first in front.
    Leases {
        waiter: Waiter,
    },
    SnapshotWritten(Result<SnapshotWritten, Fatal>),
    /// The hash that a compaction leaves behind was computed: its old versions may go.
    CompactionHashed(Result<(), Fatal>),
    Stop,
}

/// What a request is told.
#[derive(Debug)]
pub enum Answer {
    Outcome(Outcome),
    Renewed(Renewal),
    TimeToLive(Option<TimeToLive>),
    Leases(Vec<i64>),
    /// The member cannot go on. What was asked for may have happened or not.
    Stopped,
}

/// The state of one lease.
#[derive(Debug)]
pub struct TimeToLive {
    pub granted_s: i64,
    pub remaining_s: i64,
    pub keys: Vec<Bytes>,
}

/// What a worker finds in its mailbox.
pub enum Mail {
    Answer(Key, Answer),
    /// What one revision changed, and how many bytes it counts for.
    Events(Arc<RevisionEvents>, usize),
    /// Events were left out; watchers must read history.
    EventsLost,
}

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
    expiry: Expiry,
    shared: Arc<Shared>,
    inbox: Inbox<Event>,
    links: Vec<Link>,
    waiting: HashMap<u64, (Waiter, Instant), BuildHasherDefault<IdHasher>>,
    /// Who wanted to renew a lease whose time was over, until it is revoked. A client waits for one at a time.
    too_late: HashMap<i64, Vec<Waiter>>,
    heartbeat: Duration,
    election_ticks: usize,
    started: Instant,
    output: Output,
    led: bool,
    advertised: Advertised,
    ready: signal::Sender<bool>,
}

/// What a member tells the cluster of itself once there is a leader.
#[derive(Clone, Debug)]
pub struct Advertised {
    pub name: String,
    pub client_urls: Vec<String>,
    /// The version that a cluster of one agrees on.
    pub cluster_version: String,
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
        replica: Replica,
        shared: Arc<Shared>,
        inbox: Inbox<Event>,
        links: Vec<WorkerLink>,
        heartbeat: Heartbeat,
        advertised: Advertised,
        ready: signal::Sender<bool>,
    ) -> Self {
        let links = links.into_iter().map(|to| Link { to, batch: Vec::new(), losing: false }).collect();
        Self {
            replica,
            expiry: Expiry::default(),
            shared,
            inbox,
            links,
            waiting: HashMap::default(),
            too_late: HashMap::default(),
            heartbeat: heartbeat.interval,
            election_ticks: heartbeat.election_ticks,
            started: Instant::now(),
            output: Output::default(),
            led: false,
            advertised,
            ready,
        }
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end; nothing was or will be acknowledged after the failure.
    pub fn run(mut self) -> Result<(), Fatal> {
        let ended = self.work();
        if ended.is_err() {
            self.turn_away();
        }
        ended
    }

    fn work(&mut self) -> Result<(), Fatal> {
        let mut events = Vec::new();
        let (mut next_tick, mut next_expiry) = (Instant::now(), Instant::now());
        loop {
            let patience = self.advance()?.min(next_tick.saturating_duration_since(Instant::now()));
            self.inbox.drain(&mut events, patience);
            for event in events.drain(..) {
                if matches!(event, Event::Stop) {
                    return Ok(());
                }
                self.take(event)?;
            }
            let now = Instant::now();
            if now >= next_tick {
                self.replica.tick();
                next_tick = now + self.heartbeat;
            }
            if now >= next_expiry {
                self.revoke_expired();
                self.forget_unanswered(now);
                next_expiry = now + EXPIRY_INTERVAL;
            }
        }
    }

    /// Lets nobody in any more, and tells all who wait.
    fn turn_away(&mut self) {
        self.inbox.close();
        let mut late = Vec::new();
        self.inbox.drain(&mut late, Duration::ZERO);
        let asked = late.iter().filter_map(|event| match event {
            Event::Propose { waiter, .. }
            | Event::KeepAlive { waiter, .. }
            | Event::TimeToLive { waiter, .. }
            | Event::Leases { waiter } => Some(*waiter),
            _ => None,
        });
        let proposed = self.waiting.drain().map(|(_, (waiter, _))| waiter);
        let renewing = self.too_late.drain().flat_map(|(_, waiters)| waiters);
        for waiter in asked.chain(proposed).chain(renewing).collect::<Vec<_>>() {
            self.answer(waiter, Answer::Stopped);
        }
        for link in &mut self.links {
            link.to.mailbox.post(&mut link.batch);
        }
    }

    /// Does what is due, tells everyone, and says how long there is nothing more to do.
    fn advance(&mut self) -> Result<Duration, Fatal> {
        self.replica.process(&mut self.output)?;
        let worked = self.replica.compact_step(&mut self.output)?;
        self.shared.set_standing(&self.replica.standing());
        self.publish();
        // After the answers: a log that was replayed holds grants, and a new leader's extension must not be lost to them. Nor
        // may a member be called ready before everyone can read what makes it so.
        self.follow_leadership();
        Ok(match (worked, self.replica.store().compacting()) {
            (true, _) => Duration::ZERO,
            (false, true) => COMPACTION_RETRY,
            (false, false) => Duration::MAX,
        })
    }

    fn take(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Propose { waiter, id, data } => {
                // A proposal that consensus drops is answered by the request's own timeout, as in etcd.
                if self.replica.propose(data).is_ok() {
                    self.waiting.insert(id, (waiter, Instant::now()));
                }
            }
            Event::KeepAlive { waiter, lease } => {
                match self.expiry.renew(lease, self.now_ms()) {
                    // Told only when the lease is gone with its keys, as in etcd.
                    Renewal::Expired => self.too_late.entry(lease).or_default().push(waiter),
                    renewal => self.answer(waiter, Answer::Renewed(renewal)),
                }
            }
            Event::TimeToLive { waiter, lease, keys } => {
                let answer = self.time_to_live(lease, keys)?;
                self.answer(waiter, Answer::TimeToLive(answer));
            }
            Event::Leases { waiter } => {
                let mut leases: Vec<i64> = self.replica.store().leases().ids().collect();
                self.expiry.sort_by_remaining(&mut leases);
                self.answer(waiter, Answer::Leases(leases));
            }
            Event::SnapshotWritten(written) => self.replica.snapshot_written(written?)?,
            Event::CompactionHashed(computed) => computed?,
            Event::Stop => {}
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn time_to_live(&self, id: i64, keys: bool) -> Result<Option<TimeToLive>, Fatal> {
        let store = self.replica.store();
        let Some(lease) = store.leases().get(id) else { return Ok(None) };
        let remaining_ms = self.expiry.remaining_ms(id, self.now_ms()).unwrap_or_default();
        let keys = if keys { store.lease_keys(id)? } else { Vec::new() };
        let keys = keys.into_iter().map(Bytes::from).collect();
        Ok(Some(TimeToLive { granted_s: lease.ttl_s, remaining_s: (remaining_ms / 1000) as i64, keys }))
    }

    /// A new leader gives every lease its full time again, and the time that the election took.
    fn follow_leadership(&mut self) {
        let standing = self.replica.standing();
        if standing.sole_leader && !*self.ready.borrow() && self.is_advertised() {
            self.ready.send_replace(true);
        }
        if standing.is_leader() == self.led {
            return;
        }
        self.led = standing.is_leader();
        if self.led {
            let extend_ms = (self.heartbeat * self.election_ticks as u32).as_millis() as u64;
            let leases = self.replica.store().leases().restart_ttls();
            self.expiry.promote(self.started.elapsed().as_millis() as u64, leases, extend_ms);
            self.advertise();
        } else {
            self.expiry.demote();
            // Their own time runs out; the next leader gives the leases their time again.
            self.too_late.clear();
        }
    }

    fn is_advertised(&self) -> bool {
        let members = self.replica.store().members();
        let own = members.get(self.replica.id());
        members.cluster_version() == Some(&self.advertised.cluster_version)
            && own.is_some_and(|own| own.name == self.advertised.name && own.client_urls == self.advertised.client_urls)
    }

    /// Proposes what the cluster does not know yet. A dropped proposal leaves the member not ready, and it says so.
    fn advertise(&mut self) {
        if self.is_advertised() {
            return;
        }
        let Advertised { name, client_urls, cluster_version } = self.advertised.clone();
        let attributes = ClusterMemberAttrSetRequest {
            member_id: self.replica.id(),
            member_attributes: Some(Attributes { name, client_urls }),
        };
        let version = ClusterVersionSetRequest { ver: cluster_version };
        let commands = [
            Command::encode(self.shared.next_id(), Kind::ClusterMemberAttrSet, &attributes),
            Command::encode(self.shared.next_id(), Kind::ClusterVersionSet, &version),
        ];
        for command in commands {
            if self.replica.propose(command).is_err() {
                tracing::warn!("could not tell the cluster about this member: no leader");
            }
        }
    }

    /// Expiry goes through the log like every other command.
    fn revoke_expired(&mut self) {
        for lease in self.expiry.take_expired(self.now_ms(), EXPIRED_AT_ONCE) {
            let request = LeaseRevokeRequest { id: lease };
            let command = Command::encode(self.shared.next_id(), Kind::LeaseRevoke, &request);
            if self.replica.propose(command).is_err() {
                // It is handed out again after a while.
                return;
            }
            self.shared.lease_expired.add(1);
        }
    }

    fn forget_unanswered(&mut self, now: Instant) {
        self.waiting.retain(|_, (_, since)| now.duration_since(*since) < FORGET_AFTER);
    }

    fn answer(&mut self, to: Waiter, answer: Answer) {
        self.links[to.worker].batch.push(Mail::Answer(to.key, answer));
    }

    fn publish(&mut self) {
        let mut output = std::mem::take(&mut self.output);
        let now_ms = self.now_ms();
        for outcome in output.outcomes.drain(..) {
            match &outcome.reply {
                Ok(Reply::LeaseGrant { id, ttl_s }) => self.expiry.granted(*id, *ttl_s, now_ms),
                Ok(Reply::LeaseRevoke { id }) => {
                    self.expiry.revoked(*id);
                    for waiter in self.too_late.remove(id).unwrap_or_default() {
                        self.answer(waiter, Answer::Renewed(Renewal::Unknown));
                    }
                }
                Ok(Reply::Recorded | Reply::MembersChanged) => self.shared.set_members(self.replica.store().members()),
                _ => {}
            }
            if let Some((waiter, _)) = self.waiting.remove(&outcome.id) {
                self.answer(waiter, Answer::Outcome(outcome));
            }
        }
        for events in output.events.drain(..) {
            self.links.iter_mut().for_each(|link| link.push_events(&events));
        }
        if let Some(job) = output.snapshot.take() {
            let inbox = self.inbox.clone();
            // Beside the running member: writes go on meanwhile.
            std::thread::spawn(move || inbox.push_control(Event::SnapshotWritten(job.run().map_err(Fatal::from))));
        }
        if let Some(job) = output.compaction_hash.take() {
            let inbox = self.inbox.clone();
            // Reads every version, so it must not hold up the writer.
            std::thread::spawn(move || inbox.push_control(Event::CompactionHashed(job.run().map_err(Fatal::from))));
        }
        self.output = output;
        self.shared.set_applied(self.replica.store());
        self.shared.set_pending(self.waiting.len());
        for link in &mut self.links {
            link.to.mailbox.post(&mut link.batch);
        }
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
