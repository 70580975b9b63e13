//! How much is stored, counted as it comes and goes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Table, Usage};

/// Bytes of the key under which a version counts as stored: etcd's revision key. A tombstone's has a mark more.
const REVISION_KEY_BYTES: u64 = 17;

impl Usage {
    /// What a version counts for.
    pub(crate) fn of_version(row_bytes: usize, tombstone: bool) -> Self {
        Self { rows: 1, bytes: REVISION_KEY_BYTES + u64::from(tombstone) + row_bytes as u64 }
    }

    /// What a row of a table counts for.
    pub(crate) fn of_table_row(table: Table, key: &[u8], value: &[u8]) -> Self {
        if table.counts() { Self { rows: 1, bytes: (key.len() + value.len()) as u64 } } else { Self::default() }
    }
}

/// Rows and bytes stored. Atomics, because every write request checks the quota.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Stock {
    #[cfg(feature = "rocksdb")]
    pub(crate) fn new(usage: Usage) -> Self {
        Self { rows: usage.rows.into(), bytes: usage.bytes.into() }
    }

    pub(crate) fn add(&self, more: Usage) {
        self.rows.fetch_add(more.rows, Ordering::Relaxed);
        self.bytes.fetch_add(more.bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, less: Usage) {
        self.rows.fetch_sub(less.rows, Ordering::Relaxed);
        self.bytes.fetch_sub(less.bytes, Ordering::Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage { rows: self.rows.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}
