//! The store beside its model: both run the same steps and must give the same answers.

mod naive;
mod steps;

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Memory, Revision, Version};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest, RangeRequest, TxnRequest,
};
use metastore_store::apply::range_query;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::{CompactionHashJob, HashKv, Pin, RangeReply, ReadError};
use metastore_store::{Outcome, Refusal, Reply, Store};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::engines::{Home, Medium, cases_on_disk};
use crate::entries::{load, snapshot_of};
use naive::Naive;
pub use steps::{Step, steps};

/// The number of rows that a cursor reads at a time: fewer than there may be keys.
const CURSOR_ROWS: usize = 3;

type Checked = Result<(), TestCaseError>;

/// The store and its model, and the log that they share.
pub struct Pair {
    pub store: Store,
    model: Naive,
    pub log: Vec<Bytes>,
    pins: Vec<Pin>,
    hashing: Option<CompactionHashJob>,
    medium: Medium,
    /// The last field, so that the engine is closed before its directory is removed.
    home: Home,
}

impl Pair {
    pub fn new(medium: Medium) -> Self {
        let home = Home::new(medium);
        let store = Store::open(home.open()).unwrap();
        let (model, log, pins, hashing) = Default::default();
        Self { store, model, log, pins, hashing, medium, home }
    }

    pub fn run(&mut self, step: &Step) -> Checked {
        match step {
            Step::Put(request) => self.apply(Kind::Put, request, |model| model.put(request)),
            Step::Delete(request) => self.apply(Kind::DeleteRange, request, |model| model.delete_range(request)),
            Step::Txn(request) => self.apply(Kind::Txn, request, |model| model.txn(request)),
            &Step::Compact(revision, physical) => {
                let request = CompactionRequest { revision, physical };
                self.apply(Kind::Compaction, &request, |model| model.compact(revision, physical))
            }
            &Step::Grant(id, ttl) => {
                self.apply(Kind::LeaseGrant, &LeaseGrantRequest { id, ttl }, |model| model.grant(id, ttl))
            }
            &Step::Revoke(id) => self.apply(Kind::LeaseRevoke, &LeaseRevokeRequest { id }, |model| model.revoke(id)),
            Step::Range(request) => self.check_range(request),
            Step::ReadTxn(request) => self.check_read_txn(request),
            Step::HashKv(revision) => self.check_hash(*revision),
            Step::DropVersions(steps) => {
                for _ in 0..*steps {
                    self.drop_versions();
                }
                Ok(())
            }
            Step::Pin(revision) => {
                let pinned = self.store.view().pin(*revision);
                prop_assert_eq!(pinned.is_err(), *revision < self.model.compacted);
                self.pins.extend(pinned);
                Ok(())
            }
            Step::Unpin => {
                self.pins.clear();
                Ok(())
            }
            Step::Hash => {
                self.hash();
                Ok(())
            }
            Step::DropHash => {
                self.drop_hash();
                Ok(())
            }
            Step::Restart => {
                self.restart();
                self.check_all()
            }
            Step::Snapshot => {
                let home = Home::new(self.medium);
                let written = snapshot_of(&self.store);
                load(&written, home.open()).unwrap();
                let before = self.store.view().hash().unwrap();
                self.restart_at(home);
                prop_assert_eq!(self.store.view().hash().unwrap(), before);
                prop_assert!(snapshot_of(&self.store) == written, "a loaded state is written as it was");
                self.check_all()
            }
        }
    }

    fn hash(&mut self) {
        if let Some(job) = self.hashing.take() {
            job.run().unwrap();
        }
    }

    fn drop_hash(&mut self) {
        if self.hashing.take().is_some() {
            self.model.no_hash();
        }
    }

    fn restart(&mut self) {
        self.store.view().engine().flush().unwrap();
        let home = std::mem::replace(&mut self.home, Home::new(Medium::Memory));
        self.restart_at(home);
    }

