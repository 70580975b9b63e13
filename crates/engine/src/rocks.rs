//! The state on disk, in RocksDB: for data far beyond memory.
//!
//! ```text
//!   append ─┬▶ current      key ──▶ newest version          newest, scan and count now: one lookup, one sequence
//!           ├▶ revisions    revision ──▶ version            history: one sequence
//!           └▶ superseded   key, revision ──▶ its death     reads at older revisions
//! ```
//!
//! A row is stored twice, in the order of keys and in the order of revisions, because both orders are read in sequence:
//! the first by lists, the second by watchers, hashes and snapshots. The second copy is cheap: revisions come in order,
//! so their files are written once and never merged with others. The bytes of each column family are in `layout.rs`.
//!
//! Unpublished data are only in [`pending`], where only the writer looks. [`Engine::publish`] writes all of them, with
//! the applied index, in one batch. RocksDB's own log is off, because the raft log does its work. After a crash the
//! state is that of the last flush, which is atomic over all column families. The raft log is replayed from the applied
//! index found there. The log position of each flush is noted ([`flushed`]), and a database that is older is refused.
//! After a failed write nothing more is written: the data of that write are lost, and later data would not fit.
//!
//! Readers take no lock: an iterator sees one moment. A reader at a revision looks up the newest version in
//! `current`. If that is newer than the revision, the wanted version is already in `superseded`, because both
//! were written in one batch.
//!
//! A compaction walks over `revisions` once, from the place where the last one ended. It drops the versions that die
//! by each version that it visits, so its cost is proportional to the data written since. Its position is part of the
//! state, so that a crash undoes whole steps ([`compaction`]). Dead rows leave `superseded` and `current` when
//! RocksDB rewrites their files ([`forgotten`]). If much of `current` is dead, a flush rewrites it at once
//! ([`dead_rows`]). RocksDB gives the space of deleted rows back in its own compactions, which it starts for files
//! with many deleted rows.

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
    Applied, COMPACTION_STEP, Engine, EngineError, HighWaterMark, KeyRange, Published, Result, Revision, STEP,
    Statistic, Steps, Table, Usage, Version,
};
use dead_rows::DeadRows;
use forgotten::Forgotten;
use pending::Pending;
use reading::COUNT_STEP;
use temporary::Temporary;

/// Settings for operators and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksDbSettings {
    /// The most bytes of blocks, indexes and filters that are kept in memory.
    pub block_cache_bytes: usize,
    /// The most files that are kept open.
    pub max_open_files: u32,
    /// The bytes that a column family collects in memory before they are flushed. This setting and the next are not for
    /// operators: the defaults suit all callers except tests.
    pub memtable_bytes: usize,
    pub steps: Steps,
}

impl Default for RocksDbSettings {
    fn default() -> Self {
        let steps = Steps { rows: STEP, counted_keys: COUNT_STEP, compacted: COMPACTION_STEP };
        Self { block_cache_bytes: 256 << 20, max_open_files: 512, memtable_bytes: options::MEMTABLE_BYTES, steps }
    }
}

/// The state on disk.
pub struct RocksDb {
    db: DB,
    path: PathBuf,
    settings: RocksDbSettings,
    /// The environment of the files, if they are not on the disk.
    env: Option<Env>,
    /// Kept for their statistics.
    options: Options,
    cache: Cache,
    pending: Mutex<Pending>,
    published: RwLock<Published>,
    /// The log index that is noted as flushed.
    flushed: Mutex<u64>,
    stored: Stock,
    /// The greatest revision at which a compaction began to drop versions. Versions that die later must still be there.
    dropping: AtomicI64,
    /// Tombstones of earlier revisions count as dropped, also those that are still in `current`.
    deletes_below: AtomicI64,
    dead_rows: Mutex<DeadRows>,
    flush_wanted: AtomicBool,
    forgotten: Forgotten,
    /// Whether this is a checkpoint.
    frozen: bool,
    /// The directory, if it is removed with the database. It is the last field, so that the files are closed first.
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
        self.append_version(key, version, None)
    }

    fn append_after(&self, key: &[u8], version: Version, newest: &Version) -> Result<()> {
        self.append_version(key, version, Some(newest))
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

    fn set_mark(&self, mark: HighWaterMark) {
        self.stored.set_mark(mark);
    }

    fn outlives_process(&self) -> bool {
        true
    }

    fn flush(&self) -> Result<Applied> {
        if self.frozen {
            return Ok(self.published().applied);
        }
        // One flush at a time, so that the noted index never decreases.
        let mut flushed = self.flushed.lock();
        let applied = self.published().applied;
        // Taken before the flush: rows that die during the flush may stay in the files.
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
        // No version is as old as a negative revision, whose bytes would sort after those of all others.
        // The same applies below.
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

    fn mark(&self) -> HighWaterMark {
        self.stored.mark()
    }
}
