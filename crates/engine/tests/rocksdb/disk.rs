//! A database in a directory, and copies of the directory.

use metastore_engine::contract::Scratch;
use metastore_engine::{
    Applied, Engine, MemoryFiles, Published, Revision, RocksDb, RocksDbSettings, STEP, Steps, Version,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a copy may wait until the manifest does not change.
const DEADLINE: Duration = Duration::from_secs(60);

/// One step of a compaction drops all that it drops in most of these tests.
fn settings(block_cache_bytes: usize) -> RocksDbSettings {
    let usual = RocksDbSettings::default();
    RocksDbSettings { block_cache_bytes, steps: Steps { compacted: STEP, ..usual.steps }, ..usual }
}

/// A directory in which a database is made.
pub struct Disk(Scratch);

impl Disk {
    pub fn new() -> Self {
        Self(Scratch::new())
    }

    /// The path of the database.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }

    pub fn open(&self) -> RocksDb {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_open(&self) -> metastore_engine::Result<RocksDb> {
        RocksDb::open(&self.path(), settings(8 << 20))
    }

    /// A copy of the files at one moment, as a crash would leave them. Table files never change, so they are linked.
    pub fn copy(&self) -> Self {
        let begun = Instant::now();
        loop {
            let copy = Self::new();
            // FLUSHED is written after the flush, so it must be read before the manifest.
            let flushed = fs::read(self.path().join("FLUSHED"));
            // While the manifest does not change, no file that it names is removed.
            let before = naming_files(&self.path());
            let linked = before.is_ok() && link_tables(&self.path(), &copy.path()).is_ok();
            match before {
                Ok(files) if linked && naming_files(&self.path()).is_ok_and(|after| after == files) => {
                    let flushed = flushed.map(|bytes| ("FLUSHED".to_owned(), bytes));
                    for (name, bytes) in files.into_iter().chain(flushed) {
                        fs::write(copy.path().join(name), bytes).expect("write");
                    }
                    return copy;
                }
                _ => assert!(begun.elapsed() < DEADLINE, "the files are never at rest"),
            }
        }
    }

    /// The contents of all files except RocksDB's info logs and its lock.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = self.files(|name| !name.starts_with("LOG") && name != "LOCK");
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
    }

    /// The files for whose names `wanted` returns true, in order of their names.
    pub fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("the directory").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> = entries.filter(|path| wanted(&name(path))).collect();
        files.sort();
        files
    }

    pub fn tables(&self) -> Vec<PathBuf> {
        self.files(|name| name.ends_with(".sst"))
    }

    pub fn manifest(&self) -> PathBuf {
        self.files(|name| name.starts_with("MANIFEST")).pop().expect("a manifest")
    }
}

/// The place of a database that crashes: on a disk or, which is faster, in memory.
pub enum Place {
    Disk(Disk),
    Memory(MemoryFiles, PathBuf),
}

impl Place {
    /// A new place of each kind.
    pub fn each() -> [Self; 2] {
        [Self::Disk(Disk::new()), Self::in_memory()]
    }

    pub fn in_memory() -> Self {
        Self::Memory(MemoryFiles::new(), "/state".into())
    }

    pub fn open(&self) -> RocksDb {
        match self {
            Self::Disk(disk) => disk.open(),
            Self::Memory(files, path) => {
                let settings = settings(1 << 20);
                RocksDb::open_in_memory(files, path, settings).unwrap_or_else(|error| panic!("{error}"))
            }
        }
    }

    /// The files that a crash of `engine`, which is open here, would leave.
    pub fn crash(&self, engine: &RocksDb) -> Self {
        static COPIES: AtomicU64 = AtomicU64::new(0);
        match self {
            Self::Disk(disk) => Self::Disk(disk.copy()),
            Self::Memory(files, _) => {
                let path = PathBuf::from(format!("/copy{}", COPIES.fetch_add(1, Ordering::Relaxed)));
                engine.crash_copy(&path).expect("a copy");
                Self::Memory(files.clone(), path)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Memory(files, path) = self {
            // If it is still open, it stays until the test ends.
            _ = files.remove(path);
        }
    }
}

pub fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Replaces a file: links to the old contents stay as they are.
pub fn rewrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("remove");
    fs::write(path, bytes).expect("write");
}

/// The manifest, and the file that names it.
fn naming_files(path: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let current = fs::read(path.join("CURRENT"))?;
    let manifest = String::from_utf8_lossy(&current).trim_end().to_owned();
    let bytes = fs::read(path.join(&manifest))?;
    Ok(vec![("CURRENT".to_owned(), current), (manifest, bytes)])
}

fn link_tables(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = name(&path);
        if name.ends_with(".sst") {
            fs::hard_link(&path, to.join(name))?;
        }
    }
    Ok(())
}

pub fn append(engine: &dyn Engine, key: &[u8], revision: Revision, tombstone: bool) -> Version {
    let row = [key, format!("={}.{}", revision.main, revision.sub).as_bytes()].concat().into();
    let version = Version { revision, tombstone, row };
    engine.append(key, version.clone()).expect("append");
    version
}

/// Publishes a revision, with an applied index of ten times that.
pub fn publish(engine: &dyn Engine, revision: i64) {
    engine.publish(published(revision)).expect("publish");
}

pub fn published(revision: i64) -> Published {
    Published { revision, applied: Applied { index: 10 * revision.unsigned_abs(), term: 1 } }
}
