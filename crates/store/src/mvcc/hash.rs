//! HashKV: one number for all that a store holds up to a revision, equal on every member and on a real etcd.

use std::collections::VecDeque;

use metastore_engine::{EngineError, KeyRange, Revision, Table, Version};

use super::changed::ChangedKeys;
use super::row::key_of;
use super::view::{ReadError, View};
use crate::schema::{FINISHED_COMPACTION, NOT_HASHED, revision_key};
use crate::{Refusal, schema};

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

/// Hashes of the newest compactions that are remembered.
const REMEMBERED: usize = 10;

/// The hash while it is computed, piece by piece in order of revision.
pub(super) struct KvHasher {
    hash: u32,
    compact_revision: i64,
    /// The revision that is hashed.
    revision: i64,
    /// Versions up to the compacted revision count only if they are the newest of a live key at this one.
    kept_at: i64,
    /// What changed after the compacted revision, if nothing waits to be dropped below it: then one version of each key is left
    /// there, and whether it is still the newest need not be looked up for keys that did not change since.
    changed: Option<ChangedKeys>,
}

/// The hashes that compactions left behind, the oldest first.
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
    /// For HashKV. etcd asks which versions a compaction at `revision` would keep (`Keep`), tombstones not among them.
    pub(super) fn of_revision(view: &View, compact_revision: i64, revision: i64) -> Result<Self, EngineError> {
        Self::new(view, compact_revision, revision, view.any_live(revision)?)
    }

    /// For the hash that a compaction at `revision` leaves behind. There the tombstones at that very revision are kept as well
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

    /// Hashes one bounded step of history; returns where the next one begins.
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

    /// Of the versions up to the compacted revision only those count that are the newest of a key that is alive at the
    /// hashed revision. If a compaction there would keep nothing, etcd counts what is stored; so here those count that a finished
    /// compaction leaves, or the hash would tell how far the dropping of versions is, in which members differ. A tombstone at
    /// the compacted revision never counts.
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
    /// Hashes what is stored up to `revision` (0: the current one), as etcd's `mvcc/hash.go` does: the bucket's name, then
    /// revision key and row of each version that counts, in order.
    ///
    /// The hash that a compaction computed before it dropped anything is remembered and answered for its revision, as in
    /// etcd, even when that revision is compacted by now: members compare themselves by it.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] and [`Refusal::FutureRevision`], or a failed medium.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        // Pinned before the newest revision is read, so that this is not below the compacted one.
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

    /// Hashes the whole state as etcd's Hash does: the name of each bucket, then its rows, in order; without the rows that
    /// differ between members. While a compaction is under way it tells how far that is, as in etcd.
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
        // The answer of a real etcd 3.7.3 that was just started with these settings.
        assert_eq!(store.view().hash().unwrap(), 3_767_733_623);
    }
}
