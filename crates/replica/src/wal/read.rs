//! Reading a log from its segments.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crc32c::crc32c_append;
use metastore_mutants::{Mutant, mutant};
use metastore_proto::raftpb::HardState;
use metastore_proto::{Message as _, walpb};

use super::frame::{CRC, ENTRY, HARD_STATE, METADATA, Record, SNAPSHOT, Word, record_at, word_at};
use super::record::{decode_hard_state, log_bytes};
use super::segment::{self, Segment};
use super::{Entry, Metadata, Result, WalError, tear};
use crate::disk::{Disk, DiskFile};

/// Maximum bytes of a segment that is read. A segment exceeds its nominal size by one batch at most.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// The content of a log.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The member and cluster that the log belongs to.
    pub metadata: Metadata,
    /// The last hard state.
    pub hard_state: HardState,
    /// Index and term of the position before the first of the entries: the snapshot, or the last entry not kept.
    pub before: (u64, u64),
    /// The entries after the snapshot, without gaps. Replaced entries, and those that [`Keep`] excludes, are absent.
    pub entries: Vec<Entry>,
    /// Bytes that the entries after the snapshot take in the log, including those that were not kept.
    pub log_bytes: u64,
    /// All snapshots that the segments mention, in the order of the log.
    pub snapshots: Vec<walpb::Snapshot>,
    /// The torn tail that was cut off, for the caller to report.
    pub cut: Option<TornTail>,
}

impl Replay {
    /// The index of the last entry, or of the snapshot.
    pub fn last_index(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    /// The term of the entry at `index`, if the replay holds it.
    pub fn term(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.before.0)? {
            0 => Some(self.before.1),
            place => self.entries.get(usize::try_from(place - 1).ok()?).map(|entry| entry.term),
        }
    }
}

/// The entries to keep when the state is newer than its last snapshot: those after `applied`, and the newest ones up to
/// it, as long as all entries together stay within these bounds.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Index of the last entry that is part of the state.
    pub applied: u64,
    pub entries: usize,
    pub bytes: usize,
}

impl Keep {
    /// All entries after the snapshot.
    pub const ALL: Self = Self { applied: 0, entries: usize::MAX, bytes: usize::MAX };
}

/// The rest of a write that a power loss cut short; the write was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// The end of the log now, in bytes.
    pub offset: u64,
    /// Number of dropped bytes: from `offset` up to the last byte that is not zero.
    pub dropped_bytes: u64,
}

/// The snapshots that may be loaded: those that the log mentions. Changes nothing on the disk. (etcd leaves out
/// snapshots beyond the commit index of the last hard state, and so may forget one that was half written. Here a
/// snapshot counts as soon as its record is whole.)
pub fn snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<walpb::Snapshot>> {
    Ok(owner_and_snapshots(disk, dir)?.1)
}

/// The member and cluster of the log, and its [`snapshots`].
pub fn owner_and_snapshots(disk: &dyn Disk, dir: &Path) -> Result<(Metadata, Vec<walpb::Snapshot>)> {
    let segments = segment::list(disk, dir)?;
    let (replay, _) = read(disk, dir, segment::newest_run(&segments), None, Keep::ALL)?;
    Ok((replay.metadata, replay.snapshots))
}

/// The content of a log behind a snapshot (index, term). Changes nothing on the disk, and locks nothing.
pub fn peek(disk: &dyn Disk, dir: &Path, snapshot: (u64, u64), keep: Keep) -> Result<Replay> {
    let (segments, first) = segment::from_snapshot(disk, dir, snapshot.0)?;
    Ok(read(disk, dir, &segments[first..], Some(snapshot), keep)?.0)
}

/// Locks the log of a stopped member against an etcd or a MetaStore that would write to it, as long as the result
/// lives. Changes nothing.
///
/// # Errors
/// If another process has locked it.
pub fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskFile>> {
    let last = *segment::list(disk, dir)?.last().expect("a list of segments is not empty");
    let file = disk.open(&segment::path(dir, last))?;
    file.lock()?;
    Ok(file)
}

