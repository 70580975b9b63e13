//! What a member runs on: the double of a disk, and for RocksDB, which knows nothing of doubles, files of its own beside it:
//! real ones, or, quicker, files in memory.
//!
//! RocksDB's own log is off, so what it has not flushed is gone whenever the process is, and what it has flushed is durable.
//! A power loss is therefore a copy of its files as they are at that moment, while it is open.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_engine::{EngineError, Memory, MemorySettings, RocksDbSettings, STEP, Steps};
use metastore_replica::disk::{CrashPolicy, DirLock, Disk, DiskFile, Result, SimulatedDisk};
use metastore_replica::{OpenEngine, Paths};

mod databases;
mod directory;

use databases::Databases;
use directory::Directory;

/// Bytes of a memtable in simulated runs, the least that RocksDB takes: little data is flushed and rewritten often.
const MEMTABLE_BYTES: usize = 64 << 10;

/// Where every member keeps its data: each has a machine of its own.
pub fn paths() -> Paths {
    Paths { data_dir: PathBuf::from("/data"), wal_dir: None }
}

/// The storage engine of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    #[default]
    Memory,
    RocksDb,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::RocksDb => "rocksdb",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Memory => Self::RocksDb,
            Self::RocksDb => Self::Memory,
        }
    }
}

/// The files of RocksDB on one machine, by their paths below the directory of the member.
pub trait Files: Send + Sync {
    /// The directories.
    fn directories(&self) -> Vec<String>;

    /// What is in a directory, if it can be listed.
    fn list(&self, path: &Path) -> Vec<String>;

    fn exists(&self, path: &Path) -> bool;

    fn remove_file(&self, path: &Path);

    fn remove_dir(&self, path: &Path);

    fn rename(&self, from: &Path, to: &Path);

    /// Opens a database, or makes one.
    fn open(
        &self,
        path: &Path,
        settings: RocksDbSettings,
    ) -> std::result::Result<Arc<dyn metastore_engine::Engine>, EngineError>;

    /// RocksDB rewrites files of the databases that are open, as it may at any time, and leaves out what nobody needs.
    fn rewrite(&self);

    /// What a crash leaves: what was not flushed is not in it.
    fn copy(&self) -> Arc<dyn Files>;

    /// Where the machine that runs the simulation has them.
    fn root(&self) -> Option<&Path>;
}

/// Disk and files. Clones are handles on the same.
#[derive(Clone)]
pub struct Machine {
    pub engine: Engine,
    /// Rows in a step of the storage engine.
    step_rows: usize,
    disk: SimulatedDisk,
    files: Arc<dyn Files>,
}

impl Machine {
    /// An empty one, on which RocksDB has real files.
    pub fn new(engine: Engine) -> Self {
        Self::with_files(engine, Arc::<Directory>::default())
    }

    /// The same with files in memory. Directories of RocksDB come and go as a whole there.
    pub fn in_memory(engine: Engine) -> Self {
        Self::with_files(engine, Arc::new(Databases::new()))
    }

    fn with_files(engine: Engine, files: Arc<dyn Files>) -> Self {
        Self { engine, step_rows: STEP, disk: SimulatedDisk::new(), files }
    }

    /// The same, whose storage engine takes steps of so many rows, and cuts up what it holds into pieces as small: four
    /// or more.
    pub fn in_steps_of(self, rows: usize) -> Self {
        Self { step_rows: rows, ..self }
    }

    /// As it is found after a power loss now.
    pub fn crash(&self, policy: CrashPolicy) -> Self {
        Self { disk: self.disk.crash(policy), files: self.files.copy(), engine: self.engine, step_rows: self.step_rows }
    }

    /// Another one in the same state, except that no process runs on it.
    pub fn fork(&self) -> Self {
        Self { disk: self.disk.fork(), files: self.files.copy(), engine: self.engine, step_rows: self.step_rows }
    }

    /// The same, to be started with another engine.
    pub fn with(&self, engine: Engine) -> Self {
        Self { engine, ..self.clone() }
    }

