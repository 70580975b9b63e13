//! Converting a stopped member to another engine.
//!
//! ```text
//!   start with the present engine, replay the log
//!   Memory to disk    stream the state into <engine>.converting, flush, rename to <engine>
//!   disk to Memory    flush; write .state and .snap; name them in the log
//!   identity.json names the other engine      the one moment at which the member is converted
//!   remove what the engine before kept
//! ```
//!
//! Whenever it is cut off, the member starts with the engine that the identity names, and that start removes what the
//! conversion left; another conversion begins anew, or finds that nothing is left to do. The log stays as it is, and so does the
//! high-water mark of the state's size.

use std::io;
use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Usage};
use metastore_store::snapshot::{Incoming, SnapshotError, Source};

use super::{Fatal, Output, Replica, Settings, conf_state_to_disk, record_snapshot};
use crate::data_dir::{DataDir, Found, Identity, OpenError, Paths};
use crate::disk::Disk;
use crate::state::{ENGINES, Medium, StateFile};

/// What a row takes in the stream beside its key and value.
const ROW_HEAD_BYTES: u64 = 9;

/// A member that was converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The engine that it had.
    pub from: &'static str,
    /// The state holds the log up to here.
    pub applied: Applied,
    /// The length of the state as a stream, in bytes.
    pub bytes: u64,
}

/// Why a member was not converted. It starts as before, unless the message names the identity.
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

/// Converts the stopped member in `paths` to the engine that `settings` names. `open` opens a storage engine, by its name, in
/// a directory. `progress` is told how many bytes of how many are copied, about. `None`: the member has that engine already.
///
/// # Errors
/// [`ConvertError`] if there is no member, if it could not be started, or if the disk fails; it may be tried again.
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
    let (mut replica, _) = Replica::restart(present, data, (identity, true), open_present)?;
    // What is planned for a running member is not done here.
    replica.process(&mut Output::default())?;
    let (applied, bytes) = match to {
        Medium::Memory => replica.write_state_file(progress)?,
        Medium::Disk => replica.fill_engine(|path| open(target, path), progress)?,
    };
    let mut identity = Identity::new(target, replica.id, replica.cluster_id);
    identity.name_directory(replica.directory);
    replica.data.write_identity(&identity)?;
    // The engine is closed before its files go.
    let data = replica.into_data();
    to.clear_others(&data)?;
    Ok(Some(Converted { from, applied, bytes }))
}

/// The directory, locked, and whose it is.
fn lock(disk: Arc<dyn Disk>, paths: Paths) -> Result<(DataDir, Identity), OpenError> {
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

fn present_engine(data: &DataDir, identity: &Identity) -> Result<&'static str, OpenError> {
    let known = ENGINES.into_iter().find(|known| *known == identity.engine);
    known.ok_or_else(|| {
        let why = format!("written by engine {:?}, which this version does not know", identity.engine);
        OpenError::refused(&data.identity_path(), why)
    })
}

/// About how long the state is as a stream.
fn stream_bytes(usage: Usage) -> u64 {
    usage.bytes + usage.rows * ROW_HEAD_BYTES
}

impl Replica {
    /// Writes the state as the snapshot that a start on Memory begins with.
    fn write_state_file(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(Applied, u64), ConvertError> {
        // The log will name this position, and what is before it need not be in the log any more: so it must be in the
        // present engine, as long as that is the member's.
        self.engine.flush()?;
        let total = stream_bytes(self.engine.usage());
        let file = StateFile {
            disk: self.data.disk.clone(),
            dir: self.data.paths.snap(),
            source: self.store.snapshot()?,
            mark: self.engine.mark(),
            conf_state: conf_state_to_disk(&self.conf_state),
        };
        let written = file.write(&mut |done| progress(done.min(total), total))?;
        record_snapshot(&mut self.wal, &written).map_err(OpenError::from)?;
        Ok((written.applied, written.bytes))
    }

    /// Makes the state of an engine on disk, under a name that no start looks for until it is complete.
    fn fill_engine(
        &self,
        open: impl FnOnce(&Path) -> Result<Arc<dyn Engine>, EngineError>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Applied, u64), ConvertError> {
        let (paths, disk) = (&self.data.paths, self.data.disk.as_ref());
        // The identity does not name such an engine, so this is what an earlier conversion left.
        Medium::Memory.clear_others(&self.data)?;
        let engine = open(&paths.converting())?;
        let total = stream_bytes(self.engine.usage());
        let source = self.store.snapshot()?;
        let copied = copy(source, &engine, &mut |done| progress(done.min(total), total))?;
        // The mark is not in the stream. It is stored with what is published next.
        engine.set_mark(self.engine.mark());
        engine.publish(engine.published())?;
        engine.flush()?;
        // Closed, before it gets another name.
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

/// Copies the state into an empty engine, in constant memory; returns its log position and how long the stream was.
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
