//! The keys that changed after a revision: an approximate set that takes little memory.

use metastore_engine::{EngineError, Revision};

use super::row::key_of;
use super::view::View;

/// Bits of the set for each revision. About one bit in sixty is set, so about one unchanged key in sixty is looked up
/// without need. A revision that changes many keys sets more bits.
const BITS_PER_REVISION: u64 = 64;
/// The set takes at most 8 MiB, which is enough for a million changes.
const MOST_BITS: u64 = 1 << 26;

/// A set of keys with false positives: it may report a key that it does not hold.
pub(super) struct ChangedKeys {
    words: Vec<u64>,
}

impl ChangedKeys {
    /// The keys that have a version with `after < main <= to`.
    pub(super) fn between(view: &View, after: i64, to: i64) -> Result<Self, EngineError> {
        let revisions = to.abs_diff(after).max(1);
        let bits = revisions.saturating_mul(BITS_PER_REVISION).min(MOST_BITS).next_power_of_two();
        let mut changed = Self { words: vec![0; (bits / 64) as usize] };
        let mut versions = Vec::new();
        let mut from = Some(Revision::new(after.saturating_add(1), 0));
        while let Some(next) = from {
            from = view.history(next, to, &mut versions)?;
            for version in versions.drain(..) {
                changed.insert(key_of(&version.row));
            }
        }
        Ok(changed)
    }

    fn insert(&mut self, key: &[u8]) {
        let bit = self.bit_of(key);
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    /// False only if the key is not in the set.
    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        let bit = self.bit_of(key);
        self.words[bit / 64] & 1 << (bit % 64) != 0
    }

    fn bit_of(&self, key: &[u8]) -> usize {
        crc32c::crc32c(key) as usize % (64 * self.words.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metastore_engine::Memory;
    use metastore_proto::etcdserverpb::PutRequest;

    use super::*;
    use crate::Store;
    use crate::command::{Command, Kind};

    #[test]
    fn it_holds_what_changed_and_hardly_more() {
        let mut store = Store::open(Arc::new(Memory::new())).unwrap();
        let key = |number: u64| format!("key{number}");
        for index in 1..=3000 {
            let put = PutRequest { key: key(index).into(), ..PutRequest::default() };
            store.apply(index, 1, Command::encode(0, Kind::Put, &put)).unwrap();
        }
        store.publish().unwrap();
        // Key n has revision n + 1.
        let changed = ChangedKeys::between(store.view(), 1001, 2001).unwrap();
        assert!((1001..=2000).all(|number| changed.may_hold(key(number).as_bytes())));
        let others = (1..=1000).chain(2001..=3000);
        let wrong = others.filter(|&number| changed.may_hold(key(number).as_bytes())).count();
        assert!(wrong < 60, "{wrong} of 2000");
    }
}
