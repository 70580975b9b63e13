//! What is said to the engine thread, and what it says.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use metastore_proto::raftpb;
use metastore_replica::{Fatal, NotProposed, ReceivedState, SnapshotWritten};
use metastore_store::Outcome;
use metastore_store::lease::Renewal;
use metastore_store::watch::RevisionEvents;
use tokio::sync::oneshot;

use super::hearing::Heard;
use crate::io::slots::Key;
use crate::peer::twin::Twin;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    pub worker: usize,
    pub key: Key,
}

/// What happens to a member.
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
    /// Asks how long a lease has to live.
    TimeToLive {
        waiter: Waiter,
        lease: i64,
    },
    /// Asks for the next leases, by id, after one.
    Leases {
        waiter: Waiter,
        after: Option<i64>,
    },
    /// Wants to read, from this member's state, what was acknowledged by now.
    Read {
        waiter: Waiter,
    },
    /// The request `id` is waited for no longer: if it was not proposed yet, it never will be. The waiter is told whether that is
    /// so.
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
    /// The member is about to stop: hands leadership to somebody, if it leads. The sender is dropped when that is done.
    HandOver(mpsc::SyncSender<()>),
    /// Another member's message.
    Message(Heard),
    /// A message to a member was lost.
    Unreachable(u64),
    /// Another member's whole state, because this one lacked entries.
    StateReceived(Box<ReceivedState>),
    /// Another member has sent its state, at entry `index`, in etcd's format.
    ForeignState {
        from: u64,
        index: u64,
    },
    /// How sending a state to a follower has ended.
    StateSent {
        to: u64,
        arrived: bool,
    },
    /// The version that all members understand, as they say themselves.
    ClusterVersion(String),
    /// The others say that this member was removed.
    Removed,
    /// Another process runs as this member, where the others reach it.
    Twin(Twin),
    SnapshotWritten(Result<SnapshotWritten, Fatal>),
    /// The medium gave space back: the size of the state is to fall. It is told once that is durable, and dropped if it comes to
    /// nothing.
    LowerMark(oneshot::Sender<()>),
    /// That could not be made durable.
    MarkLost(Fatal),
    /// The hash that a compaction leaves behind was computed: its old versions may go.
    CompactionHashed(Result<(), Fatal>),
    Stop,
}

impl Event {
    /// Who asked.
    pub fn waiter(&self) -> Option<Waiter> {
        match self {
            Self::Propose { waiter, .. }
            | Self::KeepAlive { waiter, .. }
            | Self::AwaitEnd { waiter, .. }
            | Self::TimeToLive { waiter, .. }
            | Self::Leases { waiter, .. }
            | Self::Read { waiter }
            | Self::ChangeMembers { waiter, .. }
            | Self::Promote { waiter, .. }
            | Self::MoveLeader { waiter, .. } => Some(*waiter),
            Self::Withdraw { waiter, .. } => *waiter,
            _ => None,
        }
    }
}

/// What a request is told.
#[derive(Debug)]
pub enum Answer {
    Outcome(Outcome),
    /// What became of each renewal.
    Renewed(Vec<Renewal>),
    /// A lease whose time was over is revoked, or was renewed before that.
    LeaseEnded,
    TimeToLive(Option<TimeToLive>),
    Leases(Vec<LeaseEnd>),
    /// What was acknowledged when it was asked for can be read.
    Readable,
    /// Another leader was elected before it was known what can be read.
    LeaderChanged,
    /// Too many wait already: this request was not taken up.
    NoRoom,
    /// Whether the request was withdrawn before it was proposed.
    Withdrawn(bool),
    /// Leadership is where it was to go.
    LeaderMoved,
    /// Only the leader can say.
    NotLeader,
    /// The learner is not in sync with the leader.
    LearnerNotReady,
    /// It will never be proposed.
    NotProposed(NotProposed),
    /// The member cannot go on. What was asked for may have happened or not.
    Stopped,
}

/// The time of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub granted_s: i64,
    /// Whole seconds.
    pub remaining_s: i64,
}

/// A lease, and when it ends. In the order in which leases end; those whose end this member does not know come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseEnd {
    /// On the engine thread's clock, [`u64::MAX`] if unknown.
    pub ends_ms: u64,
    pub id: i64,
}

/// What a worker finds in its mailbox.
pub enum Mail {
    Answer(Key, Answer),
    /// What one revision changed, and how many bytes it counts for.
    Events(Arc<RevisionEvents>, usize),
    /// Events were left out; watchers must read history.
    EventsLost,
}
