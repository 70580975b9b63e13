//! Real files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metastore_engine::{Engine, EngineError, RocksDb, RocksDbSettings};

use super::Files;

/// A real directory that is removed with its last handle.
pub struct Directory {
    root: PathBuf,
}

impl Default for Directory {
    fn default() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("metastore-replica-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { root: scratch().join(name) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.root);
    }
}

impl Directory {
    /// A copy of one moment. If RocksDB changes its files during the copy, the copy is repeated.
    fn copied(&self) -> Self {
        loop {
            let copy = Self::default();
            if !self.root.exists() {
                return copy;
            }
            let before = sizes(&self.root);
            if copy_into(&self.root, &copy.root).is_ok() && sizes(&self.root) == before {
                return copy;
            }
        }
    }
}

impl Files for Directory {
    fn directories(&self) -> Vec<String> {
        if self.root.exists() { names(&self.root) } else { Vec::new() }
    }

    fn list(&self, path: &Path) -> Vec<String> {
        names(&self.root.join(path))
    }

    fn exists(&self, path: &Path) -> bool {
        self.root.join(path).exists()
    }

    fn remove_file(&self, path: &Path) {
        fs::remove_file(self.root.join(path)).unwrap();
    }

    fn remove_dir(&self, path: &Path) {
        fs::remove_dir(self.root.join(path)).unwrap();
    }

    fn rename(&self, from: &Path, to: &Path) {
        fs::rename(self.root.join(from), self.root.join(to)).unwrap();
    }

    fn open(&self, path: &Path, settings: RocksDbSettings) -> Result<Arc<dyn Engine>, EngineError> {
        fs::create_dir_all(&self.root).unwrap();
        Ok(Arc::new(RocksDb::open(&self.root.join(path), settings)?))
    }

    /// RocksDB flushes to real files by itself.
    fn flush(&self) {}

    /// RocksDB rewrites real files by itself.
    fn rewrite(&self) {}

    fn copy(&self) -> Arc<dyn Files> {
        Arc::new(self.copied())
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }
}

/// A directory in memory, if there is one: thousands of databases are created, and no test takes power from the real
/// machine.
fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn names(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The files by name, and their lengths; without RocksDB's log messages, which are not part of the state.
fn sizes(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for directory in names(root) {
        let directory = root.join(directory);
        for name in names(&directory).into_iter().filter(|name| !name.starts_with("LOG")) {
            let path = directory.join(name);
            // The file may have been removed since it was listed; then the copy is repeated.
            let len = fs::metadata(&path).map_or(u64::MAX, |found| found.len());
            found.insert(path, len);
        }
    }
    found
}

fn copy_into(from: &Path, to: &Path) -> std::io::Result<()> {
    for directory in names(from) {
        let (from, to) = (from.join(&directory), to.join(&directory));
        fs::create_dir_all(&to)?;
        for name in names(&from).into_iter().filter(|name| !name.starts_with("LOG")) {
            fs::copy(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}
