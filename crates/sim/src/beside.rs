//! The tasks of a member beside its main work: states that are written, read, sent or received.

use std::collections::BTreeMap;

use metastore_proto::raftpb::Message;
use metastore_replica::{SnapshotJob, SnapshotWritten, StateIncoming};
use metastore_store::mvcc::CompactionHashJob;
use metastore_store::snapshot::{Cursor, Source};

/// A state of a member on its way to the member's own disk.
pub enum Writing {
    Planned(SnapshotJob),
    Written(SnapshotWritten),
}

/// A state that is being read in order to be sent to another member.
pub struct Reading {
    pub to: usize,
    pub message: Message,
    pub source: Source,
    pub cursor: Cursor,
    pub stream: Vec<u8>,
}

/// The sender of a state: a member, and the number of its crashes before. A later life does not know of the transfer.
#[derive(Clone, Copy)]
pub struct Sender {
    pub at: usize,
    pub crashes: u64,
}

/// A state on its way between members.
pub struct StateInTransit {
    pub arrives: u64,
    pub from: Sender,
    pub to: usize,
    pub message: Message,
    pub stream: Vec<u8>,
}

/// A state that a member is receiving.
pub struct Taking {
    pub from: Sender,
    pub term: u64,
    pub incoming: StateIncoming,
    pub stream: Vec<u8>,
    pub taken: usize,
}

/// The tasks of a member beside its main work.
#[derive(Default)]
pub struct Beside {
    /// Each task with the moment at which it is due.
    pub writing: Option<(u64, Writing)>,
    pub hashing: Option<(u64, CompactionHashJob)>,
    pub reading: Vec<Reading>,
    pub taking: Option<Taking>,
}

impl Beside {
    /// The sender of the state that is being received; it notices if the transfer ends.
    pub fn sender(&self) -> Option<Sender> {
        self.taking.as_ref().map(|taking| taking.from)
    }

    pub fn sends_or_takes(&self) -> bool {
        !self.reading.is_empty() || self.taking.is_some()
    }
}

/// The number of states that followers have received since the world healed, by leader, term, and follower.
pub type Sent = BTreeMap<(usize, u64, usize), u64>;
