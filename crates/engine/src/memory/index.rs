//! Keys in order, each with its versions.
//!
//! A B+tree of two levels. The upper level is a map of the standard library:
//!
//! ```text
//!   leaves: BTreeMap     ""          "m"          "t"        lower bound of the leaf; the first has the empty key
//!                        │            │            │
//!   Leaf             [a b d f]    [m n p]      [t v x z]     at most LEAF_KEYS slots, each with a key and its versions
//!                    live 3        live 3       live 4       number of keys whose newest version is no tombstone
//!                    newest 17     newest 9     newest 21    no slot has a version newer than this
//! ```
//!
//! A plain `BTreeMap` of keys would be enough, but this tree has three advantages. A leaf is filled completely when
//! keys arrive in order (a node of the standard map to half). Its two figures let [`Index::count`] count a leaf that
//! lies wholly in the range without visiting its keys. A search misses the cache less often (leaf.rs).
//!
//! Whatever the order in which keys are added and removed, the number of leaves follows the number of keys: two
//! neighbours together hold at least 3/8 of [`LEAF_KEYS`]. A full leaf is split in the middle, or passes a key at its
//! end to a neighbour that has room. A leaf begins with less than half only between full ones. A leaf that lost more
//! than half of its keys is merged with a neighbour that has room for the rest.

use super::leaf::{Key, Leaf, Slot};
use super::versions::{Fate, Stamp, Stored};
use crate::{KeyRange, Version};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

/// The most keys in a leaf. An insertion moves half a leaf on average (3 KiB, well under 100 ns).
pub(super) const LEAF_KEYS: usize = 128;

/// A leaf with fewer keys is merged with a neighbour, if the two together have at most [`merged`] keys.
const fn sparse(leaf_keys: usize) -> usize {
    leaf_keys / 2
}

/// A sparse leaf checks its neighbours only each time it has lost this many keys, because a check costs as
/// much as dropping a key.
const fn look_every(leaf_keys: usize) -> usize {
    leaf_keys.div_ceil(8)
}

/// The most keys in a merged leaf, so that the next insertions do not split it again.
const fn merged(leaf_keys: usize) -> usize {
    leaf_keys * 3 / 4
}

/// Keys in order, each with its versions.
#[derive(Debug)]
pub(super) struct Index {
    /// The most keys in a leaf.
    leaf_keys: usize,
    /// Leaves by lower bound. There is always a leaf for the empty key, so every key has a leaf.
    leaves: BTreeMap<Key, Leaf>,
}

/// The slots of one leaf that lie in a range.
struct Part<'a> {
    leaf: &'a Leaf,
    slots: &'a [Slot],
}

impl Part<'_> {
    /// The number of its keys that are alive at `at`, if the figures of the leaf show it.
    fn live_at(&self, at: i64) -> Option<u64> {
        (self.slots.len() == self.leaf.slots().len() && self.leaf.newest() <= at).then_some(self.leaf.live())
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new(LEAF_KEYS)
    }
}

impl Index {
    /// An empty index with at most so many keys in a leaf.
    pub(super) fn new(leaf_keys: usize) -> Self {
        assert!(sparse(leaf_keys) > 0 && merged(leaf_keys) < leaf_keys, "leaves of {leaf_keys} keys");
        Self { leaf_keys, leaves: BTreeMap::from([(Key::default(), Leaf::default())]) }
    }

    /// Adds a version, newer than all others of its key. Returns the shared key.
    pub(super) fn append(&mut self, key: &[u8], stored: Stored) -> Key {
        let full = self.leaf_keys;
        let (_, leaf) = self.leaf_mut(key);
        match leaf.find(key) {
            Ok(position) => leaf.push(position, stored),
            Err(position) if leaf.slots().len() < full => leaf.insert(position, key, stored),
            Err(position) => {
                self.make_room(key, position);
                self.append(key, stored)
            }
        }
    }

