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
//! and its two figures let [`Index::count`] take a leaf that lies whole in the range without looking at its keys.

use super::versions::{Fate, Stamp, Stored, Versions};
use crate::{KeyRange, Version};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

/// The bytes of a key, shared by index and history.
pub(super) type Key = Arc<[u8]>;

/// Keys in a leaf at most. An insertion moves half a leaf on average (3 KiB, well under 100 ns).
const LEAF_KEYS: usize = 128;

/// A leaf with fewer keys is merged with a neighbour if the two together stay under [`MERGED_KEYS`].
const SPARSE_KEYS: usize = LEAF_KEYS / 4;

/// Keys in a merged leaf at most, so that the next insertions do not split it again.
const MERGED_KEYS: usize = LEAF_KEYS * 3 / 4;

/// Slots by which a leaf grows: doubling would leave a quarter of the memory unused.
const LEAF_GROWTH: usize = 16;

const _: () = assert!(SPARSE_KEYS < MERGED_KEYS && MERGED_KEYS < LEAF_KEYS && LEAF_KEYS.is_multiple_of(LEAF_GROWTH));

/// Keys in order, each with its versions.
#[derive(Debug)]
pub(super) struct Index {
    /// By lower bound. There is always a leaf for the empty key, so every key has a leaf.
    leaves: BTreeMap<Key, Leaf>,
}

#[derive(Debug, Default)]
struct Leaf {
    slots: Vec<Slot>,
    live: u64,
    newest: i64,
}

/// A key and its versions: 48 bytes, the key's own bytes and further versions aside.
#[derive(Debug)]
struct Slot {
    key: Key,
    versions: Versions,
}

impl Slot {
    fn is_live(&self) -> bool {
        !self.versions.last().stamp.is_tombstone()
    }

    fn live_at(&self, at: i64) -> Option<&Stored> {
        self.versions.newest(at).filter(|stored| !stored.stamp.is_tombstone())
    }
}

impl Leaf {
    fn new(slots: Vec<Slot>) -> Self {
        let live = slots.iter().filter(|slot| slot.is_live()).count() as u64;
        let newest = slots.iter().map(|slot| slot.versions.last().stamp.main).max().unwrap_or_default();
        Self { slots, live, newest }
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.slots.binary_search_by(|slot| (*slot.key).cmp(key))
    }

    fn insert(&mut self, position: usize, key: &[u8], stored: Stored) -> Key {
        let key = Key::from(key);
        self.note(&stored, false);
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(LEAF_GROWTH);
        }
        self.slots.insert(position, Slot { key: Key::clone(&key), versions: Versions::One(stored) });
        key
    }

    fn push(&mut self, position: usize, stored: Stored) -> Key {
        self.note(&stored, self.slots[position].is_live());
        let slot = &mut self.slots[position];
        slot.versions.push(stored);
        Key::clone(&slot.key)
    }

    /// Keeps the leaf's figures right for a version about to be added to a key that is live or not.
    fn note(&mut self, stored: &Stored, was_live: bool) {
        self.newest = self.newest.max(stored.stamp.main);
        self.live = self.live + u64::from(!stored.stamp.is_tombstone()) - u64::from(was_live);
    }

    /// Cuts off the upper half; or nothing, if the next key comes last: keys that arrive in order leave full leaves.
    fn split_off(&mut self, next_position: usize) -> Vec<Slot> {
        if next_position == self.slots.len() {
            return Vec::new();
        }
        let right = self.slots.split_off(self.slots.len() / 2);
        *self = Self::new(std::mem::take(&mut self.slots));
        self.slots.shrink_to(self.slots.len() + LEAF_GROWTH);
        right
    }

    /// Removes a key whose last version, a tombstone, is gone; `live` does not count it.
    fn remove(&mut self, position: usize) {
        self.slots.remove(position);
        if self.slots.capacity() > self.slots.len() * 2 + LEAF_GROWTH {
            self.slots.shrink_to(self.slots.len() + LEAF_GROWTH);
        }
    }
}

/// The slots of one leaf that lie in a range.
struct Part<'a> {
    leaf: &'a Leaf,
    slots: &'a [Slot],
}

impl Part<'_> {
    /// The number of its keys that are alive at `at`, if the leaf's figures tell.
    fn live_at(&self, at: i64) -> Option<u64> {
        (self.slots.len() == self.leaf.slots.len() && self.leaf.newest <= at).then_some(self.leaf.live)
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
            Err(position) if leaf.slots.len() < LEAF_KEYS => leaf.insert(position, key, stored),
            Err(position) => {
                let right = leaf.split_off(position);
                let bound = right.first().map_or_else(|| Key::from(key), |slot| Key::clone(&slot.key));
                self.leaves.insert(bound, Leaf::new(right));
                self.append(key, stored)
            }
        }
    }

    /// The newest version of `key` with `main <= at`.
    pub(super) fn newest(&self, key: &[u8], at: i64) -> Option<&Stored> {
        let (_, leaf) = self.leaf(key);
        leaf.find(key).ok().and_then(|position| leaf.slots[position].versions.newest(at))
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

    /// Removes the version of `key` with this stamp, if a compaction at `at` drops it; returns whether it did.
    pub(super) fn compact(&mut self, key: &[u8], stamp: Stamp, at: i64) -> bool {
        let (bound, leaf) = self.leaf_mut(key);
        let position = leaf.find(key).expect("a version in history has its key in the index");
        let fate = leaf.slots[position].versions.compact(stamp, at);
        if fate == Fate::GoesWithKey {
            leaf.remove(position);
            if leaf.slots.len() < SPARSE_KEYS {
                let bound = Key::clone(bound);
                self.merge(&bound);
            }
        }
        fate != Fate::Stays
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
        let taken = self.leaves[&right].slots.len();
        let (_, left) = self
            .leaves
            .range_mut::<[u8], _>((Unbounded, Excluded(&right[..])))
            .next_back()
            .expect("the empty key is the least bound");
        if taken > 0 && left.slots.len() + taken > MERGED_KEYS {
            return;
        }
        let mut slots = std::mem::take(&mut left.slots);
        if let Some(leaf) = self.leaves.remove(&right) {
            slots.extend(leaf.slots);
        }
        *self.leaf_mut(&right).1 = Leaf::new(slots);
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
        let (first, _) = self.leaf(range.start);
        let leaves = self.leaves.range::<[u8], _>((Included(&first[..]), Unbounded));
        leaves.take_while(move |(bound, _)| !range.is_empty() && range.end.is_none_or(|end| &bound[..] < end)).map(
            move |(bound, leaf)| {
                let slots = &leaf.slots[..];
                let from = if &bound[..] < range.start { slots.partition_point(|s| &*s.key < range.start) } else { 0 };
                let to = match (range.end, slots.last()) {
                    (Some(end), Some(last)) if &*last.key >= end => slots.partition_point(|slot| &*slot.key < end),
                    _ => slots.len(),
                };
                Part { leaf, slots: &slots[from..to] }
            },
        )
    }
}