    /// Kills the process: what RocksDB has not flushed is gone. Returns the files that the dead process may still believe to
    /// be its own; to be dropped after it.
    pub fn kill(&mut self) -> Arc<dyn Files> {
        let copy = self.files.copy();
        std::mem::replace(&mut self.files, copy)
    }

    /// RocksDB rewrites files, as it may at any time, and leaves out what nobody needs.
    pub fn rewrite_files(&self) {
        self.files.rewrite();
    }

    /// Opens a storage engine in the directory `path` of this machine.
    pub fn open_engine(
        &self,
        engine: Engine,
        path: &Path,
    ) -> std::result::Result<Arc<dyn metastore_engine::Engine>, EngineError> {
        Ok(match engine {
            Engine::Memory => Arc::new(Memory::with(self.memory())),
            Engine::RocksDb => self.files.open(&Self::inside(path).expect("a directory of RocksDB"), self.rocksdb())?,
        })
    }

    fn memory(&self) -> MemorySettings {
        let usual = MemorySettings::default();
        let Some(steps) = self.steps() else { return usual };
        MemorySettings { steps, leaf_keys: self.step_rows, chunk_versions: self.step_rows }
    }

    /// Little memory: many are open at once.
    fn rocksdb(&self) -> RocksDbSettings {
        let usual = RocksDbSettings {
            block_cache_bytes: 1 << 20,
            max_open_files: 64,
            memtable_bytes: MEMTABLE_BYTES,
            ..RocksDbSettings::default()
        };
        RocksDbSettings { steps: self.steps().unwrap_or(usual.steps), ..usual }
    }

    /// Other steps than the usual ones.
    fn steps(&self) -> Option<Steps> {
        (self.step_rows < STEP).then_some(Steps { rows: self.step_rows, counted_keys: self.step_rows + 1 })
    }

    /// Opens that storage engine, wherever it is asked to.
    pub fn opener(&self, engine: Engine) -> OpenEngine {
        let machine = self.clone();
        Arc::new(move |path: &Path| machine.open_engine(engine, path))
    }

    /// The part of a path that leads into the files of RocksDB, if it does.
    fn inside(path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(paths().member()).ok()?;
        inside.to_str()?.starts_with("rocksdb").then(|| inside.to_owned())
    }

    /// Where a path of RocksDB really is.
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        Some(self.files.root()?.join(Self::inside(path)?))
    }

    /// The directories of RocksDB.
    pub fn directories(&self) -> Vec<String> {
        self.files.directories()
    }

    /// Counts an operation on files of RocksDB, which fails without power like any other.
    fn count(&self) -> Result<()> {
        self.disk.sync_dir(Path::new("/"))
    }

    /// Reads from files of RocksDB, as long as there is power.
    fn look<T>(&self, act: impl FnOnce() -> T) -> Result<T> {
        self.disk.exists(Path::new("/")).map(|_| act())
    }
}

impl Deref for Machine {
    type Target = SimulatedDisk;

    fn deref(&self) -> &SimulatedDisk {
        &self.disk
    }
}

/// The files of RocksDB for its paths; the double for all others.
impl Disk for Machine {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        assert!(Self::inside(path).is_none(), "RocksDB makes its directories itself");
        self.disk.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let Some(inside) = Self::inside(path) else {
            let mut names = self.disk.list(path)?;
            if path == paths().member() {
                names.extend(self.directories());
            }
            return Ok(names);
        };
        self.look(|| self.files.list(&inside))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let Some(inside) = Self::inside(path) else { return self.disk.remove_file(path) };
        self.count()?;
        self.files.remove_file(&inside);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        let Some(inside) = Self::inside(path) else { return self.disk.remove_dir(path) };
        self.count()?;
        self.files.remove_dir(&inside);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (Some(inside_from), Some(inside_to)) = (Self::inside(from), Self::inside(to)) else {
            return self.disk.rename(from, to);
        };
        self.count()?;
        self.files.rename(&inside_from, &inside_to);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        if Self::inside(path).is_some() { self.count() } else { self.disk.sync_dir(path) }
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>> {
        self.disk.lock_dir(path)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let Some(inside) = Self::inside(path) else { return self.disk.exists(path) };
        self.look(|| self.files.exists(&inside))
    }
}
