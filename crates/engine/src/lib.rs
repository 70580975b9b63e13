//! Storage engines: versioned keys and small tables on a medium.
//!
//! The state machine needs two things from a medium: every version of every key, found by key and by revision, and a
//! few small tables (leases, members, ...). An engine stores both without knowing what they mean. The one exception is
//! the rule which versions a compaction may drop ([`Engine::compact_step`]).
//!
//! ```text
//!   one writer                                        any number of readers
//!   append(key, version) ... put(table, k, v) ...     newest / scan / count / history at a revision
//!   publish(revision, applied)  ───────────────────▶  published()
//! ```
//!
//! Rules
//! - One thread writes. An appended version is visible to `newest(key, i64::MAX)` at once. Readers see it only from
//!   [`Engine::publish`] on, because they read at a published revision.
//! - A call that takes a lock holds it for a bounded step ([`STEP`] rows). It returns the place where the caller
//!   continues, at the same revision. So a long read never blocks the writer for long, nor the writer a reader.
//! - Rows are immutable and shared ([`Row`]); reading copies a pointer.
//!
//! Deliberately absent: transactions (a revision that is not published yet is the transaction), keys decoded from rows,
//! any knowledge of protobuf.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod high_water_mark;
mod memory;
mod range;
#[cfg(feature = "rocksdb")]
mod rocks;
mod statistic;
mod stock;
mod table;

pub use high_water_mark::{HighWaterMark, Sizes};
pub use memory::{Memory, MemorySettings};
pub use range::KeyRange;
#[cfg(all(feature = "rocksdb", any(test, feature = "contract")))]
pub use rocks::MemoryFiles;
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksDb, RocksDbSettings};
pub use statistic::Statistic;
pub use table::Table;

use std::sync::Arc;

/// The most rows that one call visits while it holds a lock, returned or not.
pub const STEP: usize = 256;

/// The most versions that a step of a compaction visits by default. It is less than [`STEP`], because the writer takes
/// these steps, and requests that arrive meanwhile wait for each.
pub const COMPACTION_STEP: usize = 32;

/// The bounds of one call while it holds a lock. The default of each engine suits all callers except tests: with small
/// steps a little data takes many steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The most rows that a call visits, returned or not: [`STEP`] or less.
    pub rows: usize,
    /// The most keys that a count visits.
    pub counted_keys: usize,
    /// The most versions that a step of a compaction visits.
    pub compacted: usize,
}

/// The bytes of one version of a key, as etcd stores them: a canonical `mvccpb.KeyValue`.
pub type Row = Arc<[u8]>;

/// The place of a version in history: the transaction (`main`) and the operation inside it (`sub`), as in etcd.
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
    /// This version deletes the key.
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

/// Rows and bytes that are stored, tables included; a row counts with its key and its value. All engines
/// report the same: the format on the medium does not matter, and rows that can be computed from others do
/// not count ([`Table::LeaseKeys`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub rows: u64,
    pub bytes: u64,
}

/// The medium failed. The member must stop: its state in memory may be ahead of the stored state.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {0}")]
pub struct EngineError(pub String);

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;

