//! The state as a database of etcd, and a database of etcd as the state: for backups, for members of etcd in the same
//! cluster, and for the way from one program to the other.
//!
//! ```text
//!   Source ──▶ Backup ─────▶ pieces of a database file      to a client, to a member of etcd, into a data directory
//!   database file ─▶ EtcdState ─▶ pieces of a state stream  from a backup, from a leader of etcd, from a directory
//! ```
//!
//! The rows are the same on both sides; their buckets are the tables of the store. They differ in three points. A
//! database holds its own position in the log, and the version of its storage; here the position is published with the
//! state, and there is one version. And the members of the group follow from the log, so the caller says them.
//!
//! Rules
//! - **Nothing is dropped in silence.** A bucket that the store does not know is an error.
//! - **Bounded memory.** The versioned keys are never in memory as a whole. The small tables of a database are, and
//!   they have a bound.
//!
//! Deliberately absent: the names of files, clocks, threads, and the digest behind a backup.

mod export;
mod file;
mod import;
mod membership;

pub use export::{Backup, BackupError, Survey};
pub use file::DatabaseFile;
pub use import::{EtcdState, ImportError, MAX_PATH_BYTES};
pub use membership::v2_store;

/// Whether a file or stream that begins with these bytes is a database, and not a state of MetaStore's own; `None` if
/// they are too few.
pub fn is_database(head: &[u8]) -> Option<bool> {
    let magic = head.get(MAGIC_AT..MAGIC_AT + MAGIC.len())?;
    Some(magic == MAGIC)
}

/// The magic number of bbolt, behind the header of the first page.
const MAGIC: [u8; 4] = 0xed0c_daed_u32.to_le_bytes();
const MAGIC_AT: usize = 16;

/// The bucket of the versioned keys.
const KEYS: &str = "key";
