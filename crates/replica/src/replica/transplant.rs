//! The directory of a member from the state and the log of another program, and the other way round: a backup is
//! restored, an etcd becomes a MetaStore, a MetaStore becomes an etcd.
//!
//! ```text
//!   backup          state ────────────────────────────▶ NewMember ─▶ a directory
//!   etcd's          state and the log behind it ──────▶     "
//!   ours            StoppedMember ─▶ state, and the log behind it ─▶ log and record of an etcd
//! ```
//!
//! A new directory is made at a place where no member looks for it; the caller renames it once it is whole. A log that
//! is read belongs to a stopped member: it is locked, and nothing in it is changed.
//!
//! Deliberately absent: databases of etcd (the caller reads and writes them), the choice of members.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_engine::{Applied, Engine};
use metastore_proto::raftpb;
use metastore_store::Store;
use metastore_store::snapshot::{Incoming, Source};

use super::Replica;
use super::convert::{ConvertError, lock, present_engine};
use crate::conf_state;
use crate::data_dir::{DataDir, Found, Identity, OpenError, Paths, write_durably};
use crate::disk::Disk;
use crate::settings::Settings;
use crate::state::{Arrival, Medium, OpenEngine, Out, ReceiveError, etcd_snap_file, on_memory};
use crate::wal::{self, Entry, Keep, Metadata, Wal};

/// The reasons for which no directory was made.
#[derive(Debug, thiserror::Error)]
pub enum TransplantError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    State(#[from] ReceiveError),
}

impl From<wal::WalError> for TransplantError {
    fn from(error: wal::WalError) -> Self {
        Self::Open(error.into())
    }
}

impl From<crate::disk::DiskError> for TransplantError {
    fn from(error: crate::disk::DiskError) -> Self {
        Self::Open(error.into())
    }
}

/// The end of a log behind a state.
#[derive(Clone, Debug)]
pub struct LogEnd {
    /// The member and its cluster.
    pub owner: Metadata,
    /// The position of the state.
    pub state: Applied,
    /// Term, vote and commit index.
    pub hard_state: raftpb::HardState,
    /// The entries behind the state, committed or not.
    pub entries: Vec<Entry>,
}

impl LogEnd {
    /// Reads the log of a stopped member behind the entry `index`, up to which its state holds everything. The caller
    /// locks the log ([`wal::lock`]).
    ///
    /// # Errors
    /// If the log is damaged, or does not hold that entry.
    pub fn read(disk: &dyn Disk, dir: &Path, index: u64) -> Result<Self, OpenError> {
        let (owner, snapshots) = wal::owner_and_snapshots(disk, dir)?;
        let usable = snapshots.iter().filter(|snapshot| snapshot.index() <= index);
        let newest = usable.max_by_key(|snapshot| snapshot.index());
        let from = newest.map_or((0, 0), |snapshot| (snapshot.index(), snapshot.term()));
        // The entry itself is kept, for its term.
        let keep = Keep { applied: index, entries: 1, bytes: usize::MAX };
        let replay = wal::peek(disk, dir, from, keep)?;
        let Some(term) = replay.term(index) else {
            let why = format!(
                "the log ends at entry {}, but the state holds entries up to {index}: acknowledged entries are \
                 missing. Take the log that belongs to the state",
                replay.last_index()
            );
            return Err(OpenError::refused(dir, why));
        };
        let entries: Vec<Entry> = replay.entries.into_iter().filter(|entry| entry.index > index).collect();
        // As in etcd, the commit index in the log may lag behind the state.
        let hard_state = raftpb::HardState {
            term: Some(replay.hard_state.term().max(term)),
            vote: Some(replay.hard_state.vote()),
            commit: Some(replay.hard_state.commit().max(index)),
        };
        Ok(Self { owner, state: Applied { index, term }, hard_state, entries })
    }
}

/// A directory under construction, whose member begins with a state.
pub struct NewMember {
    settings: Settings,
    data: DataDir,
    end: LogEnd,
    conf_state: raftpb::ConfState,
    state: Writing,
}

/// A state on its way to the disk. On Memory it is written to a file as it is: its member reads it at its start.
enum Writing {
    File { stream: Box<Incoming>, tables: Arc<dyn Engine>, out: Out, path: PathBuf },
    Engine(Box<Arrival>),
}

impl NewMember {
    /// Begins a directory for the member that `end` names, in a group of these members.
    ///
    /// # Errors
    /// If the directory is not empty, or the disk fails.
    pub fn begin(
        settings: Settings,
        disk: Arc<dyn Disk>,
        paths: Paths,
        (end, conf_state): (LogEnd, raftpb::ConfState),
        open: &OpenEngine,
    ) -> Result<Self, TransplantError> {
        let mut data = DataDir::open(disk, paths)?;
        if !matches!(data.inspect(settings.engine)?, Found::Empty) {
            return Err(OpenError::refused(&data.paths.member(), "the directory is not empty").into());
        }
        data.lock_log()?;
        data.disk.create_dir_all(&data.paths.snap())?;
        let state = match Medium::of(settings.engine) {
            Medium::Memory => {
                let path = on_memory::received(&data.paths.snap(), end.state, false);
                let tables = open(&data.paths.snap()).map_err(OpenError::from)?;
                let stream = Box::new(Incoming::checking(tables.clone()));
                Writing::File { stream, tables, out: Out::create_alone(data.disk.as_ref(), &path)?, path }
            }
            Medium::Disk => {
                let announced = (end.state, conf_state.clone());
                Writing::Engine(Box::new(Arrival::begin(&data.disk, &data.paths, Medium::Disk, open, announced)?))
            }
        };
        Ok(Self { settings, data, end, conf_state, state })
    }

