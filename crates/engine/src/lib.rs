//! Versioned keys and small tables on a medium.
//!
//! The state machine above needs two things from a medium: every version of every key, found by key and by revision, and
//! a few small tables (leases, members, ...). An engine stores both and knows nothing of what they mean, except one rule:
//! which versions a compaction may drop ([`Engine::compact_step`]).
//!
//! ```text
//!   one writer                                        any number of readers
//!   append(key, version) ... put(table, k, v) ...     newest / scan / count / history at a revision
//!   publish(revision, applied)  ───────────────────▶  published()
//! ```
//!
//! Rules
//! - One thread writes. What it appended is visible to `newest(key, i64::MAX)` at once and to readers only from
//!   [`Engine::publish`] on, because readers read at a revision that was published.
//! - An engine call that takes a lock holds it for a bounded step ([`STEP`] rows) and says where the caller goes on, at the
//!   same revision. So a long read never holds up the writer, nor the writer a reader.
//! - Rows are immutable and shared ([`Row`]); reading copies a pointer.
//!
//! What is deliberately absent: transactions (a revision that is not published is the transaction), keys decoded from
//! rows, any knowledge of protobuf.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod mark;
mod memory;
mod range;
#[cfg(feature = "rocksdb")]
mod rocks;
mod statistic;
mod stock;
mod table;

pub use mark::{Mark, Sizes};
pub use memory::{Memory, MemorySettings};
pub use range::KeyRange;
#[cfg(all(feature = "rocksdb", any(test, feature = "contract")))]
pub use rocks::MemoryFiles;
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksDb, RocksDbSettings};
pub use statistic::Statistic;
pub use table::Table;

use std::sync::Arc;

/// Rows that one call visits at most while it holds a lock, be they returned or not.
pub const STEP: usize = 256;

/// How far one call goes while it holds a lock. The default of each engine suits everyone but a test: with small steps,
/// little data takes many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Rows that it visits at most, be they returned or not: [`STEP`] or less.
    pub rows: usize,
    /// Keys that a count visits at most.
    pub counted_keys: usize,
}

/// The bytes of one version of a key, as etcd stores them: a canonical `mvccpb.KeyValue`.
pub type Row = Arc<[u8]>;

/// Where in history a version stands: the transaction (`main`) and the operation inside it (`sub`), as in etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub revision: Revision,
    /// The key was deleted by this version.
    pub tombstone: bool,
    pub row: Row,
}

/// Index and term of the last log entry whose effects are part of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub term: u64,
}

/// The newest state that readers may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub revision: i64,
    pub applied: Applied,
}

/// Rows and bytes that are stored, tables included; a row counts its key and its value. The same on every engine: how a
/// medium stores them does not matter, nor do rows that can be worked out from others ([`Table::LeaseKeys`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub rows: u64,
    pub bytes: u64,
}

/// The medium failed. The member must stop: what it holds in memory may be ahead of what it could store.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {0}")]
pub struct EngineError(pub String);

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;

