//! One member on a simulated disk, the commands and answers of its clients, and the states that follow from them.

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{HighWaterMark, Memory};
use metastore_proto::etcdserverpb::PutRequest;
use metastore_proto::raftpb::{self, ConfChange, ConfState};
use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_replica::wal::{Options, TornTail};
use metastore_replica::{
    Bootstrap, Fatal, Founder, OpenError, Output, Paths, ReceiveError, ReceivedState, Replica, Retired, Settings,
    SnapshotJob, SnapshotWritten, Timing, identity,
};
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::HashKv;
use metastore_store::{Member, Outcome, Store};

pub use crate::machine::paths;
use crate::machine::{EngineKind, Machine};

/// The error that stopped a member.
pub type Stopped = Box<dyn std::error::Error>;

pub const PEER_URL: &str = "http://127.0.0.1:2380";

/// Small segments and early snapshots or flushes, so that a short script sees many of both.
pub fn settings(engine: EngineKind) -> Settings {
    let mut settings = Settings::new(engine.name(), Timing { election_ticks: 10, pre_vote: true }, 8);
    (settings.snapshot_log_bytes, settings.flush_log_bytes) = (1500, 3000);
    settings.log = Options { segment_bytes: 2048 };
    settings
}

/// A cluster of one with this token.
pub fn founding(token: &str) -> Bootstrap {
    let founder = Founder { name: "one".into(), peer_urls: vec![PEER_URL.into()] };
    Bootstrap::Found { members: vec![founder], own: "one".into(), cluster_token: token.into() }
}

pub fn bootstrap() -> Bootstrap {
    founding("token")
}

/// Opens the member of [`paths`] on this disk.
pub fn open(disk: &Machine) -> Result<(Replica, Option<TornTail>), OpenError> {
    open_with(settings(disk.engine), disk, paths())
}

pub fn open_with(settings: Settings, disk: &Machine, paths: Paths) -> Result<(Replica, Option<TornTail>), OpenError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Replica::open(settings, shared, paths, || Ok(bootstrap()), disk.opener(disk.engine))
}

pub fn put(id: u64, key: &str, value: &str) -> Bytes {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    Command::encode(id, Kind::Put, &put)
}

/// Lets a member do all the work that is due.
pub fn advance(replica: &mut Replica, output: &mut Output) -> Result<(), Fatal> {
    replica.process(output)?;
    if let Some(job) = output.compaction_hash.take() {
        job.run()?;
    }
    while replica.compact_step()? {}
    Ok(())
}

/// The same for a member that was just opened, whose snapshots are not written.
pub fn take_up(replica: &mut Replica, output: &mut Output) -> Result<(), Fatal> {
    advance(replica, output)?;
    output.snapshot = None;
    advance(replica, output)
}

/// All parts of a store that a client could ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub revision: i64,
    hash: HashKv,
    leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    members: Vec<Member>,
    /// The high-water mark, exact in bytes; clients see it rounded to pages.
    mark: HighWaterMark,
}

impl State {
    /// The state of a store that has completed its compactions. (As in etcd, HashKV does not depend on how far a
    /// compaction has come, unless no key is alive.)
    pub fn of(store: &Store) -> State {
        assert!(!store.compacting());
        let leases = store.leases();
        let lease = |id| {
            let lease = leases.get(id).expect("it is listed");
            (id, lease.ttl_s, store.lease_keys(id).expect("the keys of a lease can be read"))
        };
        State {
            revision: store.revision(),
            hash: store.view().hash_kv(0).expect("the current revision can be hashed"),
            leases: leases.ids().map(lease).collect(),
            members: store.members().iter().cloned().collect(),
            mark: store.view().engine().mark(),
        }
    }
}

/// The results of commands in a store alone.
pub struct Reference {
    /// The state after each number of commands.
    pub states: Vec<State>,
    outcomes: Vec<Outcome>,
}

impl Reference {
    pub fn of(commands: &[Bytes]) -> Reference {
        Self::lowered(commands, usize::MAX)
    }

    /// The same, with the high-water mark lowered after so many commands.
    pub fn lowered(commands: &[Bytes], after: usize) -> Reference {
        let mut store = Store::open(Arc::new(Memory::new())).unwrap();
        let (name, peer_urls) = ("one".to_owned(), vec![PEER_URL.to_owned()]);
        let id = identity::member_id(&peer_urls, "token");
        let json = serde_json::to_vec(&Member { id, name, peer_urls, ..Member::default() }).unwrap();
        let change = ConfChange { node_id: Some(id), context: Some(json.into()), ..ConfChange::default() };
        let checked = store.check_member_change(1, &change, 1).unwrap();
        let voters = ConfState { voters: vec![id], ..ConfState::default() };
        store.apply_member_change(1, 1, 0, checked, &voters).unwrap();
        store.publish().unwrap();
        let mut reference = Reference { states: vec![State::of(&store)], outcomes: Vec::new() };
        for (index, command) in (2..).zip(commands) {
            let applied = index as usize - 1;
            reference.outcomes.extend(store.apply(index, 1, command.clone()).unwrap());
            store.publish().unwrap();
            while store.compact_step().unwrap() {}
            if applied == after {
                let engine = store.view().engine();
                engine.set_mark(engine.mark().lowered(engine.usage()));
            }
            reference.states.push(State::of(&store));
        }
        reference
    }
}

