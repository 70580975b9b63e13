//! `metastore convert`: converts a stopped member's directory to another storage engine.

use std::path::Path;
use std::sync::Arc;

use metastore_engine::EngineError;
use metastore_replica::disk::OsDisk;
use metastore_replica::{ConvertError, Paths, Settings};

use crate::config::{Conversion, EngineSettings};
use crate::descriptors::Descriptors;
use crate::engine;
use crate::progress::Progress;

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

/// Converts, shows the progress on stderr, and returns a line that says what was done.
///
/// # Errors
/// [`Failure`]; the member is as it was, or is converted already, and the same command may be given again.
pub fn run(conversion: &Conversion) -> Result<String, Failure> {
    let Conversion { data_dir, wal_dir, engine: target, quiet, .. } = conversion;
    // One of the two engines is on disk.
    let descriptors = Descriptors::share(conversion.rocksdb()).map_err(Failure::Settings)?;
    let rocksdb = conversion.rocksdb();
    let open = move |name: &str, path: &Path| open(rocksdb, name, path, descriptors);
    let paths = Paths { data_dir: data_dir.clone(), wal_dir: wal_dir.clone() };
    let settings = Settings::of_stopped(target.name());
    let mut progress = Progress::on_stderr(*quiet);
    let disk = Arc::new(OsDisk::new());
    let converted = metastore_replica::convert(settings, disk, paths, open, &mut |done, of| progress.report(done, of));
    progress.finish();
    let (at, to) = (data_dir.display(), target.name());
    Ok(match converted? {
        Some(done) => format!(
            "{at}: converted from {} to {to}, {} bytes up to log index {}",
            done.from, done.bytes, done.applied.index
        ),
        None => format!("{at}: the engine is {to} already, nothing was converted"),
    })
}

fn open(
    rocksdb: EngineSettings,
    name: &str,
    path: &Path,
    descriptors: Descriptors,
) -> Result<Arc<dyn metastore_engine::Engine>, EngineError> {
    let engine = if name == EngineSettings::Memory.name() { EngineSettings::Memory } else { rocksdb };
    engine::open(engine, path, descriptors)
}
