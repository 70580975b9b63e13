//! What of the state outlives the process: how a start takes it up, and what makes the older part of the log superfluous.
//!
//! ```text
//!                            Memory                                       an engine on disk
//!   the state is in          <term>-<index>.state and .snap               the engine's own files
//!   it is as of              the newest snapshot that the log names       the engine's last flush, or one of its own since
//!   the log is read from     there                                        the newest position that the log names
//!   now and then, beside     a state file is written                      the engine is flushed
//!   the running member
//!   after that, on both      a record in the log names the position; then the segments before it go
//! ```
//!
//! On Memory the record names a snapshot, and the log behind it is applied. On disk it says how far the log may have been
//! released, and the state is there or further on: entries up to where it is are not applied again.
//!
//! The high-water mark of the state's size is kept beside it: in the `.snap`, or among the engine's rows. Entries that are applied
//! again raise it again, to the same. Where it fell, because the member was defragmented, is noted in a file, or the engine is flushed.
//!
//! A state that another member sends becomes this member's own: [`receiving`] brings it to the disk, and the essay of
//! `member/install.rs` says how it takes its place. [`sending`] is the other end.
//!
//! What is deliberately absent: threads. A [`SnapshotJob`] runs where its owner likes.

mod conf_state;
mod on_disk;
mod on_memory;
mod receiving;
mod retired;
mod sending;

use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Mark};
use metastore_proto::{raftpb, walpb};
use metastore_store::Store;
use raft::eraftpb::ConfState;

use crate::data_dir::{DataDir, OpenError, received_name};
use crate::disk::DiskError;
use crate::member::{Settings, conf_state_from_disk};
use crate::wal::Replay;

pub(crate) use on_memory::StateFile;
use on_memory::WritingState;
pub use receiving::{ReceiveError, ReceivedState, StateIncoming, StateReceiver};
pub use retired::Retired;
pub use sending::StateToSend;

/// Opens the storage engine in a directory, which only one that outlives the process needs; that one makes an empty state if there
/// is no such directory. A member has several states open while it receives one.
pub type OpenEngine = Arc<dyn Fn(&Path) -> Result<Arc<dyn Engine>, EngineError> + Send + Sync>;

/// The engines, by the names that stand in the identity.
pub const ENGINES: [&str; 2] = [MEMORY, "rocksdb"];
const MEMORY: &str = "memory";

/// Where an engine keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Memory,
    Disk,
}

/// Where a start begins.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The log is read from behind this entry; what is before it may be gone.
    pub log: Applied,
    /// The state holds the entries up to this one.
    pub applied: Applied,
    /// Who votes then.
    pub conf_state: ConfState,
    /// The high-water mark then, if neither the engine knows it nor it began with the state.
    pub mark: Option<Mark>,
    /// Behind which later entry the mark fell to what was in use; 0 if it did not.
    pub lowered: u64,
}

impl Medium {
    /// The medium of an engine, by its name.
    pub fn of(engine: &str) -> Self {
        if engine == MEMORY { Self::Memory } else { Self::Disk }
    }

    /// Opens the engine, where `log` is what the log is read from. In `data` it says which directory it is in.
    ///
    /// # Errors
    /// If its directory is missing although it cannot be made anew from the log, or as `open` says.
    pub fn open_engine(
        self,
        data: &mut DataDir,
        log: Applied,
        open: &OpenEngine,
    ) -> Result<Arc<dyn Engine>, OpenError> {
        let engine = match self {
            Self::Memory => open(&data.engine_path())?,
            Self::Disk => on_disk::open(data, log, open)?,
        };
        assert_eq!(engine.outlives_process(), self == Self::Disk, "the engine does not go by its own name");
        Ok(engine)
    }

