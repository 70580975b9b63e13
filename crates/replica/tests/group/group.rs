//! The world of one seed: members, network, clients and faults, one moment after the other.
//!
//! A run has three parts. While it storms, everything goes wrong, and what is checked is safety. Then the world heals, and
//! the group has [`SETTLE_TICKS`] to find a leader. After that every request must be served.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use metastore_proto::raftpb::Message;
use metastore_replica::disk::CrashPolicy;
use metastore_replica::wal::Options;
use metastore_replica::{Fatal, Output, Settings, Timing};
use metastore_store::mvcc::row::KeyValue;
use metastore_store::mvcc::{RangeQuery, View};
use metastore_store::{Outcome, Reply};

use crate::checks::Record;
use crate::clients::{Action, Clients, Request};
use crate::counts::Counts;
use crate::faults::Faults;
use crate::machine::Engine;
use crate::member::{Clock, ELECTION_TICKS, Member, SEGMENT_BYTES};
use crate::network::{Network, Weather};
use crate::random::Random;

mod befall;
mod hostile;
mod reshape;
mod states;

pub use states::Beside;
use states::Parcel;

/// The world's time is finer than the members': messages take parts of a tick.
pub const MOMENTS_PER_TICK: u64 = 5;
/// Within so many ticks a healed group has a leader that everybody follows: a few election timeouts, on slow clocks.
const SETTLE_TICKS: u64 = 120;
/// Ticks of service after that.
const CALM_TICKS: u64 = 40;
/// A request in a calm group is served within so many ticks.
const CALM_PATIENCE_TICKS: u64 = 15;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// One after the other, the members have these.
    pub engines: &'static [Engine],
    pub members: usize,
    /// Ticks of storm.
    pub ticks: u64,
    pub trace: Tracing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    Off,
    /// Lines are kept, to be compared.
    Keep,
    Print,
}

pub struct Group {
    now: u64,
    members: Vec<Member>,
    network: Network,
    clients: Clients,
    faults: Faults,
    record: Record,
    random: Random,
    /// How often a member gets to work, in thousandths per moment: what comes meanwhile comes at once.
    diligence: u64,
    restarts: BTreeMap<usize, u64>,
    join_at: u64,
    parcels: Vec<Parcel>,
    /// Members whose removal was proposed.
    removing: BTreeSet<u64>,
    /// Members that were removed, and when they stop.
    leaves: BTreeMap<usize, u64>,
    /// How many members the group began with.
    founders: usize,
    settings: Settings,
    engines: &'static [Engine],
    /// What a crash will leave of a doomed member's disk, and how long it will be down.
    dooms: BTreeMap<usize, (CrashPolicy, u64)>,
    healed: bool,
    calm: bool,
    counts: Counts,
    tracing: Tracing,
    trace: Vec<String>,
}

impl Group {
    fn new(seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed, 0);
        let settings = settings(&mut random);
        let member = |at| {
            let mut member =
                Member::founding(at, plan.members, plan.engines[at % plan.engines.len()], settings.clone());
            member.clock = Clock::new(random.between(850, 1150));
            member
        };
        let members: Vec<Member> = (0..plan.members).map(member).collect();
        let weather = Weather::draw(&mut random);
        let patience = random.between(10, 60) * MOMENTS_PER_TICK;
        let clients = Clients::new(seed, random.between(2, 5), random.between(10, 60), patience);
        Self {
            now: 0,
            network: Network::new(seed, weather),
            clients,
            faults: Faults::new(seed, members.len()),
            record: Record::default(),
            diligence: *random.pick(&[1000, 1000, 600, 300]).unwrap_or(&1000),
            restarts: (0..members.len()).map(|at| (at, 1)).collect(),
            join_at: u64::MAX,
            parcels: Vec::new(),
            removing: BTreeSet::new(),
            leaves: BTreeMap::new(),
            founders: members.len(),
            settings,
            engines: plan.engines,
            dooms: BTreeMap::new(),
            healed: false,
            calm: false,
            counts: Counts::default(),
            tracing: plan.trace,
            trace: Vec::new(),
            members,
            random,
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        match self.tracing {
            Tracing::Off => {}
            Tracing::Keep => self.trace.push(format!("{:6} {}", self.now, line())),
            Tracing::Print => println!("{:6} {}", self.now, line()),
        }
    }

    fn moment(&mut self) {
        self.now += 1;
        self.follow_changes();
        for at in take_due(&mut self.restarts, self.now) {
            self.start(at);
        }
        if self.join_at <= self.now {
            self.network.join();
            self.join_at = u64::MAX;
        }
        for arrival in self.network.arrive(self.now) {
            self.deliver(arrival.from, arrival.to, arrival.message);
        }
        self.advance_states();
        for at in 0..self.members.len() {
            self.wake(at);
        }
        self.ask();
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if member.due && member.awake(self.now) && self.random.permille(self.diligence) {
                self.work(at);
            }
        }
        let now = self.now;
        for request in self.clients.give_up(now, |request| request.deadline <= now) {
            self.unknown(&request);
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        self.note(|| format!("{from} -> {to} {}", show(&message)));
        let member = &mut self.members[to];
        if member.awake(self.now) {
            member.step(message);
        } else if member.replica.is_some() {
            member.backlog.push(message);
        }
    }

