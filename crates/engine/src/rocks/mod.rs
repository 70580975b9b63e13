//! The state on disk, in RocksDB: for data far beyond memory.
//!
//! ```text
//!   append ─┬▶ current      key ──▶ newest version          newest, scan and count of what is now: one lookup, one sequence
//!           ├▶ revisions    revision ──▶ version            history: one sequence
//!           └▶ superseded   key, revision ──▶ when it dies  reads of the past, and what a compaction has to look at
//! ```
//!
//! A row stands in two places, in the order of keys and in the order of revisions, because both are read in sequence: by
//! lists, and by watchers, hashes and snapshots. The second copy is cheap: revisions come in order, so their files are
//! written once and never merged with others. Byte tables: `layout.rs`.
//!
//! What was not published is in [`pending`] only, and the writer alone looks there. [`Engine::publish`] writes all of it, with
//! the applied index, in one batch. RocksDB's own log is off, because the raft log is the log: after a crash the state is
//! that of the last flush, which is atomic over all column families, and the raft log is replayed from the applied index found
//! there. How far a flush came is noted ([`flushed`]), and a database that is older is refused. A write that fails is the last
//! one: what was to be written is lost, and what follows would not fit.
//!
//! Readers take no lock: an iterator sees one moment. A reader at a revision finds in `current` the newest version; if that
//! is newer than the revision, the one it wants is in `superseded` by then, because both were written in one batch.
//!
//! A compaction walks over `revisions` once, from where the last one ended, and drops what dies by each version that it meets:
//! its cost is that of what was written since. How far it is belongs to the state, so a crash undoes neither more nor less than
//! a step ([`compaction`]). What is dead leaves `superseded` and `current` when RocksDB rewrites their files
//! ([`forgotten`]); where much of `current` is dead, a flush rewrites it at once ([`dead_rows`]). RocksDB gives the
//! space of deleted rows back in its own compactions, which files full of them bring about.

mod checkpoint;
mod compaction;
mod dead_rows;
mod flushed;
mod forgotten;
#[cfg(any(test, feature = "contract"))]
mod in_memory;
mod layout;
mod open;
mod options;
mod pending;
mod reading;
mod statistics;
mod temporary;
mod writing;

#[cfg(any(test, feature = "contract"))]
pub use in_memory::MemoryFiles;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};
use rocksdb::{Cache, ColumnFamily, DB, Env, Options};

use crate::stock::Stock;
use crate::{
    Applied, Engine, EngineError, KeyRange, Mark, Published, Result, Revision, STEP, Statistic, Steps, Table, Usage,
    Version,
};
use dead_rows::DeadRows;
use forgotten::Forgotten;
use pending::Pending;
use reading::COUNT_STEP;
use temporary::Temporary;

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksDbSettings {
    /// Bytes of blocks, indexes and filters that are kept in memory.
    pub block_cache_bytes: usize,
    /// Files that are kept open at most.
    pub max_open_files: u32,
    /// Bytes that a column family collects in memory before they are flushed. Not for operators: this default and the next suit
    /// everyone but a test.
    pub memtable_bytes: usize,
    pub steps: Steps,
}

impl Default for RocksDbSettings {
    fn default() -> Self {
        let steps = Steps { rows: STEP, counted_keys: COUNT_STEP };
        Self { block_cache_bytes: 256 << 20, max_open_files: 512, memtable_bytes: options::MEMTABLE_BYTES, steps }
    }
}

/// State on disk.
pub struct RocksDb {
    db: DB,
    path: PathBuf,
    settings: RocksDbSettings,
    /// Where the files are, if not on the disk.
    env: Option<Env>,
    /// For its statistics.
    options: Options,
    cache: Cache,
    pending: Mutex<Pending>,
    published: RwLock<Published>,
    /// The log index that is noted as flushed.
    flushed: Mutex<u64>,
    stored: Stock,
    /// The greatest revision at which a compaction began to drop versions: what dies later is there, or missing.
    dropping: AtomicI64,
    /// Tombstones of earlier revisions are dropped, also those that still stand in `current`.
    deletes_below: AtomicI64,
    dead_rows: Mutex<DeadRows>,
    flush_wanted: AtomicBool,
    forgotten: Forgotten,
    /// It is a checkpoint.
    frozen: bool,
    /// The directory, if it goes with this. The last field: the files are closed before.
    temporary: Option<Temporary>,
}

impl RocksDb {
    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).unwrap_or_else(|| panic!("column family {name} was opened with the others"))
    }

    fn failed(&self, error: &impl std::fmt::Display) -> EngineError {
        EngineError(format!("{}: {error}", self.path.display()))
    }
}

impl Engine for RocksDb {
    fn append(&self, key: &[u8], version: Version) -> Result<()> {
        self.append_version(key, version)
    }

    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.set_row(table, key, Some(value))
    }

    fn delete(&self, table: Table, key: &[u8]) -> Result<()> {
        self.set_row(table, key, None)
    }

    fn publish(&self, published: Published) -> Result<()> {
        self.write_pending(published)
    }

    fn compact_step(&self, at: i64) -> Result<bool> {
        let more = self.drop_dead(at)?;
        if !more {
            self.stored.end_compaction(at);
        }
        Ok(more)
    }

    fn begin_compaction(&self, at: i64) {
        self.stored.begin_compaction(at);
    }

    fn set_mark(&self, mark: Mark) {
        self.stored.set_mark(mark);
    }

    fn outlives_process(&self) -> bool {
        true
    }

    fn flush(&self) -> Result<Applied> {
        if self.frozen {
            return Ok(self.published().applied);
        }
        // One at a time, so that what is noted does not go back.
        let mut flushed = self.flushed.lock();
        let applied = self.published().applied;
        // Before: what dies during the flush may stay in the files.
        let dead_rows = self.take_dead_rows();
        self.flush_all()?;
        if applied.index > *flushed && self.env.is_none() {
            flushed::note(&self.path, applied.index).map_err(|error| self.failed(&error))?;
            *flushed = applied.index;
        }
        if let Some(rewrite) = dead_rows {
            self.rewrite_dead_rows(rewrite)?;
        }
        Ok(applied)
    }

    fn wants_flush(&self) -> bool {
        self.flush_wanted.load(Ordering::Relaxed)
    }

    fn checkpoint(&self) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(self.freeze()?))
    }

    fn defragment(&self) -> Result<()> {
        self.compact_files()
    }

    fn statistics(&self) -> Vec<Statistic> {
        self.figures()
    }

    fn published(&self) -> Published {
        *self.published.read()
    }

    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        // Nothing is as old as a negative revision, whose bytes would sort behind those of all others. The same below.
        if at < 0 {
            return Ok(None);
        }
        if at > self.published().revision { self.newest_of_all(key, at) } else { self.newest_stored(key, at) }
    }

    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        if at < 0 {
            return Ok(None);
        }
        self.scan_step(range, at, limit, rows)
    }

    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        if at < 0 {
            return Ok(None);
        }
        self.count_step(range, at, count)
    }

    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        if to < 0 {
            return Ok(None);
        }
        self.history_step(from, to, rows)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.row(table, key)
    }

    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.rows_with_prefix(table, prefix)
    }

    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        self.row_keys_step(table, prefix, from, keys)
    }

    fn usage(&self) -> Usage {
        self.stored.usage()
    }

    fn mark(&self) -> Mark {
        self.stored.mark()
    }
}
