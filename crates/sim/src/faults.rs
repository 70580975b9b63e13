//! What befalls the members, and when.
//!
//! A seed draws which kinds of fault there are and how often each comes; the command line can set a rate instead. Each kind
//! that a seed has drawn comes at least once.

use metastore_replica::disk::CrashPolicy;

use crate::random::Random;
use crate::world::MOMENTS_PER_TICK;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $text:literal up to $most:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As the command line calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The greatest rate that a seed draws.
            fn most(self) -> u64 {
                match self {
                    $(Self::$name => $most,)*
                }
            }
        }
    };
}

kinds! {
    /// Thousandths of all messages that are lost.
    Loss "loss" up to 250,
    /// Thousandths of all messages that arrive twice.
    Doubling "doubling" up to 250,
    /// Thousandths of all messages that take long, so that newer ones overtake them.
    Straggling "straggling" up to 250,
    /// This and all below: thousandths per tick. The power of a member goes: what was not synced is lost, kept, or torn.
    Crash "crash" up to 20,
    /// The process of a member is killed; the page cache survives. Often the power goes as it starts again, or a little
    /// later.
    Kill "kill" up to 20,
    /// A member is stopped for a while, and goes on.
    Pause "pause" up to 20,
    /// A clock jumps forward.
    ClockJump "clock-jump" up to 20,
    /// Nothing passes on some ways, in both directions or in one.
    Partition "partition" up to 20,
    /// A partition that comes and goes every few moments.
    Flapping "flapping" up to 8,
    /// A leader is to hand over.
    Transfer "transfer" up to 20,
    /// Members join, become voters, leave.
    Reshape "reshape" up to 40,
    /// A sync of the log fails.
    FailedSync "failed-sync" up to 8,
    /// A write fails in its middle.
    FailedWrite "failed-write" up to 8,
    /// The disk is full for a while.
    FullDisk "full-disk" up to 8,
    /// A sync takes a minute.
    HungSync "hung-sync" up to 3,
    /// A sync takes a tenth of a second and more.
    SlowSync "slow-sync" up to 60,
    /// A bit of what a member has stored is inverted: it must refuse to start from that.
    FlippedBit "flipped-bit" up to 15,
    /// A write has gone to where something else was stored: the same.
    MisdirectedWrite "misdirected-write" up to 10,
    /// The events of a batch do not reach the watchers' thread, which is told so.
    EventsLost "events-lost" up to 40,
    /// What a member has stored is copied: from this copy, or from newer ones, members start once the world is healed.
    OlderCopies "older-copies" up to 20,
}

/// Seeds in so many of a hundred leave a kind out.
const LEFT_OUT_PERCENT: u64 = 35;
/// What always befalls a member that is alone.
const ALONE: &[Kind] = &[Kind::Crash, Kind::Kill, Kind::Pause, Kind::ClockJump];
/// Kinds that every seed sees at the least.
const FEWEST_KINDS: usize = 4;
/// Ticks of a storm's beginning in which nothing befalls anyone, so that there is something to break.
const PEACE_TICKS: u64 = 15;
/// Faults that befall the leader, in thousandths; all others befall anybody.
const AT_LEADER: u64 = 300;
/// Operations of the disk after a kill, at most, before the power goes: a start takes about ten.
const OPERATIONS_AFTER_KILL: u64 = 20;
/// Moments for which a sync hangs: a minute.
const HUNG_MOMENTS: u64 = 600 * MOMENTS_PER_TICK;

/// How often each kind comes.
#[derive(Clone, Debug, Default)]
pub struct Rates(Vec<u64>);

impl Rates {
    /// What the seed says, unless `fixed` says otherwise.
    pub fn draw(random: &mut Random, size: usize, fixed: &[(Kind, u64)]) -> Self {
        let mut rates: Vec<u64> = Kind::ALL
            .iter()
            .map(|kind| match random.below(100) < LEFT_OUT_PERCENT {
                true => 0,
                false => 1 + random.below(kind.most()),
            })
            .collect();
        while rates.iter().filter(|rate| **rate > 0).count() < FEWEST_KINDS {
            let kind = random.below(rates.len() as u64) as usize;
            rates[kind] = Kind::ALL[kind].most();
        }
        if size == 1 {
            // Most kinds happen between members.
            ALONE.iter().for_each(|kind| rates[*kind as usize] = rates[*kind as usize].max(1));
        }
        fixed.iter().for_each(|(kind, rate)| rates[*kind as usize] = *rate);
        Self(rates)
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }
}