/// Keeps the outcomes for which a client waits. The change by which the first member joins has no client.
pub fn asked_for(outcomes: &mut Vec<Outcome>) {
    outcomes.retain(|outcome| outcome.id != 0);
}

/// The commands of a member's clients, and its answers. Command `i` carries the id `i + 1`.
#[derive(Clone, Default)]
pub struct Answered {
    pub proposed: Vec<Bytes>,
    /// At least so many commands were acknowledged: the answer to a command also covers all commands before it.
    pub acknowledged: usize,
    pub outcomes: Vec<Outcome>,
}

impl Answered {
    fn hear(&mut self, mut outcomes: Vec<Outcome>) {
        asked_for(&mut outcomes);
        let newest = outcomes.iter().map(|outcome| outcome.id as usize).max().unwrap_or(0);
        self.acknowledged = self.acknowledged.max(newest);
        self.outcomes.extend(outcomes);
    }

    /// Checks that every answer equals the one that a store alone gives.
    pub fn check_outcomes(&self, reference: &Reference, context: &str) {
        for outcome in &self.outcomes {
            assert_eq!(outcome, &reference.outcomes[outcome.id as usize - 1], "{context}");
        }
    }

    /// Starts a member on the disk that the crash left, and compares it with the answers. Returns the number of
    /// commands that it holds, and whether a torn tail was cut.
    pub fn check(&self, disk: &Machine, reference: &Reference, context: &str) -> (usize, bool) {
        let (mut replica, cut) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        let held = self.held(&mut replica, reference, context);
        assert!(replica.standing().sole_leader, "{context}: it leads");
        go_on(replica, disk, &reference.states[held], context);
        (held, cut.is_some())
    }

    /// Lets a member that was just opened replay its log; returns the number of commands that it holds.
    pub fn held(&self, replica: &mut Replica, reference: &Reference, context: &str) -> usize {
        let mut output = Output::default();
        take_up(replica, &mut output).unwrap_or_else(|error| panic!("{context}: {error}"));
        asked_for(&mut output.outcomes);
        for outcome in &output.outcomes {
            assert_eq!(outcome, &reference.outcomes[outcome.id as usize - 1], "{context}");
        }
        let state = State::of(replica.store());
        // Some commands change nothing; only their answers show that they are in the log.
        let replayed = output.outcomes.iter().map(|outcome| outcome.id as usize).max().unwrap_or(0);
        let (from, to) = (self.acknowledged.max(replayed), self.proposed.len());
        (from..=to).find(|n| reference.states[*n] == state).unwrap_or_else(|| {
            panic!("{context}: {state:?} is no state after {from} to {to} commands: {:?}", reference.states[from])
        })
    }
}

/// Restarts the member on the disk that a crash left, again and again. Each restart loses power one operation later
/// than the one before, until a restart succeeds. Yields the number of operations with each restart that failed.
pub fn crashed_restarts<'a>(left: &'a Machine, told: &'a Answered) -> impl Iterator<Item = (u64, World)> + 'a {
    (0..).map_while(move |operations| {
        let disk = left.fork();
        disk.crash_after(operations);
        let mut restart = World::on(disk, told.clone());
        restart.start().is_err().then_some((operations, restart))
    })
}

/// Checks that the restarted member accepts writes, with dense revisions, and that they survive the next power loss.
fn go_on(mut replica: Replica, disk: &Machine, state: &State, context: &str) {
    let mut output = Output::default();
    for id in [900_001, 900_002] {
        replica.propose(put(id, "after", &"x".repeat(700))).unwrap();
    }
    replica.process(&mut output).unwrap_or_else(|error| panic!("{context}: {error}"));
    let revisions: Vec<i64> = output.outcomes.iter().map(|outcome| outcome.revision).collect();
    assert_eq!(revisions, [state.revision + 1, state.revision + 2], "{context}");
    let written = State::of(replica.store());
    let disk = disk.crash(CrashPolicy::DropUnsynced);
    let (mut again, cut) = open(&disk).unwrap_or_else(|error| panic!("{context}, second start: {error}"));
    assert_eq!(cut, None, "{context}: a clean log was cut");
    take_up(&mut again, &mut Output::default()).unwrap_or_else(|error| panic!("{context}, second start: {error}"));
    assert_eq!(State::of(again.store()), written, "{context}: what was written after the restart");
}

/// A snapshot that is written while the member goes on.
enum Background {
    Planned(SnapshotJob),
    Written(SnapshotWritten),
}

/// A member that runs a script.
pub struct World {
    replica: Option<Replica>,
    background: Option<Background>,
    /// Declared after the member, which is closed first.
    pub disk: Machine,
    pub told: Answered,
    /// Number of snapshots that were written and reported to the member.
    pub snapshots: usize,
    planned: usize,
    /// States that have been replaced.
    retired: Vec<Retired>,
    /// Whether a call of the member itself failed, as opposed to its start, or to a snapshot on its own thread.
    pub failed_itself: bool,
}

