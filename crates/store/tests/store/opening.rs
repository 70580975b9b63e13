//! Opening a store reads no keys: there may be more of them than memory holds.

use std::sync::Arc;

use metastore_engine::{
    Applied, Engine, KeyRange, Mark, Memory, Published, Result, Revision, Statistic, Table, Usage, Version,
};
use metastore_proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest};
use metastore_store::Store;
use metastore_store::command::{Command, Kind};

/// An engine whose keys must not be looked at.
struct Unread(Memory);

impl Engine for Unread {
    fn append(&self, key: &[u8], version: Version) -> Result<()> {
        self.0.append(key, version)
    }
    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.put(table, key, value)
    }
    fn delete(&self, table: Table, key: &[u8]) -> Result<()> {
        self.0.delete(table, key)
    }
    fn publish(&self, published: Published) -> Result<()> {
        self.0.publish(published)
    }
    fn compact_step(&self, _: i64) -> Result<bool> {
        panic!("keys are looked at")
    }
    fn begin_compaction(&self, at: i64) {
        self.0.begin_compaction(at);
    }
    fn set_mark(&self, mark: Mark) {
        self.0.set_mark(mark);
    }
    fn outlives_process(&self) -> bool {
        self.0.outlives_process()
    }
    fn flush(&self) -> Result<Applied> {
        self.0.flush()
    }
    fn checkpoint(&self) -> Result<Option<Arc<dyn Engine>>> {
        self.0.checkpoint()
    }
    fn defragment(&self) -> Result<()> {
        self.0.defragment()
    }
    fn statistics(&self) -> Vec<Statistic> {
        self.0.statistics()
    }
    fn published(&self) -> Published {
        self.0.published()
    }
    fn newest(&self, _: &[u8], _: i64) -> Result<Option<Version>> {
        panic!("a key is looked at")
    }
    fn scan(&self, _: KeyRange<'_>, _: i64, _: usize, _: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        panic!("keys are looked at")
    }
    fn count(&self, _: KeyRange<'_>, _: i64, _: &mut u64) -> Result<Option<Vec<u8>>> {
        panic!("keys are counted")
    }
    fn history(&self, _: Revision, _: i64, _: &mut Vec<Version>) -> Result<Option<Revision>> {
        panic!("history is read")
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(table, key)
    }
    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        assert!(table != Table::LeaseKeys || prefix.len() == 8, "keys of all leases are read");
        self.0.rows(table, prefix)
    }
    fn usage(&self) -> Usage {
        self.0.usage()
    }
    fn mark(&self) -> Mark {
        self.0.mark()
    }
}

#[test]
fn opening_reads_no_keys() {
    let memory = Arc::new(Memory::new());
    let mut store = Store::open(memory.clone()).unwrap();
    store.apply(1, 1, Command::encode(0, Kind::LeaseGrant, &LeaseGrantRequest { id: 7, ttl: 60 })).unwrap();
    for (index, key) in [(2, "b"), (3, "a")] {
        let put = PutRequest { key: key.into(), lease: 7, ..Default::default() };
        store.apply(index, 1, Command::encode(0, Kind::Put, &put)).unwrap();
    }
    store.publish().unwrap();
    drop(store);
    let memory = Arc::into_inner(memory).expect("nobody else has it");
    let store = Store::open(Arc::new(Unread(memory))).unwrap();
    assert_eq!(store.revision(), 3);
    assert_eq!(store.lease_keys(7).unwrap(), [b"a", b"b"]);
}

/// What a lease was told to hold is found after it: the keys go with it, those that were taken off stay.
#[test]
fn a_revoked_lease_leaves_no_rows() {
    let engine: Arc<dyn Engine> = Arc::new(Memory::new());
    let mut store = Store::open(engine.clone()).unwrap();
    store.apply(1, 1, Command::encode(0, Kind::LeaseGrant, &LeaseGrantRequest { id: 7, ttl: 60 })).unwrap();
    for (index, key, lease) in [(2, "b", 7), (3, "a", 7), (4, "c", 7), (5, "b", 0)] {
        let put = PutRequest { key: key.into(), lease, ..Default::default() };
        store.apply(index, 1, Command::encode(0, Kind::Put, &put)).unwrap();
    }
    assert_eq!(store.lease_keys(7).unwrap(), [b"a", b"c"]);
    store.apply(6, 1, Command::encode(0, Kind::LeaseRevoke, &LeaseRevokeRequest { id: 7 })).unwrap();
    let events = store.publish().unwrap();
    assert_eq!(events.last().unwrap().changes.len(), 2, "two keys in one revision");
    assert!(engine.rows(Table::LeaseKeys, b"").unwrap().is_empty());
}
