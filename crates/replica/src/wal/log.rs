//! The open log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_mutants::Mutant;
use metastore_proto::raftpb::{ConfState, HardState};

use super::frame::{Encoder, MAX_RECORD_BYTES};
use super::read::{self, Tail};
use super::segment::{self, Segment, TEMPORARY_SUFFIX};
use super::{Entry, Keep, Metadata, Replay, Result, WalError};
use crate::disk::{Disk, DiskFile, LOCK_FILE, LOST_AND_FOUND};

/// The size at which a segment is full. etcd's number, so that both fill the disk alike.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// What the encoding buffer may keep between batches; a larger one is given back.
const RETAINED_BUFFER_BYTES: usize = 4 << 20;

/// What the fields around an entry's data take at most.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// The longest data of an entry; a record holds no more.
pub const MAX_ENTRY_BYTES: usize = MAX_RECORD_BYTES - ENTRY_OVERHEAD_BYTES;

/// The next segment while it is written.
const NEXT_SEGMENT: &str = "next.wal.tmp";

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The size at which a segment is full, in bytes. Batches are never split, so a segment may end up larger.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: SEGMENT_BYTES }
    }
}

/// The log of one member, open for appending.
///
/// The caller holds the lock of the member's directory ([`Disk::lock_dir`]).
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Metadata,
    hard_state: HardState,
    last_index: u64,
    segments: Vec<Segment>,
    file: Box<dyn DiskFile>,
    /// Where the next frame goes in the last segment.
    offset: u64,
    encoder: Encoder,
    /// Whether the last record is a crc record.
    sealed: bool,
    /// Whether everything written is durable.
    synced: bool,
    failed: Option<WalError>,
}

/// A log that was read, and that is on disk as it was found.
pub struct FoundWal {
    wal: Wal,
    tail: Tail,
    torn: bool,
}

impl FoundWal {
    /// The second half of [`Wal::open`]: cuts a torn tail off, and makes what was read durable.
    pub fn open(mut self) -> Result<Wal> {
        self.wal.settle(&self.tail, self.torn)?;
        Ok(self.wal)
    }
}

impl Wal {
    /// Whether the directory holds a log.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool> {
        match segment::list(disk, dir) {
            Ok(_) => Ok(true),
            Err(WalError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates a log. The directory must not exist, or hold nothing but what an earlier attempt and the lock left.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, metadata: Metadata) -> Result<Wal> {
        Wal::create_with(Options::default(), disk, dir, metadata)
    }

    /// [`Wal::create`] with other than the default options.
    pub fn create_with(options: Options, disk: Arc<dyn Disk>, dir: &Path, metadata: Metadata) -> Result<Wal> {
        Wal::bootstrap(options, disk, dir, metadata, (HardState::default(), Vec::new()))
    }

    /// Creates a log that begins with a hard state and entries. It appears at once, durable and with all of them: a crash
    /// leaves either no log or this one, and what else it leaves is cleared away by the next attempt.
    pub fn bootstrap(
        options: Options,
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: Metadata,
        (hard_state, entries): (HardState, Vec<Entry>),
    ) -> Result<Wal> {
        disk.create_dir_all(dir)?;
        clear(&*disk, dir)?;
        let (first, temporary) = (Segment { sequence: 0, first_index: 0 }, dir.join(NEXT_SEGMENT));
        let mut encoder = Encoder::default();
        encoder.put_sum();
        encoder.put_metadata(metadata);
        // The state of a log without entries.
        encoder.put_snapshot(0, 0, None);
        let last_index = put_entries(&mut encoder, 0, entries)?;
        if !is_empty(&hard_state) {
            encoder.put_hard_state(&hard_state);
        }
        let sealed = last_index > 0;
        if sealed {
            encoder.put_sum();
        }
        let offset = write_segment(&*disk, &temporary, &mut encoder, options)?;
        let path = segment::path(dir, first);
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)?;
        disk.sync_dir(parent(dir))?;
        Ok(Wal {
            file: disk.open(&path)?,
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            hard_state,
            last_index,
            segments: vec![first],
            offset,
            encoder,
            sealed,
            synced: true,
            failed: None,
        })
    }

