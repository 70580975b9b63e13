//! The reasons for which a message of another member is rejected.

/// The reasons for which a message is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The message is dropped; its sender may be broken.
    #[error("{kind} from member {from:x}: {why}")]
    Impossible { kind: String, from: u64, why: String },
    /// The message is dropped: it contains something that this version does not know.
    #[error("a message from member {from:x} cannot be taken: {why}")]
    Unreadable { from: u64, why: String },
    /// The leader has proof that this member once held more of the log than it does now: the member must stop.
    #[error(
        "the leader, member {leader:x}, knows that this member held the log up to entry {held}, but it ends at entry \
         {last}: the data directory is an older copy, or lost writes. Remove this member from the cluster, and add it \
         anew with an empty data directory"
    )]
    LogLost { leader: u64, held: u64, last: u64 },
    /// Proof that acknowledged entries are lost, here or on another member: the member must stop.
    #[error(
        "acknowledged writes are lost: {proof}. Members were started from copies of their data directories that were \
         not all taken while all members were stopped, or a disk has lost writes. Stop all members and keep their \
         directories; then start all members from copies that were taken while all of them were stopped, or keep the \
         member with the newest data and give the others empty data directories (docs/backup.md)"
    )]
    EntriesLost { proof: String },
}

impl Rejected {
    /// Whether the member must stop.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::LogLost { .. } | Self::EntriesLost { .. })
    }
}