    /// Closes the store, and opens it again on the state in `home`.
    fn restart_at(&mut self, home: Home) {
        self.pins.clear();
        self.hashing = None;
        self.model.restart();
        let applied = self.store.applied();
        // A database can be opened only after it was closed.
        self.store = Store::open(Arc::new(Memory::new())).unwrap();
        self.store = Store::open(home.open()).unwrap();
        self.home = home;
        assert_eq!(self.store.applied(), applied);
    }

    fn apply(
        &mut self,
        kind: Kind,
        message: &impl Message,
        model: impl FnOnce(&mut Naive) -> Result<Reply, Refusal>,
    ) -> Checked {
        let id = self.log.len() as u64 + 1;
        let entry = Command::encode(id, kind, message);
        self.log.push(entry.clone());
        let outcome = self.store.apply(id, 1, entry).expect("a sound command is applied");
        let reply = model(&mut self.model);
        let changes = self.model.end();
        prop_assert_eq!(outcome, Some(Outcome { id, revision: self.model.current, reply }));
        let published = self.store.publish().unwrap();
        if let Some(job) = self.store.take_compaction_hash() {
            assert!(self.hashing.replace(job).is_none(), "a compaction waits for the hash of the one before");
        }
        let events: Vec<_> = published.iter().flat_map(|events| &events.changes).collect();
        prop_assert!(published.iter().all(|events| events.revision == self.model.current));
        prop_assert_eq!(events.len(), changes.len());
        for (event, change) in events.into_iter().zip(&changes) {
            prop_assert_eq!(&event.version, &version(change));
            prop_assert_eq!(&event.previous, &change.previous.as_ref().map(naive::row));
        }
        Ok(())
    }

    fn check_range(&self, request: &RangeRequest) -> Checked {
        let query = range_query(request);
        let expected = self.model.range(request);
        let is_plain = request.sort_order == 0 && request.sort_target == 0 && query.bounds == Default::default();
        if is_plain {
            prop_assert_eq!(self.by_cursor(request), expected.clone());
        }
        prop_assert_eq!(self.store.view().range(&query).map_err(refusal), expected);
        Ok(())
    }

    fn by_cursor(&self, request: &RangeRequest) -> Result<RangeReply, Refusal> {
        let mut cursor = self.store.view().cursor(&range_query(request)).map_err(refusal)?;
        let mut rows = Vec::new();
        loop {
            let more = cursor.next_rows(self.store.view(), CURSOR_ROWS).unwrap();
            if more.is_empty() {
                return Ok(RangeReply { rows, ..cursor.finish(self.store.view()).unwrap() });
            }
            rows.extend(more);
        }
    }

    fn check_read_txn(&mut self, request: &TxnRequest) -> Checked {
        prop_assert_eq!(
            self.store.view().read_txn(request).map_err(refusal).map(|(revision, reply, _)| (revision, reply)),
            self.model.read_txn(request)
        );
        Ok(())
    }

    fn check_hash(&self, revision: i64) -> Checked {
        let hash = self.store.view().hash_kv(revision).map_err(refusal);
        if let Ok(hash) = hash {
            prop_assert_eq!(hash.revision, self.model.current);
        }
        prop_assert_eq!(hash.map(plain), self.model.hash_kv(revision));
        Ok(())
    }

    /// Checks every read at every revision.
    pub fn check_all(&self) -> Checked {
        for revision in 0..=self.model.current + 1 {
            self.check_hash(revision)?;
            let everything = RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() };
            self.check_range(&everything)?;
        }
        prop_assert_eq!(self.store.view().compact_revision(), self.model.compacted);
        let leases = self.store.leases();
        let ids: Vec<i64> = leases.ids().collect();
        prop_assert_eq!(&ids, &self.model.leases.keys().copied().collect::<Vec<_>>());
        for (id, ttl_s) in &self.model.leases {
            let lease = leases.get(*id).unwrap();
            prop_assert_eq!((lease.ttl_s, self.store.lease_keys(*id).unwrap()), (*ttl_s, self.model.keys_of(*id)));
        }
        if !self.store.compacting() {
            let stored: Vec<Version> = self.model.stored().into_iter().map(version).collect();
            prop_assert_eq!(history(&self.store), stored);
        }
        Ok(())
    }

    fn drop_versions(&mut self) -> bool {
        let moved = self.store.compact_step().unwrap();
        if moved && !self.store.compacting() {
            self.model.compaction_done();
        }
        moved
    }

    /// Drops all versions that can be dropped.
    pub fn finish(&mut self) {
        self.pins.clear();
        self.hash();
        while self.drop_versions() {}
        assert!(!self.store.compacting());
    }
}

