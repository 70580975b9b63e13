//! How much is stored, counted as it comes and goes.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{Mark, Table, Usage};

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

/// Rows and bytes stored, and their high-water mark; only the writer changes them. Atomics, because every write request
/// checks the quota.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    rows: AtomicU64,
    bytes: AtomicU64,
    mark: Mutex<Mark>,
}

impl Stock {
    #[cfg(feature = "rocksdb")]
    pub(crate) fn new(usage: Usage, mark: Mark) -> Self {
        Self { rows: usage.rows.into(), bytes: usage.bytes.into(), mark: mark.into() }
    }

    pub(crate) fn add(&self, more: Usage) {
        self.replace(Usage::default(), more);
    }

    /// One thing takes the place of another. The mark is raised by what it takes more, not by both.
    pub(crate) fn replace(&self, old: Usage, new: Usage) {
        self.remove(old);
        self.rows.fetch_add(new.rows, Ordering::Relaxed);
        self.bytes.fetch_add(new.bytes, Ordering::Relaxed);
        self.mark.lock().raise(self.usage());
    }

    pub(crate) fn remove(&self, less: Usage) {
        self.rows.fetch_sub(less.rows, Ordering::Relaxed);
        self.bytes.fetch_sub(less.bytes, Ordering::Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage { rows: self.rows.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// See [`crate::Engine::begin_compaction`].
    pub(crate) fn begin_compaction(&self, at: i64) {
        self.mark.lock().begin(at, self.usage());
    }

    /// A compaction is through.
    pub(crate) fn end_compaction(&self, at: i64) {
        self.mark.lock().through(at);
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark.lock().clone()
    }

    pub(crate) fn set_mark(&self, mark: Mark) {
        *self.mark.lock() = mark;
    }
}
