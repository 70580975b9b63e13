//! The faults of members and network, and when they happen.
//!
//! A seed draws the kinds of fault and the rate of each; the command line can set a rate instead. Each kind that a seed
//! has drawn happens at least once.

use metastore_replica::disk::CrashPolicy;

use crate::random::Random;
use crate::time::MOMENTS_PER_TICK;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $text:literal up to $most:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $name,)*
        }

        impl FaultKind {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The highest rate that a seed draws.
            fn most(self) -> u64 {
                match self {
                    $(Self::$name => $most,)*
                }
            }
        }
    };
}

kinds! {
    /// Messages that are lost, in thousandths of all messages.
    Loss "loss" up to 250,
    /// Messages that arrive twice, in thousandths of all messages.
    Doubling "doubling" up to 250,
    /// Messages that are delayed so long that newer ones overtake them, in thousandths of all messages.
    Straggling "straggling" up to 250,
    /// The rates of this kind and of all that follow are thousandths per tick. A member loses power: its unsynced
    /// writes are lost, kept, or torn.
    Crash "crash" up to 20,
    /// The process of a member is killed; the page cache survives. Often the power fails as the process starts again,
    /// or a little later.
    Kill "kill" up to 20,
    /// A member is stopped for a while, and then continues.
    Pause "pause" up to 20,
    /// A clock jumps forward.
    ClockJump "clock-jump" up to 20,
    /// No message passes on some links, in both directions or in one.
    Partition "partition" up to 20,
    /// A partition that appears and disappears every few moments.
    Flapping "flapping" up to 8,
    /// A leader is asked to transfer its leadership.
    Transfer "transfer" up to 20,
    /// Members join, become voters, or leave.
    Reshape "reshape" up to 40,
    /// A sync of the log fails.
    FailedSync "failed-sync" up to 8,
    /// A write fails in the middle.
    FailedWrite "failed-write" up to 8,
    /// The disk is full for a while.
    FullDisk "full-disk" up to 8,
    /// A sync takes a minute.
    HungSync "hung-sync" up to 3,
    /// A sync takes a tenth of a second or more.
    SlowSync "slow-sync" up to 60,
    /// A bit of a member's stored files is inverted: the member must refuse to start from them.
    FlippedBit "flipped-bit" up to 15,
    /// A write has gone to the wrong place and overwritten other data: the member must refuse to start from it.
    MisdirectedWrite "misdirected-write" up to 10,
    /// The events of a batch do not reach the watchers' thread, which is informed of the loss.
    EventsLost "events-lost" up to 40,
    /// The stored data of a member is copied. Once the world is healed, members start from this copy or from newer
    /// ones.
    OlderCopies "older-copies" up to 20,
}

/// The share of seeds that leave a kind out, in percent.
const LEFT_OUT_PERCENT: u64 = 35;
/// The kinds of fault that every cluster of one member sees.
const ALONE: &[FaultKind] = &[FaultKind::Crash, FaultKind::Kill, FaultKind::Pause, FaultKind::ClockJump];
/// The lowest number of kinds that a seed draws.
const FEWEST_KINDS: usize = 4;
/// Ticks without faults at the beginning of a storm, so that there is some state to break.
const PEACE_TICKS: u64 = 15;
/// The share of faults that hit the leader, in thousandths; the others hit any member.
const AT_LEADER: u64 = 300;
/// Disk operations after a kill until the power fails, at most: a start takes about ten.
const OPERATIONS_AFTER_KILL: u64 = 20;
/// The length of a sync that hangs, in moments: a minute.
const HUNG_MOMENTS: u64 = 600 * MOMENTS_PER_TICK;

/// The rate of each kind.
#[derive(Clone, Debug, Default)]
pub struct Rates(Vec<u64>);

impl Rates {
    /// Draws the rates from the seed; rates in `fixed` take precedence.
    pub fn draw(random: &mut Random, size: usize, fixed: &[(FaultKind, u64)]) -> Self {
        let mut rates: Vec<u64> = FaultKind::ALL
            .iter()
            .map(|kind| match random.below(100) < LEFT_OUT_PERCENT {
                true => 0,
                false => 1 + random.below(kind.most()),
            })
            .collect();
        while rates.iter().filter(|rate| **rate > 0).count() < FEWEST_KINDS {
            let kind = random.below(rates.len() as u64) as usize;
            rates[kind] = FaultKind::ALL[kind].most();
        }
        if size == 1 {
            // Most kinds need several members.
            ALONE.iter().for_each(|kind| rates[*kind as usize] = rates[*kind as usize].max(1));
        }
        fixed.iter().for_each(|(kind, rate)| rates[*kind as usize] = *rate);
        Self(rates)
    }

    pub fn of(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }
}

