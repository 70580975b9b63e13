//! The part of the log that the consensus library reads: recent entries, in memory.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// Maximum bytes of entries kept in memory for followers that lag.
const KEEP_BYTES: usize = 256 << 20;
/// Maximum number of entries held for followers that are sent a state: some minutes of small writes. A follower that
/// lags by more needs another state.
const HELD_ENTRIES: usize = 1 << 20;
/// Maximum bytes of entries held for these followers.
const HELD_BYTES: usize = 512 << 20;

/// How much of the log a member keeps in memory for its followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Number of applied entries kept when the log is cut (`--snapshot-catchup-entries`).
    pub entries: usize,
    /// The log is cut when it holds so many entries more (`--snapshot-count`).
    pub more_entries: usize,
    /// The log is also cut when it holds more bytes than this, whatever its number of entries.
    pub bytes: usize,
    /// Maximum number of entries and bytes held for followers that are sent a state.
    pub held_entries: usize,
    pub held_bytes: usize,
}

impl Retention {
    /// Keeps so many entries, and cuts the log whenever it holds more.
    pub fn new(entries: usize) -> Self {
        let (more_entries, bytes) = (0, KEEP_BYTES);
        Self { entries, more_entries, bytes, held_entries: HELD_ENTRIES, held_bytes: HELD_BYTES }
    }
}

/// The entries after a compacted prefix. All of them are also in the log on disk, or covered by a snapshot.
pub struct EntryLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of the last entry that was dropped.
    compacted: (u64, u64),
    /// Index and term of the last entry that is part of the state.
    applied: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl EntryLog {
    /// A log that continues after `compacted`, an index and its term.
    pub fn new(hard_state: HardState, conf_state: ConfState, compacted: (u64, u64)) -> Self {
        let (applied, entries) = (compacted, VecDeque::new());
        Self { hard_state, conf_state, compacted, applied, entries, bytes: 0 }
    }

    /// Adds entries; they replace existing entries from the first one's index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.compacted.0 && first.index <= self.last() + 1,
            "entry {} does not continue a log of {}..={}",
            first.index,
            self.compacted.0 + 1,
            self.last()
        );
        while self.last() >= first.index {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| entry.data.len());
        }
        self.bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Continues after a state that has replaced the log.
    pub fn restart(&mut self, behind: &SnapshotMetadata) {
        self.compacted = (behind.index, behind.term);
        self.applied = self.compacted;
        self.conf_state = behind.get_conf_state().clone();
        self.entries.clear();
        self.bytes = 0;
    }

    /// The members that count from now on.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Drops entries up to `applied`, except the newest ones that `keep` allows: a follower that lacks no more than
    /// these needs no state. Entries from `needed` on are held for followers that are sent a state.
    pub fn compact(&mut self, applied: u64, keep: Retention, needed: Option<u64>) {
        if let Some(entry) = applied.checked_sub(self.first()).and_then(|at| self.entries.get(at as usize)) {
            self.applied = (entry.index, entry.term);
        }
        if self.entries.len() <= keep.entries.saturating_add(keep.more_entries) && self.bytes <= keep.bytes {
            return;
        }
        let full = self.entries.len() > keep.held_entries || self.bytes > keep.held_bytes;
        let needed = needed.filter(|_| !full).unwrap_or(u64::MAX);
        while let Some(first) = self.entries.front()
            && first.index <= applied
            && first.index < needed
            && (self.entries.len() > keep.entries || self.bytes > keep.bytes)
        {
            self.compacted = (first.index, first.term);
            self.bytes -= first.data.len();
            self.entries.pop_front();
        }
    }

    fn first(&self) -> u64 {
        self.compacted.0 + 1
    }

    fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        (index - self.first()) as usize
    }
}

