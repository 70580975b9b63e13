//! A frozen copy of the state: hard links to files that never change.

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::checkpoint::Checkpoint;

use super::RocksDb;
use super::open::{CHECKPOINT, sibling};
use super::temporary::Temporary;
use crate::Result;

/// The number of checkpoints of this process, for distinct names.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl RocksDb {
    /// Flushes, links the files into a directory of their own, and opens that for reading. The files are the same, and
    /// so are their blocks in the cache.
    pub(super) fn freeze(&self) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = sibling(&self.path, &format!("{CHECKPOINT}{}-{number}", std::process::id()));
        let directory = Temporary { path: path.clone(), env: self.env.clone() };
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(&path));
        made.map_err(|error| self.failed(&error))?;
        Self::open_frozen(directory, self.settings, self.cache.clone())
    }
}