/// The position at which writing goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// The end of the last record.
    pub(super) end: u64,
    /// The running sum at that position.
    pub(super) sum: u32,
    /// Whether the last record is a crc record.
    pub(super) sealed: bool,
    /// The start of the last batch that a failed sync may have left undurable. If the log ends with a crc record, that
    /// is the end of the crc record before it; otherwise the end of the last crc record.
    pub(super) unproven: u64,
    /// The length of the file.
    pub(super) file_bytes: u64,
}

/// Reads the segments from the snapshot (index, term) on. Without a snapshot, entries are checked but not kept.
pub(super) fn read(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[Segment],
    snapshot: Option<(u64, u64)>,
    keep: Keep,
) -> Result<(Replay, Tail)> {
    // Nothing comes before the very first segment. Any other one begins with the sum of the segments before it.
    let sum = segments.first().and_then(|first| (first.sequence == 0).then_some(0));
    let replay = Replay { before: snapshot.unwrap_or_default(), ..Replay::default() };
    let mut log = Log {
        replay,
        keep,
        entries: VecDeque::new(),
        kept_bytes: 0,
        snapshot,
        snapshot_found: false,
        // The state before the first entry is the same on all members.
        snapshot_made_here: snapshot.is_none_or(|(index, _)| index == 0),
        metadata: None,
        sum,
    };
    let mut tail = None;
    for (i, segment) in segments.iter().enumerate() {
        let file = segment::path(dir, *segment);
        let bytes = load(disk, &file)?;
        let mut scanner = Scanner { bytes: &bytes, at: 0, sum: log.sum, sealed: 0, sealed_before: 0 };
        let outcome = log.read_segment(&mut scanner);
        let corrupt = |offset, reason| WalError::Corrupt { file: file.clone(), offset: offset as u64, reason };
        let intact = outcome.map_err(|reason| corrupt(scanner.at, reason))?;
        if !intact {
            if i + 1 < segments.len() {
                return Err(corrupt(scanner.at, "a record does not verify, and a later segment follows".to_owned()));
            }
            let sum = scanner.sum.unwrap_or(0);
            let mut judged = tear::judge(&bytes, scanner.at, sum);
            if mutant(Mutant::DamageTakenForTear) {
                judged = Ok(());
            }
            judged.map_err(|reason| corrupt(scanner.at, reason))?;
            let offset = scanner.at as u64;
            log.replay.cut = Some(TornTail { file, offset, dropped_bytes: written(&bytes) - offset });
        }
        log.sum = scanner.sum;
        tail = Some(Tail {
            end: scanner.at as u64,
            sum: scanner.sum.unwrap_or(0),
            sealed: scanner.at == scanner.sealed,
            unproven: if scanner.at == scanner.sealed { scanner.sealed_before } else { scanner.sealed } as u64,
            file_bytes: bytes.len() as u64,
        });
    }
    let tail = tail.ok_or_else(|| WalError::NotFound { dir: dir.to_owned() })?;
    let commit = log.replay.hard_state.commit();
    if mutant(Mutant::LogCutTooMuch) && log.entries.back().is_some_and(|last| last.index > commit) {
        log.entries.pop_back();
    }
    log.replay.entries = log.entries.drain(..).collect();
    log.check_end(dir)?;
    Ok((log.replay, tail))
}

fn load(disk: &dyn Disk, file: &Path) -> Result<Vec<u8>> {
    let len = disk.open(file)?.len()?;
    if len > MAX_SEGMENT_BYTES {
        let reason = format!("the file has {len} bytes, more than a segment can have ({MAX_SEGMENT_BYTES})");
        return Err(WalError::Corrupt { file: file.to_owned(), offset: 0, reason });
    }
    Ok(disk.read(file)?)
}

/// The place after the last byte that is not zero.
fn written(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1)
}

/// Steps through the records of one segment.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The running sum; unknown before the first record of the first segment that is read.
    sum: Option<u32>,
    /// The end of the last crc record, and of the crc record before it.
    sealed: usize,
    sealed_before: usize,
}

