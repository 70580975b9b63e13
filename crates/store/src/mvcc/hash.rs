//! HashKV: one number for all that a store holds up to a revision, equal on every member and on a real etcd.

use metastore_engine::{EngineError, KeyRange, Revision, Table, Version};

use super::row::key_of;
use super::view::{ReadError, View};
use crate::Refusal;
use crate::schema::{NOT_HASHED, revision_key};

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

    /// Hashes the whole state as etcd's Hash does: the name of each bucket, then its rows, in order; without the rows that
    /// differ between members.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn hash(&self) -> Result<u32, ReadError> {
        let _pin = self.pin_all();
        let revision = self.revision();
        let mut hash = 0;
        for table in Table::ALL {
            if table == Table::Lease {
                hash = self.hash_versions(hash, revision)?;
            }
            hash = crc32c::crc32c_append(hash, table.name().as_bytes());
            for (key, value) in self.engine().rows(table)? {
                if table != Table::Meta || !NOT_HASHED.contains(&&key[..]) {
                    hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
                }
            }
        }
        Ok(hash)
    }

    fn hash_versions(&self, mut hash: u32, revision: i64) -> Result<u32, EngineError> {
        hash = crc32c::crc32c_append(hash, b"key");
        let mut from = Some(Revision::default());
        while let Some(next) = from {
            let mut versions = Vec::new();
            from = self.history(next, revision, &mut versions)?;
            for version in &versions {
                let key = revision_key(version.revision, version.tombstone);
                hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &version.row);
            }
        }
        Ok(hash)
    }
}
