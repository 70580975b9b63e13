//! A leaf of the index: neighbouring keys, at most `LEAF_KEYS` of them.

use super::versions::{Fate, Stamp, Stored, Versions};
use std::sync::Arc;

/// The bytes of a key, shared by index and history.
pub(super) type Key = Arc<[u8]>;

/// The number of slots by which a leaf grows: doubling would leave a quarter of the memory unused.
const GROWTH: usize = 16;

/// A key and its versions: 48 bytes, without the key's own bytes and further versions.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) versions: Versions,
}

impl Slot {
    fn is_live(&self) -> bool {
        !self.versions.last().stamp.is_tombstone()
    }

    pub(super) fn live_at(&self, at: i64) -> Option<&Stored> {
        self.versions.newest(at).filter(|stored| !stored.stamp.is_tombstone())
    }
}

/// Neighbouring keys in order.
///
/// The bytes of a key are elsewhere in memory, and each access to them costs a cache miss. So a leaf keeps, in one
/// array, the eight bytes of each key in which it first differs from its neighbours: those after the prefix that all
/// keys share. A search reads that array, and rarely more than one key.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    slots: Vec<Slot>,
    /// The head of each slot's key: the eight bytes after the prefix.
    heads: Vec<u64>,
    /// The length of a prefix that all keys have in common. It may be shorter than the longest one.
    prefix_len: usize,
    live: u64,
    newest: i64,
}

/// The first eight bytes, padded with zeros. Heads are ordered as the bytes are; different bytes may have equal heads.
fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Leaf {
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The number of keys whose newest version is no tombstone.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// No version has a greater `main`.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// The position of a key, or the position where it belongs.
    ///
    /// Most searches find their key. They begin as if the key had the common prefix, because a check of the prefix
    /// costs as much as the rest of the search. The one comparison of whole keys at the end decides.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let rest = key.get(self.prefix_len..).unwrap_or_default();
        let head = head(rest);
        let from = self.heads.partition_point(|&other| other < head);
        let ties = self.heads[from..].iter().take_while(|&&other| other == head).count();
        match self.slots[from..from + ties].binary_search_by(|slot| (*slot.key).cmp(key)) {
            Ok(position) => Ok(from + position),
            Err(position) => Err(match self.slots.first().map(|first| &first.key[..self.prefix_len]) {
                Some(prefix) if key < prefix => 0,
                Some(prefix) if !key.starts_with(prefix) => self.slots.len(),
                _ => from + position,
            }),
        }
    }

    /// Adds a key at the position where it belongs.
    pub(super) fn insert(&mut self, position: usize, key: &[u8], stored: Stored) -> Key {
        let key = Key::from(key);
        self.note(&stored, false);
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(GROWTH);
            self.heads.reserve_exact(GROWTH);
        }
        let prefix_len = match self.slots.first() {
            Some(first) => common_prefix_len(&first.key[..self.prefix_len], &key),
            None => key.len(),
        };
        self.slots.insert(position, Slot { key: Key::clone(&key), versions: Versions::One(stored) });
        if prefix_len < self.prefix_len || self.slots.len() <= 2 {
            self.renew_heads();
        } else {
            self.heads.insert(position, head(&key[prefix_len..]));
        }
        key
    }

    /// Adds a version to the key at a position.
    pub(super) fn push(&mut self, position: usize, stored: Stored) -> Key {
        self.note(&stored, self.slots[position].is_live());
        let slot = &mut self.slots[position];
        slot.versions.push(stored);
        Key::clone(&slot.key)
    }

    /// [`Versions::compact`] at a position. A key without versions is removed. Its last version was a tombstone, which
    /// `live` does not count.
    pub(super) fn compact(&mut self, position: usize, stamp: Stamp, at: i64) -> Fate {
        let fate = self.slots[position].versions.compact(stamp, at);
        if let Fate::GoesWithKey { .. } = fate {
            self.slots.remove(position);
            self.heads.remove(position);
            if self.slots.capacity() > self.slots.len() * 2 + GROWTH {
                self.shrink();
            }
        }
        fate
    }

    /// Splits off the upper half.
    pub(super) fn split_off(&mut self) -> Self {
        let right = self.slots.split_off(self.slots.len() / 2);
        self.renew();
        self.shrink();
        let mut right = Self { slots: right, ..Self::default() };
        right.renew();
        right
    }

    /// Adds the keys of the leaf to the right.
    pub(super) fn merge(&mut self, right: Self) {
        self.slots.extend(right.slots);
        self.renew();
    }

    /// Updates `live` and `newest` for a version that is about to be added to a key that was live or not.
    fn note(&mut self, stored: &Stored, was_live: bool) {
        self.newest = self.newest.max(stored.stamp.main);
        self.live = self.live + u64::from(!stored.stamp.is_tombstone()) - u64::from(was_live);
    }

    /// Recomputes all figures of the leaf from its slots.
    fn renew(&mut self) {
        self.live = self.slots.iter().filter(|slot| slot.is_live()).count() as u64;
        self.newest = self.slots.iter().map(|slot| slot.versions.last().stamp.main).max().unwrap_or_default();
        self.renew_heads();
    }

    fn renew_heads(&mut self) {
        let (Some(first), Some(last)) = (self.slots.first(), self.slots.last()) else { return };
        self.prefix_len = common_prefix_len(&first.key, &last.key);
        self.heads.clear();
        self.heads.extend(self.slots.iter().map(|slot| head(&slot.key[self.prefix_len..])));
    }

    fn shrink(&mut self) {
        self.slots.shrink_to(self.slots.len() + GROWTH);
        self.heads.shrink_to(self.heads.len() + GROWTH);
    }
}
