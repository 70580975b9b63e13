//! Versions in the order of their revisions.

use super::leaf::Key;
use super::versions::Stored;
use crate::{Revision, STEP, Version};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

/// The most versions in a chunk.
pub(super) const CHUNK_VERSIONS: usize = 256;

const _: () = assert!(CHUNK_VERSIONS <= STEP);

/// A version with its key: 48 bytes, without the bytes of key and row, which the index shares.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) stored: Stored,
}

/// Versions in the order of their revisions, in chunks. Versions are added at the end and removed anywhere. A chunk
/// that lost most of its versions gives their memory back.
///
/// A clone is a frozen copy: it shares the chunks, and a chunk that changes afterwards is copied first. So the copy
/// takes a few bytes for each chunk, and the memory of versions that compactions drop is freed only with the copy.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// The most versions in a chunk.
    full: usize,
    /// Chunks by a revision that is no greater than that of any version in the chunk. No chunk is empty.
    chunks: BTreeMap<Revision, Arc<Vec<Entry>>>,
    /// The newest versions, which become a chunk once it is full.
    newest: Vec<Entry>,
}

impl History {
    /// An empty history with at most so many versions in a chunk.
    pub(super) fn new(chunk_versions: usize) -> Self {
        Self { full: chunk_versions, chunks: BTreeMap::new(), newest: Vec::new() }
    }