    /// Finds out where to begin.
    ///
    /// # Errors
    /// If the state is missing, damaged, or older than the log allows.
    pub fn find(self, data: &DataDir, log: Applied, engine: &dyn Engine) -> Result<Start, OpenError> {
        match self {
            Self::Memory => {
                let lowered = on_memory::last_defragment(data)?;
                if log.index == 0 {
                    return Ok(Start { lowered, ..Start::default() });
                }
                let on_memory::Record { conf_state, mark } = on_memory::record(data, log)?;
                Ok(Start { log, applied: log, conf_state: conf_state_from_disk(&conf_state), mark, lowered })
            }
            Self::Disk => on_disk::find(data, log, engine),
        }
    }

    /// Checks the state against the log that was read, and puts it into the engine where it is not there yet.
    ///
    /// # Errors
    /// If the log lacks what the state says was there, or the state is damaged.
    pub fn take_up(
        self,
        data: &DataDir,
        start: &Start,
        replay: &Replay,
        engine: &Arc<dyn Engine>,
    ) -> Result<(), OpenError> {
        match self {
            Self::Memory => {
                on_memory::check_not_beyond(data, replay.last_index())?;
                if start.applied.index > 0 {
                    on_memory::load(data, start.applied, engine)?;
                }
                start.mark.iter().for_each(|mark| engine.set_mark(mark.clone()));
                Ok(())
            }
            Self::Disk => on_disk::check_log(data, start.applied, replay),
        }
    }

    /// Removes snapshots that nothing needs any more: all but `keep`.
    pub fn clear(self, data: &DataDir, keep: Applied) -> Result<(), DiskError> {
        match self {
            Self::Memory => on_memory::purge(data.disk.as_ref(), &data.paths.snap(), Some(keep)),
            Self::Disk => Ok(()),
        }
    }

    /// Removes what a conversion left: the state that another engine kept here, complete or not.
    pub fn clear_others(self, data: &DataDir) -> Result<(), DiskError> {
        match self {
            Self::Memory => on_disk::remove(data, None),
            Self::Disk => {
                on_disk::remove_unfinished(data)?;
                on_memory::remove_received(data)?;
                on_memory::purge(data.disk.as_ref(), &data.paths.snap(), None)
            }
        }
    }

    /// Removes what was received and not taken up, and states that this one has taken the place of. Only who knows for sure
    /// which state is the member's, and has finished the adoption of it, may do so.
    pub fn clear_received(self, data: &DataDir) -> Result<(), DiskError> {
        match self {
            Self::Memory => on_memory::remove_received(data),
            Self::Disk => on_disk::remove(data, Some(&data.engine)),
        }
    }

    /// Makes a state that was received the one with which a start begins, now that the log names it.
    ///
    /// # Errors
    /// If the disk fails; the next start does it again.
    pub fn adopt(self, data: &mut DataDir, applied: Applied, conf_state: &raftpb::ConfState) -> Result<(), OpenError> {
        match self {
            Self::Memory => Ok(on_memory::adopt(data, applied, conf_state)?),
            Self::Disk => data.move_state(received_name(applied)),
        }
    }