    /// Makes room for a key that belongs at a position of a full leaf.
    ///
    /// Keys that arrive in order, ascending or descending, leave full leaves behind. A key at an end of its leaf
    /// goes to the neighbour on that side, or begins a new leaf if that neighbour is full, too. Any other key splits
    /// the leaf in the middle.
    fn make_room(&mut self, key: &[u8], position: usize) {
        let (bound, leaf) = self.leaf_mut(key);
        let bound = Key::clone(bound);
        if position == leaf.slots().len() {
            let after = leaf.slots().last().map(|last| least_after(&last.key)).unwrap_or_default();
            let right = self.right_of(&bound).filter(|right| self.leaves[right].slots().len() < self.leaf_keys);
            let right = right.and_then(|right| self.leaves.remove(&right)).unwrap_or_default();
            // The bound is as low as possible, so that descending keys find this leaf, too.
            self.leaves.insert(after, right);
        } else if position == 0 {
            let full = std::mem::take(leaf);
            let first = full.slots().first().map(|slot| Key::clone(&slot.key)).unwrap_or_default();
            let left = self.left_of(&bound).map(|left| self.leaves[&left].slots().len());
            if left.is_some_and(|keys| keys < self.leaf_keys) {
                self.leaves.remove(&bound);
            }
            self.leaves.insert(first, full);
        } else {
            let right = leaf.split_off();
            let first = right.slots().first().map(|slot| Key::clone(&slot.key)).unwrap_or_default();
            self.leaves.insert(first, right);
        }
    }

    /// The newest version of `key` with `main <= at`.
    pub(super) fn newest(&self, key: &[u8], at: i64) -> Option<&Stored> {
        let (_, leaf) = self.leaf(key);
        leaf.find(key).ok().and_then(|position| leaf.slots()[position].versions.newest(at))
    }

    /// Adds the versions alive at `at` to `rows` until `limit` rows were added or `step` keys were visited, dead ones
    /// included. Returns the next key.
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

    /// Adds the number of keys alive at `at` to `count` until about `step` units of work are done. A key is one unit,
    /// and so is a leaf that its figures count as a whole. Returns the next key.
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

    /// Removes the version of `key` with this stamp if a compaction at `at` drops it. Returns the least revision at
    /// which a compaction would have dropped it.
    pub(super) fn compact(&mut self, key: &[u8], stamp: Stamp, at: i64) -> Option<i64> {
        let full = self.leaf_keys;
        let (bound, leaf) = self.leaf_mut(key);
        let position = leaf.find(key).expect("a version in history has its key in the index");
        let fate = leaf.compact(position, stamp, at);
        let keys = leaf.slots().len();
        if matches!(fate, Fate::GoesWithKey { .. }) && keys < sparse(full) && keys.is_multiple_of(look_every(full)) {
            let bound = Key::clone(bound);
            self.merge(&bound, keys);
        }
        match fate {
            Fate::Stays => None,
            Fate::Goes { dead } | Fate::GoesWithKey { dead } => Some(dead),
        }
    }

    /// Merges the leaf at `bound`, which holds `keys` keys, with a neighbour, if both together are small enough.
    fn merge(&mut self, bound: &Key, keys: usize) {
        let most = merged(self.leaf_keys);
        let fits = |other: &Leaf| {
            let others = other.slots().len();
            keys.min(others) == 0 || keys + others <= most
        };
        let left = self.leaves.range::<[u8], _>((Unbounded, Excluded(&bound[..]))).next_back();
        let left = left.filter(|(_, leaf)| fits(leaf)).map(|(left, _)| Key::clone(left));
        let (left, right) = if let Some(left) = left {
            (left, Key::clone(bound))
        } else {
            let right = self.leaves.range::<[u8], _>((Excluded(&bound[..]), Unbounded)).next();
            let Some((right, _)) = right.filter(|(_, leaf)| fits(leaf)) else { return };
            (Key::clone(bound), Key::clone(right))
        };
        if let Some(taken) = self.leaves.remove(&right)
            && let Some(left) = self.leaves.get_mut(&left)
        {
            left.merge(taken);
        }
    }

    /// The bound of the leaf before the one at `bound`.
    fn left_of(&self, bound: &Key) -> Option<Key> {
        self.leaves.range::<[u8], _>((Unbounded, Excluded(&bound[..]))).next_back().map(|(left, _)| Key::clone(left))
    }

    /// The bound of the leaf after the one at `bound`.
    fn right_of(&self, bound: &Key) -> Option<Key> {
        self.leaves.range::<[u8], _>((Excluded(&bound[..]), Unbounded)).next().map(|(right, _)| Key::clone(right))
    }

    fn leaf(&self, key: &[u8]) -> (&Key, &Leaf) {
        let mut up_to_key = self.leaves.range::<[u8], _>((Unbounded, Included(key)));
        up_to_key.next_back().expect("the empty key is the least bound")
    }