impl Storage for EntryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let wanted = self.entries.range(self.position(low)..self.position(high));
        let fitting = wanted.enumerate().take_while(|(at, entry)| {
            size += ENTRY_OVERHEAD + entry.data.len() as u64;
            *at == 0 || size <= limit
        });
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        let entry = self.entries.get(self.position(index)).ok_or(StorageError::Unavailable)?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The position of the state that a follower is to be sent. The state itself is sent separately, and may be newer.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let (index, term) = self.applied;
        if index == 0 || index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

/// Approximate bytes that an entry's other fields take on the wire.
const ENTRY_OVERHEAD: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Entry::default() }
    }

    fn log() -> EntryLog {
        let mut log = EntryLog::new(HardState::default(), ConfState::default(), (4, 1));
        log.append(&[entry(5, 1), entry(6, 1), entry(7, 2)]);
        log
    }

    fn indexes(log: &EntryLog, low: u64, high: u64, max: u64) -> Vec<u64> {
        let entries = log.entries(low, high, max, GetEntriesContext::empty(false)).unwrap();
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn reads_by_index_and_size() {
        let log = log();
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (5, 7));
        assert_eq!(indexes(&log, 5, 8, u64::MAX), [5, 6, 7]);
        assert_eq!(indexes(&log, 5, 8, 0), [5], "at least one entry, however small the limit");
        assert_eq!(indexes(&log, 5, 8, 240), [5, 6]);
        assert_eq!((log.term(4).unwrap(), log.term(7).unwrap()), (1, 2));
        assert!(log.term(3).is_err() && log.term(8).is_err());
        assert!(log.entries(4, 6, None, GetEntriesContext::empty(false)).is_err());
    }

    #[test]
    fn a_later_entry_replaces_the_tail() {
        let mut log = log();
        log.append(&[entry(6, 3)]);
        assert_eq!(log.last_index().unwrap(), 6);
        assert_eq!(log.term(6).unwrap(), 3);
        assert_eq!(log.bytes, 200);
    }

    #[test]
    #[should_panic(expected = "does not continue")]
    fn a_gap_is_refused() {
        log().append(&[entry(9, 3)]);
    }

    #[test]
    fn compaction_keeps_what_followers_may_need_and_what_is_not_applied() {
        let mut log = log();
        log.compact(7, Retention::new(2), None);
        assert_eq!(log.first_index().unwrap(), 6);
        log.compact(6, Retention { bytes: 0, ..Retention::new(0) }, None);
        assert_eq!(log.first_index().unwrap(), 7, "entry 7 is not applied");
        log.compact(7, Retention { bytes: 50, ..Retention::new(1) }, None);
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (8, 7));
        assert_eq!(log.term(7).unwrap(), 2);
    }

    #[test]
    fn the_log_is_cut_when_it_has_grown_by_as_much_as_it_may() {
        let mut log = log();
        let keep = Retention { more_entries: 2, ..Retention::new(1) };
        log.compact(7, keep, None);
        assert_eq!(log.first_index().unwrap(), 5);
        log.append(&[entry(8, 2)]);
        log.compact(7, keep, None);
        assert_eq!(log.first_index().unwrap(), 8, "entry 8 is kept");
    }

    #[test]
    fn entries_that_a_follower_needs_are_held_up_to_a_bound() {
        let mut log = log();
        let keep = Retention { held_entries: 4, ..Retention::new(1) };
        log.compact(7, keep, Some(6));
        assert_eq!(log.first_index().unwrap(), 6);
        log.append(&[entry(8, 2), entry(9, 2)]);
        log.compact(9, keep, Some(6));
        assert_eq!(log.first_index().unwrap(), 6, "4 entries");
        log.append(&[entry(10, 2)]);
        log.compact(10, keep, Some(6));
        assert_eq!(log.first_index().unwrap(), 10, "5 entries are too many, and a part of them is of no use");
        log.append(&[entry(11, 2), entry(12, 2)]);
        log.compact(12, Retention { held_bytes: 250, ..keep }, Some(10));
        assert_eq!(log.first_index().unwrap(), 12, "300 bytes are too many");
    }
}
