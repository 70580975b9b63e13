//! The machine of a member: a simulated disk, and separate files for RocksDB, which cannot use the simulated disk.
//! These are real files, or, faster, files in memory.
//!
//! RocksDB's own log is off. So its unflushed data is lost with the process, and its flushed data is durable. A power
//! loss is therefore a copy of its files at that moment, while it is open.

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

/// Bytes of a memtable, the minimum of RocksDB: even little data is flushed and rewritten often.
const MEMTABLE_BYTES: usize = 64 << 10;

/// The directories of every member: all are the same, because each member has its own machine.
pub fn paths() -> Paths {
    Paths { data_dir: PathBuf::from("/data"), wal_dir: None }
}

/// The storage engine of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    #[default]
    Memory,
    RocksDb,
}

impl EngineKind {
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
    /// The names of its directories.
    fn directories(&self) -> Vec<String>;

    /// The names of the entries of a directory; empty where files are removed together with their directory.
    fn list(&self, path: &Path) -> Vec<String>;

    fn exists(&self, path: &Path) -> bool;

    fn remove_file(&self, path: &Path);

    fn remove_dir(&self, path: &Path);

    fn rename(&self, from: &Path, to: &Path);

    /// Opens a database, and creates it if it does not exist.
    fn open(
        &self,
        path: &Path,
        settings: RocksDbSettings,
    ) -> std::result::Result<Arc<dyn metastore_engine::Engine>, EngineError>;

    /// RocksDB flushes the open databases, as it may at any time.
    fn flush(&self);

    /// RocksDB rewrites files of the open databases, as it may at any time, and leaves out data that is no longer
    /// needed.
    fn rewrite(&self);

    /// The files as a crash leaves them: unflushed data is not among them.
    fn copy(&self) -> Arc<dyn Files>;

    /// The real directory of these files; `None` if they are in memory.
    fn root(&self) -> Option<&Path>;
}

/// Disk and files. Clones are handles on the same machine.
#[derive(Clone)]
pub struct Machine {
    pub engine: EngineKind,
    /// Rows in a step of the storage engine.
    step_rows: usize,
    disk: SimulatedDisk,
    files: Arc<dyn Files>,
}

impl Machine {
    /// An empty machine with real files for RocksDB.
    pub fn new(engine: EngineKind) -> Self {
        Self::with_files(engine, Arc::<Directory>::default())
    }

    /// An empty machine with files in memory. Directories of RocksDB are created and removed there as a whole.
    pub fn in_memory(engine: EngineKind) -> Self {
        Self::with_files(engine, Arc::new(Databases::new()))
    }

    fn with_files(engine: EngineKind, files: Arc<dyn Files>) -> Self {
        Self { engine, step_rows: STEP, disk: SimulatedDisk::new(), files }
    }

    /// The same machine with steps of `rows` rows in its storage engine, which also divides its data into pieces of
    /// this size. `rows` is at least 4.
    pub fn in_steps_of(self, rows: usize) -> Self {
        Self { step_rows: rows, ..self }
    }

    /// The machine as it is found after a power loss now.
    pub fn crash(&self, policy: CrashPolicy) -> Self {
        Self { disk: self.disk.crash(policy), files: self.files.copy(), engine: self.engine, step_rows: self.step_rows }
    }

    /// Another machine in the same state, on which no process runs.
    pub fn fork(&self) -> Self {
        Self { disk: self.disk.fork(), files: self.files.copy(), engine: self.engine, step_rows: self.step_rows }
    }

    /// The same machine, to be started with another engine.
    pub fn with(&self, engine: EngineKind) -> Self {
        Self { engine, ..self.clone() }
    }

    /// Kills the process: unflushed data of RocksDB is lost. Returns the files that the dead process still holds open.
    /// They are to be dropped after the process.
    pub fn kill(&mut self) -> Arc<dyn Files> {
        let copy = self.files.copy();
        std::mem::replace(&mut self.files, copy)
    }

    /// RocksDB makes the published data durable, as it may at any time.
    pub fn flush_files(&self) {
        self.files.flush();
    }

    /// RocksDB rewrites files, as it may at any time, and leaves out data that is no longer needed.
    pub fn rewrite_files(&self) {
        self.files.rewrite();
    }

    /// Opens a storage engine in the directory `path` of this machine.
    pub fn open_engine(
        &self,
        engine: EngineKind,
        path: &Path,
    ) -> std::result::Result<Arc<dyn metastore_engine::Engine>, EngineError> {
        Ok(match engine {
            EngineKind::Memory => Arc::new(Memory::with(self.memory())),
            EngineKind::RocksDb => {
                self.files.open(&Self::inside(path).expect("a directory of RocksDB"), self.rocksdb())?
            }
        })
    }

    fn memory(&self) -> MemorySettings {
        let usual = MemorySettings::default();
        let Some(steps) = self.steps() else { return usual };
        MemorySettings { steps, leaf_keys: self.step_rows, chunk_versions: self.step_rows }
    }

    /// Settings with little memory: many databases are open at once.
    fn rocksdb(&self) -> RocksDbSettings {
        let usual = RocksDbSettings {
            block_cache_bytes: 1 << 20,
            max_open_files: 64,
            memtable_bytes: MEMTABLE_BYTES,
            ..RocksDbSettings::default()
        };
        RocksDbSettings { steps: self.steps().unwrap_or(usual.steps), ..usual }
    }

    /// The step sizes, if they are smaller than the default.
    fn steps(&self) -> Option<Steps> {
        let rows = self.step_rows;
        (rows < STEP).then_some(Steps { rows, counted_keys: rows + 1, compacted: rows })
    }

    /// A function that opens this storage engine in any directory of this machine.
    pub fn opener(&self, engine: EngineKind) -> OpenEngine {
        let machine = self.clone();
        Arc::new(move |path: &Path| machine.open_engine(engine, path))
    }

    /// The part of a path inside the files of RocksDB; `None` for other paths.
    fn inside(path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(paths().member()).ok()?;
        inside.to_str()?.starts_with("rocksdb").then(|| inside.to_owned())
    }

    /// The real place of a path of RocksDB.
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        Some(self.files.root()?.join(Self::inside(path)?))
    }

    /// The directories of RocksDB.
    pub fn directories(&self) -> Vec<String> {
        self.files.directories()
    }

    /// Counts an operation on files of RocksDB, which fails without power like any other operation.
    fn count(&self) -> Result<()> {
        self.disk.sync_dir(Path::new("/"))
    }

    /// Reads from files of RocksDB while there is power.
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

/// Paths of RocksDB lead to its files, all others to the simulated disk.
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
