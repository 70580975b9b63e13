//! The whole state as a stream of bytes: a restart begins with it, and so does a member that fell behind.
//!
//! ```text
//!   header   "MSTATE\r\n" | version u32 | index u64 | term u64 | revision u64      (little endian)
//!   block*   length u32 (> 0) | CRC-32C u32 | rows
//!   row      table u8 | key length u32 | value length u32 | key | value
//!   end      length 0 u32 | CRC-32C u32 of the header and the number of rows | number of rows u64
//! ```
//!
//! Rows are sorted by table, then by key, as in etcd's backend file. Versioned keys are the table `key`, between
//! `cluster` and `lease`, under their revision keys. Rows that can be rebuilt from others ([`Table::LeaseKeys`]) are
//! left out. The stream is the same for every engine. It is written ([`Outgoing`]) from a [`Source`], a copy of the
//! state at one log position, while the writer continues. It is read by an [`Incoming`]. Both hold a few blocks and one
//! small table in memory, however large the state is.

mod load;
mod outgoing;
mod source;

pub use load::Incoming;
pub use outgoing::Outgoing;
pub use source::{Cursor, Source, TableRow};

use metastore_engine::{EngineError, Table};

const MAGIC: &[u8; 8] = b"MSTATE\r\n";
/// The version of the format; other versions are refused.
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 8;
/// A block is closed when it holds this many bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// A larger block is damaged: this is room for one row of any size that a request can have, and a little more.
const MAX_BLOCK_BYTES: usize = 1 << 30;
/// The number of the table of versioned keys.
const KEY_TABLE: u8 = 5;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The number of a table in the stream. Numbers never change; a new table gets a number that was never used.
/// [`KEY_TABLE`] is the number of the versioned keys, and [`Table::LeaseKeys`] is in no stream.
const fn table_code(table: Table) -> u8 {
    match table {
        Table::Alarm => 0,
        Table::Auth => 1,
        Table::AuthRoles => 2,
        Table::AuthUsers => 3,
        Table::Cluster => 4,
        Table::Lease => 6,
        Table::Members => 7,
        Table::MembersRemoved => 8,
        Table::Meta => 9,
        Table::LeaseKeys => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_in_streams() {
        let mut codes = Table::ALL.map(|table| (table.name(), table_code(table))).to_vec();
        codes.push(("key", KEY_TABLE));
        codes.sort_unstable_by_key(|(_, code)| *code);
        let written = [
            "alarm",
            "auth",
            "authRoles",
            "authUsers",
            "cluster",
            "key",
            "lease",
            "members",
            "members_removed",
            "meta",
        ];
        assert!(codes.into_iter().eq(written.into_iter().zip(0..)));
    }
}