/// When the power goes after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// When the disk has done so many operations since the start.
    Operations(u64),
    /// When the member has told another one that it holds entries, or votes for it.
    Promise,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of a member goes, at once or after some operations of its disk, for so many moments.
    Crash {
        member: usize,
        operations: Option<u64>,
        policy: CrashPolicy,
        down: u64,
    },
    /// The process of a member is killed, at once or after some operations of its disk, and starts after so many
    /// moments. Perhaps the power goes soon after that.
    Kill {
        member: usize,
        operations: Option<u64>,
        down: u64,
        power: Option<Power>,
    },
    /// A member is stopped for so many moments, and hears of what came meanwhile so many later.
    Pause {
        member: usize,
        moments: u64,
        deaf: u64,
    },
    /// A member's clock jumps by so many ticks.
    ClockJump {
        member: usize,
        ticks: u64,
    },
    /// Nothing passes on these ways (from, to), for so many moments; or by turns, each so long.
    Partition {
        ways: Vec<(usize, usize)>,
        moments: u64,
        turn: Option<u64>,
    },
    /// A leader is to hand over.
    Transfer {
        to: usize,
    },
    /// The members change.
    Reshape,
    /// A sync from now on fails, or a write; the member stops, and starts again after so many moments.
    FailedSync {
        member: usize,
        nth: u64,
        down: u64,
    },
    FailedWrite {
        member: usize,
        nth: u64,
        down: u64,
    },
    /// The disk takes so many more bytes.
    FullDisk {
        member: usize,
        bytes: u64,
        down: u64,
    },
    /// The next sync takes so long.
    SlowSync {
        member: usize,
        moments: u64,
        hung: bool,
    },
    /// A member would start from a damaged copy of its files.
    FlippedBit {
        member: usize,
    },
    MisdirectedWrite {
        member: usize,
    },
    /// What the member publishes next does not reach its watchers.
    EventsLost {
        member: usize,
    },
    /// What the member has stored is copied.
    OlderCopy {
        member: usize,
    },
}

impl Fault {
    /// The member that it befalls.
    pub fn whom(&self) -> Option<usize> {
        match self {
            Self::Crash { member, .. }
            | Self::Kill { member, .. }
            | Self::Pause { member, .. }
            | Self::ClockJump { member, .. }
            | Self::Transfer { to: member }
            | Self::FailedSync { member, .. }
            | Self::FailedWrite { member, .. }
            | Self::FullDisk { member, .. }
            | Self::SlowSync { member, .. }
            | Self::FlippedBit { member }
            | Self::MisdirectedWrite { member }
            | Self::EventsLost { member }
            | Self::OlderCopy { member } => Some(*member),
            Self::Partition { .. } | Self::Reshape => None,
        }
    }
}

pub struct Faults {
    random: Random,
    pub rates: Rates,
    /// Kinds that come in a tick, whatever their rate.
    promised: Vec<(u64, Kind)>,
    tick: u64,
}

impl Faults {
    /// For a storm of so many ticks over a cluster of so many members.
    pub fn new(seed: u64, (ticks, size): (u64, usize), fixed: &[(Kind, u64)]) -> Self {
        let mut random = Random::new(seed, 2);
        let rates = Rates::draw(&mut random, size, fixed);
        let drawn = Kind::ALL.iter().filter(|kind| **kind >= Kind::Crash && rates.of(**kind) > 0);
        let promised = drawn.map(|kind| (random.between(PEACE_TICKS, ticks.max(PEACE_TICKS + 1)), *kind)).collect();
        Self { random, rates, promised, tick: 0 }
    }

