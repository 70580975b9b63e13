//! The log of a member, open for appending.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_mutants::{Mutant, mutant};
use metastore_proto::raftpb::{ConfState, HardState};

use super::frame::{Encoder, MAX_RECORD_BYTES};
use super::read::{self, Tail};
use super::segment::{self, Segment, TEMPORARY_SUFFIX};
use super::{Entry, Keep, Metadata, Replay, Result, WalError};
use crate::disk::{Disk, DiskFile, LOCK_FILE, LOST_AND_FOUND};

/// The size at which a segment is full. It is etcd's number, so that both fill the disk alike.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// Maximum bytes of the encoding buffer that stay allocated between batches.
const RETAINED_BUFFER_BYTES: usize = 4 << 20;

/// Maximum bytes of the fields around an entry's data.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Maximum bytes in the data of an entry; a longer entry does not fit into a record.
pub const MAX_ENTRY_BYTES: usize = MAX_RECORD_BYTES - ENTRY_OVERHEAD_BYTES;

/// The name of the next segment while it is being written.
const NEXT_SEGMENT: &str = "next.wal.tmp";

/// Options of a log.
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
    /// The offset of the next frame in the last segment.
    offset: u64,
    encoder: Encoder,
    /// Whether the last record is a crc record.
    sealed: bool,
    /// Whether everything that was written is durable.
    synced: bool,
    failed: Option<WalError>,
}

/// A log that was read; its files are still as they were found.
pub struct FoundWal {
    wal: Wal,
    tail: Tail,
    torn: bool,
}

impl FoundWal {
    /// The second half of [`Wal::open`]: cuts a torn tail off, and makes everything that was read durable.
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

