//! The disasters that have befallen the members of the simulated cluster, and those that are planned for them.

use std::collections::{BTreeMap, BTreeSet};

use metastore_replica::disk::CrashPolicy;

use crate::faults::Power;
use crate::machine::Machine;

/// Links on which no message passes.
pub struct Partition {
    pub ways: Vec<(usize, usize)>,
    pub ends: u64,
    /// The length of its turns: it is closed and open alternately.
    pub turn: Option<u64>,
}

/// A copy of the stored data of a member.
pub struct Copied {
    pub machine: Machine,
    pub term: u64,
    pub voters: BTreeSet<u64>,
}

/// Members that have come back with older copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Older {
    #[default]
    None,
    /// This member.
    One(usize),
    /// All voters but one.
    Most,
}

/// The disasters that have befallen the members, and those that are planned for them.
#[derive(Default)]
pub struct Disasters {
    pub restarts: BTreeMap<usize, u64>,
    /// The closed links, their end, and the length of a turn.
    pub partition: Option<Partition>,
    /// The crash policy for a doomed member's disk, and the moments for which the member will be down.
    pub dooms: BTreeMap<usize, (CrashPolicy, u64)>,
    /// Copies of the stored data of members.
    pub copies: BTreeMap<usize, Copied>,
    /// Members that have come back with such copies, and members that have proof of loss and do not start again.
    pub older: Older,
    pub lost: BTreeSet<usize>,
    /// The power losses that are planned for members after a kill.
    pub power: BTreeMap<usize, Power>,
    /// Members that lose power when they promise something, and members that have just promised.
    pub promising: BTreeSet<usize>,
    pub promised: Vec<usize>,
}