    /// Whether [`Medium::finish_adoption`] has something to do.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn has_to_adopt(self, data: &DataDir, newest: &Named) -> Result<bool, OpenError> {
        let may_have_to = self == Self::Memory && newest.conf_state.is_some();
        Ok(may_have_to && on_memory::is_to_be_adopted(data, newest.applied)?)
    }

    /// What a start does first: finishes what [`Medium::adopt`] had not got to when a crash came. The record that names
    /// the state must be durable.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish_adoption(self, data: &DataDir, newest: &Named) -> Result<(), OpenError> {
        match (self, &newest.conf_state) {
            (Self::Memory, Some(conf_state)) => Ok(on_memory::adopt(data, newest.applied, conf_state)?),
            // On disk the identity follows once it is sure which state it is.
            _ => Ok(()),
        }
    }

    /// How many bytes the log may grow before a job is due.
    pub fn due_bytes(self, settings: &Settings, state_bytes: u64) -> u64 {
        match self {
            Self::Memory => settings.snapshot_log_bytes.max(state_bytes),
            Self::Disk => settings.flush_log_bytes,
        }
    }

    /// What makes the published state durable, beside the running member.
    pub fn job(
        self,
        data: &DataDir,
        (store, engine): (&Store, &Arc<dyn Engine>),
        conf_state: raftpb::ConfState,
    ) -> Result<SnapshotJob, EngineError> {
        Ok(SnapshotJob(match self {
            Self::Memory => {
                let (disk, dir, mark) = (data.disk.clone(), data.paths.snap(), engine.mark());
                let file = StateFile { disk, dir, source: store.snapshot()?, mark, conf_state };
                Work::Write(Box::new(WritingState::new(file)))
            }
            Self::Disk => Work::Flush { engine: engine.clone(), applied: engine.published().applied, conf_state },
        }))
    }

    /// What makes a mark durable that fell behind the last entry that was published.
    pub fn mark_job(self, data: &DataDir, engine: &Arc<dyn Engine>) -> MarkJob {
        let (disk, dir, engine) = (data.disk.clone(), data.paths.snap(), engine.clone());
        match self {
            Self::Memory => {
                let applied = engine.published().applied;
                Box::new(move || Ok(on_memory::note_defragment(disk.as_ref(), &dir, applied)?))
            }
            // So that nothing older is replayed.
            Self::Disk => Box::new(move || Ok(engine.flush().map(drop)?)),
        }
    }
}

/// Makes durable that the mark fell, on whatever thread calls it, and waits for the medium meanwhile. If that fails, the member
/// must stop.
pub type MarkJob = Box<dyn FnOnce() -> Result<(), OpenError> + Send>;

/// The newest position that a log names; zero if it names none.
#[derive(Default)]
pub struct Named {
    pub applied: Applied,
    conf_state: Option<raftpb::ConfState>,
}

impl Named {
    pub fn newest(named: &[walpb::Snapshot]) -> Self {
        let newest = named.iter().max_by_key(|record| record.index());
        let of = |record: &walpb::Snapshot| Self {
            applied: Applied { index: record.index(), term: record.term() },
            conf_state: record.conf_state.clone(),
        };
        newest.map(of).unwrap_or_default()
    }
}

/// The published state, to be made durable; [`SnapshotJob::run`] does it on whatever thread calls it.
pub struct SnapshotJob(Work);

enum Work {
    /// Memory: a state file is written.
    Write(Box<WritingState>),
    /// On disk: the engine is flushed. By then it may have published more than what is noted here.
    Flush { engine: Arc<dyn Engine>, applied: Applied, conf_state: raftpb::ConfState },
}

/// The state up to a log position is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotWritten {
    pub applied: Applied,
    /// The length of the state file; 0 where the engine keeps the state itself.
    pub bytes: u64,
    pub(crate) conf_state: raftpb::ConfState,
}

impl SnapshotJob {
    /// Makes the state durable, and waits for the medium meanwhile.
    ///
    /// # Errors
    /// If a write or sync fails; the member must stop.
    pub fn run(mut self) -> Result<SnapshotWritten, OpenError> {
        loop {
            if let Some(written) = self.step()? {
                return Ok(written);
            }
        }
    }

    /// Does a part of that, and says so when the state is durable. The member may go on between two parts.
    ///
    /// # Errors
    /// As [`SnapshotJob::run`].
    pub fn step(&mut self) -> Result<Option<SnapshotWritten>, OpenError> {
        match &mut self.0 {
            Work::Write(writing) => writing.step(),
            Work::Flush { engine, applied, conf_state } => {
                let flushed = engine.flush()?;
                assert!(flushed.index >= applied.index, "flushed entry {} of {}", flushed.index, applied.index);
                Ok(Some(SnapshotWritten { applied: *applied, bytes: 0, conf_state: conf_state.clone() }))
            }
        }
    }
}
