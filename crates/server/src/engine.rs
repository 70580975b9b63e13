//! Opens the storage engine that was asked for.

use std::path::Path;
use std::sync::Arc;

use metastore_engine::{EngineError, Memory};
use metastore_replica::OpenEngine;

use crate::config::EngineSettings;
use crate::descriptors::Descriptors;

/// Opens the engine at any path: a member has a second state open while another member sends it one.
pub fn opener(engine: EngineSettings, descriptors: Descriptors) -> OpenEngine {
    Arc::new(move |path: &Path| open(engine, path, descriptors))
}

/// Opens the engine in the directory `path`, which only an engine on disk uses.
///
/// # Errors
/// If the files there cannot be read, or if the engine was not built in.
pub fn open(
    engine: EngineSettings,
    path: &Path,
    descriptors: Descriptors,
) -> Result<Arc<dyn metastore_engine::Engine>, EngineError> {
    match engine {
        EngineSettings::Memory => Ok(Arc::new(Memory::new())),
        EngineSettings::RocksDb { block_cache_bytes } => on_disk(path, block_cache_bytes, descriptors.engine_files),
    }
}

#[cfg(feature = "rocksdb")]
fn on_disk(
    path: &Path,
    block_cache_bytes: usize,
    max_open_files: u32,
) -> Result<Arc<dyn metastore_engine::Engine>, EngineError> {
    use metastore_engine::{RocksDb, RocksDbSettings};
    let settings = RocksDbSettings { block_cache_bytes, max_open_files, ..RocksDbSettings::default() };
    Ok(Arc::new(RocksDb::open(path, settings)?))
}

/// The settings refuse the engine before anything is opened.
#[cfg(not(feature = "rocksdb"))]
fn on_disk(path: &Path, _: usize, _: u32) -> Result<Arc<dyn metastore_engine::Engine>, EngineError> {
    Err(EngineError(format!("{}: this metastore was built without RocksDB", path.display())))
}
