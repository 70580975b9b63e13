//! The durable state of a member: how a start loads it, and when older parts of the log are no longer needed.
//!
//! ```text
//!                            Memory                                       an engine on disk
//!   the state is in          <term>-<index>.state and .snap               the engine's own files
//!   its position is          the newest snapshot that the log names       the engine's last flush, a job's or its own
//!   the log is read from     that snapshot                                the newest position that the log names
//!   a job, beside the        writes a state file                          flushes the engine
//!   running member
//!   after the job            a record in the log names the position; then the segments before it are removed
//! ```
//!
//! On Memory the record names a snapshot, and the entries after it are applied at the start. On disk the record says
//! how far the log may have been released, and the state is at that position or later. Entries up to the position of
//! the state are not applied again.
//!
//! The high-water mark of the state's size is stored with it: in the `.snap`, or among the engine's rows. Entries that
//! are applied again raise it again, to the same value. When the member is defragmented, the high-water mark falls. Its
//! position is then recorded in a file, or the engine is flushed.
//!
//! A state that another member sends becomes this member's own: [`receiving`] writes it to the disk, and the essay of
//! `member/install.rs` describes how it is installed. [`sending`] is the other end.
//!
//! Deliberately absent: threads. The owner of a [`SnapshotJob`] decides where it runs.

mod conf_state;
mod on_disk;
pub(crate) mod on_memory;
mod receiving;
mod retired;
mod sending;

use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, HighWaterMark};
use metastore_proto::{raftpb, walpb};
use metastore_store::Store;
use raft::eraftpb::ConfState;

use crate::data_dir::{DataDir, OpenError, received_name};
use crate::disk::DiskError;
use crate::settings::Settings;
use crate::wal::Replay;

pub(crate) use on_memory::Out;
use on_memory::WritingState;
pub(crate) use on_memory::{StateFile, etcd_snap_file};
pub(crate) use receiving::Arrival;
pub use receiving::{ReceiveError, ReceivedState, StateIncoming, StateReceiver};
pub use retired::Retired;
pub use sending::StateToSend;

/// Opens the storage engine in a directory. Only an engine that outlives the process uses the directory; it makes an
/// empty state if the directory does not exist. While a member receives a state, it has several engines open.
pub type OpenEngine = Arc<dyn Fn(&Path) -> Result<Arc<dyn Engine>, EngineError> + Send + Sync>;

/// The names of the engines, as they stand in the identity.
pub const ENGINES: [&str; 2] = [MEMORY, "rocksdb"];
const MEMORY: &str = "memory";

/// The medium on which an engine keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Memory,
    Disk,
}

/// The positions from which a start begins.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The log is read from this entry on, exclusive; earlier entries may have been released.
    pub log: Applied,
    /// The state holds the entries up to this one.
    pub applied: Applied,
    /// The members at `applied`.
    pub conf_state: ConfState,
    /// The high-water mark at `applied`. `None` if the engine stores it, or if it starts at the size of the state.
    pub mark: Option<HighWaterMark>,
    /// The last entry after which a defragmentation lowered the high-water mark to the size in use, or 0.
    pub lowered: u64,
}

/// The disk of the state is short of space: the log is to be released early, but no file is begun that does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    pub free_bytes: u64,
    /// Whether what can be freed is to be freed, however little.
    pub wanted: bool,
}

impl Medium {
    /// The medium of an engine, by its name.
    pub fn of(engine: &str) -> Self {
        if engine == MEMORY { Self::Memory } else { Self::Disk }
    }

    /// Opens the engine; `log` is the position from which the log is read. Notes the engine's directory in `data`.
    ///
    /// # Errors
    /// If the directory is missing although the log cannot rebuild its content, or as `open` does.
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

