//! The world of one seed: members, network, clients and faults, one moment after the other.
//!
//! A run has three parts. During the storm faults happen, and safety is checked. Then the world heals, and the cluster
//! has [`SETTLE_TICKS`] to find a leader that all members follow. After that every request must be served.

use std::collections::{BTreeMap, BTreeSet};

use metastore_engine::STEP;
use metastore_replica::wal::Options;
use metastore_replica::{Fatal, Output, Portions, Settings, Timing};

use crate::alarms::Alarms;
use crate::beside::{Sent, StateInTransit};
use crate::clients::{Asked, Clients, Wish, Workload};
use crate::counts::Counts;
use crate::disasters::Disasters;
use crate::faults::{FaultKind, Faults};
use crate::history::must;
use crate::judge::Judge;
use crate::lease_book::LeaseBook;
use crate::machine::{EngineKind, Machine};
use crate::member::{Clock, ELECTION_TICKS, Held, Member, SEGMENT_BYTES};
use crate::network::{Network, Weather};
use crate::random::Random;
use crate::time::MOMENTS_PER_TICK;
use crate::users::Users;
use crate::verdicts::Verdicts;
use crate::watcher::Watcher;

mod alarms;
mod befall;
mod compacted;
mod damage;
mod hostile;
mod older;
mod reshape;
mod serving;
mod states;
mod users;
mod watching;
mod work;

pub use hostile::lie;

/// The shortest storm: a minute.
pub const STORM_TICKS: u64 = 600;
/// A storm continues until clients have sent this number of requests, but no longer than [`LONGEST_STORM_TICKS`].
const OPERATIONS: u64 = 1000;
const LONGEST_STORM_TICKS: u64 = 40 * STORM_TICKS;
/// The number of kinds of fault that every seed sees, unless they are switched off.
const KINDS_OF_FAULT: usize = 3;
/// Ticks within which a healed cluster has a leader that all members follow: a minute, because an even number of voters
/// may split their votes some times.
const SETTLE_TICKS: u64 = 600;
/// Entries by which a member may lag behind the leader that it follows.
const BEHIND: u64 = 50;
/// Ticks in which the aftermath of the storm ends, such as a removal that was proposed.
const AFTERMATH_TICKS: u64 = 45;
/// Ticks of service after that.
const CALM_TICKS: u64 = 40;
/// Ticks within which a request in a calm cluster is answered.
const CALM_PATIENCE_TICKS: u64 = 15;
/// Ticks within which leases end that no client renews any more: the longest time to live, once more for a new leader,
/// and the time of the revocation.
const LEASE_TICKS: u64 = 160;
/// The time by which leases may outlive their time to live once the world is healed. It covers a request that is under
/// way, the half second between two searches for expired leases, and the commit of their revocation.
const LEASE_SLACK_MS: u64 = 3000;
/// The time that a revocation adds to the slack of all leases: simulated members revoke one lease after the other.
const REVOCATION_MS: u64 = 100;

/// The stream of random choices about checkpoints of leases, and the share of seeds with them, in thousandths.
const CHECKPOINTS_STREAM: u64 = 60;
const CHECKPOINTS_PERMILLE: u64 = 300;

/// Rows in a step of the storage engines. Most seeds have more keys than a step takes; some do everything in one step.
const STEP_ROWS: &[usize] = &[4, 5, 6, 8, STEP];

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The engines of the members, assigned in turn.
    pub engines: &'static [EngineKind],
    /// `None`: drawn from the seed.
    pub members: Option<usize>,
    /// The shortest storm, in ticks.
    pub ticks: u64,
    pub workload: Option<Workload>,
    /// Rates that override those of the seed.
    pub rates: Vec<(FaultKind, u64)>,
    /// The number of kinds of fault that must have happened before a storm ends.
    pub kinds_of_fault: usize,
    pub trace: Tracing,
}

