//! The world of one seed: members, network, clients and faults, one moment after the other.
//!
//! A run has three parts. While it storms, everything goes wrong, and what is checked is safety. Then the world heals, and
//! the cluster has [`SETTLE_TICKS`] to find a leader that everybody follows. After that every request must be served.

use std::collections::{BTreeMap, BTreeSet};

use metastore_engine::STEP;
use metastore_replica::disk::CrashPolicy;
use metastore_replica::wal::Options;
use metastore_replica::{Fatal, Output, Portions, Settings, Timing};

use crate::clients::{Asked, Clients, Wish, Workload};
use crate::counts::Counts;
use crate::faults::{Faults, Kind, Power};
use crate::history::Violation;
use crate::judge::Judge;
use crate::machine::{Engine, Machine};
use crate::member::{Clock, ELECTION_TICKS, Held, Member, SEGMENT_BYTES};
use crate::network::{Network, Weather};
use crate::random::Random;
use crate::serving::Noted;
use crate::verdicts::Verdicts;
use crate::watching::Watcher;

mod befall;
mod compacted;
mod damage;
mod hostile;
mod older;
mod reshape;
mod states;
mod work;

pub use hostile::lie;
use older::{Copied, Older};
pub use states::Beside;
use states::{Parcel, Sent};

/// The world's time is finer than the members': messages take parts of a tick.
pub const MOMENTS_PER_TICK: u64 = 5;
/// What a moment is on a true clock; a tick is a heartbeat of 100 ms.
pub const MOMENT_MS: u64 = 20;
/// The shortest storm: a minute.
pub const STORM_TICKS: u64 = 600;
/// A storm goes on until clients have asked for so much, but no longer than this many ticks.
const OPERATIONS: u64 = 1000;
const LONGEST_STORM_TICKS: u64 = 40 * STORM_TICKS;
/// Every seed sees so many kinds of fault, unless they are switched off.
const KINDS_OF_FAULT: usize = 3;
/// Within so many ticks a healed cluster has a leader that everybody follows: a minute, in which voters of an even number may
/// part their votes some times.
const SETTLE_TICKS: u64 = 600;
/// Entries that a member may be behind a leader that it follows.
const BEHIND: u64 = 50;
/// Ticks in which what is left of the storm, such as a removal that was proposed, comes to its end.
const AFTERMATH_TICKS: u64 = 45;
/// Ticks of service after that.
const CALM_TICKS: u64 = 40;
/// A request in a calm cluster is served within so many ticks.
const CALM_PATIENCE_TICKS: u64 = 15;
/// Leases that nobody renews any more are gone within so many ticks: the longest time to live, once more for a new leader, and
/// what revoking takes.
const LEASE_TICKS: u64 = 160;
/// Leases may live so much longer than they were granted for, once the world is healed: a request may be under way for so long,
/// expired leases are looked for every half a second, and their revocation must be committed.
const LEASE_SLACK_MS: u64 = 3000;

/// Rows in a step of the storage engines: most seeds have more keys than a step takes, some do all in one.
const STEP_ROWS: &[usize] = &[4, 5, 6, 8, STEP];

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One after the other, the members have these.
    pub engines: &'static [Engine],
    /// `None`: the seed says how many.
    pub members: Option<usize>,
    /// Ticks of storm, at least.
    pub ticks: u64,
    pub workload: Option<Workload>,
    /// Rates that the seed does not draw.
    pub rates: Vec<(Kind, u64)>,
    /// Kinds of fault without which a storm does not end.
    pub kinds_of_fault: usize,
    pub trace: Tracing,
}