    /// Opens a log and reads what follows the snapshot (index, term); (0, 0) if there is none. A torn tail is cut off
    /// and reported in the replay; damage is refused. What is returned is durable.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, snapshot: (u64, u64)) -> Result<(Wal, Replay)> {
        Wal::open_with(Options::default(), disk, dir, snapshot)
    }

    /// [`Wal::open`] with other than the default options.
    pub fn open_with(options: Options, disk: Arc<dyn Disk>, dir: &Path, snapshot: (u64, u64)) -> Result<(Wal, Replay)> {
        let (found, replay) = Wal::read(options, disk, dir, snapshot, Keep::ALL)?;
        Ok((found.open()?, replay))
    }

    /// The first half of [`Wal::open`]: reads and judges, and changes nothing, so that the caller can still refuse.
    pub fn read(
        options: Options,
        disk: Arc<dyn Disk>,
        dir: &Path,
        snapshot: (u64, u64),
        keep: Keep,
    ) -> Result<(FoundWal, Replay)> {
        let segments = segment::list(&*disk, dir)?;
        let Some(first) = segment::holding(&segments, snapshot.0) else {
            let (first, index) = (segments[0].first_index, snapshot.0);
            return Err(WalError::Released { dir: dir.to_owned(), first, index });
        };
        segment::check_sequence(dir, &segments[first..])?;
        let (replay, tail) = read::read(&*disk, dir, &segments[first..], Some(snapshot), keep)?;
        let last = *segments.last().expect("a list of segments is not empty");
        let file = disk.open(&segment::path(dir, last))?;
        let wal = Wal {
            disk,
            dir: dir.to_owned(),
            options,
            metadata: replay.metadata,
            hard_state: replay.hard_state,
            last_index: replay.last_index(),
            segments,
            file,
            offset: tail.end,
            encoder: Encoder { sum: tail.sum, ..Encoder::default() },
            sealed: tail.sealed,
            synced: false,
            failed: None,
        };
        Ok((FoundWal { wal, tail, torn: replay.cut.is_some() }, replay))
    }

    /// Appends entries, then the hard state, in one write; with `sync`, makes them and all before durable. An entry at
    /// or before the last index replaces it and all that follow. Sync whenever there are entries or the term or the
    /// vote changes, and before telling anyone.
    ///
    /// [`WalError::EntryTooLarge`] and [`WalError::Gap`] leave the log as it was. Any other error is final.
    pub fn append(
        &mut self,
        hard_state: Option<&HardState>,
        entries: impl IntoIterator<Item = Entry>,
        sync: bool,
    ) -> Result<()> {
        self.check()?;
        let sum = self.encoder.sum;
        match put_entries(&mut self.encoder, self.last_index, entries) {
            Ok(last_index) => self.last_index = last_index,
            Err(error) => {
                self.encoder.buffer.clear();
                self.encoder.sum = sum;
                return Err(error);
            }
        }
        if let Some(state) = hard_state.filter(|state| !is_empty(state)) {
            self.encoder.put_hard_state(state);
            self.hard_state = *state;
        }
        let result = self.write(sync).and_then(|()| self.cut_if_full());
        self.keep_first_error(result)
    }

    /// Writes, durably, that a snapshot file covers the log up to `index`, an entry of this log. The file must be durable
    /// already.
    pub fn save_snapshot(&mut self, index: u64, term: u64, conf_state: Option<ConfState>) -> Result<()> {
        self.check()?;
        self.encoder.put_snapshot(index, term, conf_state);
        self.last_index = self.last_index.max(index);
        let result = self.write(true).and_then(|()| self.cut_if_full());
        self.keep_first_error(result)
    }

    /// Writes, durably, that a snapshot of another member takes the place of everything before it: of entries up to `index`,
    /// which this log need not have, and of those behind it, which belong to another history. The log goes on at `index + 1`.
    /// The snapshot must be durable already, and `hard_state` know that it is committed.
    ///
    /// The record of the snapshot comes first, and says all by itself: a crash leaves it whole or leaves it out. (The other way
    /// round a crash could leave a commit index that the log does not reach.)
    pub fn replace_by_snapshot(
        &mut self,
        index: u64,
        term: u64,
        conf_state: ConfState,
        hard_state: &HardState,
    ) -> Result<()> {
        self.check()?;
        assert!(hard_state.commit() >= index, "snapshot {index} is not committed ({})", hard_state.commit());
        self.encoder.put_snapshot(index, term, Some(conf_state));
        self.encoder.put_hard_state(hard_state);
        self.hard_state = *hard_state;
        self.last_index = index;
        let result = self.write(true).and_then(|()| self.cut_if_full());
        self.keep_first_error(result)
    }

    /// Removes the segments that hold nothing behind `index`, an index that a durable snapshot covers. Returns how many.
    pub fn release(&mut self, index: u64) -> Result<usize> {
        self.check()?;
        let unneeded = segment::holding(&self.segments, index).unwrap_or(0);
        let result = self.remove_oldest(unneeded);
        self.keep_first_error(result)?;
        Ok(unneeded)
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<()> {
        self.append(None, [], true)
    }

    /// Whose log it is.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// The last hard state appended.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The index of the last entry, or of a snapshot beyond it.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// A log that failed once says so for ever.
    fn keep_first_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Writes what is encoded, closed by a crc record if it is to be synced.
    fn write(&mut self, sync: bool) -> Result<()> {
        let encoded = !self.encoder.buffer.is_empty();
        if sync && (encoded || !self.sealed) {
            self.encoder.put_sum();
        }
        if !self.encoder.buffer.is_empty() {
            self.file.write_at(self.offset, &self.encoder.buffer)?;
            self.offset += self.encoder.buffer.len() as u64;
            self.encoder.buffer.clear();
            self.encoder.buffer.shrink_to(RETAINED_BUFFER_BYTES);
            (self.sealed, self.synced) = (sync, false);
        }
        if sync && !self.synced {
            let synced = self.file.sync_data();
            if !metastore_mutants::on(Mutant::FailedSyncIgnored) {
                synced?;
            }
            self.synced = true;
        }
        Ok(())
    }

    fn cut_if_full(&mut self) -> Result<()> {
        if self.offset < self.options.segment_bytes { Ok(()) } else { self.cut() }
    }

    /// Ends the last segment and begins the next. The old one is durable before the new one has a name, so every segment
    /// but the last is whole. (Its new length is not: a crash may leave zeros behind it, which readers accept.)
    fn cut(&mut self) -> Result<()> {
        self.write(true)?;
        self.file.set_len(self.offset)?;
        let sequence = self.segments.last().map_or(0, |last| last.sequence) + 1;
        let next = Segment { sequence, first_index: self.last_index + 1 };
        self.encoder.put_sum();
        self.encoder.put_metadata(self.metadata);
        if !is_empty(&self.hard_state) {
            self.encoder.put_hard_state(&self.hard_state);
        }
        let (temporary, path) = (self.dir.join(NEXT_SEGMENT), segment::path(&self.dir, next));
        self.offset = write_segment(&*self.disk, &temporary, &mut self.encoder, self.options)?;
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_dir(&self.dir)?;
        self.file = self.disk.open(&path)?;
        self.segments.push(next);
        self.sealed = false;
        Ok(())
    }

    /// Makes what was read durable before anyone relies on it. See the essay.
    fn settle(&mut self, tail: &Tail, torn: bool) -> Result<()> {
        for name in self.disk.list(&self.dir)?.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
            self.disk.remove_file(&self.dir.join(name))?;
        }
        self.disk.sync_dir(parent(&self.dir))?;
        self.disk.sync_dir(&self.dir)?;
        if torn {
            // Back to zeros, and durably so before anything is written there: the new bytes must not meet the old.
            self.file.set_len(tail.end)?;
        }
        if torn || tail.file_bytes < self.options.segment_bytes {
            self.file.allocate(0, self.options.segment_bytes)?;
            self.file.sync_data()?;
        }
        if metastore_mutants::on(Mutant::FoundLogNotSynced) {
            return Ok(());
        }
        self.rewrite(tail.unproven)?;
        self.write(true)
    }

    /// Writes what was read from `from` on once more, to the same place. If the sync of it failed before the member
    /// stopped, the kernel takes the pages for clean, and no other sync writes them.
    fn rewrite(&self, from: u64) -> Result<()> {
        let mut bytes = vec![0; (self.offset - from) as usize];
        let read = self.file.read_at(from, &mut bytes)?;
        Ok(self.file.write_at(from, &bytes[..read])?)
    }

    /// Removes the first `count` segments, oldest first.
    fn remove_oldest(&mut self, count: usize) -> Result<()> {
        for segment in self.segments.drain(..count) {
            self.disk.remove_file(&segment::path(&self.dir, segment))?;
        }
        if count > 0 {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

/// Encodes entries that follow or replace those up to `last`; returns the last index that the log has with them.
fn put_entries(encoder: &mut Encoder, mut last: u64, entries: impl IntoIterator<Item = Entry>) -> Result<u64> {
    for entry in entries {
        if entry.index == 0 || entry.index > last + 1 {
            return Err(WalError::Gap { index: entry.index, last });
        }
        if entry.data.len() > MAX_ENTRY_BYTES {
            let (index, bytes, max) = (entry.index, entry.data.len(), MAX_ENTRY_BYTES);
            return Err(WalError::EntryTooLarge { index, bytes, max });
        }
        encoder.put_entry(&entry);
        last = entry.index;
    }
    Ok(last)
}

/// Whether a hard state says nothing; etcd does not write such a one.
fn is_empty(state: &HardState) -> bool {
    (state.term(), state.vote(), state.commit()) == (0, 0, 0)
}

/// Writes what is encoded as a new file with zeros behind, durably, and returns where they begin.
fn write_segment(disk: &dyn Disk, path: &Path, encoder: &mut Encoder, options: Options) -> Result<u64> {
    let file = disk.create(path)?;
    file.allocate(0, options.segment_bytes)?;
    file.write_at(0, &encoder.buffer)?;
    file.sync_all()?;
    let end = encoder.buffer.len() as u64;
    encoder.buffer.clear();
    Ok(end)
}

/// Makes room for a new log: refuses to touch anything but the lock and the rest of an earlier attempt. The directory may be
/// the root of a file system of its own.
fn clear(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for name in disk.list(dir)?.into_iter().filter(|name| name != LOCK_FILE && name != LOST_AND_FOUND) {
        if name != NEXT_SEGMENT {
            return Err(WalError::Exists { dir: dir.to_owned(), name });
        }
        disk.remove_file(&dir.join(name))?;
    }
    Ok(())
}

/// The directory that holds `dir`.
fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
