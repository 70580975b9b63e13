//! What befalls the members, and when.

use metastore_replica::disk::CrashPolicy;

use crate::group::MOMENTS_PER_TICK;
use crate::random::Random;

/// How often something befalls a group, in thousandths per tick.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub crash: u64,
    pub pause: u64,
    pub partition: u64,
    pub transfer: u64,
    pub reshape: u64,
}

impl Rates {
    pub fn draw(random: &mut Random) -> Self {
        let mut rate = |most: u64| if random.permille(250) { 0 } else { 1 + random.below(most) };
        Self { crash: rate(25), pause: rate(20), partition: rate(20), transfer: rate(20), reshape: rate(40) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of a member goes, at once or after some operations of its disk, for so many moments.
    Crash { member: usize, operations: Option<u64>, policy: CrashPolicy, down: u64 },
    /// A member is stopped for so many moments, and then hears of so many ticks at once.
    Pause { member: usize, moments: u64, ticks: u64 },
    /// Nothing passes on these ways (from, to), for so many moments.
    Partition { ways: Vec<(usize, usize)>, moments: u64 },
    /// A leader is to hand over.
    Transfer { to: usize },
    /// The members change.
    Reshape,
}

impl Fault {
    /// The member that it befalls.
    pub fn whom(&self) -> Option<usize> {
        match self {
            Self::Crash { member, .. } | Self::Pause { member, .. } | Self::Transfer { to: member } => Some(*member),
            Self::Partition { .. } | Self::Reshape => None,
        }
    }
}

pub struct Faults {
    random: Random,
    rates: Rates,
    size: usize,
}

impl Faults {
    pub fn new(seed: u64, size: usize) -> Self {
        let mut random = Random::new(seed, 2);
        let rates = Rates::draw(&mut random);
        Self { random, rates, size }
    }

    /// What happens in this tick to a group of so many members.
    pub fn tick(&mut self, size: usize) -> Vec<Fault> {
        self.size = size;
        let Rates { crash, pause, partition, transfer, reshape } = self.rates;
        let mut faults = Vec::new();
        if self.random.permille(crash) {
            // Now and then all of them at once.
            let all = self.random.permille(100);
            let one = self.member();
            let members = if all { 0..self.size } else { one..one + 1 };
            faults.extend(members.map(|member| self.crash(member)).collect::<Vec<_>>());
        }
        if self.random.permille(pause) {
            let (moments, ticks) =
                (self.moments(40), if self.random.permille(500) { self.random.below(30) } else { 0 });
            faults.push(Fault::Pause { member: self.member(), moments, ticks });
        }
        if self.random.permille(partition) {
            faults.push(Fault::Partition { ways: self.ways(), moments: self.moments(80) });
        }
        if self.random.permille(transfer) {
            faults.push(Fault::Transfer { to: self.member() });
        }
        if self.random.permille(reshape) {
            faults.push(Fault::Reshape);
        }
        faults
    }

    fn member(&mut self) -> usize {
        self.random.below(self.size as u64) as usize
    }

    fn moments(&mut self, ticks: u64) -> u64 {
        self.random.between(1, ticks * MOMENTS_PER_TICK)
    }

    fn crash(&mut self, member: usize) -> Fault {
        let operations = self.random.permille(600).then(|| self.random.below(8));
        let policy = match self.random.below(4) {
            0 | 1 => CrashPolicy::DropUnsynced,
            2 => CrashPolicy::KeepUnsynced,
            _ => CrashPolicy::Random(self.random.next()),
        };
        Fault::Crash { member, operations, policy, down: self.moments(40) }
    }

    /// One member is cut off in both directions or in one, or a single way is.
    fn ways(&mut self) -> Vec<(usize, usize)> {
        let (one, choice) = (self.member(), self.random.below(4));
        let others = (0..self.size).filter(|other| *other != one);
        match choice {
            0 => others.flat_map(|other| [(one, other), (other, one)]).collect(),
            1 => others.map(|other| (one, other)).collect(),
            2 => others.map(|other| (other, one)).collect(),
            _ => vec![(one, (one + 1 + self.random.below(self.size as u64 - 1) as usize) % self.size)],
        }
    }
}
