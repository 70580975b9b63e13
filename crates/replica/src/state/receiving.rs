//! A state that another member sends, on its way to the disk and into an engine of its own.
//!
//! ```text
//!   begin(message) ─▶ take(piece) ... ─▶ finish ─▶ ReceivedState ─▶ Replica::state_received, on the engine thread
//!                        │
//!        Memory          ├▶ <term>-<index>.receiving, then .received        and a Memory engine
//!        on disk         └▶ rocksdb-<term>-<index>/
//! ```
//!
//! What arrives is checked as it comes, held in memory by the block, and durable at the end. It is nothing to the member until
//! it is installed: whatever goes wrong before that, it is removed, at the latest by the next start. The member goes on with
//! the state it has meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metastore_engine::{Applied, Engine, EngineError};
use metastore_proto::raftpb;
use metastore_store::Store;
use metastore_store::mvcc::Views;
use metastore_store::snapshot::{Incoming, SnapshotError};

use super::on_memory::{self, Out};
use super::retired::Retired;
use super::{Medium, OpenEngine, conf_state, on_disk};
use crate::data_dir::{DataDir, Paths, received_name};
use crate::disk::{Disk, DiskError};

/// More entries than there ever are; beyond, consensus would count over the end of its numbers.
const MAX_INDEX: u64 = u64::MAX >> 1;