enum Step<'a> {
    Record(Record<'a>),
    /// Only zeros from here on, or the end of the file.
    End,
    /// Bytes that do not verify.
    Bad,
}

impl<'a> Scanner<'a> {
    /// Reads the record at the current place, without moving on.
    fn look(&self) -> Step<'a> {
        match word_at(self.bytes, self.at) {
            Word::EndOfFile if self.at == self.bytes.len() => return Step::End,
            Word::Zero if self.bytes[self.at..].iter().all(|b| *b == 0) => return Step::End,
            _ => {}
        }
        let Some(record) = record_at(self.bytes, self.at) else { return Step::Bad };
        let expected = match self.sum {
            Some(sum) => crc32c_append(sum, record.data),
            // The sum of the segments before this one, which were not read.
            None if record.kind == CRC => record.crc,
            None => return Step::Bad,
        };
        let shaped = (record.kind == CRC) == record.data.is_empty();
        if record.crc == expected && shaped { Step::Record(record) } else { Step::Bad }
    }

    fn accept(&mut self, record: &Record<'_>) {
        self.at = record.end;
        self.sum = Some(record.crc);
        if record.kind == CRC {
            (self.sealed_before, self.sealed) = (self.sealed, record.end);
        }
    }
}

/// The result of reading, so far.
struct Log {
    replay: Replay,
    keep: Keep,
    /// The entries that are kept, and the total size of their data.
    entries: VecDeque<Entry>,
    kept_bytes: usize,
    /// Entries are kept after this index and term; without it, none are kept.
    snapshot: Option<(u64, u64)>,
    snapshot_found: bool,
    /// Whether the entry of the snapshot was read: then the entries after it belong to the same history. Otherwise the
    /// snapshot was made by another member, and the log continues only after the snapshot's record.
    snapshot_made_here: bool,
    metadata: Option<Metadata>,
    sum: Option<u32>,
}

impl Log {
    /// Reads one segment. `Ok(false)`: the record at the scanner's place does not verify. `Err`: the record verifies
    /// but contradicts the log, or the head of the segment is broken.
    fn read_segment(&mut self, scanner: &mut Scanner<'_>) -> std::result::Result<bool, String> {
        for place in 0.. {
            let record = match scanner.look() {
                Step::Record(record) => record,
                Step::End | Step::Bad if place < 2 => return Err(broken_head(scanner)),
                Step::End => return Ok(true),
                Step::Bad => return Ok(false),
            };
            match (place, record.kind) {
                (0, CRC) | (1, METADATA) => {}
                (0 | 1, _) => return Err(broken_head(scanner)),
                _ => {}
            }
            self.take(&record)?;
            scanner.accept(&record);
        }
        Ok(true)
    }

    fn take(&mut self, record: &Record<'_>) -> std::result::Result<(), String> {
        let unreadable = |what| format!("a record holds no {what}");
        match record.kind {
            CRC => Ok(()),
            METADATA => self.take_metadata(Metadata::decode(record.data).map_err(|_| unreadable("metadata"))?),
            ENTRY => self.take_entry(Entry::decode(record.data).map_err(|_| unreadable("entry"))?),
            HARD_STATE => self.take_hard_state(decode_hard_state(record.data).map_err(|_| unreadable("hard state"))?),
            SNAPSHOT => {
                let snapshot = walpb::Snapshot::decode(record.data).map_err(|_| unreadable("snapshot mark"))?;
                self.take_snapshot(snapshot);
                Ok(())
            }
            kind => Err(format!("a record has the unknown type {kind}")),
        }
    }

    fn take_metadata(&mut self, metadata: Metadata) -> std::result::Result<(), String> {
        match self.metadata.replace(metadata) {
            Some(before) if before != metadata => Err(format!(
                "the segment belongs to member {:x} of cluster {:x}, the log to member {:x} of cluster {:x}",
                metadata.node_id, metadata.cluster_id, before.node_id, before.cluster_id
            )),
            _ => {
                self.replay.metadata = metadata;
                Ok(())
            }
        }
    }

