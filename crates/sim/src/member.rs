//! One member of the cluster: its disk, its clock, the replica while it runs, and the parts that a server keeps beside
//! the replica.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use metastore_proto::raftpb;
use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_replica::{
    Bootstrap, ExpiryBounds, Fatal, Founder, LeaseKeeper, OpenError, Outbox, Output, Rejected, Replica, Settings,
    identity,
};
use metastore_store::Member as Description;
use metastore_store::watch::{Hub, Limits, RevisionEvents};

use crate::alarms::{Setting, standing};
use crate::beside::Beside;
use crate::invariants::alarms::Standing;
use crate::machine::{Machine, paths};
use crate::model::users::At;
use crate::time::{MOMENT_MS, MOMENTS_PER_TICK};
use crate::users::moment_of;
use crate::waiting::{Proving, Reading};

/// Ticks without a message from a leader after which a member campaigns, at the earliest.
pub const ELECTION_TICKS: usize = 10;
/// Small, so that a short run writes several segments.
pub const SEGMENT_BYTES: u64 = 16 << 10;
/// Small, so that a few leases that end together exceed them.
const EXPIRY_BOUNDS: ExpiryBounds = ExpiryBounds { revoked_at_once: 1, timers: 2 };
pub const ELECTION_MS: u64 = ELECTION_TICKS as u64 * MOMENTS_PER_TICK * MOMENT_MS;
const TOKEN: &str = "token";
/// Small bounds, so that watchers overflow them and catch up in pieces.
const QUEUE_RESPONSES: usize = 4;
const QUEUE_BYTES: usize = 3000;
const CHUNK_ROWS: usize = 5;
const CHUNK_BYTES: usize = 1500;
const FRAGMENT_BYTES: usize = 300;
/// The interval of progress notifications for watchers that requested them.
const PROGRESS_MS: u64 = 2000;

fn own_id(at: usize) -> u64 {
    identity::member_id(&peer_urls(at), TOKEN)
}

fn peer_urls(at: usize) -> Vec<String> {
    vec![format!("http://10.0.0.{}:2380", at + 1)]
}

/// Collects the messages that a replica sends until they are fetched. Each is stored with the number of syncs before
/// it.
#[derive(Clone)]
struct SimulatedOutbox {
    machine: Machine,
    posted: Arc<Mutex<Vec<(u64, raftpb::Message)>>>,
}

impl SimulatedOutbox {
    fn new(machine: Machine) -> Self {
        Self { machine, posted: Arc::default() }
    }
}

impl Outbox for SimulatedOutbox {
    fn send(&mut self, messages: Vec<raftpb::Message>) {
        let syncs = self.machine.syncs();
        self.posted.lock().unwrap().extend(messages.into_iter().map(|message| (syncs, message)));
    }
}

/// The clock of one member. Clocks of different members differ.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Its speed, in thousandths of the true speed.
    pub rate: u64,
    /// The time that it shows, in thousandths of a millisecond.
    shows: u64,
    part: u64,
}

impl Clock {
    pub fn new(rate: u64) -> Self {
        Self { rate, shows: 0, part: 0 }
    }

    pub fn ms(&self) -> u64 {
        self.shows / 1000
    }

    /// A moment passes; returns whether it completes a tick.
    fn advance(&mut self) -> bool {
        self.shows += self.rate * MOMENT_MS;
        self.part += self.rate;
        let full = self.part >= 1000 * MOMENTS_PER_TICK;
        self.part -= if full { 1000 * MOMENTS_PER_TICK } else { 0 };
        full
    }

    fn jump(&mut self) {
        self.shows += 1000 * MOMENT_MS * MOMENTS_PER_TICK;
    }
}

/// The work of a member after a slow sync. It is invisible to others until the sync ends.
pub struct Held {
    pub until: u64,
    pub output: Output,
    pub messages: Vec<raftpb::Message>,
}

