//! Which rows RocksDB may leave out when it rewrites their files.
//!
//! What a compaction dropped is looked for by nobody: who reads at a revision that may still be read finds a version that died
//! later, or none. So its row in `superseded` goes without a delete, whenever its file is rewritten, and so does the
//! row in `current` of a key whose newest version is a tombstone that was dropped. But what a rewriting leaves out is
//! gone for good, and the state that a crash brings back may be one in which the compaction was not yet: readers, and
//! the compaction itself, need the row there. So the filters know compactions only once the files themselves say that
//! they are done.
//!
//! The row of a deleted key is not deleted, because RocksDB marks what is deleted, and an iterator passes any number of
//! marks without a word: a step that should be short would not be. A row is seen, and counts as a step of the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rocksdb::CompactionDecision;

use super::layout::{dead_at, deleted_at};

/// The revision of a compaction that a flush made durable; what was dead then may go. Shared with RocksDB's threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Forgotten(Arc<AtomicI64>);

impl Forgotten {
    /// Says that all that a compaction at this revision drops will never be needed again.
    pub(super) fn advance(&self, done: i64) {
        self.0.fetch_max(done, Ordering::Release);
    }

    /// What RocksDB asks of each row of a file of `superseded` that it rewrites.
    pub(super) fn superseded_filter(&self) -> impl FnMut(u32, &[u8], &[u8]) -> CompactionDecision + Send + 'static {
        let forgotten = self.clone();
        move |_, _, value| forgotten.decide(dead_at(value).is_some_and(|dead| dead <= forgotten.done()))
    }

    /// The same of `current`. A tombstone at the very revision of a compaction stays until the next.
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