    fn take_hard_state(&mut self, state: HardState) -> std::result::Result<(), String> {
        let before = &self.replay.hard_state;
        if state.term() < before.term() || state.commit() < before.commit() {
            return Err(format!(
                "a hard state of term {} and commit {} follows one of term {} and commit {}",
                state.term(),
                state.commit(),
                before.term(),
                before.commit()
            ));
        }
        self.replay.hard_state = state;
        Ok(())
    }

    fn take_entry(&mut self, entry: Entry) -> std::result::Result<(), String> {
        let (index, commit) = (entry.index, self.replay.hard_state.commit());
        if index <= commit {
            return Err(format!("entry {index} replaces one that was committed (commit index {commit})"));
        }
        if self.snapshot.is_none_or(|(snapshot, _)| index <= snapshot) {
            self.snapshot_made_here |= self.snapshot == Some((index, entry.term));
            return Ok(());
        }
        if !self.snapshot_made_here && !self.snapshot_found {
            return Ok(());
        }
        self.replay.log_bytes += log_bytes(entry.data.len());
        let (before, entries) = (&mut self.replay.before, &mut self.entries);
        let Some(place) = index.checked_sub(before.0 + 1) else {
            // The entry replaces one that was not kept. Its index is part of the state, so it is not kept either.
            entries.clear();
            (*before, self.kept_bytes) = ((index, entry.term), 0);
            return Ok(());
        };
        let place = usize::try_from(place).ok().filter(|place| *place <= entries.len());
        let Some(place) = place else {
            return Err(format!("entry {index} follows entry {}", before.0 + entries.len() as u64));
        };
        let term_before = if place == 0 { before.1 } else { entries[place - 1].term };
        if entry.term < term_before {
            return Err(format!("entry {index} of term {} follows one of term {term_before}", entry.term));
        }
        self.kept_bytes -= entries.drain(place..).map(|entry| entry.data.len()).sum::<usize>();
        self.kept_bytes += entry.data.len();
        entries.push_back(entry);
        self.leave_out();
        Ok(())
    }

    /// Drops the oldest entries that are applied, as long as the kept ones exceed the bounds.
    fn leave_out(&mut self) {
        let (before, entries) = (&mut self.replay.before, &mut self.entries);
        while let Some(first) = entries.front()
            && first.index <= self.keep.applied
            && (entries.len() > self.keep.entries || self.kept_bytes > self.keep.bytes)
        {
            self.kept_bytes -= first.data.len();
            *before = (first.index, first.term);
            entries.pop_front();
        }
    }

    fn take_snapshot(&mut self, snapshot: walpb::Snapshot) {
        self.snapshot_found |= self.snapshot == Some((snapshot.index(), snapshot.term()));
        // A snapshot is always of committed entries. The hard state that says so may lie in a torn tail.
        let state = &mut self.replay.hard_state;
        if state.commit() < snapshot.index() {
            state.commit = snapshot.index;
        }
        self.replay.snapshots.push(snapshot);
    }

    /// Checks that the snapshot and all committed entries are there.
    fn check_end(&self, dir: &Path) -> Result<()> {
        let Some((index, term)) = self.snapshot else { return Ok(()) };
        if !self.snapshot_found {
            return Err(WalError::SnapshotNotFound { dir: dir.to_owned(), index, term });
        }
        let (last, commit) = (self.replay.last_index(), self.replay.hard_state.commit());
        if commit > last {
            return Err(WalError::CommittedLost { dir: dir.to_owned(), last, commit });
        }
        Ok(())
    }
}

fn broken_head(scanner: &Scanner<'_>) -> String {
    match scanner.sum {
        Some(sum) if scanner.at == 0 && sum != 0 => "the segment does not continue the one before it".to_owned(),
        _ => "the segment does not begin with a sum and the member's ids".to_owned(),
    }
}
