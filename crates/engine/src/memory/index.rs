//! Keys in order, each with its versions.
//!
//! A B+tree of two levels, the upper one borrowed from the standard library:
//!
//! ```text
//!   leaves: BTreeMap     ""          "m"          "t"        lower bound of the leaf; the first is the empty key
//!                        │            │            │
//!   Leaf             [a b d f]    [m n p]      [t v x z]     at most LEAF_KEYS slots, each a key and its versions
//!                    live 3        live 3       live 4       keys whose newest version is no tombstone
//!                    newest 17     newest 9     newest 21    no slot has a version newer than this
//! ```
//!
//! A plain `BTreeMap` of keys would do, but a leaf fills to the brim when keys arrive in order (the standard one to half),
//! its two figures let [`Index::count`] take a leaf that lies whole in the range without looking at its keys, and a search
//! misses the cache less often (leaf.rs).

use super::leaf::{Key, Leaf, Slot};
use super::versions::{Fate, Stamp, Stored};
use crate::{KeyRange, Version};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

/// Keys in a leaf at most. An insertion moves half a leaf on average (3 KiB, well under 100 ns).
const LEAF_KEYS: usize = 128;

/// A leaf with fewer keys is merged with a neighbour if the two together stay under [`MERGED_KEYS`].
const SPARSE_KEYS: usize = LEAF_KEYS / 4;

/// Keys in a merged leaf at most, so that the next insertions do not split it again.
const MERGED_KEYS: usize = LEAF_KEYS * 3 / 4;

const _: () = assert!(SPARSE_KEYS < MERGED_KEYS && MERGED_KEYS < LEAF_KEYS);

/// Keys in order, each with its versions.
#[derive(Debug)]
pub(super) struct Index {
    /// By lower bound. There is always a leaf for the empty key, so every key has a leaf.
    leaves: BTreeMap<Key, Leaf>,
}

/// The slots of one leaf that lie in a range.
struct Part<'a> {
    leaf: &'a Leaf,
    slots: &'a [Slot],
}

impl Part<'_> {
    /// The number of its keys that are alive at `at`, if the leaf's figures tell.
    fn live_at(&self, at: i64) -> Option<u64> {
        (self.slots.len() == self.leaf.slots().len() && self.leaf.newest() <= at).then_some(self.leaf.live())
    }
}

impl Default for Index {
    fn default() -> Self {
        Self { leaves: BTreeMap::from([(Key::default(), Leaf::default())]) }
    }
}

impl Index {
    /// Adds a version, newer than all others of its key. Returns the key as it is kept.
    pub(super) fn append(&mut self, key: &[u8], stored: Stored) -> Key {
        let (_, leaf) = self.leaf_mut(key);
        match leaf.find(key) {
            Ok(position) => leaf.push(position, stored),
            Err(position) if leaf.slots().len() < LEAF_KEYS => leaf.insert(position, key, stored),
            Err(position) => {
                let right = leaf.split_off(position);
                let bound = right.slots().first().map_or_else(|| Key::from(key), |slot| Key::clone(&slot.key));
                self.leaves.insert(bound, right);
                self.append(key, stored)
            }
        }
    }

    /// The newest version of `key` with `main <= at`.
    pub(super) fn newest(&self, key: &[u8], at: i64) -> Option<&Stored> {
        let (_, leaf) = self.leaf(key);
        leaf.find(key).ok().and_then(|position| leaf.slots()[position].versions.newest(at))
    }

    /// Adds what is alive at `at` to `rows` until `limit` rows were added or `step` keys were visited, dead ones included.
    /// Returns the next key.
    pub(super) fn scan(
        &self,
        range: KeyRange<'_>,
        at: i64,
        limit: usize,
        step: usize,
        rows: &mut Vec<Version>,
    ) -> Option<&[u8]> {
        let full = rows.len().saturating_add(limit);
        for (visited, slot) in self.parts(range).flat_map(|part| part.slots).enumerate() {
            if visited == step || rows.len() == full {
                return Some(&slot.key);
            }
            rows.extend(slot.live_at(at).map(Stored::version));
        }
        None
    }

    /// Adds the number of keys alive at `at` to `count` until about `step` units of work are done: a key, or a leaf whose
    /// figures tell, is one. Returns the next key.
    pub(super) fn count(&self, range: KeyRange<'_>, at: i64, step: usize, count: &mut u64) -> Option<&[u8]> {
        let mut work = 0;
        for part in self.parts(range) {
            let Some(first) = part.slots.first() else { continue };
            if work >= step {
                return Some(&first.key);
            }
            let told = part.live_at(at);
            work += if told.is_some() { 1 } else { part.slots.len() };
            *count +=
                told.unwrap_or_else(|| part.slots.iter().filter(|slot| slot.live_at(at).is_some()).count() as u64);
        }
        None
    }

