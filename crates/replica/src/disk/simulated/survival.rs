//! The unsynced changes that survive a power loss.

/// Which unsynced changes are found again after a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPolicy {
    /// None: only synced bytes and names are there.
    DropUnsynced,
    /// All: the device had written all of them.
    KeepUnsynced,
    /// No power loss: the process was killed, and the page cache is as it was. All changes are visible, but no more of
    /// them are durable than before, so a later power loss may still take them.
    Kill,
    /// A choice made by the seed for each sector, each length and each change of a directory. Depending on the seed,
    /// writes are torn into a prefix or into scattered sectors.
    Random(u64),
}

/// The choices for one file or directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survival {
    policy: CrashPolicy,
    node: u64,
}

/// The sector number that stands for the length of the file in the choices; no real sector has it.
const LENGTH: u64 = u64::MAX;

impl Survival {
    pub(super) fn new(policy: CrashPolicy, node: u64) -> Survival {
        Survival { policy, node }
    }

    /// How many of `changes` changes, counted from the first, reached this sector.
    pub(super) fn steps(self, sector: u64, changes: usize) -> usize {
        let CrashPolicy::Random(seed) = self.policy else {
            return if self.policy == CrashPolicy::DropUnsynced { 0 } else { changes };
        };
        let file = mix(seed, self.node);
        match file % 4 {
            // Written from the front; the power was lost at some sector, or between two changes.
            0 if sector < mix(file, 1) % 64 => changes,
            0 => 0,
            // Nearly all sectors were written.
            1 if !mix(file, sector).is_multiple_of(8) => changes,
            _ => (mix(file, sector) >> 8) as usize % (changes + 1),
        }
    }

    /// How many of `changes` changes, counted from the first, reached the length of the file.
    pub(super) fn length_steps(self, changes: usize) -> usize {
        self.steps(LENGTH, changes)
    }

    /// Whether change number `i` of a directory is found.
    pub(super) fn keeps(self, i: usize) -> bool {
        match self.policy {
            CrashPolicy::DropUnsynced => false,
            CrashPolicy::KeepUnsynced | CrashPolicy::Kill => true,
            CrashPolicy::Random(seed) => mix(mix(seed, self.node), i as u64).is_multiple_of(2),
        }
    }
}

/// A well-mixed function of two numbers (the finaliser of splitmix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
