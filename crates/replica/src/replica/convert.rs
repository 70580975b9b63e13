//! Converting a stopped member to another engine.
//!
//! ```text
//!   start with the present engine, replay the log
//!   Memory to disk    stream the state into <engine>.converting, flush, rename to <engine>
//!   disk to Memory    flush; write .state and .snap; name them in the log
//!   identity.json names the other engine      this single step converts the member
//!   remove the files of the former engine
//! ```
//!
//! A conversion may be interrupted at any point. Then the member starts with the engine that the identity names, and
//! that start removes the remains of the conversion. Another conversion begins anew, or finds that nothing is left to
//! do. The log stays as it is, and so does the high-water mark of the state's size.

use std::io;
use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Usage};
use metastore_store::snapshot::{Incoming, SnapshotError, Source};

use super::{Fatal, Output, Replica, record_snapshot};
use crate::conf_state;
use crate::data_dir::{DataDir, Found, Identity, OpenError, Paths};
use crate::disk::Disk;
use crate::settings::Settings;
use crate::state::{ENGINES, Medium, OpenEngine, StateFile};

/// Bytes that a row takes in the stream in addition to its key and value.
const ROW_HEAD_BYTES: u64 = 9;

/// The result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The former engine.
    pub from: &'static str,
    /// The state holds the log up to this position.
    pub applied: Applied,
    /// The length of the state as a stream, in bytes.
    pub bytes: u64,
}

/// The reasons for which a member was not converted. It starts as before, unless the message names the identity.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Member(#[from] Fatal),
    #[error("the state cannot be copied: {0}")]
    Copy(#[from] SnapshotError),
}

impl From<crate::disk::DiskError> for ConvertError {
    fn from(error: crate::disk::DiskError) -> Self {
        Self::Open(error.into())
    }
}

impl From<EngineError> for ConvertError {
    fn from(error: EngineError) -> Self {
        Self::Open(error.into())
    }
}

/// Converts the stopped member in `paths` to the engine that `settings` names. `open` opens a storage engine, by its
/// name, in a directory. `progress` is called with the approximate number of copied bytes and their total. `None`: the
/// member has that engine already.
///
/// # Errors
/// [`ConvertError`] if there is no member, if it could not be started, or if the disk fails. The conversion may be
/// tried again.
pub fn convert(
    settings: Settings,
    disk: Arc<dyn Disk>,
    paths: Paths,
    open: impl Fn(&str, &Path) -> Result<Arc<dyn Engine>, EngineError> + Send + Sync + 'static,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<Converted>, ConvertError> {
    let (data, identity) = lock(disk, paths)?;
    let (to, target) = (Medium::of(settings.engine), settings.engine);
    if identity.engine == target {
        to.clear_others(&data)?;
        return Ok(None);
    }
    let from = present_engine(&data, &identity)?;
    let present = Settings { engine: from, ..settings };
    let open = Arc::new(open);
    let open_present = open.clone();
    let open_present = Arc::new(move |path: &Path| open_present(from, path));
    let mut replica = Replica::restart_stopped(present, data, identity, open_present)?;
    let (applied, bytes) = match to {
        Medium::Memory => replica.write_state_file(progress)?,
        Medium::Disk => replica.fill_engine(|path| open(target, path), progress)?,
    };
    let mut identity = Identity::new(target, replica.id, replica.cluster_id);
    identity.name_directory(replica.directory);
    replica.data.write_identity(&identity)?;
    // The engine is closed before its files are removed.
    let data = replica.into_data();
    to.clear_others(&data)?;
    Ok(Some(Converted { from, applied, bytes }))
}

