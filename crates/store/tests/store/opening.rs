//! Opening a store reads no keys, because there may be more of them than memory can hold.

use std::sync::Arc;

use metastore_engine::{Engine, Memory, Table};
use metastore_proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest};
use metastore_store::Store;
use metastore_store::command::{Command, Kind};

use crate::watched::Watched;

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
    let store = Store::open(Arc::new(Watched::new(memory, |call| panic!("keys are looked at: {call}")))).unwrap();
    assert_eq!(store.revision(), 3);
    assert_eq!(store.lease_keys(7).unwrap(), [b"a", b"b"]);
}

/// A revocation deletes the keys that the lease has at that moment, and leaves the keys that were detached before.
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