    /// Lets a member's clock go on, if the member does.
    fn wake(&mut self, at: usize) {
        let member = &mut self.members[at];
        if member.awake(self.now) {
            for message in std::mem::take(&mut member.backlog) {
                member.step(message);
            }
            member.advance();
        }
    }

    fn start(&mut self, at: usize) {
        if self.members[at].gone {
            return;
        }
        self.note(|| format!("{at} starts"));
        let doomed = self.members[at].doomed;
        match self.members[at].start() {
            Ok(cut) => self.counts.torn_logs += u64::from(cut),
            Err(error) if doomed => {
                self.note(|| format!("{at} fails to start: {error}"));
                self.crashes(at);
            }
            Err(error) => panic!("member {at} does not start: {error}"),
        }
    }

    fn ask(&mut self) {
        let awake: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].awake(self.now)).collect();
        for request in self.clients.ask(self.now, &awake, self.record.told) {
            self.note(|| format!("{request:?}"));
            self.put(request);
        }
    }

    /// Hands a request to its member.
    fn put(&mut self, request: Request) {
        let member = &mut self.members[request.member];
        let Some(replica) = &mut member.replica else { return };
        member.due = true;
        match (&request.action, request.command()) {
            (_, Some(command)) => {
                self.record.proposes(request.id);
                if replica.propose(command).is_err() {
                    self.record.refuses(request.id);
                    self.counts.refused += 1;
                    self.clients.end(self.now, request.id);
                    assert!(!self.calm, "{request:?} was refused by a group that has a leader");
                }
            }
            (Action::Read, None) => {
                replica.read(request.id);
                member.reads.insert(request.id);
            }
            (_, None) => {
                let (revision, found) = look(replica.store().view(), &request.key);
                self.record.reads(&request, revision, found);
                self.counts.local_reads += 1;
                self.clients.end(self.now, request.id);
            }
        }
    }

    fn unknown(&mut self, request: &Request) {
        self.note(|| format!("{request:?} has an unknown outcome"));
        assert!(!self.calm, "{request:?} was not served by a group that has a leader");
        self.counts.unknown += 1;
    }

    fn work(&mut self, at: usize) {
        let mut output = Output::default();
        let mut result = self.members[at].work(&mut output);
        self.send(at);
        if result.is_ok() {
            result = self.states(at, &mut output);
        }
        for events in &output.events {
            self.record.publishes(at, events);
        }
        if result.is_ok() {
            self.look_at(at);
        }
        for outcome in output.outcomes {
            self.record.answers(at, &outcome);
            self.answer(at, &outcome);
        }
        for id in output.readable {
            self.read(at, id);
        }
        if let Err(error) = result {
            self.stopped(at, &error);
        }
    }

    /// Sends what a member has written to the others, even if the power has gone since.
    fn send(&mut self, at: usize) {
        for message in self.members[at].letters() {
            self.record.sends(at, &message);
            // Whoever is sent nothing has left for good.
            let Some(to) = self.position(message.to()) else { continue };
            if self.network.send(self.now, (at, to), &message)
                && let Some(replica) = &mut self.members[at].replica
            {
                replica.unreachable(message.to());
            }
        }
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.members.iter().position(|member| member.id == id && !member.gone)
    }

    /// The engine of a member.
    fn engine(&self, at: usize) -> Engine {
        self.engines[at % self.engines.len()]
    }

    fn look_at(&mut self, at: usize) {
        let Member { replica: Some(replica), compared, .. } = &mut self.members[at] else { return };
        let standing = replica.standing();
        if standing.is_leader() {
            self.record.leads(at, standing.term);
        }
        let applied = replica.store().applied();
        if applied.index > *compared {
            *compared = applied.index;
            let hash = replica.store().view().hash_kv(0).expect("the current revision can be hashed");
            self.record.applied(at, (applied.index, applied.term), hash);
        }
    }

    fn answer(&mut self, at: usize, outcome: &Outcome) {
        let Some(request) = self.clients.answered(self.now, at, outcome.id) else { return };
        self.note(|| format!("{at} answers {outcome:?}"));
        self.record.acknowledges(&request, outcome);
        self.counts.writes += 1;
        match &outcome.reply {
            Ok(Reply::Txn(reply)) if reply.succeeded => self.counts.swaps += 1,
            Ok(Reply::Txn(_)) => self.counts.failed_swaps += 1,
            _ => {}
        }
        let value = self.record.value_at(&request.key, outcome.revision);
        self.clients.learn(&request, value);
    }

    fn read(&mut self, at: usize, id: u64) {
        assert!(self.members[at].reads.remove(&id), "member {at} was not asked for read {id}, or allows it twice");
        let Some(request) = self.clients.answered(self.now, at, id) else { return };
        let replica = self.members[at].replica.as_ref().expect("it has just worked");
        let (revision, found) = look(replica.store().view(), &request.key);
        self.note(|| format!("{at} reads {found:?} at {revision} for {id}"));
        self.record.reads(&request, revision, found.clone());
        self.counts.reads += 1;
        self.clients.learn(&request, found);
    }

    fn stopped(&mut self, at: usize, error: &Fatal) {
        assert!(self.members[at].doomed, "member {at} has stopped: {error}");
        self.counts.crashes_at_work += 1;
        self.crashes(at);
    }
}

