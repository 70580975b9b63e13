//! Snapshots of the Memory engine's state on disk: written beside the running member, read at the next start.
//!
//! A snapshot is two files: `<term>-<index>.state`, the state ([`metastore_store::snapshot`]), and
//! `<term>-<index>.snap`, etcd's small record of log position and members. The second is written last and makes the
//! first count. Then a record in the log names the snapshot, and only then may older log segments and snapshots be
//! removed. The small record also holds the high-water mark. It is not in the state's stream, because each member has
//! its own.
//!
//! A third kind of file, `<term>-<index>.defragment`, has no bytes: its name says that a defragmentation lowered the
//! high-water mark to the size in use after that entry. Otherwise the high-water mark follows from the log, so a replay
//! that lowers it at the same place comes to the same value. The file is removed together with the part of the log that
//! it belongs to.
//!
//! A state that another member sends arrives as `<term>-<index>.receiving` and becomes `.received` once it is complete.
//! Until a record in the log names it, it is not a snapshot of this member, and the log need not reach it. Then its
//! small record is written and it gets the usual name ([`adopt`]); after a crash in between, the next start does so.
//! Its high-water mark starts at the size of the state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_engine::{Applied, Engine, HighWaterMark};
use metastore_proto::{Message, raftpb, walpb};
use metastore_store::snapshot::{Cursor, Incoming, SnapshotError, Source};

use super::{SnapshotWritten, conf_state};
use crate::data_dir::{DataDir, OpenError, write_durably};
use crate::disk::{Disk, DiskError, DiskFile};

/// Maximum bytes written between two syncs. So the kernel never has more than this to write back at once, which would
/// delay the syncs of the log.
const SYNC_BYTES: u64 = 8 << 20;
/// Bytes read at once from a state file.
const READ_BYTES: usize = 1 << 20;
/// Version of the stored form of the high-water mark; any other version is refused.
const MARK_FORMAT: u32 = 1;
/// Suffixes of the files here.
const STATE: &str = "state";
const SNAP: &str = "snap";
const DEFRAGMENT: &str = "defragment";

/// A state file that is to be written.
pub struct StateFile {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub source: Source,
    /// The high-water mark when the source was made.
    pub mark: HighWaterMark,
    pub conf_state: raftpb::ConfState,
}

impl StateFile {
    /// Writes the file and its record; reports the number of written bytes to `progress`.
    pub fn write(self, progress: &mut dyn FnMut(u64)) -> Result<SnapshotWritten, OpenError> {
        let mut writing = WritingState::new(self);
        loop {
            if let Some(written) = writing.step()? {
                return Ok(written);
            }
            progress(writing.written());
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(file_name(self.source.applied(), STATE))
    }
}

/// A state file that is written piece by piece.
pub struct WritingState {
    state: StateFile,
    cursor: Cursor,
    piece: Vec<u8>,
    out: Option<Out>,
}

impl WritingState {
    pub fn new(state: StateFile) -> Self {
        Self { state, cursor: Cursor::default(), piece: Vec::new(), out: None }
    }

    pub fn written(&self) -> u64 {
        self.out.as_ref().map_or(0, |out| out.written)
    }

    /// Writes one piece; returns the result once file and record are durable.
    pub fn step(&mut self) -> Result<Option<SnapshotWritten>, OpenError> {
        let Self { state, cursor, piece, out } = self;
        let (disk, path) = (state.disk.as_ref(), state.path());
        let temporary = path.with_extension("state.tmp");
        let out = match out {
            Some(out) => out,
            none => none.insert(Out::create(disk, &temporary)?),
        };
        let refused = |error| OpenError::refused(&temporary, format!("cannot be written: {error}"));
        if state.source.step(cursor, piece).map_err(refused)? {
            if !piece.is_empty() {
                out.write(piece)?;
                piece.clear();
            }
            return Ok(None);
        }
        out.file.sync_all()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(&state.dir)?;
        let applied = state.source.applied();
        let record = snap_file(applied, &state.conf_state, Some(&state.mark));
        write_durably(disk, &state.dir.join(file_name(applied, SNAP)), &record)?;
        Ok(Some(SnapshotWritten { applied, bytes: out.written, conf_state: state.conf_state.clone() }))
    }
}

/// A state file under construction.
pub struct Out {
    file: Box<dyn DiskFile>,
    written: u64,
    synced: u64,
    sync_bytes: u64,
}

impl Out {
    /// A file beside a running member.
    pub fn create(disk: &dyn Disk, path: &Path) -> Result<Self, DiskError> {
        Ok(Self { file: disk.create(path)?, written: 0, synced: 0, sync_bytes: SYNC_BYTES })
    }

    /// A file of a member that does not run: nobody waits for other syncs, so one at the end is enough.
    pub fn create_alone(disk: &dyn Disk, path: &Path) -> Result<Self, DiskError> {
        Ok(Self { sync_bytes: u64::MAX, ..Self::create(disk, path)? })
    }

