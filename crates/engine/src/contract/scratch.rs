//! Directories for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names handed out by this process.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// An empty directory of its own, removed when it is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let path = fresh_path();
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An empty RocksDB in a directory that is removed when the engine is dropped. Its checkpoints outlive it.
#[cfg(feature = "rocksdb")]
pub fn scratch_rocksdb() -> std::sync::Arc<dyn crate::Engine> {
    // Small, because tests make hundreds of them.
    const CACHE_BYTES: usize = 4 << 20;
    let settings = crate::RocksDbSettings { block_cache_bytes: CACHE_BYTES, ..Default::default() };
    let engine = crate::RocksDb::temporary(&fresh_path(), settings);
    std::sync::Arc::new(engine.unwrap_or_else(|error| panic!("{error}")))
}

/// A path at which nothing is: process ids come again, and a test that was killed leaves its directory behind.
fn fresh_path() -> PathBuf {
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("metastore-{}-{number}", std::process::id()));
        if !path.exists() {
            return path;
        }
    }
}