pub struct Member {
    pub id: u64,
    pub at: usize,
    /// Both stand before the machine, so that they are closed first.
    pub beside: Beside,
    pub replica: Option<Replica>,
    machine: Machine,
    settings: Settings,
    bootstrap: Bootstrap,
    letters: SimulatedOutbox,
    pub clock: Clock,
    /// The timers of leases, while it leads.
    pub keeper: LeaseKeeper,
    /// The watchers of its clients, while it runs.
    pub hub: Option<Hub>,
    /// Events that were published and have not reached the watchers' thread yet.
    pub mail: Vec<Arc<RevisionEvents>>,
    /// Work that waits for a slow sync.
    pub held: Option<Held>,
    /// The next sync takes this number of moments. The second value is the number of syncs when that was decided.
    slow_sync: Option<(u64, u64)>,
    /// Its disk was made to fail, so the member may stop.
    pub faulty: bool,
    /// The events of its next batch are lost.
    pub loses_events: bool,
    /// The moment at which it continues after a pause.
    pub asleep_until: u64,
    /// The moment at which it receives the messages of the pause. It may serve clients between the end of the pause and
    /// this moment.
    pub deaf_until: u64,
    /// The messages that arrived during the pause.
    pub backlog: Vec<raftpb::Message>,
    /// Whether an event has happened since it last worked.
    pub due: bool,
    /// Whether the power is about to fail.
    pub doomed: bool,
    /// The last term in which it was seen leading.
    pub led: u64,
    /// How often it has lost its memory.
    pub crashes: u64,
    /// Whether it has ever run, whether it was removed, and whether it has stopped for good after the removal.
    pub started: bool,
    pub left: bool,
    pub gone: bool,
    /// The last entry after which its state was compared with the states of the others.
    pub compared: u64,
    /// Linearizable reads that it has not confirmed yet.
    pub reads: BTreeMap<u64, Reading>,
    /// Renewals that wait for the removal of a checkpoint.
    pub proving: BTreeMap<u64, Proving>,
    /// The users after the entries whose outcomes it has told.
    pub users_at: At,
    /// The alarms after these entries.
    pub alarms: Standing,
    /// An alarm of its own that is under way.
    pub setting: Option<Setting>,
    /// Its revision when it last looked at its space.
    pub seen_revision: i64,
}

impl Member {
    /// A member that founds a cluster of `size` members, and is not started yet.
    pub fn founding(at: usize, size: usize, machine: Machine, settings: Settings) -> Self {
        let members = (0..size).map(|at| Founder { name: name(at), peer_urls: peer_urls(at) }).collect();
        let bootstrap = Bootstrap::Found { members, own: name(at), cluster_token: TOKEN.into() };
        Self::new(at, machine, settings, bootstrap)
    }

    /// A member that joins a cluster with this number of founders, after it was added.
    pub fn joining(at: usize, founders: usize, machine: Machine, settings: Settings) -> Self {
        let ids: Vec<u64> = (0..founders).map(own_id).collect();
        let bootstrap = Bootstrap::Join { id: own_id(at), cluster_id: identity::cluster_id(&ids) };
        Self::new(at, machine, settings, bootstrap)
    }

    fn new(at: usize, machine: Machine, settings: Settings, bootstrap: Bootstrap) -> Self {
        let settings = Settings { engine: machine.engine.name(), ..settings };
        Self {
            id: own_id(at),
            at,
            replica: None,
            letters: SimulatedOutbox::new(machine.clone()),
            machine,
            keeper: LeaseKeeper::new(ELECTION_MS, EXPIRY_BOUNDS),
            hub: None,
            mail: Vec::new(),
            held: None,
            slow_sync: None,
            faulty: false,
            loses_events: false,
            led: 0,
            crashes: 0,
            settings,
            bootstrap,
            beside: Beside::default(),
            clock: Clock::new(1000),
            asleep_until: 0,
            deaf_until: 0,
            backlog: Vec::new(),
            due: false,
            doomed: false,
            started: false,
            left: false,
            gone: false,
            compared: 0,
            reads: BTreeMap::new(),
            proving: BTreeMap::new(),
            users_at: At::FIRST,
            alarms: Standing::new(),
            setting: None,
            seen_revision: 0,
        }
    }

    pub fn description(&self) -> Description {
        Description { id: self.id, name: name(self.at), peer_urls: peer_urls(self.at), ..Description::default() }
    }

    /// Whether it is part of the cluster, from the view of the world.
    pub fn is_there(&self) -> bool {
        self.started && !self.gone
    }

    pub fn awake(&self, now: u64) -> bool {
        self.replica.is_some() && self.asleep_until <= now
    }

    /// Starts the member. Returns whether a torn end of the log was cut off.
    pub fn start(&mut self) -> Result<bool, OpenError> {
        self.letters = SimulatedOutbox::new(self.machine.clone());
        let (mut replica, cut) = self.open(&self.machine)?;
        replica.connect(Box::new(self.letters.clone()));
        let limits = Limits {
            queue_responses: QUEUE_RESPONSES,
            queue_bytes: QUEUE_BYTES,
            chunk_rows: CHUNK_ROWS,
            chunk_bytes: CHUNK_BYTES,
            fragment_bytes: FRAGMENT_BYTES,
            progress_interval_ms: PROGRESS_MS,
            ..Limits::default()
        };
        self.hub = Some(Hub::new(Arc::new(replica.store().views().clone()), limits));
        self.users_at = moment_of(replica.store().auth());
        self.alarms = standing(replica.store().alarms());
        (self.replica, self.due, self.asleep_until) = (Some(replica), true, 0);
        self.deaf_until = 0;
        self.started = true;
        Ok(cut.is_some())
    }

