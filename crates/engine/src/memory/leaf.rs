//! Up to a hundred or so neighbouring keys.

use super::versions::{Fate, Stamp, Stored, Versions};
use std::sync::Arc;

/// The bytes of a key, shared by index and history.
pub(super) type Key = Arc<[u8]>;

/// Slots by which a leaf grows: doubling would leave a quarter of the memory unused.
const GROWTH: usize = 16;

/// A key and its versions: 48 bytes, the key's own bytes and further versions aside.
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
/// The bytes of a key lie elsewhere in memory, and each look at them costs a cache miss. So a leaf keeps, in one array,
/// the eight bytes in which each key first differs from its neighbours: after the prefix that all of them share. A search
/// reads that array and hardly ever more than one key.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    slots: Vec<Slot>,
    /// The head of each slot's key.
    heads: Vec<u64>,
    /// Bytes that all keys have in common; perhaps not all of them.
    prefix_len: usize,
    live: u64,
    newest: i64,
}

/// The first eight bytes, zeros for those that are missing: ordered as the bytes are, but for ties.
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

    /// Keys whose newest version is no tombstone.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// No version has a greater `main`.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// The position of a key, or the one where it belongs.
    ///
    /// Most searches are for a key that is there. They begin as if it had the common prefix, because a look at the prefix
    /// costs as much as the rest of the search; the one comparison of whole keys at the end settles it.
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

    /// [`Versions::compact`] at a position. A key without versions disappears; its last one was a tombstone, which `live`
    /// does not count.
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

    /// Cuts off the upper half.
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

    /// Keeps `live` and `newest` right for a version about to be added to a key that is live or not.
    fn note(&mut self, stored: &Stored, was_live: bool) {
        self.newest = self.newest.max(stored.stamp.main);
        self.live = self.live + u64::from(!stored.stamp.is_tombstone()) - u64::from(was_live);
    }

    /// Works out from the slots what the leaf knows of them.
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
