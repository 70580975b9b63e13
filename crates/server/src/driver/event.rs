//! Events to the engine thread, and its answers.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use metastore_proto::raftpb;
use metastore_replica::{Fatal, NotProposed, ReceivedState, SnapshotWritten, StateToSend};
use metastore_store::Outcome;
use metastore_store::lease::Renewal;
use metastore_store::watch::RevisionEvents;
use tokio::sync::oneshot;

use super::peer_message::PeerMessage;
use crate::io::slots::Key;

/// Identifies a request that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    pub worker: usize,
    pub key: Key,
}

/// A duplicate process: another one that answers as this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateProcess {
    /// Where it answers.
    pub url: String,
    /// Whether one of the two data directories is a copy of the other, as far as their names are known.
    pub copy: bool,
}

/// The events of a member: requests, messages of other members, and results of jobs.
pub enum Event {
    /// Proposes a command whose header carries `id`.
    Propose {
        waiter: Waiter,
        id: u64,
        data: Bytes,
    },
    /// Renews leases; answered when it is proven that this member leads.
    KeepAlive {
        waiter: Waiter,
        leases: Vec<i64>,
    },
    /// Waits until a lease whose time is over has been revoked.
    AwaitEnd {
        waiter: Waiter,
        lease: i64,
    },
    /// Waits until no compaction is under way. `id` is that of the question.
    AwaitCompaction {
        waiter: Waiter,
        id: u64,
    },
    /// Asks how long a lease has to live.
    TimeToLive {
        waiter: Waiter,
        lease: i64,
    },
    /// Asks for the next leases after the lease `after`, by id.
    Leases {
        waiter: Waiter,
        after: Option<i64>,
    },
    /// Asks for the state, frozen as it is now.
    State {
        waiter: Waiter,
    },
    /// Waits until this member's state shows everything that was acknowledged before.
    Read {
        waiter: Waiter,
    },
    /// The client of the request or question `id` waits no longer: if the request was not proposed yet, it never will
    /// be. The answer says whether that is so.
    Withdraw {
        waiter: Option<Waiter>,
        id: u64,
    },
    /// Proposes a membership change, whose id is the request's.
    ChangeMembers {
        waiter: Waiter,
        change: raftpb::ConfChange,
    },
    /// Asks for a learner to become a voter; the leader alone knows whether it is ready.
    Promote {
        waiter: Waiter,
        change: raftpb::ConfChange,
    },
    /// Hands leadership to a voter.
    MoveLeader {
        waiter: Waiter,
        to: u64,
    },
    /// The member is about to stop: hands leadership to another voter, if it leads. Then the sender is dropped.
    HandOver(mpsc::SyncSender<()>),
    /// Another member's message.
    Message(PeerMessage),
    /// A message to a member was lost.
    Unreachable(u64),
    /// Another member's whole state, because this one lacked entries.
    StateReceived(Box<ReceivedState>),
    /// Sending a state to a follower has ended.
    StateSent {
        to: u64,
        arrived: bool,
    },
    /// The version that all members understand, as they report it.
    ClusterVersion(String),
    /// Another member says that this member was removed.
    Removed,
    /// A duplicate process runs as this member at an address where the others reach it.
    DuplicateProcess(DuplicateProcess),
    SnapshotWritten(Result<SnapshotWritten, Fatal>),
    /// Defragment gave space back to the disk: lowers the high-water mark of the state's size. The sender is notified
    /// once that is durable, and dropped if it fails.
    LowerMark(oneshot::Sender<()>),
    /// The lowered high-water mark could not be made durable.
    MarkLost(Fatal),
    /// The hash that a compaction leaves behind was computed: the compaction may drop old versions.
    CompactionHashed(Result<(), Fatal>),
    Stop,
}

impl Event {
    /// The waiter of a request.
    pub fn waiter(&self) -> Option<Waiter> {
        match self {
            Self::Propose { waiter, .. }
            | Self::KeepAlive { waiter, .. }
            | Self::AwaitEnd { waiter, .. }
            | Self::AwaitCompaction { waiter, .. }
            | Self::TimeToLive { waiter, .. }
            | Self::Leases { waiter, .. }
            | Self::State { waiter }
            | Self::Read { waiter }
            | Self::ChangeMembers { waiter, .. }
            | Self::Promote { waiter, .. }
            | Self::MoveLeader { waiter, .. } => Some(*waiter),
            Self::Withdraw { waiter, .. } => *waiter,
            _ => None,
        }
    }
}

/// The answers to requests.
#[derive(Debug)]
pub enum Answer {
    Outcome(Outcome),
    /// The result of each renewal.
    Renewed(Vec<Renewal>),
    /// An expired lease was revoked, or was renewed before that.
    LeaseEnded,
    /// No compaction is under way: the versions that it was to drop are gone.
    Compacted,
    TimeToLive(Option<TimeToLive>),
    Leases(Vec<LeaseEnd>),
    /// The state as it was when it was asked for.
    State(Box<StateToSend>),
    /// Everything that was acknowledged when the read was asked for can be read.
    Readable,
    /// Another leader was elected before the read-index round ended.
    LeaderChanged,
    /// Too many requests wait already: this one was not accepted.
    NoRoom,
    /// Whether the request was withdrawn before it was proposed.
    Withdrawn(bool),
    /// Leadership was moved to the wanted member.
    LeaderMoved,
    /// Only the leader can answer.
    NotLeader,
    /// The learner is not in sync with the leader.
    LearnerNotReady,
    /// The request will never be proposed.
    NotProposed(NotProposed),
    /// The member cannot go on. The request may have been done or not.
    Stopped,
}

/// The time of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub granted_s: i64,
    /// Whole seconds.
    pub remaining_s: i64,
}

/// A lease, and when it ends. The order is that in which leases end; leases whose end is not known here come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseEnd {
    /// On the engine thread's clock, [`u64::MAX`] if unknown.
    pub ends_ms: u64,
    pub id: i64,
}

/// The mail of a worker.
pub enum Mail {
    Answer(Key, Answer),
    /// The events of one revision, and how many bytes they count for.
    Events(Arc<RevisionEvents>, usize),
    /// Events were dropped; watchers must read history.
    EventsLost,
}