/// Why a state was not received. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("not a message that comes with a state: {0}")]
    Message(String),
    #[error("the state is that at entry {index}, but this member has come to entry {applied}")]
    Stale { index: u64, applied: u64 },
    #[error("another state is being received, or waits to be taken up")]
    Busy,
    #[error("the state that arrives cannot be read: {0}")]
    Stream(#[from] SnapshotError),
    #[error("the state that arrived is not the one that was announced: {0}")]
    Mismatch(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ReceiveError {
    /// Whether the state is a database of etcd's.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Stream(SnapshotError::Foreign))
    }
}

/// Where states that other members send are received, one at a time; a handle for any thread.
#[derive(Clone)]
pub struct StateReceiver(Arc<Receiver>);

struct Receiver {
    /// Who receives.
    id: u64,
    disk: Arc<dyn Disk>,
    paths: Paths,
    medium: Medium,
    open: OpenEngine,
    views: Views,
    busy: AtomicBool,
}

/// The right to receive.
struct Turn(Arc<Receiver>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl StateReceiver {
    pub(crate) fn new(id: u64, data: &DataDir, medium: Medium, open: OpenEngine, views: Views) -> Self {
        let (disk, paths) = (data.disk.clone(), data.paths.clone());
        Self(Arc::new(Receiver { id, disk, paths, medium, open, views, busy: AtomicBool::new(false) }))
    }

    /// Makes room for the state that `message` (a `MsgSnap`) announces. Waits for the disk, as all that follows.
    ///
    /// # Errors
    /// [`ReceiveError`], among them [`ReceiveError::Busy`] and [`ReceiveError::Stale`]; the sender may try again.
    pub fn begin(&self, message: raftpb::Message) -> Result<StateIncoming, ReceiveError> {
        let (position, conf_state) = announced(self.0.id, &message)?;
        let applied = self.0.views.now().published().applied.index;
        if position.index <= applied {
            return Err(ReceiveError::Stale { index: position.index, applied });
        }
        if self.0.busy.swap(true, Ordering::AcqRel) {
            return Err(ReceiveError::Busy);
        }
        let turn = Turn(self.0.clone());
        let Receiver { disk, paths, open, .. } = &*self.0;
        let (files, out, engine) = match self.0.medium {
            Medium::Memory => {
                let path = on_memory::received(&paths.snap(), position, false);
                let files = Files::new(disk, path.clone(), on_memory::remove_file);
                let out = Out::create(disk.as_ref(), &path)?;
                (files, Some(out), open(&paths.snap())?)
            }
            Medium::Disk => {
                // The state of no member: that of this one is older, and so are those before it.
                let path = paths.member().join(received_name(position));
                on_disk::remove_dir(disk.as_ref(), &path)?;
                let files = Files::new(disk, path.clone(), on_disk::remove_dir);
                (files, None, open(&path)?)
            }
        };
        let stream = Some(Incoming::new(engine.clone()));
        Ok(StateIncoming { message, position, conf_state, stream, engine, out, files, turn })
    }
}

/// Position and members of the state that a message announces to member `id`.
fn announced(id: u64, message: &raftpb::Message) -> Result<(Applied, raftpb::ConfState), ReceiveError> {
    let kind = message.r#type.unwrap_or_default();
    if kind != raftpb::MessageType::MsgSnap as i32 {
        return Err(ReceiveError::Message(format!("its type is {kind}")));
    }
    let (to, from) = (message.to(), message.from());
    if to != id || from == id || from == 0 {
        return Err(ReceiveError::Message(format!(
            "from member {from:x} for member {to:x}, but this is member {id:x}"
        )));
    }
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone()).unwrap_or_default();
    let position = Applied { index: metadata.index(), term: metadata.term() };
    let conf_state = metadata.conf_state.unwrap_or_default();
    let Applied { index, term } = position;
    if index == 0 || index > MAX_INDEX || term == 0 || message.term() < term || conf_state.voters.is_empty() {
        let (now, voters) = (message.term(), conf_state.voters.len());
        let what = format!("in term {now} the state at entry {index} of term {term}, with {voters} voters");
        return Err(ReceiveError::Message(what));
    }
    conf_state::check(&conf_state).map_err(ReceiveError::Message)?;
    Ok((position, conf_state))
}

/// Files that go unless they are kept.
struct Files {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    remove: fn(&dyn Disk, &Path) -> Result<(), DiskError>,
    kept: bool,
}

impl Files {
    fn new(disk: &Arc<dyn Disk>, path: PathBuf, remove: fn(&dyn Disk, &Path) -> Result<(), DiskError>) -> Self {
        Self { disk: disk.clone(), path, remove, kept: false }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.kept {
            // A disk that fails here fails elsewhere, too; what is left is removed by the next start.
            let _ = (self.remove)(self.disk.as_ref(), &self.path);
        }
    }
}

/// A state that arrives. If it is dropped, or after an error, nothing of it is left.
pub struct StateIncoming {
    message: raftpb::Message,
    position: Applied,
    conf_state: raftpb::ConfState,
    // The engine is closed before its files go, and those before the next state may come.
    /// Until it is finished, or has failed.
    stream: Option<Incoming>,
    engine: Arc<dyn Engine>,
    /// Memory: the file.
    out: Option<Out>,
    files: Files,
    turn: Turn,
}

impl StateIncoming {
    /// The log position of the state.
    pub fn position(&self) -> Applied {
        self.position
    }

    /// Takes the next piece of the stream, of any size.
    ///
    /// # Errors
    /// If the stream is damaged or of another format, or the disk is full or fails. There is no going on after that.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), ReceiveError> {
        if let Some(out) = &mut self.out {
            out.write(piece)?;
        }
        let Some(mut stream) = self.stream.take() else {
            return Err(SnapshotError::Damaged("it goes on behind an error".into()).into());
        };
        stream.take(piece)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Says that the stream is over, and makes it durable.
    ///
    /// # Errors
    /// If the stream was cut short, or is not the state that was announced, or the disk fails.
    pub fn finish(mut self) -> Result<ReceivedState, ReceiveError> {
        // Until all is well, this stays whole, so that it goes in its own order.
        self.check()?;
        let store = Store::open(self.engine.clone())?;
        match self.out.take() {
            Some(out) => self.files.path = out.finish_as(self.files.disk.as_ref(), &self.files.path)?,
            None => {
                self.engine.flush()?;
                self.files.disk.sync_dir(self.files.path.parent().unwrap_or(Path::new("/")))?;
            }
        }
        let Self { message, position: applied, conf_state, engine, files, turn, .. } = self;
        Ok(ReceivedState { message, applied, conf_state, store, engine, files, _turn: turn })
    }

    /// What arrived must be whole, and what was announced.
    fn check(&mut self) -> Result<(), ReceiveError> {
        let (position, stream) = (self.position, self.stream.take());
        let applied = stream.map_or(Ok(Applied::default()), Incoming::finish)?;
        if applied != position {
            let what = format!(
                "it is at entry {} of term {}, not at entry {} of term {}",
                applied.index, applied.term, position.index, position.term
            );
            return Err(ReceiveError::Mismatch(what));
        }
        let found = conf_state::stored(|table, key| self.engine.get(table, key))?.map_err(ReceiveError::Mismatch)?;
        if !conf_state::same(&found, &self.conf_state) {
            let what = format!("its members are {found:?}, not {:?}", self.conf_state);
            return Err(ReceiveError::Mismatch(what));
        }
        Ok(())
    }
}

/// A state of another member, whole, checked and durable, that is not this member's yet. If it is dropped, its files go.
pub struct ReceivedState {
    /// What announced it; consensus decides whether it is taken up.
    pub(crate) message: raftpb::Message,
    pub(crate) applied: Applied,
    pub(crate) conf_state: raftpb::ConfState,
    store: Store,
    engine: Arc<dyn Engine>,
    files: Files,
    _turn: Turn,
}

impl ReceivedState {
    /// Its log position.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// It belongs to this member from now on.
    pub(crate) fn keep(self) -> (Store, Arc<dyn Engine>) {
        let Self { store, engine, mut files, .. } = self;
        files.kept = true;
        (store, engine)
    }

    /// Nobody wants it.
    pub(crate) fn retire(self) -> Retired {
        let Self { store, engine, mut files, .. } = self;
        drop(store);
        // On disk the directory may go only when the engine is closed; a file may go at once.
        files.kept = engine.outlives_process();
        let directory = files.kept.then(|| (files.disk.clone(), files.path.clone()));
        Retired { engine, directory }
    }
}
