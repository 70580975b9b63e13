//! The rows that RocksDB may leave out when it rewrites their files.
//!
//! No reader looks for versions that a compaction dropped: at a revision that may still be read, a reader finds a
//! version that died later, or none. So a dropped version's row in `superseded` disappears without a delete, whenever
//! its file is rewritten. So does the row in `current` of a key whose newest version is a dropped tombstone.
//!
//! But a row that a rewrite leaves out is gone for good. A crash may bring back a state from before the compaction, in
//! which readers, and the compaction itself, need the row. Therefore the filters use a compaction only once the files
//! themselves record that it is done.
//!
//! The row of a deleted key in `current` is not deleted. RocksDB would write a marker for each delete, and an iterator
//! skips any number of markers without returning, so that a short step could take long. A row is returned by the
//! iterator, and counts as part of the step.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rocksdb::CompactionDecision;

use super::layout::{dead_at, deleted_at};

/// The revision of a compaction that a flush made durable. Rows that were dead then may go. Shared
/// with RocksDB's threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Forgotten(Arc<AtomicI64>);

impl Forgotten {
    /// Records that the versions that a compaction at this revision drops will never be needed again.
    pub(super) fn advance(&self, done: i64) {
        self.0.fetch_max(done, Ordering::Release);
    }

    /// The decision about each row when RocksDB rewrites a file of `superseded`.
    pub(super) fn superseded_filter(&self) -> impl FnMut(u32, &[u8], &[u8]) -> CompactionDecision + Send + 'static {
        let forgotten = self.clone();
        move |_, _, value| forgotten.decide(dead_at(value).is_some_and(|dead| dead <= forgotten.done()))
    }

    /// The same for `current`. A tombstone at exactly the revision of a compaction stays until the next one.
    pub(super) fn current_filter(&self) -> impl FnMut(u32, &[u8], &[u8]) -> CompactionDecision + Send + 'static {
        let forgotten = self.clone();
        move |_, _, value| forgotten.decide(deleted_at(value).is_some_and(|main| main < forgotten.done()))
    }

    fn done(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    fn decide(&self, remove: bool) -> CompactionDecision {
        if remove { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }
}
