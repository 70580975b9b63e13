//! A frozen copy of the state: hard links to files that never change.

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::checkpoint::Checkpoint;

use super::RocksDb;
use super::open::sibling;
use crate::Result;

/// Checkpoints of this process, for distinct names.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl RocksDb {
    /// Flushes, links the files into a directory of their own, and opens it for reading.
    pub(super) fn freeze(&self) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = sibling(&self.path, &format!("checkpoint-{}-{number}", std::process::id()));
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(&path));
        made.map_err(|error| self.failed(&error))?;
        Self::open_existing(&path, self.settings, true)
    }
}

impl Drop for RocksDb {
    fn drop(&mut self) {
        if self.frozen {
            // Open files stay readable until they are closed; what is left over goes at the next start.
            _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
