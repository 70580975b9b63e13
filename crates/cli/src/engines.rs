//! The storage engines of data directories.

use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Engine, EngineError, Memory};
use metastore_replica::{OpenEngine, Settings};

use crate::arguments::EngineName;
use crate::failure::{Done, Failure};

/// The names of the engines in data directories.
const MEMORY: &str = "memory";
const ROCKSDB: &str = "rocksdb";

/// The settings with which directories of this engine are read and made.
pub fn settings(engine: EngineName) -> Done<Settings> {
    let name = match engine {
        EngineName::Memory => MEMORY,
        EngineName::Rocksdb if cfg!(feature = "rocksdb") => ROCKSDB,
        EngineName::Rocksdb => return Err(Failure::arguments("this metactl was built without RocksDB")),
    };
    let mut settings = Settings::of_stopped(name);
    let mut directory = [0; 8];
    aws_lc_rs::rand::fill(&mut directory).map_err(|_| Failure::new("the system gives no random numbers"))?;
    settings.new_directory = Some(u64::from_le_bytes(directory));
    Ok(settings)
}

/// Opens the engine of this name.
pub fn opener(name: &'static str) -> OpenEngine {
    Arc::new(move |path: &Path| open(name, path))
}

fn open(name: &str, path: &Path) -> Result<Arc<dyn Engine>, EngineError> {
    if name == MEMORY { Ok(Arc::new(Memory::new())) } else { on_disk(path) }
}

#[cfg(feature = "rocksdb")]
fn on_disk(path: &Path) -> Result<Arc<dyn Engine>, EngineError> {
    use metastore_engine::{RocksDb, RocksDbSettings};
    /// Fewer than the limit that most systems set.
    const OPEN_FILES: u32 = 512;
    let settings = RocksDbSettings { max_open_files: OPEN_FILES, ..RocksDbSettings::default() };
    Ok(Arc::new(RocksDb::open(path, settings)?))
}

#[cfg(not(feature = "rocksdb"))]
fn on_disk(path: &Path) -> Result<Arc<dyn Engine>, EngineError> {
    Err(EngineError(format!("{}: this metactl was built without RocksDB", path.display())))
}
