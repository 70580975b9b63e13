//! HashKV: one number for everything that is stored up to a revision, equal on every member and on a real etcd.

use std::collections::VecDeque;

use metastore_engine::{EngineError, KeyRange, Revision, Table, Version};

use super::changed::ChangedKeys;
use super::row::key_of;
use super::view::{ReadError, View};
use crate::schema::{FINISHED_COMPACTION, NOT_HASHED, revision_key};
use crate::{Refusal, schema};

/// The answer to HashKV.
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

/// The number of compaction hashes that are remembered; the newest are kept.
const REMEMBERED: usize = 10;

/// A hash in progress; versions are added in order of revision.
pub(super) struct KvHasher {
    hash: u32,
    compact_revision: i64,
    /// The revision that is hashed.
    revision: i64,
    /// A version up to the compacted revision counts only if it is the newest version of a live key at this revision.
    kept_at: i64,
    /// The keys that changed after the compacted revision. The set exists only if no version below that revision waits
    /// to be dropped: then one version of each key is left there. That version is still the newest one if the key did
    /// not change since, so it needs no look-up.
    changed: Option<ChangedKeys>,
}

/// The hashes of the newest compactions, the oldest first.
#[derive(Default)]
pub(super) struct CompactionHashes(VecDeque<HashKv>);

impl CompactionHashes {
    pub(super) fn remember(&mut self, hash: HashKv) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(hash);
    }

    fn of(&self, revision: i64) -> Option<HashKv> {
        self.0.iter().find(|hash| hash.hash_revision == revision).copied()
    }
}

impl KvHasher {
    /// For HashKV. etcd counts the versions that a compaction at `revision` would keep (`Keep`), without tombstones.
    pub(super) fn of_revision(view: &View, compact_revision: i64, revision: i64) -> Result<Self, EngineError> {
        Self::new(view, compact_revision, revision, view.any_live(revision)?)
    }

    /// For the hash that a compaction at `revision` leaves behind. It also keeps the tombstones at that very revision
    /// (`Compact`).
    pub(super) fn of_compaction(view: &View, compact_revision: i64, revision: i64) -> Result<Self, EngineError> {
        let keeps = view.any_live(revision)? || view.any_deleted(revision)?;
        Self::new(view, compact_revision, revision, keeps)
    }

    fn new(view: &View, compact_revision: i64, revision: i64, keeps: bool) -> Result<Self, EngineError> {
        let kept_at = if keeps { revision } else { compact_revision };
        let dropped = schema::compact_revision(view.engine(), FINISHED_COMPACTION)? == Some(compact_revision);
        let changed = dropped.then(|| ChangedKeys::between(view, compact_revision, revision)).transpose()?;
        Ok(Self { hash: crc32c::crc32c(b"key"), compact_revision, revision, kept_at, changed })
    }

    /// Hashes one bounded step of history; returns the revision where the next step begins.
    pub(super) fn step(&mut self, view: &View, from: Revision) -> Result<Option<Revision>, EngineError> {
        let mut versions = Vec::new();
        let next = view.history(from, self.revision, &mut versions)?;
        for version in &versions {
            if self.counts(view, version)? {
                self.hash = hash_version(self.hash, version);
            }
        }
        Ok(next)
    }

    /// Whether a version is part of the hash. Of the versions up to the compacted revision, only the newest version of
    /// each key that is alive at the hashed revision counts. If a compaction at the hashed revision would keep nothing,
    /// etcd counts all stored versions. Here only the versions count that a finished compaction leaves: otherwise the
    /// hash would depend on the progress of dropping, which differs between members. A tombstone at the compacted
    /// revision never counts.
    fn counts(&self, view: &View, version: &Version) -> Result<bool, EngineError> {
        let main = version.revision.main;
        if main > self.compact_revision {
            return Ok(true);
        }
        if main == self.compact_revision && version.tombstone {
            return Ok(false);
        }
        let key = key_of(&version.row);
        if self.changed.as_ref().is_some_and(|changed| !changed.may_hold(key)) {
            return Ok(!version.tombstone);
        }
        let newest = view.engine().newest(key, self.kept_at)?;
        Ok(newest.is_some_and(|newest| !newest.tombstone && newest.revision == version.revision))
    }