    /// What happens in this tick to a cluster of so many members. Leaders have more to lose.
    pub fn tick(&mut self, size: usize, leader: Option<usize>) -> Vec<Fault> {
        self.tick += 1;
        if self.tick < PEACE_TICKS {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for kind in Kind::ALL.iter().filter(|kind| **kind >= Kind::Crash) {
            let promised = self.promised.contains(&(self.tick, *kind));
            if self.random.permille(self.rates.of(*kind)) || promised {
                self.strike(*kind, (size, leader), &mut faults);
            }
        }
        faults
    }

    fn strike(&mut self, kind: Kind, (size, leader): (usize, Option<usize>), faults: &mut Vec<Fault>) {
        let any = self.random.below(size as u64) as usize;
        let member = leader.filter(|_| self.random.permille(AT_LEADER)).unwrap_or(any);
        let random = &mut self.random;
        let mut moments = |ticks: u64| random.between(1, ticks * MOMENTS_PER_TICK);
        faults.push(match kind {
            Kind::Crash => return self.crash(member, size, faults),
            Kind::Kill => {
                let (down, operations) = (moments(6), self.operations());
                Fault::Kill { member, operations, down, power: self.power_after_kill() }
            }
            Kind::Pause => Fault::Pause { member, moments: moments(40), deaf: moments(2) - 1 },
            Kind::ClockJump => Fault::ClockJump { member, ticks: moments(8) },
            Kind::Partition => Fault::Partition { moments: moments(80), turn: None, ways: self.ways(member, size) },
            Kind::Flapping => {
                let (moments, turn) = (moments(100), Some(moments(6)));
                Fault::Partition { moments, turn, ways: self.ways(member, size) }
            }
            Kind::Transfer => Fault::Transfer { to: member },
            Kind::Reshape => Fault::Reshape,
            Kind::FailedSync => Fault::FailedSync { member, down: moments(40), nth: self.random.between(1, 3) },
            Kind::FailedWrite => Fault::FailedWrite { member, down: moments(40), nth: self.random.between(1, 3) },
            Kind::FullDisk => Fault::FullDisk { member, down: moments(60), bytes: self.random.below(2000) },
            Kind::HungSync => Fault::SlowSync { member, moments: HUNG_MOMENTS, hung: true },
            Kind::SlowSync => Fault::SlowSync { member, moments: moments(20), hung: false },
            Kind::FlippedBit => Fault::FlippedBit { member },
            Kind::MisdirectedWrite => Fault::MisdirectedWrite { member },
            Kind::EventsLost => Fault::EventsLost { member },
            Kind::OlderCopies => Fault::OlderCopy { member },
            Kind::Loss | Kind::Doubling | Kind::Straggling => return,
        });
    }

    /// Operations of a disk that a dying member still does; `None` if it dies between two of its works.
    fn operations(&mut self) -> Option<u64> {
        self.random.permille(600).then(|| self.random.below(8))
    }

    /// Whether and when the power goes after a kill.
    pub fn power_after_kill(&mut self) -> Option<Power> {
        match self.random.below(3) {
            0 => Some(Power::Operations(self.random.below(OPERATIONS_AFTER_KILL))),
            1 => Some(Power::Promise),
            _ => None,
        }
    }

    /// Now and then the power goes everywhere.
    fn crash(&mut self, one: usize, size: usize, faults: &mut Vec<Fault>) {
        let members = if self.random.permille(100) { 0..size } else { one..one + 1 };
        for member in members {
            let operations = self.operations();
            let policy = match self.random.below(4) {
                0 | 1 => CrashPolicy::DropUnsynced,
                2 => CrashPolicy::KeepUnsynced,
                _ => CrashPolicy::Random(self.random.number()),
            };
            let down = self.random.between(1, 40 * MOMENTS_PER_TICK);
            faults.push(Fault::Crash { member, operations, policy, down });
        }
    }

    /// One member is cut off in both directions or in one, a single way is, or the cluster falls apart in two.
    fn ways(&mut self, one: usize, size: usize) -> Vec<(usize, usize)> {
        if size < 2 {
            return Vec::new();
        }
        let choice = self.random.below(5);
        let others = (0..size).filter(|other| *other != one);
        match choice {
            0 => others.flat_map(|other| [(one, other), (other, one)]).collect(),
            1 => others.map(|other| (one, other)).collect(),
            2 => others.map(|other| (other, one)).collect(),
            3 => vec![(one, (one + 1 + self.random.below(size as u64 - 1) as usize) % size)],
            _ => {
                let side: Vec<bool> = (0..size).map(|_| self.random.permille(500)).collect();
                let apart = |from: usize| (0..size).map(move |to| (from, to));
                (0..size).flat_map(apart).filter(|(from, to)| side[*from] != side[*to]).collect()
            }
        }
    }
}