    fn leaf_mut(&mut self, key: &[u8]) -> (&Key, &mut Leaf) {
        let mut up_to_key = self.leaves.range_mut::<[u8], _>((Unbounded, Included(key)));
        up_to_key.next_back().expect("the empty key is the least bound")
    }

    /// The slots in `range`, leaf by leaf; parts may be empty. Keys are compared only in the leaves at the two ends.
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

/// The least key that is greater than `key`.
fn least_after(key: &[u8]) -> Key {
    [key, &[0]].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Revision;

    fn append(index: &mut Index, number: usize, main: i64, tombstone: bool) -> (Key, Stamp) {
        let row = [].as_slice().into();
        let stored = Stored::from(Version { revision: Revision::new(main, 0), tombstone, row });
        let stamp = stored.stamp;
        (index.append(format!("key{number:05}").as_bytes(), stored), stamp)
    }

    /// The most leaves that so many keys need, however they were added and removed: two neighbours hold
    /// 3/8 of a leaf together.
    fn most_leaves(keys: usize) -> usize {
        1 + (2 * keys).div_ceil(LEAF_KEYS * 3 / 8)
    }

    /// Checks that the leaves are few, and that each key is found where it belongs.
    fn check(index: &Index, keys: &BTreeMap<Vec<u8>, Stamp>, story: &str) {
        let (leaves, most) = (index.leaves.len(), most_leaves(keys.len()));
        assert!(leaves <= most, "{story}: {leaves} leaves hold {} keys, {most} should do", keys.len());
        let found = index.leaves.iter().flat_map(|(bound, leaf)| {
            assert!(leaf.slots().first().is_none_or(|slot| bound <= &slot.key), "{story}: a key before its leaf");
            assert!(leaf.slots().len() <= LEAF_KEYS, "{story}: {} keys in a leaf", leaf.slots().len());
            leaf.slots().iter().map(|slot| slot.key.to_vec())
        });
        assert!(found.eq(keys.keys().cloned()), "{story}: keys are missing, or out of order");
        let missing = keys.keys().find(|key| index.newest(key, i64::MAX).is_none());
        assert_eq!(missing, None, "{story}: it is not found");
    }

    /// An index, and its expected contents: tombstones, each of which one compaction drops.
    #[derive(Default)]
    struct Filled {
        index: Index,
        keys: BTreeMap<Vec<u8>, Stamp>,
    }

    impl Filled {
        fn insert(&mut self, key: Vec<u8>) {
            let stored = Stored::from(Version {
                revision: Revision::new(self.keys.len() as i64, 0),
                tombstone: true,
                row: [].as_slice().into(),
            });
            if let std::collections::btree_map::Entry::Vacant(vacant) = self.keys.entry(key) {
                self.index.append(vacant.key(), stored.clone());
                vacant.insert(stored.stamp);
            }
        }

        fn remove(&mut self, key: &[u8]) {
            if let Some(stamp) = self.keys.remove(key) {
                assert!(self.index.compact(key, stamp, i64::MAX).is_some());
            }
        }

        fn check(&self, story: &str) {
            check(&self.index, &self.keys, story);
        }
    }

    fn key(prefix: &str, number: usize) -> Vec<u8> {
        format!("{prefix}{number:06}").into_bytes()
    }

    /// The numbers below `count` in a scattered order.
    fn shuffled(count: usize) -> impl DoubleEndedIterator<Item = usize> {
        (0..count).map(move |number| number * 7919 % count)
    }

    #[test]
    fn keys_in_order_fill_their_leaves() {
        for descending in [false, true] {
            let mut index = Index::default();
            for number in 0..10 * LEAF_KEYS {
                append(&mut index, if descending { 10 * LEAF_KEYS - number } else { number }, 1, false);
            }
            assert_eq!(index.leaves.len(), 10, "descending: {descending}");
        }
    }

    /// The number of keys in each leaf.
    fn sizes(filled: &Filled) -> Vec<usize> {
        filled.check("sizes");
        filled.index.leaves.values().map(|leaf| leaf.slots().len()).collect()
    }

    /// A leaf of keys `a`, and one of keys `z`, both full. The second one was filled in descending order.
    fn two_full_leaves() -> Filled {
        let mut filled = Filled::default();
        (0..LEAF_KEYS).for_each(|number| filled.insert(key("a", number)));
        (0..LEAF_KEYS).rev().for_each(|number| filled.insert(key("z", number)));
        assert_eq!(sizes(&filled), [LEAF_KEYS; 2]);
        filled
    }

    fn remove_all(filled: &mut Filled, prefix: &str, numbers: impl Iterator<Item = usize>) {
        numbers.for_each(|number| filled.remove(&key(prefix, number)));
    }

    #[test]
    fn a_leaf_behind_a_full_one_begins_where_that_one_ends() {
        let filled = two_full_leaves();
        let last = key("a", LEAF_KEYS - 1);
        let bounds: Vec<&[u8]> = filled.index.leaves.keys().map(|bound| &bound[..]).collect();
        assert_eq!(bounds, [&b""[..], &least_after(&last)], "descending keys find it without being moved");
    }

    #[test]
    fn a_key_between_two_full_leaves_begins_a_leaf_and_later_ones_join_it() {
        for number in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut filled = two_full_leaves();
            number.iter().for_each(|number| filled.insert(key("m", *number)));
            assert_eq!(sizes(&filled), [LEAF_KEYS, 3, LEAF_KEYS], "{number:?}");
        }
    }