    /// The position in the log that the state has to have.
    pub fn position(&self) -> Applied {
        self.end.state
    }

    /// Takes the next piece of the state, as a stream.
    ///
    /// # Errors
    /// If the stream is damaged, or the disk is full or fails.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), ReceiveError> {
        match &mut self.state {
            Writing::File { stream, out, .. } => {
                stream.take(piece)?;
                Ok(out.write(piece)?)
            }
            Writing::Engine(arrival) => arrival.take(piece),
        }
    }

    /// Ends the state, and writes log and identity. The directory is whole and durable afterwards.
    ///
    /// # Errors
    /// If the stream was cut short, or the disk is full or fails.
    pub fn finish(self) -> Result<(), TransplantError> {
        let Self { settings, mut data, end, conf_state, state } = self;
        match state {
            Writing::File { stream, tables, out, path } => {
                stream.finish().map_err(ReceiveError::from)?;
                // Users, leases and members can be read.
                Store::open(tables).map_err(ReceiveError::from)?;
                out.finish_as(data.disk.as_ref(), &path)?;
            }
            Writing::Engine(arrival) => arrival.finish()?.keep(),
        }
        write_log(&data, &settings, &end, &conf_state)?;
        let LogEnd { owner, state, .. } = end;
        let mut identity = Identity::new(settings.engine, owner.node_id, owner.cluster_id);
        identity.name_directory(settings.new_directory);
        data.write_identity(&identity)?;
        Medium::of(settings.engine).adopt(&mut data, state, &conf_state)?;
        Ok(())
    }
}

/// Writes a log that begins with a state.
fn write_log(
    data: &DataDir,
    settings: &Settings,
    end: &LogEnd,
    conf_state: &raftpb::ConfState,
) -> Result<(), wal::WalError> {
    let LogEnd { owner, state, hard_state, entries } = end;
    let empty = (raftpb::HardState::default(), Vec::new());
    let mut log = Wal::bootstrap(settings.log, data.disk.clone(), &data.paths.wal(), *owner, empty)?;
    let at_state = raftpb::HardState { commit: Some(state.index), ..*hard_state };
    log.replace_by_snapshot(state.index, state.term, conf_state.clone(), &at_state)?;
    log.append(Some(hard_state), entries.iter().cloned(), true)
}

/// A stopped member, opened to be read: its state with all committed entries of its log.
pub struct StoppedMember(Replica);

impl StoppedMember {
    /// Opens the member with its own engine, and applies its log.
    ///
    /// # Errors
    /// As a start.
    pub fn open(
        settings: Settings,
        disk: Arc<dyn Disk>,
        paths: Paths,
        open: impl FnOnce(&'static str) -> OpenEngine,
    ) -> Result<Self, ConvertError> {
        let (data, identity) = lock(disk, paths)?;
        let engine = present_engine(&data, &identity)?;
        let settings = Settings { engine, ..settings };
        Ok(Self(Replica::restart_stopped(settings, data, identity, open(engine))?))
    }

    pub fn store(&self) -> &Store {
        self.0.store()
    }

    pub fn owner(&self) -> Metadata {
        Metadata { node_id: self.0.id, cluster_id: self.0.cluster_id }
    }

    /// The state, up to which log position it says.
    ///
    /// # Errors
    /// If the medium fails.
    pub fn state(&self) -> Result<Source, ConvertError> {
        Ok(self.0.store.snapshot()?)
    }

    /// Writes log and record of an etcd that goes on from this state, beside the database, which the caller writes to
    /// `member/snap/db`. `v2_store` is the state of etcd's old store. The entries behind the state go along: this
    /// member may have promised them to others.
    ///
    /// # Errors
    /// If the directory is not empty, or the disk is full or fails.
    pub fn write_etcd(&self, disk: Arc<dyn Disk>, paths: Paths, v2_store: Vec<u8>) -> Result<(), TransplantError> {
        let state = self.0.store.applied();
        let own = &self.0.data;
        let end = LogEnd::read(own.disk.as_ref(), &own.paths.wal(), state.index)?;
        let data = DataDir::open(disk, paths)?;
        let conf_state = conf_state::to_disk(&self.0.conf_state);
        data.disk.create_dir_all(&data.paths.snap())?;
        let (name, record) = etcd_snap_file(state, &conf_state, v2_store);
        write_durably(data.disk.as_ref(), &data.paths.snap().join(name), &record)?;
        Ok(write_log(&data, &self.0.settings, &end, &conf_state)?)
    }
}