    /// Finds the positions from which a start begins.
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
                Ok(Start { log, applied: log, conf_state: crate::conf_state::from_disk(&conf_state), mark, lowered })
            }
            Self::Disk => on_disk::find(data, log, engine),
        }
    }

    /// Checks the state against the log that was read. On Memory, loads it into the engine.
    ///
    /// # Errors
    /// If the log lacks entries that the state was made from, or the state is damaged.
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

    /// Removes snapshots that are no longer needed: all but `keep`.
    pub fn clear(self, data: &DataDir, keep: Applied) -> Result<(), DiskError> {
        match self {
            Self::Memory => on_memory::purge(data.disk.as_ref(), &data.paths.snap(), Some(keep)),
            Self::Disk => Ok(()),
        }
    }

    /// Removes the remains of a conversion: the state that another engine kept here, complete or not.
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

    /// Removes received states that were not installed, and states that have been replaced. Call it only when it is
    /// certain which state is the member's, and when its adoption is finished.
    pub fn clear_received(self, data: &DataDir) -> Result<(), DiskError> {
        match self {
            Self::Memory => on_memory::remove_received(data),
            Self::Disk => on_disk::remove(data, Some(&data.engine)),
        }
    }

    /// Makes a received state the one from which the next start begins; the log names it already.
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

    /// The first step of a start: finishes an [`Medium::adopt`] that a crash interrupted. The record that names the
    /// state must be durable.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish_adoption(self, data: &DataDir, newest: &Named) -> Result<(), OpenError> {
        match (self, &newest.conf_state) {
            (Self::Memory, Some(conf_state)) => Ok(on_memory::adopt(data, newest.applied, conf_state)?),
            // On disk, the identity is changed later, once it is certain which state is the member's.
            _ => Ok(()),
        }
    }

    /// The number of bytes by which the log may grow before a job is due.
    pub fn due_bytes(self, settings: &Settings, state_bytes: u64, shortage: Option<Shortage>) -> u64 {
        let state_bytes = if self == Self::Memory { state_bytes } else { 0 };
        let least = match (self, shortage) {
            (_, Some(Shortage { free_bytes, .. })) if state_bytes > free_bytes => return u64::MAX,
            (_, Some(Shortage { wanted: true, .. })) => return 1,
            (Self::Memory, None) => settings.snapshot_log_bytes,
            (Self::Disk, None) => settings.flush_log_bytes,
            // As soon as a segment of the log can be freed.
            (Self::Memory, Some(_)) => settings.snapshot_log_bytes.min(settings.log.segment_bytes),
            (Self::Disk, Some(_)) => settings.flush_log_bytes.min(settings.log.segment_bytes),
        };
        least.max(state_bytes)
    }

    /// A job that makes the published state durable, beside the running member.
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

    /// A job that makes durable that the high-water mark was lowered after the last published entry.
    pub fn mark_job(self, data: &DataDir, engine: &Arc<dyn Engine>) -> MarkJob {
        let (disk, dir, engine) = (data.disk.clone(), data.paths.snap(), engine.clone());
        match self {
            Self::Memory => {
                let applied = engine.published().applied;
                Box::new(move || Ok(on_memory::note_defragment(disk.as_ref(), &dir, applied)?))
            }
            // Flushed, so that no entry before the fall is applied again.
            Self::Disk => Box::new(move || Ok(engine.flush().map(drop)?)),
        }
    }
}

/// Makes a lowered high-water mark durable, on the thread that calls it, which waits for the medium. If that fails, the
/// member must stop.
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

/// A job that makes the published state durable. [`SnapshotJob::run`] does it on the thread that calls it.
pub struct SnapshotJob(Work);

enum Work {
    /// Memory: writes a state file.
    Write(Box<WritingState>),
    /// On disk: flushes the engine. When it runs, the engine may have published more than `applied`.
    Flush { engine: Arc<dyn Engine>, applied: Applied, conf_state: raftpb::ConfState },
}

/// The result of a job: the state up to a log position is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotWritten {
    pub applied: Applied,
    /// The length of the state file in bytes; 0 where the engine keeps the state itself.
    pub bytes: u64,
    pub(crate) conf_state: raftpb::ConfState,
}

impl SnapshotJob {
    /// Makes the state durable; waits for the medium.
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

    /// The bytes of the state file that are written.
    pub fn written_bytes(&self) -> u64 {
        match &self.0 {
            Work::Write(writing) => writing.written(),
            Work::Flush { .. } => 0,
        }
    }

    /// Does a part of the job; returns the result once the state is durable. The member may go on between two parts.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Timing;

    #[test]
    fn on_a_short_disk_a_job_is_due_once_it_frees_a_segment_and_fits() {
        let settings = Settings::new(MEMORY, Timing { election_ticks: 10, pre_vote: true }, 1);
        let segment = settings.log.segment_bytes;
        let short = |free_bytes| Some(Shortage { free_bytes, wanted: false });
        let due = |medium: Medium, state_bytes, shortage| medium.due_bytes(&settings, state_bytes, shortage);
        assert_eq!(due(Medium::Memory, 5, None), settings.snapshot_log_bytes);
        assert_eq!(due(Medium::Memory, 5, short(5)), segment);
        assert_eq!(due(Medium::Memory, 2 * segment, short(2 * segment)), 2 * segment, "it frees more than it takes");
        assert_eq!(due(Medium::Memory, 5, short(4)), u64::MAX, "it does not fit");
        assert_eq!(due(Medium::Disk, u64::MAX, None), settings.flush_log_bytes);
        assert_eq!(due(Medium::Disk, u64::MAX, short(0)), segment);
        let wanted = |free_bytes| Some(Shortage { free_bytes, wanted: true });
        assert_eq!([Medium::Memory, Medium::Disk].map(|medium| due(medium, 5, wanted(5))), [1, 1]);
        assert_eq!(due(Medium::Memory, 5, wanted(4)), u64::MAX);
    }
}
