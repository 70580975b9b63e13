//! The contract, on each engine, and on two engines in lockstep.

#[cfg(feature = "rocksdb")]
use metastore_engine::contract::{Mirror, scratch_rocksdb};
use metastore_engine::{KeyRange, Memory, MemorySettings, Steps};
use std::sync::Arc;

/// The number of random cases. On RocksDB each case makes a database, which takes time.
const CASES: u32 = 96;
#[cfg(feature = "rocksdb")]
const CASES_ON_DISK: u32 = 32;

mod memory {
    use super::*;
    metastore_engine::contract_suite!(Arc::new(Memory::new()), CASES);
}

/// The settings of simulated members: a little data takes many steps, leaves and chunks.
mod memory_in_small_steps {
    use super::*;

    fn small() -> Memory {
        let steps = Steps { rows: 5, counted_keys: 6, compacted: 5 };
        Memory::with(MemorySettings { steps, leaf_keys: 4, chunk_versions: 5 })
    }

    metastore_engine::contract_suite!(Arc::new(small()), CASES);
}

#[cfg(feature = "rocksdb")]
mod rocksdb {
    use super::*;
    metastore_engine::contract_suite!(scratch_rocksdb(), CASES_ON_DISK);
}

#[cfg(feature = "rocksdb")]
mod mirror {
    use super::*;
    metastore_engine::contract_suite!(Arc::new(Mirror::new(Arc::new(Memory::new()), scratch_rocksdb())), CASES_ON_DISK);
}

#[test]
fn ranges_are_read_from_requests_as_etcd_does() {
    let to_end = KeyRange::from_request(b"a", b"\0");
    assert_eq!(to_end, KeyRange { start: b"a", end: None });
    assert!(to_end.contains(&[0xff]) && !to_end.contains(b"A") && !to_end.is_empty());
    let range = KeyRange::from_request(b"a", b"b");
    assert!(range.contains(b"a") && range.contains(b"az") && !range.contains(b"b"));
    assert!(KeyRange::from_request(b"b", b"a").is_empty() && KeyRange::from_request(b"b", b"b").is_empty());
}

/// A checkpoint of an engine on disk has no unpublished data. The mirror above contains an engine that is not on disk.
#[test]
#[cfg(feature = "rocksdb")]
fn checkpoints_are_compared() {
    let engine = Mirror::new(scratch_rocksdb(), scratch_rocksdb());
    metastore_engine::contract::checkpoint_is_frozen(&engine);
}
