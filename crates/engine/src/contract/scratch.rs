//! Directories for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of names that this process has given out.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// An empty directory, removed on drop.
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
    // A small cache, because tests make hundreds of these engines.
    const CACHE_BYTES: usize = 4 << 20;
    let settings = crate::RocksDbSettings { block_cache_bytes: CACHE_BYTES, ..Default::default() };
    let engine = crate::RocksDb::temporary(&fresh_path(), settings);
    std::sync::Arc::new(engine.unwrap_or_else(|error| panic!("{error}")))
}

/// A path at which nothing exists: process ids are reused, and a killed test leaves its directory behind.
fn fresh_path() -> PathBuf {
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("metastore-{}-{number}", std::process::id()));
        if !path.exists() {
            return path;
        }
    }
}