    /// Removes the version of `key` with this stamp, if a compaction at `at` drops it; returns the least revision at
    /// which one would have.
    pub(super) fn compact(&mut self, key: &[u8], stamp: Stamp, at: i64) -> Option<i64> {
        let (bound, leaf) = self.leaf_mut(key);
        let position = leaf.find(key).expect("a version in history has its key in the index");
        let fate = leaf.compact(position, stamp, at);
        if matches!(fate, Fate::GoesWithKey { .. }) && leaf.slots().len() < SPARSE_KEYS {
            let bound = Key::clone(bound);
            self.merge(&bound);
        }
        match fate {
            Fate::Stays => None,
            Fate::Goes { dead } | Fate::GoesWithKey { dead } => Some(dead),
        }
    }

    /// Merges the leaf at `bound` with its left neighbour, or the first leaf with its right one, if both together are
    /// small enough.
    fn merge(&mut self, bound: &Key) {
        let right = if bound.is_empty() {
            self.leaves.range::<[u8], _>((Excluded(&bound[..]), Unbounded)).next().map(|(right, _)| Key::clone(right))
        } else {
            Some(Key::clone(bound))
        };
        let Some(right) = right else { return };
        let taken = self.leaves[&right].slots().len();
        let (_, left) = self
            .leaves
            .range::<[u8], _>((Unbounded, Excluded(&right[..])))
            .next_back()
            .expect("the empty key is the least bound");
        if taken > 0 && left.slots().len() + taken > MERGED_KEYS {
            return;
        }
        if let Some(leaf) = self.leaves.remove(&right) {
            self.leaf_mut(&right).1.merge(leaf);
        }
    }

    fn leaf(&self, key: &[u8]) -> (&Key, &Leaf) {
        let mut up_to_key = self.leaves.range::<[u8], _>((Unbounded, Included(key)));
        up_to_key.next_back().expect("the empty key is the least bound")
    }

    fn leaf_mut(&mut self, key: &[u8]) -> (&Key, &mut Leaf) {
        let mut up_to_key = self.leaves.range_mut::<[u8], _>((Unbounded, Included(key)));
        up_to_key.next_back().expect("the empty key is the least bound")
    }

    /// The slots in `range`, leaf by leaf; some parts may be empty. Only the leaves at the two ends compare keys.
    fn parts<'a>(&'a self, range: KeyRange<'_>) -> impl Iterator<Item = Part<'a>> {
        let start = range.start;
        let end = range.end.map(|end| end.max(start));
        let first = self.leaf(start).0;
        let last = end.map(|end| self.leaf(end).0);
        let up_to = last.map_or(Unbounded, |last| Included(&last[..]));
        self.leaves.range::<[u8], _>((Included(&first[..]), up_to)).map(move |(bound, leaf)| {
            let slots = leaf.slots();
            let below = |key: &[u8]| slots.partition_point(|slot| &*slot.key < key);
            let from = if Key::ptr_eq(bound, first) { below(start) } else { 0 };
            let to = match end {
                Some(end) if last.is_some_and(|last| Key::ptr_eq(bound, last)) => below(end),
                _ => slots.len(),
            };
            Part { leaf, slots: &slots[from..to] }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    fn append(index: &mut Index, number: usize, main: i64, tombstone: bool) -> (Key, Stamp) {
        let row = [].as_slice().into();
        let stored = Stored::from(Version { revision: Revision::new(main, 0), tombstone, row });
        let stamp = stored.stamp;
        (index.append(format!("key{number:05}").as_bytes(), stored), stamp)
    }

    #[test]
    fn keys_in_order_fill_their_leaves() {
        let mut index = Index::default();
        for number in 0..10 * LEAF_KEYS {
            append(&mut index, number, 1, false);
        }
        assert_eq!(index.leaves.len(), 10);
    }

    #[test]
    fn sparse_leaves_are_merged_and_empty_ones_removed() {
        let mut index = Index::default();
        let numbers = 0..10 * LEAF_KEYS;
        let written: Vec<_> = numbers.map(|number| append(&mut index, number, number as i64, true)).collect();
        for (number, (key, stamp)) in written.iter().enumerate() {
            assert!(index.compact(key, *stamp, i64::MAX).is_some(), "{key:?}");
            let left = written.len() - number - 1;
            // Two neighbours that could not be merged hold more than MERGED_KEYS; the first leaf may be empty.
            assert!(
                index.leaves.len() <= 2 + left.div_ceil(MERGED_KEYS / 2),
                "{} leaves, {left} keys",
                index.leaves.len()
            );
        }
        assert_eq!(index.leaves.len(), 1);
        let goes = |number: &usize| !number.is_multiple_of(10);
        let written: Vec<_> = (0..10 * LEAF_KEYS).map(|n| append(&mut index, n, n as i64, true)).collect();
        for number in (0..written.len()).filter(goes) {
            index.compact(&written[number].0, written[number].1, i64::MAX);
        }
        assert!(index.leaves.len() <= 4, "{} leaves hold {LEAF_KEYS} keys", index.leaves.len());
    }
}