    #[test]
    fn a_key_between_two_leaves_goes_to_the_one_that_has_room() {
        // Too many keys are left for a merge.
        const LEFT: usize = 40;
        const ROOM: usize = LEAF_KEYS - LEFT;
        let mut filled = two_full_leaves();
        remove_all(&mut filled, "a", 0..ROOM);
        assert_eq!(sizes(&filled), [LEFT, LEAF_KEYS]);
        filled.insert(key("m", 0));
        assert_eq!(sizes(&filled), [LEFT + 1, LEAF_KEYS], "the bound of the second leaf was lower than the key");
        (1..ROOM).for_each(|number| filled.insert(key("m", number)));
        assert_eq!(sizes(&filled), [LEAF_KEYS; 2]);
        remove_all(&mut filled, "z", 0..ROOM);
        filled.insert(key("n", 0));
        assert_eq!(sizes(&filled), [LEAF_KEYS, LEFT + 1], "and now it is higher");
    }

    #[test]
    fn a_key_inside_a_full_leaf_splits_it_in_the_middle() {
        let mut filled = two_full_leaves();
        filled.insert(b"a000001+".to_vec());
        assert_eq!(sizes(&filled), [LEAF_KEYS / 2 + 1, LEAF_KEYS / 2, LEAF_KEYS]);
    }

    #[test]
    fn a_leaf_is_merged_with_either_neighbour_once_both_fit_into_three_quarters_of_a_leaf() {
        let (most, sparse) = (merged(LEAF_KEYS), sparse(LEAF_KEYS));
        for (other, shrunk) in [("a", "z"), ("z", "a")] {
            // One leaf holds just so many keys that the other fits in when it is noticed for the last time.
            let looked_at = sparse - look_every(LEAF_KEYS);
            let mut filled = two_full_leaves();
            remove_all(&mut filled, other, most - looked_at..LEAF_KEYS);
            remove_all(&mut filled, shrunk, looked_at + 1..LEAF_KEYS);
            assert_eq!(filled.index.leaves.len(), 2, "{shrunk}");
            filled.remove(&key(shrunk, 0));
            assert_eq!(sizes(&filled), [most], "{shrunk}");

            let mut filled = two_full_leaves();
            remove_all(&mut filled, other, most - looked_at + 1..LEAF_KEYS);
            remove_all(&mut filled, shrunk, looked_at..LEAF_KEYS);
            assert_eq!(filled.index.leaves.len(), 2, "{shrunk}: it would be split again soon");
        }
    }

    #[test]
    fn an_empty_leaf_is_removed_beside_a_full_one() {
        for prefix in ["a", "z"] {
            let mut filled = two_full_leaves();
            remove_all(&mut filled, prefix, 0..LEAF_KEYS);
            assert_eq!(sizes(&filled), [LEAF_KEYS], "{prefix}");
        }
    }

