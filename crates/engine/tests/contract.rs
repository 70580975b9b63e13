//! The contract on the engine in memory.

use metastore_engine::{KeyRange, Memory};

metastore_engine::contract_suite!(Box::new(Memory::new()));

#[test]
fn ranges_are_read_from_requests_as_etcd_does() {
    let to_end = KeyRange::from_request(b"a", b"\0");
    assert_eq!(to_end, KeyRange { start: b"a", end: None });
    assert!(to_end.contains(&[0xff]) && !to_end.contains(b"A") && !to_end.is_empty());
    let range = KeyRange::from_request(b"a", b"b");
    assert!(range.contains(b"a") && range.contains(b"az") && !range.contains(b"b"));
    assert!(KeyRange::from_request(b"b", b"a").is_empty() && KeyRange::from_request(b"b", b"b").is_empty());
}