fn refusal(error: ReadError) -> Refusal {
    match error {
        ReadError::Refused(refusal) => refusal,
        ReadError::Engine(error) => panic!("the engine does not fail: {error}"),
    }
}

fn plain(hash: HashKv) -> naive::Hash {
    let HashKv { hash, compact_revision, hash_revision, .. } = hash;
    naive::Hash { hash, compact_revision, hash_revision }
}

fn version(written: &naive::Written) -> Version {
    let revision = Revision::new(written.main, written.sub);
    Version { revision, tombstone: written.tombstone, row: written.row() }
}

fn history(store: &Store) -> Vec<Version> {
    let (mut next, mut versions) = (Some(Revision::default()), Vec::new());
    while let Some(from) = next {
        next = store.view().history(from, i64::MAX, &mut versions).unwrap();
    }
    versions
}

fn answers_as_its_model(medium: Medium, steps: &[Step]) -> Checked {
    let mut pair = Pair::new(medium);
    for step in steps {
        pair.run(step)?;
    }
    pair.check_all()?;
    pair.finish();
    pair.check_all()?;
    // After a restart the whole state is there, and no compaction is left to do.
    pair.restart();
    prop_assert!(!pair.store.compacting());
    pair.check_all()
}

/// Members with these two engines reach the same state.
fn have_the_same_state(one: Medium, another: Medium, steps: &[Step]) -> Checked {
    let mut pair = Pair::new(one);
    for step in steps {
        pair.run(step)?;
    }
    // The other member publishes, restarts and drops old versions at other times, or not at all.
    let home = Home::new(another);
    let mut other = Store::open(home.open()).unwrap();
    for (at, entry) in pair.log.iter().enumerate() {
        other.apply(at as u64 + 1, 1, entry.clone()).unwrap();
    }
    other.publish().unwrap();
    for revision in 0..=pair.model.current {
        let hashes = [&pair.store, &other].map(|store| store.view().hash_kv(revision));
        if let [Ok(one), Ok(other)] = hashes
            && one.compact_revision == other.compact_revision
        {
            // Members compare only hashes with the same compacted revision; each may remember some of its own.
            prop_assert_eq!(one, other);
        }
    }
    pair.finish();
    while other.compact_step().unwrap() {}
    prop_assert_eq!(pair.store.view().hash().unwrap(), other.view().hash().unwrap());
    prop_assert_eq!(history(&pair.store), history(&other));
    Ok(())
}

proptest! {
    #[test]
    fn the_store_answers_as_its_model(steps in steps()) {
        answers_as_its_model(Medium::Memory, &steps)?;
    }

    #[test]
    fn the_same_log_makes_the_same_state(steps in steps()) {
        have_the_same_state(Medium::Memory, Medium::Memory, &steps)?;
    }
}

proptest! {
    #![proptest_config(cases_on_disk())]

    #[test]
    fn the_store_on_disk_answers_as_its_model(steps in steps()) {
        answers_as_its_model(Medium::RocksDb, &steps)?;
    }

    #[test]
    fn both_engines_answer_every_call_alike(steps in steps()) {
        answers_as_its_model(Medium::Both, &steps)?;
    }

    #[test]
    fn the_same_log_makes_the_same_state_on_every_engine(steps in steps()) {
        have_the_same_state(Medium::RocksDb, Medium::Memory, &steps)?;
        have_the_same_state(Medium::Memory, Medium::RocksDb, &steps)?;
    }
}
