//! The write-ahead log: everything that a member must not forget, in etcd's format.
//!
//! ```text
//!   wal/0000000000000000-0000000000000000.wal      cut to its length when it was full
//!   wal/0000000000000001-00000000000061a8.wal      the tail: 64,000,000 bytes reserved, zero after the end
//!
//!   [crc: sum of the segment before] [metadata] [hard state]          the head of a segment
//!   [entry] [entry] [hard state] [crc: running sum]                   a batch: one write, one sync
//!   [hard state]                                                      a commit index alone: written, not synced
//!   [entry] ...
//! ```
//!
//! Each record carries a CRC-32C over the data of all records so far, across segments. etcd reads logs written here,
//! and logs written by etcd are read here.
//!
//! # Rules
//! - **One write, one sync.** [`Wal::append`] encodes everything it is given into one buffer, writes it once and syncs
//!   once. The bytes of an entry are copied once.
//! - **A sync ends with a crc record**, and the next write comes after the sync. etcd accepts such a record anywhere;
//!   for a reader it marks the end of the acknowledged bytes.
//! - **Names become durable last.** A segment is written under a temporary name, synced and renamed; then the directory
//!   is synced. This holds also for the first segment, with the entries that a new member begins with.
//! - **Everything that open returns is durable.** After a kill of the process the page cache still shows bytes that no
//!   sync covered, or whose sync failed. So [`Wal::open`] writes the last batch again, closes an unfinished one with a
//!   crc record, and syncs the directory and the tail before it returns. Then these entries may be acknowledged.
//! - **A failed write or sync is the last one.** Every later call repeats the first error. Nothing is retried: after a
//!   failed fsync the kernel may have dropped the bytes and call the pages clean.
//! - **A snapshot of another member is one record** ([`Wal::replace_by_snapshot`]). A replay from such a snapshot
//!   leaves out all entries that this member had before. After a snapshot of its own, whose entry is in the log, the
//!   entries that follow it stay. Either kind counts as soon as its record is whole, and the entries that it covers are
//!   committed.
//! - **Never recycled.** The bytes after the tail of a segment are zero, so that a torn write over zeros can be told
//!   from damage.
//!
//! # Records that do not verify
//! In any segment but the last, such a record is damage. So it is in the head of the last segment, which was synced
//! before the file got its name. For the rest of the last segment, `tear.rs` states the rule. A tear must be explained
//! by a lost sector and must not be explained by one flipped bit, and nothing may have been written after it. A torn
//! tail is cut at the first bad record and reported as [`TornTail`]. Earlier records of the same batch are kept: they
//! verify, and raft allows entries that were never acknowledged. Damage is refused with file and offset.
//!
//! The sum covers the data of records, but not their types, lengths and padding. So those are read strictly: padding is
//! zero, no field is unknown, the second record of a segment is the metadata, indexes have no gap, terms never fall, a
//! committed entry is never replaced. After a cut, the log must still reach the snapshot that it is read from and the
//! highest commit index that it holds ([`WalError::CommittedLost`]).
//!
//! # Deliberately absent
//! Choosing snapshot files, deciding when to sync or release, raft types, threads, preparing the next segment ahead of
//! time (a cut costs a few syncs every 64 MB), and repair of damaged logs: a member with a damaged log is replaced.

mod error;
mod frame;
mod log;
mod read;
mod record;
mod segment;
mod tear;
#[cfg(test)]
mod tests;

pub use error::{Result, WalError};
pub use frame::MAX_RECORD_BYTES;
pub use log::{FoundWal, MAX_ENTRY_BYTES, Options, SEGMENT_BYTES, Wal};
pub use read::{Keep, Replay, TornTail, lock, owner_and_snapshots, peek, snapshots};
pub use record::{Entry, Metadata, log_bytes};