// The parts of a run.
impl Group {
    fn ticks(&mut self, ticks: u64) {
        for _ in 0..ticks * MOMENTS_PER_TICK {
            self.moment();
        }
    }

    fn storm(&mut self, ticks: u64) {
        for _ in 0..ticks {
            for fault in self.faults.tick(self.members.len()) {
                self.befall(fault);
            }
            self.ticks(1);
        }
    }

    /// Everything that was promised is there, everywhere, and the group works.
    fn check_calm(&mut self) {
        let revision = self.record.revision();
        let leaders = self.members.iter().filter(|member| member.leads()).count();
        assert_eq!(leaders, 1, "leaders of a healed group");
        let there: Vec<&Member> = self.members.iter().filter(|member| member.started && !member.gone).collect();
        let members = |member: &Member| member.replica.as_ref().map(|replica| replica.store().members().clone());
        for member in &there {
            let at = member.at;
            assert_eq!(member.applied(), there[0].applied(), "members {} and {at} stand apart", there[0].at);
            assert_eq!(members(member), members(there[0]), "members {} and {at} know others", there[0].at);
            assert!(members(member).is_some_and(|known| known.iter().count() == there.len()), "members are missing");
            assert_eq!(member.revision(), revision, "member {at} lacks revisions");
            assert!(member.reads.is_empty(), "member {at} never allows reads {:?}", member.reads);
        }
    }

    fn run(mut self, plan: &Plan) -> (Counts, Vec<String>) {
        self.storm(plan.ticks);
        self.heal();
        self.ticks(SETTLE_TICKS);
        self.clients.patience = CALM_PATIENCE_TICKS * MOMENTS_PER_TICK;
        // Who has asked while it stormed may still be told nothing.
        for request in self.clients.give_up(self.now, |_| true) {
            self.unknown(&request);
        }
        self.calm = true;
        let served = self.counts.writes;
        self.ticks(CALM_TICKS);
        assert!(self.counts.writes > served, "a healed group takes writes");
        self.clients.stop();
        self.ticks(CALM_PATIENCE_TICKS + 5);
        self.check_calm();
        self.counts.elections = self.record.terms();
        self.counts.hear(&self.network.traffic);
        (self.counts, self.trace)
    }
}

/// Takes out who is due at a moment.
fn take_due(waiting: &mut BTreeMap<usize, u64>, now: u64) -> Vec<usize> {
    let due: Vec<usize> = waiting.iter().filter(|(_, moment)| **moment <= now).map(|(at, _)| *at).collect();
    due.iter().for_each(|at| _ = waiting.remove(at));
    due
}

/// Some groups keep the whole log, others soon send states.
fn settings(random: &mut Random) -> Settings {
    let timing = Timing { election_ticks: ELECTION_TICKS, pre_vote: !random.permille(200) };
    let keep_entries = *random.pick(&[1 << 20, 40, 12]).unwrap_or(&12);
    let log_bytes = *random.pick(&[u64::MAX, 8000, 2000]).unwrap_or(&u64::MAX);
    let mut settings = Settings::new(Engine::Memory.name(), timing, keep_entries);
    (settings.snapshot_log_bytes, settings.flush_log_bytes) = (log_bytes, log_bytes);
    settings.log = Options { segment_bytes: SEGMENT_BYTES };
    settings
}

/// Runs one seed.
///
/// # Panics
/// If anything is not as it must be.
pub fn run(seed: u64, plan: &Plan) -> (Counts, Vec<String>) {
    Group::new(seed, plan).run(plan)
}

/// What a client reads.
fn look(view: &View, key: &Bytes) -> (i64, Option<Bytes>) {
    let reply = view.range(&RangeQuery { key, ..RangeQuery::default() }).expect("the current revision can be read");
    (reply.revision, reply.rows.first().map(|row| Bytes::copy_from_slice(KeyValue::of(row).value)))
}

/// A message in a line.
fn show(message: &Message) -> String {
    let entries: Vec<_> = message.entries.iter().map(|entry| (entry.index(), entry.term())).collect();
    format!(
        "{:?} term {} at ({}, {}) commit {} reject {} {entries:?}",
        message.r#type(),
        message.term(),
        message.index(),
        message.log_term(),
        message.commit(),
        message.reject()
    )
}
