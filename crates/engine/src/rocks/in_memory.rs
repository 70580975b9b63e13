//! Databases whose files are in memory, and crashes: for tests and simulations, which make and lose databases by the
//! thousand.
//!
//! The engine is the same but for three things: files in memory are never torn or damaged, so nothing looks for that
//! when a database is opened; how far a flush came is not noted beside it; and a directory that is not there is made at
//! once.

use std::path::Path;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Env, Options};

use super::layout::{CURRENT, SUPERSEDED};
use super::{RocksDb, RocksDbSettings};
use crate::{EngineError, Result};

/// Files in memory, by their paths. Clones hold the same files.
#[derive(Clone)]
pub struct MemoryFiles(Env);

impl MemoryFiles {
    #[expect(clippy::new_without_default, reason = "it makes a file system")]
    pub fn new() -> Self {
        Self(Env::mem_env().unwrap_or_else(|error| panic!("RocksDB has no files in memory: {error}")))
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.set_env(&self.0);
        options
    }

    /// Whether there is a database at `path`.
    pub fn exists(&self, path: &Path) -> bool {
        DB::list_cf(&self.options(), path).is_ok()
    }

    /// Removes the database at `path`, which nobody may have open.
    ///
    /// # Errors
    /// If it is open.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let removed = DB::destroy(&self.options(), path);
        removed.map_err(|error| EngineError(format!("{} in memory: {error}", path.display())))
    }
}

impl RocksDb {
    /// Opens the database at `path` among files in memory, or makes an empty one if there is none.
    ///
    /// # Errors
    /// If it is open already.
    pub fn open_in_memory(files: &MemoryFiles, path: &Path, settings: RocksDbSettings) -> Result<Self> {
        Self::open_in(path, settings, Some(files.0.clone()))
    }

    /// Puts what a crash would leave now at another path, at which nothing is, of the same file system: the files as
    /// they are, without what was not flushed. (To close a database flushes it.)
    ///
    /// # Errors
    /// If something is there, or the medium fails.
    pub fn crash_copy(&self, to: &Path) -> Result<()> {
        let copied = Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint_with_log_size(to, NEVER_FLUSH));
        copied.map_err(|error| self.failed(&error))
    }

    /// Rewrites the files of superseded versions and of current ones, as RocksDB may at any time. Flushes only if there
    /// is something of them that is in no file.
    pub fn rewrite_files(&self) {
        self.rewrite_superseded();
        self.rewrite(CURRENT);
    }

    /// The same of superseded versions alone.
    pub fn rewrite_superseded(&self) {
        self.rewrite(SUPERSEDED);
    }

    fn rewrite(&self, name: &str) {
        // A range with two ends, because RocksDB flushes first if one is missing.
        let range = [&[0; 1][..], &[0xff; 32]].map(Some);
        self.db.compact_range_cf_opt(self.family(name), range[0], range[1], &super::compaction::every_file());
    }
}

/// A checkpoint of files alone, whatever is in memory.
const NEVER_FLUSH: u64 = u64::MAX;