impl Default for Plan {
    fn default() -> Self {
        let engines = &[Engine::Memory];
        let (members, workload, rates, trace) = (None, None, Vec::new(), Tracing::Off);
        Self { engines, members, ticks: STORM_TICKS, workload, rates, kinds_of_fault: KINDS_OF_FAULT, trace }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    Off,
    /// Lines are kept, to be compared.
    Keep,
    Print,
}

/// Goes on if a check has nothing to say.
///
/// # Panics
/// With what it says.
pub fn must(checked: Result<(), Violation>) {
    checked.unwrap_or_else(|violation| panic!("{violation}"));
}

pub struct World {
    pub(crate) now: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) watchers: Vec<Watcher>,
    faults: Faults,
    pub(crate) judge: Judge,
    pub(crate) verdicts: Verdicts,
    pub(crate) random: Random,
    /// How often a member gets to work, in thousandths per moment: what comes meanwhile comes at once.
    diligence: u64,
    restarts: BTreeMap<usize, u64>,
    /// What is cut off, until when, and for how long by turns.
    partition: Option<befall::Partition>,
    parcels: Vec<Parcel>,
    sent: Sent,
    /// Members whose removal was proposed.
    removing: BTreeSet<u64>,
    /// Who votes by the newest entry that any member has applied.
    voters: (u64, BTreeSet<u64>),
    /// Members that were removed, and when they stop.
    leaves: BTreeMap<usize, u64>,
    /// How many members the cluster began with.
    founders: usize,
    settings: Settings,
    engines: &'static [Engine],
    step_rows: usize,
    /// What a crash will leave of a doomed member's disk, and how long it will be down.
    dooms: BTreeMap<usize, (CrashPolicy, u64)>,
    /// Copies of what members had stored.
    copies: BTreeMap<usize, Copied>,
    /// Members that have come back with such copies, and those that have proof of loss and do not start again.
    older: Older,
    lost: BTreeSet<usize>,
    /// When the power of members goes that were killed and start again.
    power: BTreeMap<usize, Power>,
    /// Members whose power goes when they promise something, and those that just have.
    promising: BTreeSet<usize>,
    promised: Vec<usize>,
    /// What the clocks showed when somebody asked for a grant or a renewal.
    pub(crate) asked_at: BTreeMap<u64, Vec<u64>>,
    /// How often each id of a lease was asked for.
    pub(crate) grants: BTreeMap<i64, i64>,
    /// Revocations by request: the name of the lease and, if a leader proposed it because the lease's time was over,
    /// which leader, and what its clock showed.
    pub(crate) revocations: BTreeMap<u64, (i64, Option<(usize, u64)>)>,
    pub(crate) revoked: BTreeSet<i64>,
    /// Checkpoints of leases that are proposed and not applied where they were.
    pub(crate) checkpoints: BTreeMap<u64, Noted>,
    /// The newest compaction.
    pub(crate) compacted: i64,
    /// Whether clients compact in a healed world, too.
    pub(crate) compacts_healed: bool,
    pub(crate) healed: bool,
    pub(crate) calm: bool,
    pub(crate) counts: Counts,
    tracing: Tracing,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed, 0);
        let settings = settings(&mut random);
        let size = plan.members.unwrap_or_else(|| *random.pick(&[1, 3, 3, 3, 5]).unwrap_or(&3));
        let workload = match random.permille(300) {
            true => Workload::Kubernetes,
            false => Workload::Mixed,
        };
        let workload = plan.workload.unwrap_or(workload);
        let step_rows = *random.pick(STEP_ROWS).unwrap_or(&STEP);
        let member = |at| {
            let machine = Machine::in_memory(plan.engines[at % plan.engines.len()]).in_steps_of(step_rows);
            let mut member = Member::founding(at, size, machine, settings.clone());
            member.clock = Clock::new(random.between(850, 1150));
            member
        };
        let members: Vec<Member> = (0..size).map(member).collect();
        let faults = Faults::new(seed, (plan.ticks, size), &plan.rates);
        let weather = Weather::draw(&mut random, &faults.rates);
        let patience = random.between(10, 60) * MOMENTS_PER_TICK;
        let clients = Clients::new(seed, workload, random.between(4, 9), random.between(4, 12), patience);
        let watchers = (0..random.between(1, 4) as usize).map(|at| Watcher::new(seed, at, workload)).collect();
        Self {
            now: 0,
            network: Network::new(seed, weather),
            clients,
            watchers,
            faults,
            judge: Judge::default(),
            verdicts: Verdicts::default(),
            diligence: *random.pick(&[1000, 1000, 600, 300]).unwrap_or(&1000),
            restarts: (0..members.len()).map(|at| (at, 1)).collect(),
            partition: None,
            parcels: Vec::new(),
            sent: Sent::new(),
            removing: BTreeSet::new(),
            voters: (0, BTreeSet::new()),
            leaves: BTreeMap::new(),
            founders: members.len(),
            settings,
            engines: plan.engines,
            step_rows,
            dooms: BTreeMap::new(),
            copies: BTreeMap::new(),
            older: Older::None,
            lost: BTreeSet::new(),
            power: BTreeMap::new(),
            promising: BTreeSet::new(),
            promised: Vec::new(),
            asked_at: BTreeMap::new(),
            grants: BTreeMap::new(),
            revocations: BTreeMap::new(),
            revoked: BTreeSet::new(),
            checkpoints: BTreeMap::new(),
            compacted: 0,
            compacts_healed: random.permille(500),
            healed: false,
            calm: false,
            counts: Counts::default(),
            tracing: plan.trace,
            trace: Vec::new(),
            members,
            random,
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
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
        self.turn_partition();
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
        self.darken_promised();
        self.watch();
        let now = self.now;
        for asked in self.clients.give_up(now, |asked| asked.deadline <= now) {
            self.unknown(&asked);
        }
    }

    pub(crate) fn unknown(&mut self, asked: &Asked) {
        self.note(|| format!("{asked:?} has an unknown outcome"));
        let may_wait = !self.calm || self.members[asked.member].left || matches!(asked.wish, Wish::KeepAlive(_));
        assert!(may_wait, "a healed cluster does not serve {asked:?}: {}", self.standings());
        self.counts.unknown += 1;
    }

    /// Where each member stands, for a person.
    pub(crate) fn standings(&self) -> String {
        let line = |member: &Member| match &member.replica {
            Some(replica) => {
                let (at, voters) = (member.at, replica.voters());
                format!(
                    "member {at}, {:x?}, voters {voters:x?}, asleep until {}",
                    replica.standing(),
                    member.asleep_until
                )
            }
            None => format!("member {}, id {:x}, is down, gone {}", member.at, member.id, member.gone),
        };
        self.members.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn position(&self, id: u64) -> Option<usize> {
        self.members.iter().position(|member| member.id == id && !member.gone)
    }

    /// An empty machine for a member.
    fn new_machine(&self, at: usize) -> Machine {
        Machine::in_memory(self.engines[at % self.engines.len()]).in_steps_of(self.step_rows)
    }
}