/// A versioned ordered map and small tables. See the crate's page for who may call what when.
pub trait Engine: Send + Sync + 'static {
    // ---- the writer ----

    /// Adds a version of `key`. Its revision must be greater than every revision appended before.
    fn append(&self, key: &[u8], version: Version) -> Result<()>;

    /// Sets a row of a small table.
    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes a row of a small table; no error if it is absent.
    fn delete(&self, table: Table, key: &[u8]) -> Result<()>;

    /// Makes all that was written since the last call visible to readers, together with the applied index: an engine that
    /// outlives the process stores both in one atomic batch.
    fn publish(&self, published: Published) -> Result<()>;

    /// Drops versions that no read at revision `at` or later can see, in one bounded step; returns whether there is more to do.
    /// The engine knows where it goes on. Nothing is left to do at a revision that a former compaction reached.
    ///
    /// A version with `main <= at` goes if a newer version of its key has `main <= at`, or if it is a tombstone with
    /// `main < at`. A tombstone at exactly `at` stays until the next compaction: a watcher from `at` must still see it.
    ///
    /// A later revision may overtake one whose compaction is not through. After a restart the caller goes on at the revision at
    /// which it was. No version may be appended and unpublished while a step runs; rows of tables may be.
    fn compact_step(&self, at: i64) -> Result<bool>;

    /// Says that a compaction at `at` was asked for here, between what was written before and what is written after: the mark
    /// is to be as if it were done at once. Once more does nothing.
    fn begin_compaction(&self, at: i64);

    /// Sets the high-water mark: where a state was loaded whose mark is known, or space was given back ([`Mark::lowered`]). An
    /// engine that outlives the process stores it with what is published next.
    fn set_mark(&self, mark: Mark);

    // ---- the medium, from any thread ----

    /// Whether what was published and flushed is still there after a restart. If not, the caller writes snapshots.
    fn outlives_process(&self) -> bool;

    /// Makes all that is published now durable, and returns its log position. Waits for the medium; the writer goes on
    /// meanwhile. An engine that does not outlive the process has nothing to do.
    fn flush(&self) -> Result<Applied>;

    /// Whether a flush is worth its while although little may have been written since the last: it would rid lists of
    /// what they pass in vain.
    fn wants_flush(&self) -> bool {
        false
    }

    /// The published state as it is now, frozen: an engine that only reads, and goes on while this one is written,
    /// compacted and closed. It holds nothing back. The writer's calls on it are errors.
    ///
    /// An engine that outlives the process waits for the medium. One that does not takes some microseconds for each thousand
    /// versions, leaves out [`Table::LeaseKeys`], and may be asked by the writer alone, when everything is published; the
    /// memory of what is dropped meanwhile is free only once the copy is gone.
    fn checkpoint(&self) -> Result<Arc<dyn Engine>>;

    /// Gives the space of dropped versions back to the medium. Readers and the writer go on meanwhile. The mark stays: only the
    /// writer may lower it, for it has a place among the entries that were applied.
    fn defragment(&self) -> Result<()>;

    /// How the medium is doing, for operators.
    fn statistics(&self) -> Vec<Statistic>;

    // ---- readers ----

    /// What was last published; zero before the first time.
    fn published(&self) -> Published;

    /// The newest version of `key` with `main <= at`, tombstones included.
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>>;

    /// Appends to `rows`, in key order, the newest version with `main <= at` of each key in `range` that is alive at `at`,
    /// until `limit` rows were added or a step is over. Returns the key to continue from, or `None` at the end of the
    /// range. A continued scan takes that key as the start of its range. With limit 0 nothing is added and the first key is
    /// returned; a key to continue from does not promise that anything alive is left.
    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>>;

    /// Adds to `count` the number of keys in `range` that are alive at `at`; returns the key to continue from, as
    /// [`Engine::scan`]. As nothing is copied, a step may be longer than [`STEP`], but not longer in time.
    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>>;

    /// Appends to `rows`, in order of revision, stored versions with `from <= revision` and `main <= to`, until a step is
    /// over. Returns the revision to continue from, or `None` at the end. Whether versions that are not published are among
    /// them is open.
    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>>;

    /// The value of a row of a small table.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The rows of a small table whose keys begin with `prefix`, in key order. Not bounded: for starting up and for snapshots.
    /// Rows have no revision: a reader sees what the writer put, published or not.
    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Appends to `keys`, in order, the keys of rows of a small table that begin with `prefix` and are not less than `from`,
    /// until a step is over. Returns the key to continue from, or `None` at the end. Between two steps the writer may change
    /// rows.
    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>>;

    /// What is stored now.
    fn usage(&self) -> Usage;

    /// The high-water mark of what was stored. It is this member's own: not part of the state.
    fn mark(&self) -> Mark;

    /// How large the state is for those who know it as a file.
    fn sizes(&self) -> Sizes {
        // The usage later, so that what is in use is not more than was seen.
        let mark = self.mark();
        mark.sizes(self.usage())
    }
}