    /// Adds a version, newer than all others.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.newest.len() >= self.full {
            self.close();
        }
        if self.newest.is_empty() {
            self.newest.reserve_exact(self.full);
        }
        self.newest.push(entry);
    }

    /// Makes a chunk of the newest versions.
    fn close(&mut self) {
        if let Some(first) = self.newest.first().map(|entry| entry.stored.stamp.revision()) {
            let chunk = std::mem::take(&mut self.newest);
            self.chunks.insert(first, Arc::new(chunk));
        }
    }

    /// Adds at most `step` versions with `from <= revision` and `main <= to` to `rows`. Returns the
    /// revision of the next one.
    pub(super) fn read(&self, from: Revision, to: i64, step: usize, rows: &mut Vec<Version>) -> Option<Revision> {
        let begin = self.bound(from).map_or(Unbounded, Included);
        let chunks = self.chunks.range((begin, Unbounded)).map(|(_, chunk)| &chunk[..]);
        let entries = chunks.chain([&self.newest[..]]).flat_map(|chunk| {
            let first = chunk.partition_point(|entry| entry.stored.stamp.revision() < from);
            &chunk[first..]
        });
        for (visited, Entry { stored, .. }) in entries.enumerate() {
            if stored.stamp.main > to {
                return None;
            }
            if visited == step {
                return Some(stored.stamp.revision());
            }
            rows.push(stored.version());
        }
        None
    }

    /// All versions with `main <= to`.
    pub(super) fn up_to(&self, to: i64) -> impl Iterator<Item = &Entry> {
        let entries = self.chunks.values().flat_map(|chunk| chunk.iter()).chain(&self.newest);
        entries.take_while(move |entry| entry.stored.stamp.main <= to)
    }

    /// Drops the versions with `from <= revision` and `main <= at` for which `dropped` returns true, among the next
    /// `step` ones of a chunk. Returns where the next step begins.
    pub(super) fn compact_step(
        &mut self,
        (at, from): (i64, Revision),
        step: usize,
        mut dropped: impl FnMut(&Entry) -> bool,
    ) -> Option<Revision> {
        if self.newest.first().is_some_and(|entry| entry.stored.stamp.main <= at) {
            self.close();
        }
        let bound = self.bound(from)?;
        let mut next = None;
        if let Some(chunk) = self.chunks.get_mut(&bound) {
            let first = chunk.partition_point(|entry| entry.stored.stamp.revision() < from);
            let end = chunk.len().min(first + step);
            next = chunk.get(end).map(|entry| entry.stored.stamp.revision());
            let goes: Vec<bool> =
                chunk[first..end].iter().map(|entry| entry.stored.stamp.main <= at && dropped(entry)).collect();
            if goes.contains(&true) {
                let mut goes = std::iter::repeat_n(false, first).chain(goes);
                Arc::make_mut(chunk).retain(|_| !goes.next().unwrap_or_default());
            }
        }
        let next = next.or_else(|| self.chunks.range((Excluded(bound), Unbounded)).next().map(|(&next, _)| next));
        self.tidy(bound);
        next.filter(|next| next.main <= at)
    }

    /// The bound of the chunk in which versions from `from` on begin, if there is any chunk.
    fn bound(&self, from: Revision) -> Option<Revision> {
        let before = self.chunks.range(..=from).next_back();
        before.or_else(|| self.chunks.first_key_value()).map(|(&bound, _)| bound)
    }

    /// Moves the versions of a chunk to the chunk before it if they fit there. Otherwise frees its unused memory.
    fn tidy(&mut self, bound: Revision) {
        let Some(mut chunk) = self.chunks.remove(&bound) else { return };
        match self.chunks.range_mut(..bound).next_back() {
            Some((_, before)) if before.len() + chunk.len() <= self.full => {
                Arc::make_mut(before).append(&mut Arc::unwrap_or_clone(chunk));
            }
            _ if chunk.is_empty() => {}
            _ => {
                if let Some(chunk) = Arc::get_mut(&mut chunk)
                    && chunk.len() * 2 <= chunk.capacity()
                {
                    chunk.shrink_to_fit();
                }
                self.chunks.insert(bound, chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::COMPACTION_STEP;

    fn filled(versions: i64) -> History {
        let mut history = History::new(CHUNK_VERSIONS);
        for main in 0..versions {
            let row = [].as_slice().into();
            let stored = Stored::from(Version { revision: Revision::new(main, 0), tombstone: false, row });
            history.push(Entry { key: Key::default(), stored });
        }
        history
    }

    fn compact(history: &mut History, dropped: fn(i64) -> bool) {
        let mut next = Some(Revision::default());
        while let Some(from) = next {
            next = history.compact_step((i64::MAX, from), COMPACTION_STEP, |entry| dropped(entry.stored.stamp.main));
        }
    }

    #[test]
    fn chunks_that_lost_versions_give_memory_back() {
        let mut history = filled(20 * CHUNK_VERSIONS as i64);
        assert_eq!((history.chunks.len(), history.newest.len()), (19, CHUNK_VERSIONS));
        compact(&mut history, |main| main % 10 != 0);
        assert_eq!(history.chunks.values().map(|chunk| chunk.len()).sum::<usize>(), 2 * CHUNK_VERSIONS);
        let capacity: usize = history.chunks.values().map(|chunk| chunk.capacity()).sum();
        assert!(history.chunks.len() <= 4 && capacity <= 4 * CHUNK_VERSIONS, "{capacity}");
        compact(&mut history, |_| true);
        assert_eq!(history.chunks.len(), 0);
    }

    fn revisions(history: &History) -> Vec<i64> {
        let mut rows = Vec::new();
        assert_eq!(history.read(Revision::default(), i64::MAX, usize::MAX, &mut rows), None);
        rows.iter().map(|version| version.revision.main).collect()
    }

    #[test]
    fn a_frozen_copy_stays_as_it_is_and_shares_what_did_not_change() {
        let versions = 4 * CHUNK_VERSIONS as i64 + 7;
        let mut history = filled(versions);
        let frozen = history.clone();
        let shared = |history: &History| history.chunks.values().filter(|&chunk| Arc::strong_count(chunk) > 1).count();
        assert_eq!((shared(&history), frozen.newest.len()), (4, 7));
        let row = [].as_slice().into();
        let stored = Stored::from(Version { revision: Revision::new(versions, 0), tombstone: false, row });
        history.push(Entry { key: Key::default(), stored });
        compact(&mut history, |main| main / CHUNK_VERSIONS as i64 == 1 && main % 2 == 0);
        assert_eq!(shared(&history), 3, "one chunk lost versions");
        assert!(revisions(&frozen).into_iter().eq(0..versions));
        let stay = |main: &i64| main / CHUNK_VERSIONS as i64 != 1 || main % 2 != 0;
        assert!(revisions(&history).into_iter().eq((0..=versions).filter(stay)));
    }

    #[test]
    fn steps_look_at_each_version_once() {
        let mut history = filled(3 * CHUNK_VERSIONS as i64);
        let (mut looked, mut next) = (0, Some(Revision::new(10, 0)));
        while let Some(from) = next {
            next = history.compact_step((600, from), COMPACTION_STEP, |_| {
                looked += 1;
                false
            });
        }
        assert_eq!(looked, 600 - 10 + 1);
    }
}
