//! The reasons for which the log cannot be opened or written.

use std::path::PathBuf;

use crate::disk::DiskError;

/// The result of an operation on the log.
pub type Result<T> = std::result::Result<T, WalError>;

/// A log that cannot be opened or written. Cheap to clone: a poisoned log repeats its first error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// The disk failed. The log is no longer written.
    #[error(transparent)]
    Disk(#[from] DiskError),

    /// The bytes of a segment contradict themselves in a way that no power loss explains.
    #[error(
        "the write-ahead log is damaged: {} at offset {offset}: {reason}; restore the file from a copy, or remove \
         this member from the cluster, delete its data directory and add it again",
        file.display()
    )]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Byte offset, within the segment, of the first bad record.
        offset: u64,
        /// The reason why the record is bad.
        reason: String,
    },

    /// There is no log in the directory.
    #[error("{} holds no write-ahead log", dir.display())]
    NotFound {
        /// The directory.
        dir: PathBuf,
    },

    /// A new log was to be created in a directory that is not empty.
    #[error("cannot create a write-ahead log in {}: it holds {name}; choose an empty directory", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
        /// A name found in it.
        name: String,
    },

    /// A file ends in `.wal`, but its name is not a valid segment name.
    #[error("{} is not named like a log segment (<sequence>-<first index>.wal, 16 hex digits each); move it \
        away", file.display())]
    ForeignFile {
        /// The file.
        file: PathBuf,
    },

    /// A segment is missing between others.
    #[error("log segment {missing:016x} is missing before {}; restore it from a copy", file.display())]
    MissingSegment {
        /// The segment after the gap.
        file: PathBuf,
        /// The missing sequence number.
        missing: u64,
    },

    /// No segment reaches back to the snapshot.
    #[error("the log in {} begins at index {first}, behind the snapshot at {index}; use a newer \
        snapshot", dir.display())]
    Released {
        /// The directory.
        dir: PathBuf,
        /// The first index of the oldest segment.
        first: u64,
        /// The index of the snapshot.
        index: u64,
    },

    /// The log has no record of the snapshot that it should be read from.
    #[error("the log in {} has no record of a snapshot at index {index}, term {term}", dir.display())]
    SnapshotNotFound {
        /// The directory.
        dir: PathBuf,
        /// The index of the snapshot.
        index: u64,
        /// The term of the snapshot.
        term: u64,
    },

    /// The log ends before an entry that, as the log itself says, was committed.
    #[error(
        "the log in {} ends at index {last}, but index {commit} was committed: acknowledged entries are missing; \
         restore the directory from a copy, or replace this member",
        dir.display()
    )]
    CommittedLost {
        /// The directory.
        dir: PathBuf,
        /// The index of the last entry.
        last: u64,
        /// The highest commit index in the log.
        commit: u64,
    },

    /// An entry is too long for the log; nothing was written.
    #[error("entry {index} has {bytes} bytes, more than a log record may have ({max})")]
    EntryTooLarge {
        /// The index of the entry.
        index: u64,
        /// The length of its data.
        bytes: usize,
        /// The limit.
        max: usize,
    },

    /// The given entries do not follow each other; nothing was written.
    #[error("entry {index} cannot follow entry {last} in the log")]
    Gap {
        /// The index of the entry.
        index: u64,
        /// The last index in the log.
        last: u64,
    },
}
