//! Files in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use metastore_engine::{Engine, EngineError, MemoryFiles, RocksDb, RocksDbSettings};

use super::Files;

/// Bytes of a memtable: more than a run writes. The moment of a flush that RocksDB begins by itself depends on the CPUs
/// on which its threads run, so these databases are flushed only at moments that a run draws.
const MEMTABLE_BYTES: usize = 4 << 20;

/// Databases by their paths. Machines that are copies of each other share one file system.
pub struct Databases {
    files: MemoryFiles,
    /// The number of the next database.
    next: Arc<AtomicU64>,
    databases: Mutex<BTreeMap<PathBuf, Database>>,
}

struct Database {
    /// The place of its files. The path is not enough: several machines use the same paths.
    place: PathBuf,
    settings: RocksDbSettings,
    /// The handle, while the database is open.
    open: Weak<RocksDb>,
}

impl Databases {
    pub fn new() -> Self {
        Self { files: MemoryFiles::new(), next: Arc::default(), databases: Mutex::default() }
    }

    fn place(&self) -> PathBuf {
        format!("/{}", self.next.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn databases(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Database>> {
        self.databases.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        // The files of a database that is still open are removed with the last machine.
        self.databases().values().for_each(|database| _ = self.files.remove(&database.place));
    }
}

impl Files for Databases {
    fn directories(&self) -> Vec<String> {
        self.databases().keys().map(|path| path.to_str().expect("a name").to_owned()).collect()
    }

    /// Returns no files: they are removed together with their directory.
    fn list(&self, _: &Path) -> Vec<String> {
        Vec::new()
    }

    fn exists(&self, path: &Path) -> bool {
        self.databases().contains_key(path)
    }

    fn remove_file(&self, path: &Path) {
        panic!("{}: no file is listed", path.display());
    }

    fn remove_dir(&self, path: &Path) {
        let database = self.databases().remove(path).expect("a directory that is there");
        self.files.remove(&database.place).expect("a database that is closed");
    }

    fn rename(&self, from: &Path, to: &Path) {
        let mut databases = self.databases();
        let database = databases.remove(from).expect("a directory that is there");
        databases.insert(to.to_owned(), database);
    }

    fn open(&self, path: &Path, settings: RocksDbSettings) -> Result<Arc<dyn Engine>, EngineError> {
        let mut databases = self.databases();
        let place = databases.get(path).map_or_else(|| self.place(), |database| database.place.clone());
        let settings = RocksDbSettings { memtable_bytes: MEMTABLE_BYTES, ..settings };
        let open = Arc::new(RocksDb::open_in_memory(&self.files, &place, settings)?);
        databases.insert(path.to_owned(), Database { place, settings, open: Arc::downgrade(&open) });
        Ok(open)
    }

    fn flush(&self) {
        for open in self.databases().values().filter_map(|database| database.open.upgrade()) {
            open.flush().expect("files in memory do not fail");
        }
    }

    fn rewrite(&self) {
        self.databases().values().filter_map(|database| database.open.upgrade()).for_each(|open| open.rewrite_files());
    }

    fn copy(&self) -> Arc<dyn Files> {
        let copied = |database: &Database| {
            let Database { place: from, settings, open } = database;
            let place = self.place();
            // Opening and closing a closed database changes nothing in it.
            let open =
                open.upgrade().map_or_else(|| RocksDb::open_in_memory(&self.files, from, *settings).map(Arc::new), Ok);
            open.and_then(|open| open.crash_copy(&place)).expect("files in memory do not fail");
            Database { place, settings: *settings, open: Weak::new() }
        };
        let databases = self.databases().iter().map(|(path, database)| (path.clone(), copied(database))).collect();
        Arc::new(Self { files: self.files.clone(), next: self.next.clone(), databases: Mutex::new(databases) })
    }

    fn root(&self) -> Option<&Path> {
        None
    }
}