/// The directory, locked, and its identity.
pub(super) fn lock(disk: Arc<dyn Disk>, paths: Paths) -> Result<(DataDir, Identity), OpenError> {
    let nothing = |path: &Path| OpenError::refused(path, "there is no member here to convert; check --data-dir");
    if !disk.exists(&paths.member())? {
        return Err(nothing(&paths.member()));
    }
    let mut data = DataDir::open(disk, paths)?;
    let identity = data.identity()?.ok_or_else(|| nothing(&data.identity_path()))?;
    match data.inspect(&identity.engine)? {
        Found::Empty => return Err(nothing(&data.identity_path())),
        Found::Member(_) => data.lock_log()?,
    }
    Ok((data, identity))
}

pub(super) fn present_engine(data: &DataDir, identity: &Identity) -> Result<&'static str, OpenError> {
    let known = ENGINES.into_iter().find(|known| *known == identity.engine);
    known.ok_or_else(|| {
        let why = format!("written by engine {:?}, which this version does not know", identity.engine);
        OpenError::refused(&data.identity_path(), why)
    })
}

/// The approximate length of the state as a stream, in bytes.
fn stream_bytes(usage: Usage) -> u64 {
    usage.bytes + usage.rows * ROW_HEAD_BYTES
}

impl Replica {
    /// A member that is only read or rewritten: it has all committed entries of its log, and never takes part in its
    /// cluster.
    pub(super) fn restart_stopped(
        settings: Settings,
        data: DataDir,
        identity: Identity,
        open: OpenEngine,
    ) -> Result<Self, ConvertError> {
        let (mut replica, _) = Self::restart(settings, data, (identity, true), open)?;
        // Jobs planned for a running member are not run here.
        replica.process(&mut Output::default())?;
        Ok(replica)
    }

    /// Writes the state as the snapshot from which a start on Memory begins.
    fn write_state_file(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(Applied, u64), ConvertError> {
        // The log will name this position, and may be released up to it. So the present engine must hold that position
        // durably, as long as it is the member's engine.
        self.engine.flush()?;
        let total = stream_bytes(self.engine.usage());
        let file = StateFile {
            disk: self.data.disk.clone(),
            dir: self.data.paths.snap(),
            source: self.store.snapshot()?,
            mark: self.engine.mark(),
            conf_state: conf_state::to_disk(&self.conf_state),
        };
        let written = file.write(&mut |done| progress(done.min(total), total))?;
        record_snapshot(&mut self.wal, &written).map_err(OpenError::from)?;
        Ok((written.applied, written.bytes))
    }

    /// Makes the state of an engine on disk. Until it is complete, its directory has a name that no start looks for.
    fn fill_engine(
        &self,
        open: impl FnOnce(&Path) -> Result<Arc<dyn Engine>, EngineError>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Applied, u64), ConvertError> {
        let (paths, disk) = (&self.data.paths, self.data.disk.as_ref());
        // The identity does not name such an engine, so these files are the remains of an earlier conversion.
        Medium::Memory.clear_others(&self.data)?;
        let engine = open(&paths.converting())?;
        let total = stream_bytes(self.engine.usage());
        let source = self.store.snapshot()?;
        let copied = copy(source, &engine, &mut |done| progress(done.min(total), total))?;
        // The high-water mark is not in the stream. It is stored with the next publish.
        engine.set_mark(self.engine.mark());
        engine.publish(engine.published())?;
        engine.flush()?;
        // The engine is closed before its directory is renamed.
        drop(engine);
        disk.rename(&paths.converting(), &paths.engine())?;
        disk.sync_dir(&paths.member())?;
        Ok(copied)
    }

    /// Closes the member, but keeps its directory locked.
    fn into_data(self) -> DataDir {
        self.data
    }
}

/// Copies the state into an empty engine, in constant memory. Returns its log position and the length of the stream.
fn copy(
    source: Source,
    engine: &Arc<dyn Engine>,
    progress: &mut dyn FnMut(u64),
) -> Result<(Applied, u64), SnapshotError> {
    let mut incoming = Incoming::new(engine.clone());
    let mut copied = 0;
    source.write(|piece| {
        copied += piece.len() as u64;
        progress(copied);
        incoming.take(piece).map_err(io::Error::other)
    })?;
    Ok((incoming.finish()?, copied))
}