    /// Makes the file `.receiving` durable, and renames it to `.received`.
    pub fn finish_as(self, disk: &dyn Disk, path: &Path) -> Result<PathBuf, DiskError> {
        self.file.sync_all()?;
        let received = path.with_extension(RECEIVED);
        disk.rename(path, &received)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok(received)
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(self.written, bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.synced >= self.sync_bytes {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }
}

const RECEIVING: &str = "receiving";
const RECEIVED: &str = "received";

/// The file of a state that another member sends, while it arrives or once it is complete (`whole`).
pub fn received(dir: &Path, applied: Applied, whole: bool) -> PathBuf {
    dir.join(file_name(applied, if whole { RECEIVED } else { RECEIVING }))
}

/// Whether the state that the log names was received, and has not become the snapshot of this member yet.
pub fn is_to_be_adopted(data: &DataDir, applied: Applied) -> Result<bool, DiskError> {
    data.disk.exists(&received(&data.paths.snap(), applied, true))
}

/// Makes a received state, if it exists, the snapshot of this member that the log names. A crash may have come between
/// any two steps, so each step may be repeated.
pub fn adopt(data: &DataDir, applied: Applied, conf_state: &raftpb::ConfState) -> Result<(), DiskError> {
    let (dir, disk) = (data.paths.snap(), data.disk.as_ref());
    let received = received(&dir, applied, true);
    if !disk.exists(&received)? {
        return Ok(());
    }
    write_durably(disk, &dir.join(file_name(applied, SNAP)), &snap_file(applied, conf_state, None))?;
    disk.rename(&received, &dir.join(file_name(applied, STATE)))?;
    disk.sync_dir(&dir)
}

/// Removes received states that were not installed.
pub fn remove_received(data: &DataDir) -> Result<(), DiskError> {
    let dir = data.paths.snap();
    for name in data.names(&dir)? {
        if name.ends_with(&format!(".{RECEIVING}")) || name.ends_with(&format!(".{RECEIVED}")) {
            remove_file(data.disk.as_ref(), &dir.join(name))?;
        }
    }
    Ok(())
}

/// Removes a file, if it exists.
pub fn remove_file(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    if !disk.exists(path)? {
        return Ok(());
    }
    disk.remove_file(path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

fn file_name(applied: Applied, extension: &str) -> String {
    format!("{:016x}-{:016x}.{extension}", applied.term, applied.index)
}

/// Name and content of the small record that an etcd keeps of a state; `v2_store` is the state of its old store.
pub fn etcd_snap_file(applied: Applied, conf_state: &raftpb::ConfState, v2_store: Vec<u8>) -> (String, Vec<u8>) {
    (file_name(applied, SNAP), record_file(applied, conf_state, Some(v2_store.into())))
}

fn snap_file(applied: Applied, conf_state: &raftpb::ConfState, mark: Option<&HighWaterMark>) -> Vec<u8> {
    let mark = mark.map(|mark| {
        let numbers = mark.to_numbers().into_iter().flat_map(u64::to_le_bytes);
        MARK_FORMAT.to_le_bytes().into_iter().chain(numbers).collect()
    });
    record_file(applied, conf_state, mark)
}

fn record_file(applied: Applied, conf_state: &raftpb::ConfState, data: Option<bytes::Bytes>) -> Vec<u8> {
    let metadata = raftpb::SnapshotMetadata {
        conf_state: Some(conf_state.clone()),
        index: Some(applied.index),
        term: Some(applied.term),
    };
    let data = raftpb::Snapshot { data, metadata: Some(metadata) }.encode_to_vec();
    walpb::SnapshotFile { crc: Some(crc32c::crc32c(&data)), data: Some(data.into()) }.encode_to_vec()
}

/// The content of a snapshot's small record.
#[derive(Debug, PartialEq)]
pub struct Record {
    pub conf_state: raftpb::ConfState,
    /// The high-water mark; `None` if it starts at the size of this state.
    pub mark: Option<HighWaterMark>,
}

/// Reads the record of the snapshot that the log names.
///
/// # Errors
/// If the snapshot is missing or damaged: the log before it may be gone.
pub fn record(data: &DataDir, applied: Applied) -> Result<Record, OpenError> {
    let path = data.paths.snap().join(file_name(applied, SNAP));
    if !data.disk.exists(&path)? {
        return Err(OpenError::refused(&path, "the log names this snapshot, but the file is missing"));
    }
    read_snap_file(&data.disk.read(&path)?, applied).map_err(|why| OpenError::refused(&path, why))
}

fn read_snap_file(bytes: &[u8], applied: Applied) -> Result<Record, String> {
    let file = walpb::SnapshotFile::decode(bytes).map_err(|error| format!("damaged: {error}"))?;
    if crc32c::crc32c(file.data()) != file.crc() {
        return Err("damaged: wrong checksum".into());
    }
    let snapshot = raftpb::Snapshot::decode(file.data()).map_err(|error| format!("damaged: {error}"))?;
    let mark = snapshot.data.filter(|mark| !mark.is_empty()).map(|mark| parse_mark(&mark)).transpose()?;
    let metadata = snapshot.metadata.unwrap_or_default();
    if (metadata.index(), metadata.term()) != (applied.index, applied.term) {
        return Err(format!("describes entry {}, not entry {}", metadata.index(), applied.index));
    }
    let conf_state = metadata.conf_state.ok_or("names no members")?;
    conf_state::check(&conf_state)?;
    Ok(Record { conf_state, mark })
}

fn parse_mark(bytes: &[u8]) -> Result<HighWaterMark, String> {
    let damaged = || format!("damaged: the mark cannot be read from {} bytes: {}", bytes.len(), bytes.escape_ascii());
    let (&format, numbers) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let format = u32::from_le_bytes(format);
    if format != MARK_FORMAT {
        return Err(format!("the mark is of format {format}, but this version reads format {MARK_FORMAT}"));
    }
    let (numbers, []) = numbers.as_chunks() else { return Err(damaged()) };
    let numbers: Vec<u64> = numbers.iter().map(|&number| u64::from_le_bytes(number)).collect();
    HighWaterMark::from_numbers(&numbers).ok_or_else(damaged)
}

/// Records, durably, that the high-water mark was lowered to the size in use after this entry. The file is empty, so no
/// write can be torn.
pub fn note_defragment(disk: &dyn Disk, dir: &Path, applied: Applied) -> Result<(), DiskError> {
    disk.create(&dir.join(file_name(applied, DEFRAGMENT)))?.sync_all()?;
    disk.sync_dir(dir)
}

/// The last entry after which the high-water mark was lowered; 0 if none is recorded.
pub fn last_defragment(data: &DataDir) -> Result<u64, DiskError> {
    let names = data.names(&data.paths.snap())?;
    Ok(names.iter().filter_map(|name| index_of(name, DEFRAGMENT)).max().unwrap_or_default())
}

/// The log index in the name of a file of this kind.
fn index_of(name: &str, kind: &str) -> Option<u64> {
    let (_, index) = name.strip_suffix(kind)?.strip_suffix('.')?.split_once('-')?;
    u64::from_str_radix(index, 16).ok()
}

/// Reads the state of a snapshot into an empty engine.
pub fn load(data: &DataDir, applied: Applied, engine: &Arc<dyn Engine>) -> Result<(), OpenError> {
    let path = data.paths.snap().join(file_name(applied, STATE));
    let file = data.disk.open(&path)?;
    let loaded = read(file.as_ref(), engine).map_err(|error| OpenError::refused(&path, format!("damaged: {error}")))?;
    if loaded != applied {
        return Err(OpenError::refused(
            &path,
            format!("holds the state at entry {}, not at entry {}", loaded.index, applied.index),
        ));
    }
    Ok(())
}

fn read(file: &dyn DiskFile, engine: &Arc<dyn Engine>) -> Result<Applied, SnapshotError> {
    let mut incoming = Incoming::new(engine.clone());
    let (mut offset, mut buffer) = (0, vec![0; READ_BYTES]);
    loop {
        match file.read_at(offset, &mut buffer).map_err(std::io::Error::other)? {
            0 => return incoming.finish(),
            count => {
                incoming.take(&buffer[..count])?;
                offset += count as u64;
            }
        }
    }
}

/// Refuses a log that ends before a snapshot: the log durably held all entries that a snapshot was made from.
///
/// # Errors
/// Names the snapshot.
pub fn check_not_beyond(data: &DataDir, last: u64) -> Result<(), OpenError> {
    let dir = data.paths.snap();
    for name in data.names(&dir)? {
        if let Some(index) = index_of(&name, SNAP).filter(|index| *index > last) {
            let why = format!(
                "is the snapshot at entry {index}, but the log ends at entry {last}: acknowledged entries are missing; \
                 restore the log from a newer copy, or replace this member"
            );
            return Err(OpenError::refused(&dir.join(name), why));
        }
    }
    Ok(())
}

/// Removes the files of all snapshots except the one at `keep`, and the remains of interrupted writes. `.defragment`
/// files from `keep` on stay, and so do received states.
pub fn purge(disk: &dyn Disk, dir: &Path, keep: Option<Applied>) -> Result<(), DiskError> {
    let kept = |name: &str| {
        keep.is_some_and(|keep| {
            // The snapshot may have been made before the high-water mark was lowered at the same entry.
            let is_noted = index_of(name, DEFRAGMENT).is_some_and(|index| index >= keep.index);
            is_noted || name == file_name(keep, STATE) || name == file_name(keep, SNAP)
        })
    };
    let ours = |name: &str| [STATE, SNAP, DEFRAGMENT, "tmp"].iter().any(|end| name.ends_with(&format!(".{end}")));
    // The small record is removed before its state, so that no record is left without a state.
    if !disk.exists(dir)? {
        return Ok(());
    }
    let mut names = disk.list(dir)?;
    names.sort_by_key(|name| name.ends_with(".state"));
    let mut superfluous = names.iter().filter(|name| ours(name) && !kept(name)).peekable();
    if superfluous.peek().is_none() {
        return Ok(());
    }
    for name in superfluous {
        disk.remove_file(&dir.join(name))?;
    }
    disk.sync_dir(dir)
}