// The parts of a run.
impl World {
    fn ticks(&mut self, ticks: u64) {
        for _ in 0..ticks * MOMENTS_PER_TICK {
            self.moment();
        }
    }

    fn storm(&mut self, ticks: u64, kinds_of_fault: usize) {
        let enough =
            |world: &Self| world.counts.operations >= OPERATIONS && world.counts.kinds_of_fault() >= kinds_of_fault;
        let mut tick = 0;
        while tick < ticks || (ticks >= STORM_TICKS && tick < LONGEST_STORM_TICKS && !enough(self)) {
            tick += 1;
            let leader = self.members.iter().rposition(Member::leads);
            for fault in self.faults.tick(self.members.len(), leader) {
                self.befall(fault);
            }
            self.ticks(1);
            self.counts.hear(&self.network.traffic);
        }
        assert!(ticks < STORM_TICKS || enough(self), "a storm of {tick} ticks: {:?}", self.counts);
    }

    /// Goes on until there has been a leader for a while that everybody follows, or acknowledged entries are known to be
    /// lost.
    fn settle(&mut self) {
        let mut settled = 0;
        for _ in 0..SETTLE_TICKS {
            self.ticks(1);
            if self.is_lost() {
                return;
            }
            self.follow_loss();
            settled = if self.is_settled() { settled + 1 } else { 0 };
            if settled == AFTERMATH_TICKS {
                return;
            }
        }
        panic!("a healed cluster has no leader that all follow after {SETTLE_TICKS} ticks: {}", self.standings());
    }

    fn is_settled(&self) -> bool {
        let Some(leader) = self.members.iter().rfind(|member| member.leads()) else { return false };
        let due = leader.applied().saturating_sub(BEHIND);
        let there = self.members.iter().filter(|member| member.is_there());
        self.leaves.is_empty()
            && !self.is_state_under_way()
            && there.into_iter().all(|member| member.leader() == leader.id && member.applied() >= due)
    }