    /// Creates a log. The directory must not exist, or hold only the lock file and the remains of an earlier attempt.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, metadata: Metadata) -> Result<Wal> {
        Wal::create_with(Options::default(), disk, dir, metadata)
    }

    /// [`Wal::create`] with other than the default options.
    pub fn create_with(options: Options, disk: Arc<dyn Disk>, dir: &Path, metadata: Metadata) -> Result<Wal> {
        Wal::bootstrap(options, disk, dir, metadata, (HardState::default(), Vec::new()))
    }

    /// Creates a log that begins with a hard state and entries. The log appears at once, durable and complete: a crash
    /// leaves either no log or this one. The next attempt removes any other files that a crash leaves.
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
            file: open_segment(&*disk, &path)?,
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

    /// Opens a log and reads the entries after the snapshot (index, term); (0, 0) if there is none. A torn tail is cut
    /// off and reported in the replay; damage is refused. Everything that is returned is durable.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, snapshot: (u64, u64)) -> Result<(Wal, Replay)> {
        Wal::open_with(Options::default(), disk, dir, snapshot)
    }

    /// [`Wal::open`] with other than the default options.
    pub fn open_with(options: Options, disk: Arc<dyn Disk>, dir: &Path, snapshot: (u64, u64)) -> Result<(Wal, Replay)> {
        let (found, replay) = Wal::read(options, disk, dir, snapshot, Keep::ALL)?;
        Ok((found.open()?, replay))
    }

    /// The first half of [`Wal::open`]: reads and judges, but changes nothing, so that the caller can still refuse.
    pub fn read(
        options: Options,
        disk: Arc<dyn Disk>,
        dir: &Path,
        snapshot: (u64, u64),
        keep: Keep,
    ) -> Result<(FoundWal, Replay)> {
        let (segments, first) = segment::from_snapshot(&*disk, dir, snapshot.0)?;
        let (replay, tail) = read::read(&*disk, dir, &segments[first..], Some(snapshot), keep)?;
        let last = *segments.last().expect("a list of segments is not empty");
        let file = open_segment(&*disk, &segment::path(dir, last))?;
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

    /// Appends entries, then the hard state, in one write. With `sync`, makes them and everything before them durable.
    /// An entry at or before the last index replaces that entry and all that follow it. Sync whenever there are
    /// entries, or the term or the vote changes, and before any message that depends on them is sent.
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

    /// Records, durably, that a snapshot file covers the log up to `index`, an entry of this log. The file must be
    /// durable already.
    pub fn save_snapshot(&mut self, index: u64, term: u64, conf_state: Option<ConfState>) -> Result<()> {
        self.check()?;
        self.encoder.put_snapshot(index, term, conf_state);
        self.last_index = self.last_index.max(index);
        let result = self.write(true).and_then(|()| self.cut_if_full());
        self.keep_first_error(result)
    }

    /// Records, durably, that a snapshot of another member takes the place of everything before it: of the entries up
    /// to `index`, which this log need not have, and of those after it, which belong to another history. The log
    /// continues at `index + 1`. The snapshot must be durable already, and `hard_state` must commit it.
    ///
    /// The record of the snapshot comes first, and is sufficient alone: after a crash it is whole or absent. (With the
    /// hard state first, a crash could leave a commit index that the log does not reach.)
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

    /// Removes the segments whose entries all lie at or before `index`, an index that a durable snapshot covers.
    /// Returns the number of removed segments.
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

    /// The member and cluster that the log belongs to.
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

    /// Remembers the first error; every later call returns it.
    fn keep_first_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Writes the encoded records, closed by a crc record if they are to be synced.
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
            let mut synced = self.file.sync_data();
            if mutant(Mutant::FailedSyncIgnored) {
                synced = Ok(());
            }
            synced?;
            self.synced = true;
        }
        Ok(())
    }

    fn cut_if_full(&mut self) -> Result<()> {
        if self.offset < self.options.segment_bytes { Ok(()) } else { self.cut() }
    }

    /// Ends the last segment and begins the next. The old one is durable before the new one has a name, so every
    /// segment but the last is whole. (Its new length is not durable: after a crash, zeros may follow its records,
    /// which readers accept.)
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
        self.file = open_segment(&*self.disk, &path)?;
        self.segments.push(next);
        self.sealed = false;
        Ok(())
    }

    /// Makes everything that was read durable before the caller relies on it. See the essay of `wal`.
    fn settle(&mut self, tail: &Tail, torn: bool) -> Result<()> {
        for name in self.disk.list(&self.dir)?.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
            self.disk.remove_file(&self.dir.join(name))?;
        }
        self.disk.sync_dir(parent(&self.dir))?;
        self.disk.sync_dir(&self.dir)?;
        if torn {
            // Back to zeros, durably, before anything is written there: new bytes must not meet old ones.
            self.file.set_len(tail.end)?;
        }
        if torn || tail.file_bytes < self.options.segment_bytes {
            self.file.allocate(0, self.options.segment_bytes)?;
            self.file.sync_data()?;
        }
        if mutant(Mutant::FoundLogNotSynced) {
            return Ok(());
        }
        self.rewrite(tail.unproven)?;
        self.write(true)
    }

    /// Writes the bytes that were read from `from` on once more, to the same place. If their sync failed before the
    /// member stopped, the kernel takes the pages for clean, and no other sync writes them.
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

/// Encodes entries that follow or replace those up to `last`; returns the resulting last index of the log.
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

/// Whether a hard state is empty; etcd does not write an empty one.
fn is_empty(state: &HardState) -> bool {
    (state.term(), state.vote(), state.commit()) == (0, 0, 0)
}

/// Opens the last segment. An etcd that is started on the directory of this member finds it locked, as it would find
/// the log of another etcd, and does not start.
fn open_segment(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>> {
    let file = disk.open(path)?;
    file.lock()?;
    Ok(file)
}

/// Writes the encoded records as a new file that is zero after them, durably. Returns the offset of their end.
fn write_segment(disk: &dyn Disk, path: &Path, encoder: &mut Encoder, options: Options) -> Result<u64> {
    let file = disk.create(path)?;
    file.allocate(0, options.segment_bytes)?;
    file.write_at(0, &encoder.buffer)?;
    file.sync_all()?;
    let end = encoder.buffer.len() as u64;
    encoder.buffer.clear();
    Ok(end)
}

/// Prepares a directory for a new log. Removes only the remains of an earlier attempt, ignores the lock file, and
/// refuses any other file. The directory may be the root of a file system of its own, with a `lost+found`.
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
