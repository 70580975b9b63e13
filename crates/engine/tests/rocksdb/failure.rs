//! A medium that fails while it is in use.

use crate::disk::{Disk, append, publish, published};
use metastore_engine::{Engine, Revision, Table};
use std::fs;

/// The data of a failed write are lost, so no later data may be written.
#[test]
fn a_write_that_failed_is_the_last_one() {
    let disk = Disk::new();
    let engine = disk.open();
    let first = append(&engine, b"a", Revision::new(1, 0), false);
    publish(&engine, 1);
    // From here on no file can be created.
    fs::remove_dir_all(disk.path()).unwrap();
    assert!(engine.flush().is_err());
    assert!(engine.defragment().is_err());
    append(&engine, b"a", Revision::new(2, 0), false);
    engine.put(Table::Meta, b"a", b"").unwrap();
    let error = engine.publish(published(2)).unwrap_err().to_string();
    assert!(error.contains(&disk.path().display().to_string()), "{error}");
    let version = first.clone();
    let calls = [
        engine.append(b"b", version),
        engine.put(Table::Meta, b"b", b""),
        engine.delete(Table::Meta, b"b"),
        engine.publish(published(3)),
        engine.compact_step(1).map(|_| ()),
    ];
    for call in calls {
        let error = call.unwrap_err().to_string();
        assert!(error.contains("nothing more is written: an earlier write failed"), "{error}");
    }
    assert!(engine.flush().is_err());
    assert_eq!(engine.published(), published(1));
    assert_eq!(engine.newest(b"a", 1).unwrap(), Some(first), "what was published is read on");
}
