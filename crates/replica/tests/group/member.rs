//! One member of the group: its disk, its clock, and the replica as long as it runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use metastore_proto::raftpb;
use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_replica::{Bootstrap, Fatal, Founder, OpenError, Outbox, Output, Paths, Replica, Settings, identity};
use metastore_store::Member as Description;

use crate::group::{Beside, MOMENTS_PER_TICK};
use crate::machine::{Engine, Machine};

/// Ticks without word from a leader after which a member campaigns, at the earliest.
pub const ELECTION_TICKS: usize = 10;
/// Small, so that a short run writes several.
pub const SEGMENT_BYTES: u64 = 4 << 10;
const TOKEN: &str = "token";

pub fn paths() -> Paths {
    Paths { data_dir: PathBuf::from("/data"), wal_dir: None }
}

fn own_id(at: usize) -> u64 {
    identity::member_id(&peer_urls(at), TOKEN)
}

fn peer_urls(at: usize) -> Vec<String> {
    vec![format!("http://10.0.0.{}:2380", at + 1)]
}

/// Takes what a replica sends, until it is fetched.
#[derive(Clone, Default)]
struct Letters(Arc<Mutex<Vec<raftpb::Message>>>);

impl Outbox for Letters {
    fn send(&mut self, messages: Vec<raftpb::Message>) {
        self.0.lock().unwrap().extend(messages);
    }
}

/// The clock of a member, which is not that of the others.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// How fast it runs, in thousandths.
    pub rate: u64,
    part: u64,
}

impl Clock {
    pub fn new(rate: u64) -> Self {
        Self { rate, part: 0 }
    }

    /// A moment passes; returns whether that completes a tick.
    fn advance(&mut self) -> bool {
        self.part += self.rate;
        let full = self.part >= 1000 * MOMENTS_PER_TICK;
        self.part -= if full { 1000 * MOMENTS_PER_TICK } else { 0 };
        full
    }
}

pub struct Member {
    pub id: u64,
    pub at: usize,
    /// Both before the machine: they are closed first.
    pub beside: Beside,
    pub replica: Option<Replica>,
    machine: Machine,
    settings: Settings,
    bootstrap: Bootstrap,
    letters: Letters,
    pub clock: Clock,
    /// The moment at which it goes on after it was stopped.
    pub asleep_until: u64,
    /// What came meanwhile.
    pub backlog: Vec<raftpb::Message>,
    /// Whether anything has happened since it last worked.
    pub due: bool,
    /// Whether the power is about to go.
    pub doomed: bool,
    /// Whether it has ever run, was removed, and has stopped for good after that.
    pub started: bool,
    pub left: bool,
    pub gone: bool,
    /// The last entry after which its state was compared with the others'.
    pub compared: u64,
    /// Linearizable reads that it has not allowed yet.
    pub reads: BTreeSet<u64>,
}

impl Member {
    /// A member that founds a group of `size`, and is not started yet.
    pub fn founding(at: usize, size: usize, engine: Engine, settings: Settings) -> Self {
        let members = (0..size).map(|at| Founder { name: name(at), peer_urls: peer_urls(at) }).collect();
        let bootstrap = Bootstrap::Found { members, own: name(at), cluster_token: TOKEN.into() };
        Self::new(at, engine, settings, bootstrap)
    }

    /// A member that joins the group that so many have founded, once it was added.
    pub fn joining(at: usize, founders: usize, engine: Engine, settings: Settings) -> Self {
        let ids: Vec<u64> = (0..founders).map(own_id).collect();
        let bootstrap = Bootstrap::Join { id: own_id(at), cluster_id: identity::cluster_id(&ids) };
        Self::new(at, engine, settings, bootstrap)
    }

    fn new(at: usize, engine: Engine, settings: Settings, bootstrap: Bootstrap) -> Self {
        let settings = Settings { engine: engine.name(), ..settings };
        Self {
            id: own_id(at),
            at,
            replica: None,
            machine: Machine::new(engine),
            settings,
            bootstrap,
            beside: Beside::default(),
            letters: Letters::default(),
            clock: Clock::new(1000),
            asleep_until: 0,
            backlog: Vec::new(),
            due: false,
            doomed: false,
            started: false,
            left: false,
            gone: false,
            compared: 0,
            reads: BTreeSet::new(),
        }
    }

    pub fn description(&self) -> Description {
        Description { id: self.id, name: name(self.at), peer_urls: peer_urls(self.at), ..Description::default() }
    }

    pub fn awake(&self, now: u64) -> bool {
        self.replica.is_some() && self.asleep_until <= now
    }

    /// Starts it. Returns whether a torn end of the log was cut off.
    pub fn start(&mut self) -> Result<bool, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.machine.clone());
        let (settings, bootstrap) = (self.settings.clone(), self.bootstrap.clone());
        let engine = self.machine.opener(self.machine.engine);
        let (mut replica, cut) = Replica::open(settings, disk, paths(), || Ok(bootstrap), engine)?;
        replica.connect(Box::new(self.letters.clone()));
        (self.replica, self.due, self.asleep_until) = (Some(replica), true, 0);
        self.started = true;
        Ok(cut.is_some())
    }

    /// The power goes now.
    pub fn crash(&mut self, policy: CrashPolicy) {
        let machine = self.machine.crash(policy);
        (self.replica, self.beside) = (None, Beside::default());
        self.machine = machine;
        self.backlog.clear();
        self.reads.clear();
        self.compared = 0;
        (self.due, self.doomed) = (false, false);
    }

    /// The power goes after so many operations of the disk from now on.
    pub fn doom(&mut self, operations: u64) {
        self.machine.crash_after(self.machine.operations() + operations);
        self.doomed = true;
    }

    /// A moment passes on its clock.
    pub fn advance(&mut self) {
        if self.clock.advance() {
            self.jump();
        }
    }

    /// Its clock jumps by a tick.
    pub fn jump(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.tick();
            self.due = true;
        }
    }

    pub fn leads(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.standing().is_leader())
    }

    /// Index of the last entry that it has applied; 0 if it does not run.
    pub fn applied(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.store().applied().index)
    }

    pub fn revision(&self) -> i64 {
        self.replica.as_ref().map_or(0, |replica| replica.store().revision())
    }

    pub fn step(&mut self, message: raftpb::Message) {
        let Some(replica) = &mut self.replica else { return };
        self.due = true;
        let stepped = replica.step(message).unwrap_or_else(|error| panic!("member {}: {error}", self.at));
        stepped.unwrap_or_else(|rejected| panic!("member {}: {rejected}", self.at));
    }

    /// Does all that is due.
    pub fn work(&mut self, output: &mut Output) -> Result<(), Fatal> {
        self.due = false;
        let Some(replica) = &mut self.replica else { return Ok(()) };
        replica.process(output)?;
        if let Some(job) = output.compaction_hash.take() {
            job.run()?;
        }
        while replica.compact_step(output)? {}
        Ok(())
    }

    /// What it has sent since the last call.
    pub fn letters(&mut self) -> Vec<raftpb::Message> {
        std::mem::take(&mut self.letters.0.lock().unwrap())
    }
}

fn name(at: usize) -> String {
    format!("m{at}")
}
