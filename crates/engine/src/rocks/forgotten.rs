//! Which superseded versions RocksDB may leave out when it rewrites their files.
//!
//! What a compaction dropped is looked for by nobody: who reads at a revision that may still be read finds a version that died
//! later, or none. So its row in `superseded` goes without a delete, whenever its file is rewritten. But what a rewriting leaves
//! out is gone for good, and the state that a crash brings back may be one in which the compaction was not yet: readers, and the
//! compaction itself, need the row there. So the filter knows compactions only from the flush on that made them durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rocksdb::CompactionDecision;

use super::layout::dead_at;

/// The revision of a compaction that a flush made durable; what was dead then may go. Shared with RocksDB's threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Forgotten(Arc<AtomicI64>);

impl Forgotten {
    /// Says that all that a compaction at this revision drops will never be needed again.
    pub(super) fn advance(&self, done: i64) {
        self.0.fetch_max(done, Ordering::Release);
    }

    /// What RocksDB asks of each row of a file that it rewrites.
    pub(super) fn filter(&self) -> impl FnMut(u32, &[u8], &[u8]) -> CompactionDecision + Send + 'static {
        let Self(done) = self.clone();
        move |_, _, value| match dead_at(value) {
            Some(dead) if dead <= done.load(Ordering::Acquire) => CompactionDecision::Remove,
            _ => CompactionDecision::Keep,
        }
    }
}