    /// Everything that was promised is there, everywhere, and the cluster works.
    fn check_calm(&mut self) {
        let revision = self.judge.revisions.newest();
        let leaders = self.members.iter().filter(|member| member.leads()).count();
        assert_eq!(leaders, 1, "leaders of a healed cluster: {}", self.standings());
        let there: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].is_there()).collect();
        let first = &self.members[there[0]];
        let known = |member: &Member| member.replica.as_ref().map(|replica| replica.store().members().clone());
        for &at in &there {
            let member = &self.members[at];
            assert_eq!(member.applied(), first.applied(), "members {} and {at} stand apart", first.at);
            assert_eq!(known(member), known(first), "members {} and {at} know others", first.at);
            assert!(known(member).is_some_and(|known| known.iter().count() == there.len()), "members are missing");
            assert_eq!(member.revision(), revision, "member {at} lacks revisions");
            assert!(member.reads.is_empty(), "member {at} never allows {} reads", member.reads.len());
        }
        for at in there {
            self.hash(at);
        }
        assert_eq!(self.judge.leases.living().next(), None, "a lease that nobody renews lives on");
    }

    /// Goes on without clients until all leases are gone, each in time.
    fn outlive_leases(&mut self) {
        self.clients.stop();
        for _ in 0..LEASE_TICKS {
            self.ticks(1);
            let overdue = self.judge.leases.overdue(&self.clocks(), LEASE_SLACK_MS);
            assert_eq!(overdue, None, "a lease that nobody renews ends late, at {}", self.now);
        }
    }

    fn run(mut self, plan: &Plan) -> (Counts, Vec<String>) {
        self.storm(plan.ticks, plan.kinds_of_fault);
        self.heal();
        self.settle();
        if !self.come_back_older() {
            self.counts.elections = self.judge.terms();
            return (self.counts, self.trace);
        }
        self.clients.patience = CALM_PATIENCE_TICKS * MOMENTS_PER_TICK;
        // Who has asked while it stormed may still be told nothing.
        for asked in self.clients.give_up(self.now, |_| true) {
            self.unknown(&asked);
        }
        self.calm = true;
        let served = self.counts.writes;
        self.ticks(CALM_TICKS);
        assert!(self.counts.writes > served, "a healed cluster takes writes");
        self.outlive_leases();
        self.check_calm();
        self.check_stored();
        let chains = self.end_watches();
        self.counts.elections = self.judge.terms();
        self.counts.hear(&self.network.traffic);
        must(self.judge.conclude(&chains));
        (self.counts, self.trace)
    }
}

/// Takes out who is due at a moment.
fn take_due(waiting: &mut BTreeMap<usize, u64>, now: u64) -> Vec<usize> {
    let due: Vec<usize> = waiting.iter().filter(|(_, moment)| **moment <= now).map(|(at, _)| *at).collect();
    due.iter().for_each(|at| _ = waiting.remove(at));
    due
}

/// Some clusters keep the whole log, others soon send states.
fn settings(random: &mut Random) -> Settings {
    let timing = Timing { election_ticks: ELECTION_TICKS, pre_vote: !random.permille(200) };
    let keep_entries = *random.pick(&[1 << 20, 60, 15]).unwrap_or(&12);
    let log_bytes = *random.pick(&[u64::MAX, 40_000, 10_000]).unwrap_or(&u64::MAX);
    let mut settings = Settings::new(Engine::Memory.name(), timing, keep_entries);
    (settings.snapshot_log_bytes, settings.flush_log_bytes) = (log_bytes, log_bytes);
    settings.log = Options { segment_bytes: SEGMENT_BYTES };
    if random.permille(700) {
        let (message_bytes, committed_bytes) = (random.between(1, 600), random.between(1, 1000));
        settings.portions =
            Portions { message_bytes, inflight_messages: random.between(1, 8) as usize, committed_bytes };
    }
    settings
}

/// Runs one seed.
///
/// # Panics
/// If anything is not as it must be.
pub fn run(seed: u64, plan: &Plan) -> (Counts, Vec<String>) {
    World::new(seed, plan).run(plan)
}
