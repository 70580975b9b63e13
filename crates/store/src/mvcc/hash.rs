//! HashKV: one number for all that a store holds up to a revision, equal on every member and on a real etcd.

use metastore_engine::{EngineError, KeyRange, Revision, Version};

use super::row::key_of;
use super::view::{ReadError, View};
use crate::Refusal;
use crate::schema::revision_key;

/// Answer of HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C (Castagnoli).
    pub hash: u32,
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
    /// The newest revision of the store.
    pub revision: i64,
}

impl View {
    /// Hashes what is stored up to `revision` (0: the current one), as etcd's `mvcc/hash.go` does: the bucket's name, then
    /// revision key and row of each version in order. Of the versions up to the compacted revision only those count that
    /// are the newest of a live key at `revision`, unless there is no such version at all; a tombstone at the compacted
    /// revision never counts.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] and [`Refusal::FutureRevision`], or a failed medium.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        let _pin = self.pin_all();
        let current = self.revision();
        if revision > current {
            return Err(Refusal::FutureRevision.into());
        }
        let compact_revision = self.compact_revision();
        if revision > 0 && revision < compact_revision {
            return Err(Refusal::Compacted.into());
        }
        let hash_revision = if revision == 0 { current } else { revision };
        let any_kept = self.any_live(hash_revision)?;
        let mut hash = crc32c::crc32c(b"key");
        let mut from = Some(Revision::default());
        while let Some(next) = from {
            let mut versions = Vec::new();
            from = self.history(next, hash_revision, &mut versions)?;
            for version in &versions {
                if self.counts(version, hash_revision, compact_revision, any_kept)? {
                    let key = revision_key(version.revision, version.tombstone);
                    hash = crc32c::crc32c_append(hash, &key);
                    hash = crc32c::crc32c_append(hash, &version.row);
                }
            }
        }
        Ok(HashKv { hash, compact_revision, hash_revision, revision: current })
    }

    fn counts(&self, version: &Version, at: i64, compacted: i64, any_kept: bool) -> Result<bool, EngineError> {
        let main = version.revision.main;
        if main > compacted {
            return Ok(true);
        }
        if main == compacted && version.tombstone {
            return Ok(false);
        }
        if !any_kept {
            return Ok(true);
        }
        let newest = self.engine().newest(key_of(&version.row), at)?;
        Ok(newest.is_some_and(|newest| !newest.tombstone && newest.revision == version.revision))
    }

    /// Whether any key is alive at `revision`.
    fn any_live(&self, revision: i64) -> Result<bool, EngineError> {
        let mut from = Some(Vec::new());
        while let Some(start) = from {
            let mut found = Vec::new();
            let range = KeyRange { start: &start, end: None };
            from = self.engine().scan(range, revision, 1, &mut found)?;
            if !found.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