impl World {
    /// A machine without a member.
    pub fn new(engine: EngineKind) -> World {
        World::on(Machine::new(engine), Answered::default())
    }

    /// A member with earlier commands and answers, on the disk that is left.
    pub fn on(disk: Machine, told: Answered) -> World {
        let (replica, background, retired) = (None, None, Vec::new());
        World { disk, told, replica, background, snapshots: 0, planned: 0, retired, failed_itself: false }
    }

    pub fn replica(&mut self) -> &mut Replica {
        self.replica.as_mut().expect("the member is open")
    }

    /// Kills the member, if it runs, and starts it on the same disk.
    pub fn start(&mut self) -> Result<(), Stopped> {
        let left = self.disk.kill();
        (self.replica, self.background) = (None, None);
        self.retired.clear();
        drop(left);
        self.replica = Some(open(&self.disk)?.0);
        self.process()
    }

    /// Stops the member properly.
    pub fn stop(self) -> Machine {
        let World { replica, disk, .. } = self;
        drop(replica);
        disk
    }

    /// Proposes commands and waits for them. Their ids are assigned here.
    pub fn group(&mut self, commands: impl IntoIterator<Item = impl FnOnce(u64) -> Bytes>) -> Result<(), Stopped> {
        for command in commands {
            let bytes = command(self.told.proposed.len() as u64 + 1);
            self.told.proposed.push(bytes.clone());
            self.replica().propose(bytes)?;
        }
        self.process()?;
        self.go_on_with_snapshot()
    }

    /// Another member sends its state, which holds the commands `sent.held`, in pieces of `piece` bytes.
    pub fn receive(&mut self, sent: &Sent, piece: usize) -> Result<(), Stopped> {
        let received = sent.receive(self.replica(), piece)?;
        self.told.proposed = sent.held.clone();
        self.replica().state_received(received)?;
        self.process()?;
        self.told.acknowledged = sent.held.len();
        self.go_on_with_snapshot()
    }

    /// Lowers the high-water mark; `Ok` is the answer that this is durable.
    pub fn defragment(&mut self) -> Result<(), Stopped> {
        Ok(self.replica().lower_mark()?()?)
    }

    fn process(&mut self) -> Result<(), Stopped> {
        let mut output = Output::default();
        let replica = self.replica.as_mut().expect("the member is open");
        let result = advance(replica, &mut output);
        self.told.hear(output.outcomes);
        self.failed_itself = result.is_err();
        result?;
        self.retired.extend(output.retired);
        for retired in self.retired.extract_if(.., |retired| retired.is_unused()).collect::<Vec<_>>() {
            retired.remove()?;
        }
        if let Some(job) = output.snapshot {
            assert!(self.background.is_none(), "one snapshot at a time");
            self.planned += 1;
            self.background = Some(Background::Planned(job));
            // Every other snapshot is written at once, the rest while the member goes on.
            if self.planned % 2 == 1 {
                self.go_on_with_snapshot()?;
                self.go_on_with_snapshot()?;
            }
        }
        Ok(())
    }

    fn go_on_with_snapshot(&mut self) -> Result<(), Stopped> {
        match self.background.take() {
            Some(Background::Planned(job)) => self.background = Some(Background::Written(job.run()?)),
            Some(Background::Written(written)) => {
                let result = self.replica().snapshot_written(written);
                self.failed_itself = result.is_err();
                result?;
                self.snapshots += 1;
            }
            None => {}
        }
        Ok(())
    }
}

/// A state that one member sends to another.
#[derive(Clone)]
pub struct Sent {
    pub message: raftpb::Message,
    pub stream: Vec<u8>,
    /// The commands that the state holds.
    pub held: Vec<Bytes>,
}

impl Sent {
    /// The state of `from`, for a member with the same id: these tests have only one id.
    pub fn by(from: &mut World) -> Sent {
        let held = from.told.proposed.clone();
        let replica = from.replica();
        let message = raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgSnap as i32),
            to: Some(replica.id()),
            from: Some(OTHER_MEMBER),
            term: Some(replica.standing().term + 1),
            ..raftpb::Message::default()
        };
        let (message, source) = replica.state_to_send().unwrap().open(message).unwrap();
        assert_eq!(source.applied(), replica.store().applied());
        let mut stream = Vec::new();
        let write = |bytes: &[u8]| {
            stream.extend_from_slice(bytes);
            Ok(())
        };
        source.write(write).unwrap();
        Sent { message, stream, held }
    }

    /// Lets a member receive the state.
    pub fn receive(&self, by: &Replica, piece: usize) -> Result<ReceivedState, ReceiveError> {
        let mut incoming = by.receiver().begin(self.message.clone())?;
        self.stream.chunks(piece).try_for_each(|piece| incoming.take(piece))?;
        incoming.finish()
    }
}

/// The leader that sends the state.
const OTHER_MEMBER: u64 = 99;
