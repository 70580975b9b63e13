//! A state that another member sends, written to the disk and loaded into an engine of its own.
//!
//! ```text
//!   begin(message) ─▶ take(piece) ... ─▶ finish ─▶ ReceivedState ─▶ Replica::state_received, on the engine thread
//!                        │
//!        Memory          ├▶ <term>-<index>.receiving, then .received        and a Memory engine
//!        on disk         └▶ rocksdb-<term>-<index>/
//! ```
//!
//! The stream is checked as it arrives, held in memory one block at a time, and durable at the end. It has no effect on
//! the member until it is installed. If anything fails before that, its files are removed, at the latest by the next
//! start. The member goes on with its present state until then.

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

/// No log holds so many entries. Up to this index, the arithmetic of consensus stays within its type.
const MAX_INDEX: u64 = u64::MAX >> 1;

/// The reasons for which a state was not received. All its files are removed.
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

/// Receives states that other members send, one at a time; a handle for any thread.
#[derive(Clone)]
pub struct StateReceiver(Arc<Receiver>);

struct Receiver {
    /// The id of this member.
    id: u64,
    disk: Arc<dyn Disk>,
    paths: Paths,
    medium: Medium,
    open: OpenEngine,
    views: Views,
    busy: AtomicBool,
}

/// The right to receive a state; only one exists at a time.
struct Turn(Arc<Receiver>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl StateReceiver {
    /// The directory of this member's states, for files that are needed while a state arrives.
    pub fn directory(&self) -> PathBuf {
        self.0.paths.snap()
    }

    pub(crate) fn new(id: u64, data: &DataDir, medium: Medium, open: OpenEngine, views: Views) -> Self {
        let (disk, paths) = (data.disk.clone(), data.paths.clone());
        Self(Arc::new(Receiver { id, disk, paths, medium, open, views, busy: AtomicBool::new(false) }))
    }

    /// Prepares for the state that `message` (a `MsgSnap`) announces. Waits for the disk, as do all later calls.
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
        let Receiver { disk, paths, medium, open, .. } = &*self.0;
        let arrival = Arrival::begin(disk, paths, *medium, open, (position, conf_state))?;
        Ok(StateIncoming { message, arrival, turn })
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

/// Files that are removed on drop unless they are kept.
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
            // A disk that fails here fails elsewhere, too; the next start removes the remaining files.
            let _ = (self.remove)(self.disk.as_ref(), &self.path);
        }
    }
}

/// A state that another member sends. When it is dropped, or after an error, all its files are removed.
pub struct StateIncoming {
    message: raftpb::Message,
    // The files are removed before the next state may arrive.
    arrival: Arrival,
    turn: Turn,
}

impl StateIncoming {
    /// The log position of the state.
    pub fn position(&self) -> Applied {
        self.arrival.position
    }

    /// The members of the group at that position.
    pub fn conf_state(&self) -> &raftpb::ConfState {
        &self.arrival.conf_state
    }

    /// Takes the next piece of the stream, of any size.
    ///
    /// # Errors
    /// If the stream is damaged or of another format, or the disk is full or fails. Every later call fails, too.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), ReceiveError> {
        self.arrival.take(piece)
    }

    /// Ends the stream, and makes the state durable.
    ///
    /// # Errors
    /// If the stream was cut short, or is not the state that was announced, or the disk fails.
    pub fn finish(self) -> Result<ReceivedState, ReceiveError> {
        let Self { message, arrival, turn } = self;
        let (applied, conf_state) = (arrival.position, arrival.conf_state.clone());
        let Arrived { store, engine, files } = arrival.finish()?;
        Ok(ReceivedState { message, applied, conf_state, store, engine, files, _turn: turn })
    }
}

/// A state that is arriving, as a stream, at the place where a member would look for it. When it is dropped, or after
/// an error, all its files are removed.
pub(crate) struct Arrival {
    position: Applied,
    conf_state: raftpb::ConfState,
    // The fields are dropped in this order: the engine is closed before its files are removed.
    /// `None` once the stream is finished or has failed.
    stream: Option<Incoming>,
    engine: Arc<dyn Engine>,
    /// Memory: the file.
    out: Option<Out>,
    files: Files,
}

/// A state that has arrived, durably. A drop removes its files.
pub(crate) struct Arrived {
    store: Store,
    engine: Arc<dyn Engine>,
    files: Files,
}

impl Arrival {
    /// Prepares for the state at a position, in a group of these members.
    pub fn begin(
        disk: &Arc<dyn Disk>,
        paths: &Paths,
        medium: Medium,
        open: &OpenEngine,
        (position, conf_state): (Applied, raftpb::ConfState),
    ) -> Result<Self, ReceiveError> {
        let (files, out, engine) = match medium {
            Medium::Memory => {
                let path = on_memory::received(&paths.snap(), position, false);
                let files = Files::new(disk, path.clone(), on_memory::remove_file);
                let out = Out::create(disk.as_ref(), &path)?;
                (files, Some(out), open(&paths.snap())?)
            }
            Medium::Disk => {
                // A directory of this name is not in use: this member's states are at lower positions.
                let path = paths.member().join(received_name(position));
                on_disk::remove_dir(disk.as_ref(), &path)?;
                let files = Files::new(disk, path.clone(), on_disk::remove_dir);
                (files, None, open(&path)?)
            }
        };
        let stream = Some(Incoming::new(engine.clone()));
        Ok(Self { position, conf_state, stream, engine, out, files })
    }

    /// As [`StateIncoming::take`].
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

    /// As [`StateIncoming::finish`].
    pub fn finish(mut self) -> Result<Arrived, ReceiveError> {
        // `self` stays whole until the checks have passed, so that an error drops its fields in their order.
        self.check()?;
        let store = Store::open(self.engine.clone())?;
        match self.out.take() {
            Some(out) => self.files.path = out.finish_as(self.files.disk.as_ref(), &self.files.path)?,
            None => {
                self.engine.flush()?;
                self.files.disk.sync_dir(self.files.path.parent().unwrap_or(Path::new("/")))?;
            }
        }
        let Self { engine, files, .. } = self;
        Ok(Arrived { store, engine, files })
    }

    /// Checks that the state is complete, and is the one that was announced.
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

impl Arrived {
    /// Closes the state; its files stay.
    pub fn keep(self) {
        let Self { store, engine, mut files } = self;
        files.kept = true;
        drop((store, engine));
    }
}

/// A complete, checked and durable state of another member, not installed yet. A drop removes its files.
pub struct ReceivedState {
    /// The message that announced the state; consensus decides whether the state is installed.
    pub(crate) message: raftpb::Message,
    pub(crate) applied: Applied,
    pub(crate) conf_state: raftpb::ConfState,
    store: Store,
    engine: Arc<dyn Engine>,
    files: Files,
    _turn: Turn,
}

impl ReceivedState {
    /// The log position of the state.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// Hands the state over to this member; its files stay.
    pub(crate) fn keep(self) -> (Store, Arc<dyn Engine>) {
        let Self { store, engine, mut files, .. } = self;
        files.kept = true;
        (store, engine)
    }

    /// Hands the state over to be removed: it was not installed.
    pub(crate) fn retire(self) -> Retired {
        let Self { store, engine, mut files, .. } = self;
        drop(store);
        // On disk the directory may be removed only after the engine is closed; a file may be removed at once.
        files.kept = engine.outlives_process();
        let directory = files.kept.then(|| (files.disk.clone(), files.path.clone()));
        Retired { engine, directory }
    }
}
