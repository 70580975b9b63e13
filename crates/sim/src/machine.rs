//! What a member runs on: the double of a disk, and for RocksDB, which knows nothing of doubles, a real directory beside it.
//!
//! RocksDB's own log is off, so what it has not flushed is gone whenever the process is, and what it has flushed is durable.
//! A power loss is therefore a copy of its files as they are at that moment, while it is open.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metastore_engine::{EngineError, Memory, MemorySettings, RocksDb, RocksDbSettings, STEP, Steps};
use metastore_replica::disk::{CrashPolicy, DirLock, Disk, DiskFile, Result, SimulatedDisk};
use metastore_replica::{OpenEngine, Paths};

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

/// Disk and files. Clones are handles on the same.
#[derive(Clone)]
pub struct Machine {
    pub engine: Engine,
    /// Rows in a step of the storage engine.
    step_rows: usize,
    disk: SimulatedDisk,
    files: Arc<Files>,
}

impl Machine {
    pub fn new(engine: Engine) -> Self {
        Self { engine, step_rows: STEP, disk: SimulatedDisk::new(), files: Arc::default() }
    }

    /// The same, whose storage engine takes steps of so many rows, and cuts up what it holds into pieces as small: four
    /// or more.
    pub fn in_steps_of(self, rows: usize) -> Self {
        Self { step_rows: rows, ..self }
    }

    /// As it is found after a power loss now.
    pub fn crash(&self, policy: CrashPolicy) -> Self {
        Self {
            disk: self.disk.crash(policy),
            files: Arc::new(self.files.copy()),
            engine: self.engine,
            step_rows: self.step_rows,
        }
    }

    /// Another one in the same state, except that no process runs on it.
    pub fn fork(&self) -> Self {
        Self {
            disk: self.disk.fork(),
            files: Arc::new(self.files.copy()),
            engine: self.engine,
            step_rows: self.step_rows,
        }
    }

    /// The same, to be started with another engine.
    pub fn with(&self, engine: Engine) -> Self {
        Self { engine, ..self.clone() }
    }

    /// Kills the process: what RocksDB has not flushed is gone. Returns the files that the dead process may still believe to
    /// be its own; to be dropped after it.
    pub fn kill(&mut self) -> Arc<Files> {
        let copy = Arc::new(self.files.copy());
        std::mem::replace(&mut self.files, copy)
    }

    /// Opens a storage engine in the directory `path` of this machine.
    pub fn open_engine(
        &self,
        engine: Engine,
        path: &Path,
    ) -> std::result::Result<Arc<dyn metastore_engine::Engine>, EngineError> {
        Ok(match engine {
            Engine::Memory => Arc::new(Memory::with(self.memory())),
            Engine::RocksDb => {
                let path = self.real(path).expect("a directory of RocksDB");
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                Arc::new(RocksDb::open(&path, self.rocksdb())?)
            }
        })
    }

    fn memory(&self) -> MemorySettings {
        let usual = MemorySettings::default();
        let Some(steps) = self.steps() else { return usual };
        MemorySettings { steps, leaf_keys: self.step_rows, chunk_versions: self.step_rows }
    }

    /// Little memory: many are open at once.
    fn rocksdb(&self) -> RocksDbSettings {
        let usual = RocksDbSettings { block_cache_bytes: 1 << 20, max_open_files: 64, ..RocksDbSettings::default() };
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

    /// Where a path of RocksDB really is.
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(paths().member()).ok()?;
        inside.to_str()?.starts_with("rocksdb").then(|| self.files.root.join(inside))
    }

    /// The directories of RocksDB.
    pub fn directories(&self) -> Vec<String> {
        if self.files.root.exists() { names(&self.files.root) } else { Vec::new() }
    }

    /// Counts an operation on the real directory, which fails without power like any other.
    fn count(&self) -> Result<()> {
        self.disk.sync_dir(Path::new("/"))
    }

    /// Reads from the real directory, as long as there is power.
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

/// The file system of the machine that runs the tests, for paths of RocksDB; the double for all others.
impl Disk for Machine {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        assert!(self.real(path).is_none(), "RocksDB makes its directories itself");
        self.disk.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let Some(real) = self.real(path) else {
            let mut names = self.disk.list(path)?;
            if path == paths().member() {
                names.extend(self.directories());
            }
            return Ok(names);
        };
        self.look(|| names(&real))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let Some(real) = self.real(path) else { return self.disk.remove_file(path) };
        self.count()?;
        fs::remove_file(real).unwrap();
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        let Some(real) = self.real(path) else { return self.disk.remove_dir(path) };
        self.count()?;
        fs::remove_dir(real).unwrap();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (Some(real_from), Some(real_to)) = (self.real(from), self.real(to)) else {
            return self.disk.rename(from, to);
        };
        self.count()?;
        fs::rename(real_from, real_to).unwrap();
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        if self.real(path).is_some() { self.count() } else { self.disk.sync_dir(path) }
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>> {
        self.disk.lock_dir(path)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let Some(real) = self.real(path) else { return self.disk.exists(path) };
        self.look(|| real.exists())
    }
}

/// A real directory that goes with its last handle.
pub struct Files {
    root: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("metastore-replica-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { root: scratch().join(name) }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.root);
    }
}

impl Files {
    /// A copy of one moment. RocksDB may work on its files meanwhile; then it is made again.
    fn copy(&self) -> Self {
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

/// In memory, where there is such a place: thousands of databases are made, and nothing here takes the power away from it.
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

/// Files by name, and how long they are; not RocksDB's notes, which tell nothing of the state.
fn sizes(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for directory in names(root) {
        let directory = root.join(directory);
        for name in names(&directory).into_iter().filter(|name| !name.starts_with("LOG")) {
            let path = directory.join(name);
            // It may be gone by now; then there is another look.
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