    /// Opens the files of a machine as this member.
    pub fn open(&self, machine: &Machine) -> Result<(Replica, Option<metastore_replica::wal::TornTail>), OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(machine.clone());
        let (settings, bootstrap) = (self.settings.clone(), self.bootstrap.clone());
        Replica::open(settings, disk, paths(), || Ok(bootstrap), machine.opener(machine.engine))
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The power fails now.
    pub fn crash(&mut self, policy: CrashPolicy) {
        let machine = self.machine.crash(policy);
        (self.replica, self.beside, self.hub, self.held) = (None, Beside::default(), None, None);
        self.slow_sync = None;
        self.keeper = LeaseKeeper::new(ELECTION_MS, EXPIRY_BOUNDS);
        self.machine = machine;
        self.backlog.clear();
        self.mail.clear();
        self.reads.clear();
        self.proving.clear();
        self.compared = 0;
        self.setting = None;
        self.crashes += 1;
        (self.due, self.doomed, self.faulty, self.loses_events) = (false, false, false, false);
    }

    /// Delivers the published events to the watchers' thread.
    pub fn deliver_mail(&mut self) {
        let Some(hub) = &mut self.hub else { return };
        self.mail.drain(..).for_each(|events| hub.publish(&events));
    }

    /// Replaces the machine of a member that does not run.
    pub fn put_back(&mut self, machine: Machine) {
        assert!(self.replica.is_none(), "member {} runs", self.at);
        self.machine = machine;
    }

    /// The power will fail after this number of disk operations.
    pub fn doom(&mut self, operations: u64) {
        self.machine.crash_after(self.machine.operations() + operations);
        self.doomed = true;
    }

    /// Its disk has no faults any more.
    pub fn heal(&mut self) {
        self.machine.lift_limit();
        self.slow_sync = None;
    }

    /// Its next sync takes this number of moments.
    pub fn slow_down(&mut self, moments: u64) {
        self.slow_sync = Some((moments, self.machine.syncs()));
    }

    /// Whether it may stop because of faults of its machine.
    pub fn may_stop(&self) -> bool {
        self.doomed || self.faulty
    }

    /// A moment passes on its clock; the member notices it unless it is stopped.
    pub fn advance(&mut self, awake: bool) {
        if self.clock.advance() && awake {
            self.tick();
        }
    }

    /// Its clock jumps by a tick.
    pub fn jump(&mut self) {
        self.clock.jump();
        self.tick();
    }

    fn tick(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.tick();
            self.due = true;
        }
    }

    pub fn leads(&self) -> bool {
        self.leads_in().is_some()
    }

    /// The term in which it leads.
    pub fn leads_in(&self) -> Option<u64> {
        let standing = self.replica.as_ref()?.standing();
        standing.is_leader().then_some(standing.term)
    }

    pub fn term(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.standing().term)
    }

    /// The id of the leader that it knows; 0 if it knows none.
    pub fn leader(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.standing().leader)
    }

    /// The index of the last entry that it has applied; 0 if it does not run.
    pub fn applied(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.store().applied().index)
    }

    pub fn revision(&self) -> i64 {
        self.replica.as_ref().map_or(0, |replica| replica.store().revision())
    }

    /// Receives a message, if the member runs.
    ///
    /// # Errors
    /// As [`Replica::step`].
    pub fn step(&mut self, message: raftpb::Message) -> Result<Result<(), Rejected>, Fatal> {
        let Some(replica) = &mut self.replica else { return Ok(Ok(())) };
        self.due = true;
        replica.step(message)
    }

    /// Does all work that is due, with at most `compaction_steps` steps of dropping old versions.
    pub fn work(&mut self, output: &mut Output, compaction_steps: u64) -> Result<(), Fatal> {
        self.due = false;
        let Some(replica) = &mut self.replica else { return Ok(()) };
        replica.process(output)?;
        for _ in 0..compaction_steps {
            if !replica.compact_step()? {
                break;
            }
        }
        Ok(())
    }

    /// The messages that it has sent since the last call. If a sync was slow, the second part holds its length in
    /// moments, and the messages that were sent after that sync.
    pub fn letters(&mut self) -> (Vec<raftpb::Message>, Option<(u64, Vec<raftpb::Message>)>) {
        let posted = std::mem::take(&mut *self.letters.posted.lock().unwrap());
        let slow = self.slow_sync.take_if(|(_, syncs)| self.machine.syncs() > *syncs);
        let Some((moments, syncs)) = slow else {
            return (posted.into_iter().map(|(_, message)| message).collect(), None);
        };
        let (before, after): (Vec<_>, Vec<_>) = posted.into_iter().partition(|(at, _)| *at <= syncs);
        let messages = |posted: Vec<(u64, raftpb::Message)>| posted.into_iter().map(|(_, message)| message).collect();
        (messages(before), Some((moments, messages(after))))
    }
}

fn name(at: usize) -> String {
    format!("m{at}")
}
