//! The stored rows and bytes, counted with each change.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{HighWaterMark, Table, Usage};

/// The size of the key under which a version counts as stored: etcd's revision key. A tombstone has one byte more.
const REVISION_KEY_BYTES: u64 = 17;

impl Usage {
    /// The usage of one version.
    pub(crate) fn of_version(row_bytes: usize, tombstone: bool) -> Self {
        Self { rows: 1, bytes: REVISION_KEY_BYTES + u64::from(tombstone) + row_bytes as u64 }
    }

    /// The usage of one row of a table.
    pub(crate) fn of_table_row(table: Table, key: &[u8], value: &[u8]) -> Self {
        if table.counts() { Self { rows: 1, bytes: (key.len() + value.len()) as u64 } } else { Self::default() }
    }
}

/// Rows and bytes that are stored, and their high-water mark. Only the writer changes them. Rows and bytes are atomics,
/// so that other threads read them without a lock.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    rows: AtomicU64,
    bytes: AtomicU64,
    mark: Mutex<HighWaterMark>,
}

impl Stock {
    #[cfg(feature = "rocksdb")]
    pub(crate) fn new(usage: Usage, mark: HighWaterMark) -> Self {
        Self { rows: usage.rows.into(), bytes: usage.bytes.into(), mark: mark.into() }
    }

    pub(crate) fn add(&self, more: Usage) {
        self.replace(Usage::default(), more);
    }

    /// Replaces one item by another. The mark is raised by the difference, not by the sum of both.
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

    /// Records that a compaction is finished.
    pub(crate) fn end_compaction(&self, at: i64) {
        self.mark.lock().through(at);
    }

    pub(crate) fn mark(&self) -> HighWaterMark {
        self.mark.lock().clone()
    }

    pub(crate) fn set_mark(&self, mark: HighWaterMark) {
        *self.mark.lock() = mark;
    }
}