impl Default for Plan {
    fn default() -> Self {
        let engines = &[EngineKind::Memory];
        let (members, workload, rates, trace) = (None, None, Vec::new(), Tracing::Off);
        Self { engines, members, ticks: STORM_TICKS, workload, rates, kinds_of_fault: KINDS_OF_FAULT, trace }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    Off,
    /// Lines are collected for a comparison.
    Keep,
    Print,
}

pub struct World {
    pub(crate) now: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) watchers: Vec<Watcher>,
    /// `None` if authentication is never enabled.
    users: Option<Users>,
    /// `None` if no alarm is ever raised.
    alarms: Option<Alarms>,
    faults: Faults,
    disasters: Disasters,
    pub(crate) judge: Judge,
    lease_book: LeaseBook,
    pub(crate) verdicts: Verdicts,
    pub(crate) random: Random,
    /// How often a member works, in thousandths per moment. Events that arrive in between are handled together.
    diligence: u64,
    states: Vec<StateInTransit>,
    sent: Sent,
    /// Members whose removal was proposed.
    removing: BTreeSet<u64>,
    /// The voters, by the newest entry that any member has applied.
    voters: (u64, BTreeSet<u64>),
    /// Members that were removed, and the moments at which they stop.
    leaves: BTreeMap<usize, u64>,
    /// The number of members with which the cluster began.
    founders: usize,
    settings: Settings,
    engines: &'static [EngineKind],
    step_rows: usize,
    /// The newest compaction.
    pub(crate) compacted: i64,
    /// Whether clients also compact in a healed world.
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
        let settings = with_checkpoints(seed, settings(&mut random));
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
        let count = random.between(4, 9);
        let clients = Clients::new(seed, workload, count, random.between(4, 12), patience);
        let restarts = (0..members.len()).map(|at| (at, 1)).collect();
        let watchers = (0..random.between(1, 4) as usize).map(|at| Watcher::new(seed, at, workload)).collect();
        Self {
            now: 0,
            network: Network::new(seed, weather),
            clients,
            watchers,
            users: Users::draw(seed, workload, count),
            alarms: Alarms::draw(seed),
            faults,
            disasters: Disasters { restarts, ..Disasters::default() },
            judge: Judge::default(),
            lease_book: LeaseBook::default(),
            verdicts: Verdicts::default(),
            diligence: *random.pick(&[1000, 1000, 600, 300]).unwrap_or(&1000),
            states: Vec::new(),
            sent: Sent::new(),
            removing: BTreeSet::new(),
            voters: (0, BTreeSet::new()),
            leaves: BTreeMap::new(),
            founders: members.len(),
            settings,
            engines: plan.engines,
            step_rows,
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
        for at in take_due(&mut self.disasters.restarts, self.now) {
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
        self.administer();
        self.mind_alarms();
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

    /// The state of each member, in readable form.
    pub(crate) fn standings(&self) -> String {
        let line = |member: &Member| match &member.replica {
            Some(replica) => {
                let (at, voters) = (member.at, replica.voters());
                let (alarms, asleep_until) = (replica.store().alarms(), member.asleep_until);
                format!(
                    "member {at}, {:x?}, voters {voters:x?}, {alarms:x?}, asleep until {asleep_until}",
                    replica.standing()
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

    /// Runs until all members have followed one leader for a while and no alarm stands, or until acknowledged entries
    /// are known to be lost. A leader with a long log that is not committed yet serves nobody before an entry of its
    /// own term is.
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
        panic!(
            "a healed cluster has no leader that all follow, or alarms, after {SETTLE_TICKS} ticks: {}",
            self.standings()
        );
    }

    fn is_settled(&self) -> bool {
        let Some(leader) = self.members.iter().rfind(|member| member.leads()) else { return false };
        let due = leader.applied().saturating_sub(BEHIND);
        let there = self.members.iter().filter(|member| member.is_there());
        self.leaves.is_empty()
            && self.users.as_ref().is_none_or(Users::is_done)
            && self.is_unalarmed()
            && !self.is_state_under_way()
            && leader.keeper.is_leader()
            && there.into_iter().all(|member| member.leader() == leader.id && member.applied() >= due)
    }

    /// Checks that every promise is kept on all members, and that the cluster works.
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

    /// Runs without clients until all leases have ended, each in time.
    fn outlive_leases(&mut self) {
        self.clients.stop();
        let slack_ms = LEASE_SLACK_MS + REVOCATION_MS * self.judge.leases.living().count() as u64;
        for _ in 0..LEASE_TICKS {
            self.ticks(1);
            let overdue = self.judge.leases.overdue(&self.clocks(), slack_ms);
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
        // Clients that sent requests during the storm may still remain without an answer.
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

/// Takes out the members that are due at a moment.
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
    let mut settings = Settings::new(EngineKind::Memory.name(), timing, keep_entries);
    (settings.snapshot_log_bytes, settings.flush_log_bytes) = (log_bytes, log_bytes);
    settings.log = Options { segment_bytes: SEGMENT_BYTES };
    if random.permille(700) {
        let (message_bytes, committed_bytes) = (random.between(1, 600), random.between(1, 1000));
        settings.portions =
            Portions { message_bytes, inflight_messages: random.between(1, 8) as usize, committed_bytes };
    }
    settings
}

/// In some seeds leaders note what is left of leases, soon enough for the leases of clients.
fn with_checkpoints(seed: u64, settings: Settings) -> Settings {
    let mut random = Random::new(seed, CHECKPOINTS_STREAM);
    let lease_checkpoints = random.permille(CHECKPOINTS_PERMILLE);
    Settings { lease_checkpoints, checkpoint_interval_ms: random.between(300, 2500), ..settings }
}

/// Runs one seed.
///
/// # Panics
/// If a check fails.
pub fn run(seed: u64, plan: &Plan) -> (Counts, Vec<String>) {
    World::new(seed, plan).run(plan)
}