/// When the power fails after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// When the disk has done this number of operations since the start.
    Operations(u64),
    /// When the member has confirmed entries to another member, or has voted for it.
    Promise,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A member loses power, at once or after some operations of its disk, and is down for `down` moments.
    Crash {
        member: usize,
        operations: Option<u64>,
        policy: CrashPolicy,
        down: u64,
    },
    /// The process of a member is killed, at once or after some operations of its disk, and starts after `down`
    /// moments. The power may fail soon after that.
    Kill {
        member: usize,
        operations: Option<u64>,
        down: u64,
        power: Option<Power>,
    },
    /// A member is stopped for `moments`. It receives the messages that arrived during the pause `deaf` moments after
    /// its end.
    Pause {
        member: usize,
        moments: u64,
        deaf: u64,
    },
    /// A member's clock jumps forward by `ticks`.
    ClockJump {
        member: usize,
        ticks: u64,
    },
    /// No message passes on these links (from, to) for `moments`. With `turn`, the links are closed and open by turns
    /// of that many moments.
    Partition {
        ways: Vec<(usize, usize)>,
        moments: u64,
        turn: Option<u64>,
    },
    /// A leader is asked to transfer its leadership.
    Transfer {
        to: usize,
    },
    /// The membership changes.
    Reshape,
    /// The `nth` sync or write from now on fails. The member stops, and starts again after `down` moments.
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
    /// The disk is full after `bytes` more bytes.
    FullDisk {
        member: usize,
        bytes: u64,
        down: u64,
    },
    /// The next sync takes `moments`.
    SlowSync {
        member: usize,
        moments: u64,
        hung: bool,
    },
    /// A damaged copy of the member's files is opened.
    FlippedBit {
        member: usize,
    },
    MisdirectedWrite {
        member: usize,
    },
    /// The events that the member publishes next do not reach its watchers.
    EventsLost {
        member: usize,
    },
    /// The stored data of the member is copied.
    OlderCopy {
        member: usize,
    },
}

impl Fault {
    /// The member that the fault hits.
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
    /// Ticks in which a kind happens regardless of its rate.
    promised: Vec<(u64, FaultKind)>,
    tick: u64,
}

impl Faults {
    /// Faults for a storm of `ticks` over a cluster of `size` members.
    pub fn new(seed: u64, (ticks, size): (u64, usize), fixed: &[(FaultKind, u64)]) -> Self {
        let mut random = Random::new(seed, 2);
        let rates = Rates::draw(&mut random, size, fixed);
        let drawn = FaultKind::ALL.iter().filter(|kind| **kind >= FaultKind::Crash && rates.of(**kind) > 0);
        let promised = drawn.map(|kind| (random.between(PEACE_TICKS, ticks.max(PEACE_TICKS + 1)), *kind)).collect();
        Self { random, rates, promised, tick: 0 }
    }

    /// The faults of this tick in a cluster of `size` members. The leader is hit more often, because a fault there
    /// breaks more.
    pub fn tick(&mut self, size: usize, leader: Option<usize>) -> Vec<Fault> {
        self.tick += 1;
        if self.tick < PEACE_TICKS {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for kind in FaultKind::ALL.iter().filter(|kind| **kind >= FaultKind::Crash) {
            let promised = self.promised.contains(&(self.tick, *kind));
            if self.random.permille(self.rates.of(*kind)) || promised {
                self.strike(*kind, (size, leader), &mut faults);
            }
        }
        faults
    }

    fn strike(&mut self, kind: FaultKind, (size, leader): (usize, Option<usize>), faults: &mut Vec<Fault>) {
        let any = self.random.below(size as u64) as usize;
        let member = leader.filter(|_| self.random.permille(AT_LEADER)).unwrap_or(any);
        let random = &mut self.random;
        let mut moments = |ticks: u64| random.between(1, ticks * MOMENTS_PER_TICK);
        faults.push(match kind {
            FaultKind::Crash => return self.crash(member, size, faults),
            FaultKind::Kill => {
                let (down, operations) = (moments(6), self.operations());
                Fault::Kill { member, operations, down, power: self.power_after_kill() }
            }
            FaultKind::Pause => Fault::Pause { member, moments: moments(40), deaf: moments(2) - 1 },
            FaultKind::ClockJump => Fault::ClockJump { member, ticks: moments(8) },
            FaultKind::Partition => {
                Fault::Partition { moments: moments(80), turn: None, ways: self.ways(member, size) }
            }
            FaultKind::Flapping => {
                let (moments, turn) = (moments(100), Some(moments(6)));
                Fault::Partition { moments, turn, ways: self.ways(member, size) }
            }
            FaultKind::Transfer => Fault::Transfer { to: member },
            FaultKind::Reshape => Fault::Reshape,
            FaultKind::FailedSync => Fault::FailedSync { member, down: moments(40), nth: self.random.between(1, 3) },
            FaultKind::FailedWrite => Fault::FailedWrite { member, down: moments(40), nth: self.random.between(1, 3) },
            FaultKind::FullDisk => Fault::FullDisk { member, down: moments(60), bytes: self.random.below(2000) },
            FaultKind::HungSync => Fault::SlowSync { member, moments: HUNG_MOMENTS, hung: true },
            FaultKind::SlowSync => Fault::SlowSync { member, moments: moments(20), hung: false },
            FaultKind::FlippedBit => Fault::FlippedBit { member },
            FaultKind::MisdirectedWrite => Fault::MisdirectedWrite { member },
            FaultKind::EventsLost => Fault::EventsLost { member },
            FaultKind::OlderCopies => Fault::OlderCopy { member },
            FaultKind::Loss | FaultKind::Doubling | FaultKind::Straggling => return,
        });
    }

    /// Disk operations until a member dies; `None` if it dies between two pieces of work.
    fn operations(&mut self) -> Option<u64> {
        self.random.permille(600).then(|| self.random.below(8))
    }

    /// Whether and when the power fails after a kill.
    pub fn power_after_kill(&mut self) -> Option<Power> {
        match self.random.below(3) {
            0 => Some(Power::Operations(self.random.below(OPERATIONS_AFTER_KILL))),
            1 => Some(Power::Promise),
            _ => None,
        }
    }

    /// Now and then all members lose power at once.
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

    /// One member is cut off in both directions or in one, a single link is closed, or the cluster falls apart into two
    /// sides.
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