    pub(super) fn finish(self, current: i64) -> HashKv {
        let Self { hash, compact_revision, revision: hash_revision, .. } = self;
        HashKv { hash, compact_revision, hash_revision, revision: current }
    }
}

fn hash_version(hash: u32, version: &Version) -> u32 {
    let key = revision_key(version.revision, version.tombstone);
    crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &version.row)
}

impl View {
    /// Hashes everything that is stored up to `revision` (0: the current one), as etcd's `mvcc/hash.go` does: the name
    /// of the bucket, then the revision key and the row of each version that counts, in order.
    ///
    /// A compaction computes its hash before it drops anything. That hash is remembered, and is the answer for its
    /// revision even after a later compaction, as in etcd: members compare these hashes.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] and [`Refusal::FutureRevision`], or a failed medium.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        // The pin comes before the newest revision is read. So the newest revision cannot be below the compacted one.
        let (compact_revision, _pin) = self.pin_compacted();
        let current = self.revision();
        if let Some(remembered) = self.compaction_hashes().of(revision) {
            return Ok(HashKv { revision: current, ..remembered });
        }
        if revision > current {
            return Err(Refusal::FutureRevision.into());
        }
        if revision > 0 && revision < compact_revision {
            return Err(Refusal::Compacted.into());
        }
        let hashed = if revision == 0 { current } else { revision };
        let mut hasher = KvHasher::of_revision(self, compact_revision, hashed)?;
        let mut from = Some(Revision::default());
        while let Some(next) = from {
            from = hasher.step(self, next)?;
        }
        Ok(hasher.finish(current))
    }

    /// The hashes that the newest compactions have left behind, the newest first.
    pub fn hashes_of_compactions(&self) -> Vec<HashKv> {
        self.compaction_hashes().0.iter().rev().copied().collect()
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

    /// Whether any key was deleted at `revision`.
    fn any_deleted(&self, revision: i64) -> Result<bool, EngineError> {
        let mut from = Some(Revision::new(revision, 0));
        while let Some(next) = from {
            let mut found = Vec::new();
            from = self.history(next, revision, &mut found)?;
            if found.iter().any(|version| version.tombstone) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hashes the whole state as etcd's Hash does: the name of each bucket, then its rows, in order. Rows that differ
    /// between members are left out. While a compaction is in progress, the hash depends on its progress, as in etcd.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn hash(&self) -> Result<u32, ReadError> {
        let (_, _pin) = self.pin_compacted();
        let revision = self.revision();
        let mut hash = 0;
        for table in Table::ALL {
            if table == Table::Lease {
                hash = self.hash_versions(hash, revision)?;
            }
            hash = crc32c::crc32c_append(hash, table.name().as_bytes());
            for (key, value) in self.engine().rows(table, b"")? {
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
            hash = versions.iter().fold(hash, hash_version);
        }
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metastore_engine::Memory;
    use metastore_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
    use metastore_proto::raftpb::{ConfChange, ConfState};

    use crate::Store;
    use crate::command::{Command, Kind};

    #[test]
    fn a_new_member_hashes_as_a_new_etcd() {
        let mut store = Store::open(Arc::new(Memory::new())).unwrap();
        let id = 14_763_897_295_316_517_456;
        let member = format!(r#"{{"id":{id},"peerURLs":["http://127.0.0.1:18380"],"name":"default"}}"#);
        let change = ConfChange { node_id: Some(id), context: Some(member.into()), ..ConfChange::default() };
        let checked = store.check_member_change(1, &change, 1).unwrap();
        let voters = ConfState { voters: vec![id], ..ConfState::default() };
        store.apply_member_change(1, 1, 0, checked, &voters).unwrap();
        let attributes = Attributes { name: "default".into(), client_urls: vec!["http://127.0.0.1:18379".into()] };
        let attributes = ClusterMemberAttrSetRequest { member_id: id, member_attributes: Some(attributes) };
        store.apply(2, 2, Command::encode(1, Kind::ClusterMemberAttrSet, &attributes)).unwrap();
        let version = ClusterVersionSetRequest { ver: "3.7.0".into() };
        store.apply(3, 2, Command::encode(2, Kind::ClusterVersionSet, &version)).unwrap();
        store.publish().unwrap();
        // The answer of a real etcd 3.7.3 after its first start with these settings.
        assert_eq!(store.view().hash().unwrap(), 3_767_733_623);
    }
}
