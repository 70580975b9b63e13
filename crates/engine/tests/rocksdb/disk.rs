//! A database in a directory, and copies of the directory.

use metastore_engine::contract::Scratch;
use metastore_engine::{Applied, Engine, MemoryFiles, Published, Revision, RocksDb, RocksDbSettings, Version};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a copy may take to find the manifest at rest.
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory in which a database is made.
pub struct Disk(Scratch);

impl Disk {
    pub fn new() -> Self {
        Self(Scratch::new())
    }

    /// Where the database is.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }

    pub fn open(&self) -> RocksDb {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_open(&self) -> metastore_engine::Result<RocksDb> {
        RocksDb::open(&self.path(), RocksDbSettings { block_cache_bytes: 8 << 20, ..Default::default() })
    }

    /// The files as they are at one moment: what a crash leaves now. Table files never change and are linked.
    pub fn copy(&self) -> Self {
        let begun = Instant::now();
        loop {
            let copy = Self::new();
            // Noted after the flush, so it must be older than the manifest.
            let flushed = fs::read(self.path().join("FLUSHED"));
            // While the manifest stays, no file that it names goes.
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

    /// The contents of all files but RocksDB's notes and its lock.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = self.files(|name| !name.starts_with("LOG") && name != "LOCK");
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
    }

    /// The files whose names are `wanted`, in order of their names.
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

/// Where a database is made, and lost: on a disk, or, quicker, in memory.
pub enum Place {
    Disk(Disk),
    Memory(MemoryFiles, PathBuf),
}

impl Place {
    /// A new one of each kind.
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
                let settings = RocksDbSettings { block_cache_bytes: 1 << 20, ..Default::default() };
                RocksDb::open_in_memory(files, path, settings).unwrap_or_else(|error| panic!("{error}"))
            }
        }
    }

    /// What a crash leaves of `engine`, which is open here.
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
            // It may be open still: then it stays until the test ends.
            _ = files.remove(path);
        }
    }
}

pub fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Writes a file anew: what was linked elsewhere stays as it is.
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
