//! The write-ahead log: what a member must not forget, in etcd's format.
//!
//! ```text
//!   wal/0000000000000000-0000000000000000.wal      cut to its length when it was full
//!   wal/0000000000000001-00000000000061a8.wal      the tail: 64,000,000 bytes reserved, zero behind the end
//!
//!   [crc: sum of the segment before] [metadata] [hard state]          the head of a segment
//!   [entry] [entry] [hard state] [crc: running sum]                   a batch: one write, one sync
//!   [hard state]                                                      a commit index alone: written, not synced
//!   [entry] ...
//! ```
//!
//! Each record carries a CRC-32C over the data of all records so far, across segments. etcd reads what is written
//! here, and what etcd wrote is read here.
//!
//! # Rules
//! - **One write, one sync.** [`Wal::append`] encodes everything it is given into one buffer, writes it once and syncs
//!   once. The bytes of an entry are copied once.
//! - **A sync ends with a crc record**, and the next write comes after the sync. etcd accepts such a record anywhere;
//!   it tells the reader where acknowledged bytes end.
//! - **Names become durable last.** A segment is written under a temporary name, synced, renamed, and the directory
//!   synced; the first one, with the entries that a new member begins with, likewise.
//! - **What open returns is durable.** After a kill of the process the page cache still shows bytes that no sync
//!   covered, or whose sync failed. So [`Wal::open`] writes the last batch again, closes an unfinished one with a crc
//!   record, and syncs the directory and the tail before it returns: from then on these entries may be acknowledged.
//! - **A failed write or sync is the last one.** Every later call repeats the first error. Nothing is retried: after a
//!   failed fsync the kernel may have dropped the bytes and call the pages clean.
//! - **A snapshot of another member is one record** ([`Wal::replace_by_snapshot`]). Whoever reads from it leaves out what this
//!   member had before; one of its own, whose entry is in the log, leaves the entries behind it as they are. Either counts as
//!   soon as its record is whole, and what it covers is committed.
//! - **Never recycled.** Segments are zero behind the tail, so that a torn write over zeros can be told from damage.
//!
//! # What a record that does not verify means
//! In any segment but the last: damage. Also in the head of the last one, which was synced before the file got its
//! name. In the last segment, the file `tear.rs` states the rule: a tear must be explained by a lost sector,
//! must not be explained by one flipped bit, and nothing may have been written after it. A torn tail is cut at the first
//! bad record and reported as [`TornTail`]; records of the batch in front of it are kept: they verify, and raft allows
//! entries that nobody acknowledged. Damage is refused with file and offset.
//!
//! The sum covers the data of records, not their types, lengths and padding. So those are read strictly: padding is
//! zero, no field is unknown, the second record of a segment is the metadata, indexes have no gap, terms never
//! fall, a committed entry is never replaced. After a cut, the log must still reach the snapshot it is read from and
//! the highest commit index it holds ([`WalError::CommittedLost`]).
//!
//! # Deliberately absent
//! Choosing snapshot files, deciding when to sync or release, raft types, threads, preparing the next segment ahead
//! of time (a cut costs a few syncs every 64 MB), and repair of damaged logs: a member with a damaged log is replaced.

mod error;
mod fields;
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
pub use read::{Keep, Replay, TornTail, owner_and_snapshots, snapshots};
pub use record::{Entry, Metadata, log_bytes};