    #[test]
    fn any_order_of_arrival_ends_with_few_leaves() {
        const KEYS: usize = 40 * LEAF_KEYS;
        let orders: [(&str, Vec<Vec<u8>>); 7] = [
            ("ascending", (0..KEYS).map(|number| key("k", number)).collect()),
            ("descending", (0..KEYS).rev().map(|number| key("k", number)).collect()),
            ("random", shuffled(KEYS).map(|number| key("k", number)).collect()),
            ("descending behind a full leaf", {
                let full = (0..LEAF_KEYS).map(|number| key("a", number));
                full.chain((0..KEYS).rev().map(|number| key("z", number))).collect()
            }),
            ("ascending before a full leaf", {
                let full = (0..LEAF_KEYS).rev().map(|number| key("z", number));
                full.chain((0..KEYS).map(|number| key("a", number))).collect()
            }),
            ("interleaved prefixes", {
                let prefixes = (0..KEYS).map(|number| (format!("p{}/", number % 7), number / 7));
                prefixes
                    .map(|(prefix, number)| key(&prefix, if number % 2 == 0 { number } else { KEYS - number }))
                    .collect()
            }),
            ("reversed timestamps under two prefixes", {
                let stamps = (0..KEYS).map(|number| (if number % 2 == 0 { "events/" } else { "jobs/" }, KEYS - number));
                stamps.map(|(prefix, stamp)| key(prefix, stamp)).collect()
            }),
        ];
        for (story, keys) in orders {
            let mut filled = Filled::default();
            keys.into_iter().for_each(|key| filled.insert(key));
            filled.check(story);
        }
    }

    #[test]
    fn what_is_left_after_any_order_of_deletes_is_in_few_leaves_and_fills_up_again() {
        const KEYS: usize = 40 * LEAF_KEYS;
        let all = || (0..KEYS).map(|number| key("k", number));
        let orders: [(&str, Vec<Vec<u8>>); 3] = [
            ("ascending", all().collect()),
            ("descending", all().rev().collect()),
            ("random", shuffled(KEYS).map(|number| key("k", number)).collect()),
        ];
        for (story, order) in orders {
            for kept in [1, 2, LEAF_KEYS - 1, LEAF_KEYS, KEYS] {
                let mut filled = Filled::default();
                all().for_each(|key| filled.insert(key));
                let last: BTreeMap<Vec<u8>, ()> = all().step_by(kept).map(|key| (key, ())).collect();
                for (removed, key) in order.iter().filter(|key| kept > 1 && !last.contains_key(*key)).enumerate() {
                    filled.remove(key);
                    if removed % 97 == 0 {
                        filled.check(&format!("{removed} keys deleted, {story}, one in {kept} stays"));
                    }
                }
                filled.check(&format!("deleted, {story}, one in {kept} stays"));
                all().rev().for_each(|key| filled.insert(key));
                filled.check(&format!("filled again after deletes, {story}, one in {kept} stayed"));
            }
        }
    }

    /// A few keys in sequence, ascending or descending, from any start.
    #[derive(Clone, Debug)]
    struct Run {
        insert: bool,
        first: u16,
        count: u8,
        stride: i16,
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let strides = prop::sample::select(vec![1i16, -1, 2, -3, 128, -127]);
        let run = (any::<bool>(), 0..4000u16, any::<u8>(), strides);
        prop::collection::vec(
            run.prop_map(|(insert, first, count, stride)| Run { insert, first, count, stride }),
            1..150,
        )
    }

    proptest! {
        #[test]
        fn leaves_are_few_whatever_comes_and_goes(runs in runs()) {
            let mut filled = Filled::default();
            for run in runs {
                for step in 0..i32::from(run.count) {
                    let key = key("k", (i32::from(run.first) + step * i32::from(run.stride)).rem_euclid(4000) as usize);
                    if run.insert { filled.insert(key) } else { filled.remove(&key) }
                }
                filled.check(&format!("after {run:?}"));
            }
        }
    }

    #[test]
    fn sparse_leaves_are_merged_and_empty_ones_removed() {
        let mut index = Index::default();
        let numbers = 0..10 * LEAF_KEYS;
        let written: Vec<_> = numbers.map(|number| append(&mut index, number, number as i64, true)).collect();
        for (number, (key, stamp)) in written.iter().enumerate() {
            assert!(index.compact(key, *stamp, i64::MAX).is_some(), "{key:?}");
            let left = written.len() - number - 1;
            // Two neighbours that could not be merged hold more than `merged`. The first leaf may be empty.
            assert!(
                index.leaves.len() <= 2 + left.div_ceil(merged(LEAF_KEYS) / 2),
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