/// A versioned ordered map and small tables. The crate's documentation says which thread may call which method.
pub trait Engine: Send + Sync + 'static {
    // ---- the writer ----

    /// Adds a version of `key`. Its revision must be greater than every revision appended before.
    fn append(&self, key: &[u8], version: Version) -> Result<()>;

    /// As [`Engine::append`], for a key whose newest version the writer has read: an engine need not look for it again.
    fn append_after(&self, key: &[u8], version: Version, _newest: &Version) -> Result<()> {
        self.append(key, version)
    }

    /// Sets a row of a small table.
    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes a row of a small table. A missing row is no error.
    fn delete(&self, table: Table, key: &[u8]) -> Result<()>;

    /// Makes all writes since the last call visible to readers, together with the applied index. An engine that
    /// outlives the process stores both in one atomic batch.
    fn publish(&self, published: Published) -> Result<()>;

    /// Drops versions that no read at revision `at` or later can see, in one bounded step. Returns whether there is
    /// more to do. The engine remembers where the next step begins. At a revision that an earlier compaction has
    /// reached, there is nothing left to do.
    ///
    /// A version with `main <= at` is dropped if a newer version of its key has `main <= at`, or if it is a
    /// tombstone with `main < at`. A tombstone at exactly `at` stays until the next compaction, because a watcher
    /// from `at` must still see it.
    ///
    /// A compaction at a later revision may overtake an unfinished one. After a restart the caller continues at
    /// the revision of the interrupted compaction. While a step runs, no appended version may be unpublished;
    /// rows of tables may be.
    fn compact_step(&self, at: i64) -> Result<bool>;

    /// Records that a compaction at `at` was requested between the writes before this call and those after it. The
    /// high-water mark then develops as if the compaction were done at once. A repeated call does nothing.
    fn begin_compaction(&self, at: i64);

    /// Sets the high-water mark: after a state with a known mark was loaded, or after space was given back
    /// ([`HighWaterMark::lowered`]). An engine that outlives the process stores it with the next publish.
    fn set_mark(&self, mark: HighWaterMark);

    // ---- the medium, from any thread ----

    /// Whether published and flushed data are still there after a restart. If not, the caller writes snapshots.
    fn outlives_process(&self) -> bool;

    /// Makes all published data durable, and returns their log position. The call waits for the medium; the writer may
    /// continue during it. An engine that does not outlive the process has nothing to do.
    fn flush(&self) -> Result<Applied>;

    /// Whether a flush is useful although little may have been written since the last one: it would free scans from
    /// dead rows that they have to skip.
    fn wants_flush(&self) -> bool {
        false
    }

    /// A frozen copy of the published state: an engine that can only be read. It stays valid while this one is written,
    /// compacted and closed, and delays none of these. The writer's calls on it are errors.
    ///
    /// An engine that outlives the process waits for the medium. One that does not takes some microseconds for each
    /// thousand versions, and leaves out [`Table::LeaseKeys`]. Only the writer may call it there, when everything is
    /// published. Memory of versions that are dropped during the life of the copy is freed only with the copy.
    fn checkpoint(&self) -> Result<Arc<dyn Engine>>;

    /// Gives the space of dropped versions back to the medium. Readers and the writer may continue during the
    /// call. The high-water mark stays: only the writer may lower it, because that must happen at one place in the
    /// order of applied entries.
    fn defragment(&self) -> Result<()>;

    /// Figures of the medium, for operators.
    fn statistics(&self) -> Vec<Statistic>;

    // ---- readers ----

    /// The last published state; zero before the first publish.
    fn published(&self) -> Published;

    /// The newest version of `key` with `main <= at`, tombstones included.
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>>;

    /// Appends to `rows`, in key order, the newest version with `main <= at` of each key in `range` that is alive at
    /// `at`. Stops after `limit` rows or at the end of a step. Returns the key to continue from, or `None` at the end
    /// of the range. A continued scan takes that key as the start of its range. With limit 0 nothing is added, and the
    /// first key is returned. A key to continue from does not mean that there are more live keys.
    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>>;

    /// Adds to `count` the number of keys in `range` that are alive at `at`. Returns the key to continue from, as
    /// [`Engine::scan`] does. A step may visit more than [`STEP`] rows, because nothing is copied, but takes no longer.
    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>>;

    /// Appends to `rows`, in order of revision, stored versions with `from <= revision` and `main <= to`, until the end
    /// of a step. Returns the revision to continue from, or `None` at the end. It is not specified whether unpublished
    /// versions are among them.
    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>>;

    /// The value of a row of a small table.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The rows of a small table whose keys begin with `prefix`, in key order. The call is not bounded: it is for the
    /// start and for snapshots. Rows have no revision: a reader sees the writer's latest value, published or not.
    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Appends to `keys`, in order, the keys of rows of a small table that begin with `prefix` and are not less than
    /// `from`, until the end of a step. Returns the key to continue from, or `None` at the end. Between two steps the
    /// writer may change rows.
    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>>;

    /// The rows and bytes that are stored now.
    fn usage(&self) -> Usage;

    /// The high-water mark of the stored data. It belongs to this member and is not part of the state.
    fn mark(&self) -> HighWaterMark;

    /// The size of the state as etcd's clients and operators expect it, as that of a file.
    fn sizes(&self) -> Sizes {
        // The usage is read after the mark: `allocated` covers it even if a write comes between.
        let mark = self.mark();
        mark.sizes(self.usage())
    }
}
