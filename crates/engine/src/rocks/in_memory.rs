//! Databases whose files are in memory, and their crashes, for tests and simulations, which create and lose
//! thousands of databases.
//!
//! The engine is the same except for three things. Files in memory are never torn or damaged, so that opening
//! does not check for damage. The log position of a flush is not noted beside the database. A missing
//! directory is created at once.

use std::path::Path;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Env, Options};

use super::layout::{CURRENT, SUPERSEDED};
use super::{RocksDb, RocksDbSettings};
use crate::{EngineError, Result};

/// Files in memory, by their paths. Clones share the files.
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

    /// Removes the database at `path`, which must not be open.
    ///
    /// # Errors
    /// The database is open.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let removed = DB::destroy(&self.options(), path);
        removed.map_err(|error| EngineError(format!("{} in memory: {error}", path.display())))
    }
}

impl RocksDb {
    /// Opens the database at `path` among files in memory, or creates an empty one if there is none.
    ///
    /// # Errors
    /// The database is open already.
    pub fn open_in_memory(files: &MemoryFiles, path: &Path, settings: RocksDbSettings) -> Result<Self> {
        Self::open_in(path, settings, Some(files.0.clone()))
    }

    /// Copies the files as a crash would leave them now, without unflushed data, to another path of the same file
    /// system, where nothing exists. (Closing the database would flush it.)
    ///
    /// # Errors
    /// Something exists there, or the medium fails.
    pub fn crash_copy(&self, to: &Path) -> Result<()> {
        let copied = Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint_with_log_size(to, NEVER_FLUSH));
        copied.map_err(|error| self.failed(&error))
    }

    /// Rewrites the files of superseded and current versions, as RocksDB may at any time. RocksDB flushes first only if
    /// some of these rows are in no file.
    pub fn rewrite_files(&self) {
        self.rewrite_superseded();
        self.rewrite(CURRENT);
    }

    /// Rewrites only the files of superseded versions.
    pub fn rewrite_superseded(&self) {
        self.rewrite(SUPERSEDED);
    }

    fn rewrite(&self, name: &str) {
        // A range with two ends, because RocksDB flushes first if one end is missing.
        let range = [&[0; 1][..], &[0xff; 32]].map(Some);
        self.db.compact_range_cf_opt(self.family(name), range[0], range[1], &super::compaction::every_file());
    }
}

/// Makes a checkpoint of the files only, without the data in memory.
const NEVER_FLUSH: u64 = u64::MAX;
