//! Versions in the order of their revisions.

use super::leaf::Key;
use super::versions::Stored;
use crate::{Revision, STEP, Version};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

/// Versions in a chunk at most; a compaction step looks at one chunk.
const CHUNK_VERSIONS: usize = 256;

const _: () = assert!(CHUNK_VERSIONS <= STEP);

/// A version with its key: 48 bytes, the bytes of key and row aside, which the index shares.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) stored: Stored,
}

/// Versions in the order of their revisions, in chunks: versions come at the end and go anywhere, and a chunk that lost
/// most of its versions gives the memory back.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By a revision that is no greater than that of any version in the chunk; no chunk is empty.
    chunks: BTreeMap<Revision, Vec<Entry>>,
}

impl History {
    /// Adds a version, newer than all others.
    pub(super) fn push(&mut self, entry: Entry) {
        match self.chunks.last_entry() {
            Some(mut last) if last.get().len() < CHUNK_VERSIONS => last.get_mut().push(entry),
            _ => {
                let revision = entry.stored.stamp.revision();
                let mut chunk = Vec::with_capacity(CHUNK_VERSIONS);
                chunk.push(entry);
                self.chunks.insert(revision, chunk);
            }
        }
    }

    /// Adds at most `step` versions with `from <= revision` and `main <= to` to `rows`; returns the next one's revision.
    pub(super) fn read(&self, from: Revision, to: i64, step: usize, rows: &mut Vec<Version>) -> Option<Revision> {
        let chunks = self.chunks.range((Included(self.bound(from)?), Unbounded));
        let entries = chunks.flat_map(|(_, chunk)| {
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

    /// Drops those versions with `from <= revision` and `main <= at` that `dropped` names, in one chunk. Returns where the
    /// next step begins.
    pub(super) fn compact_step(
        &mut self,
        at: i64,
        from: Revision,
        mut dropped: impl FnMut(&Entry) -> bool,
    ) -> Option<Revision> {
        let bound = self.bound(from)?;
        if let Some(chunk) = self.chunks.get_mut(&bound) {
            chunk.retain(|entry| {
                let stamp = entry.stored.stamp;
                stamp.revision() < from || stamp.main > at || !dropped(entry)
            });
        }
        let next = self.chunks.range((Excluded(bound), Unbounded)).next().map(|(&next, _)| next);
        self.tidy(bound);
        next.filter(|next| next.main <= at)
    }

    /// The bound of the chunk in which versions from `from` on begin, if there is any chunk.
    fn bound(&self, from: Revision) -> Option<Revision> {
        let before = self.chunks.range(..=from).next_back();
        before.or_else(|| self.chunks.first_key_value()).map(|(&bound, _)| bound)
    }

    /// Moves the versions of a chunk to the one before if they fit there, else gives unused memory back.
    fn tidy(&mut self, bound: Revision) {
        let Some(mut chunk) = self.chunks.remove(&bound) else { return };
        match self.chunks.range_mut(..bound).next_back() {
            Some((_, before)) if before.len() + chunk.len() <= CHUNK_VERSIONS => before.append(&mut chunk),
            _ if chunk.is_empty() => {}
            _ => {
                if chunk.len() * 2 <= chunk.capacity() {
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

    fn filled(versions: i64) -> History {
        let mut history = History::default();
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
            next = history.compact_step(i64::MAX, from, |entry| dropped(entry.stored.stamp.main));
        }
    }

    #[test]
    fn chunks_that_lost_versions_give_memory_back() {
        let mut history = filled(20 * CHUNK_VERSIONS as i64);
        assert_eq!(history.chunks.len(), 20);
        compact(&mut history, |main| main % 10 != 0);
        assert_eq!(history.chunks.values().map(Vec::len).sum::<usize>(), 2 * CHUNK_VERSIONS);
        let capacity: usize = history.chunks.values().map(Vec::capacity).sum();
        assert!(history.chunks.len() <= 4 && capacity <= 4 * CHUNK_VERSIONS, "{capacity}");
        compact(&mut history, |_| true);
        assert_eq!(history.chunks.len(), 0);
    }

    #[test]
    fn steps_look_at_each_version_once() {
        let mut history = filled(3 * CHUNK_VERSIONS as i64);
        let (mut looked, mut next) = (0, Some(Revision::new(10, 0)));
        while let Some(from) = next {
            next = history.compact_step(600, from, |_| {
                looked += 1;
                false
            });
        }
        assert_eq!(looked, 600 - 10 + 1);
    }
}
