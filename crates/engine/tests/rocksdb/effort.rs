//! What is looked at: no more than has to be.

use crate::disk::{Disk, append, publish};
use metastore_engine::{Engine, KeyRange, Revision, RocksDb};

/// Keys in the database, and those of one list.
const KEYS: i64 = 120_000;
const LISTED: usize = 10_000;
/// Blocks of 16 KiB that may be looked at; the keys fill more than ten times as many.
const BLOCKS: u64 = 40;

/// Blocks that were looked at since the database was opened, in the cache or not.
fn blocks(engine: &RocksDb) -> u64 {
    let statistics = engine.statistics();
    let figure = |name| statistics.iter().find(|figure| figure.name == name).expect("a figure").value;
    figure("block_cache_hits_total") + figure("block_cache_misses_total")
}

fn key(number: i64) -> Vec<u8> {
    format!("some/prefix/that/takes/its/space/key{number:08}").into_bytes()
}

#[test]
fn effort_follows_what_is_asked_for() {
    let disk = Disk::new();
    let engine = disk.open();
    for number in 0..KEYS {
        append(&engine, &key(number), Revision::new(1, number), false);
    }
    publish(&engine, 1);
    // A hundred dead versions among the living.
    for number in 0..100 {
        append(&engine, &key(number * 1_001), Revision::new(2, number), number % 2 == 0);
    }
    publish(&engine, 2);
    engine.defragment().expect("defragment");
    drop(engine);

    let engine = disk.open();
    let opened = blocks(&engine);
    assert!(opened < BLOCKS, "opening looked at {opened} blocks");

    let mut rows = Vec::new();
    let mut start = Vec::new();
    while let Some(next) =
        engine.scan(KeyRange { start: &start, end: None }, 2, LISTED - rows.len(), &mut rows).expect("scan")
    {
        start = next;
        if rows.len() == LISTED {
            break;
        }
    }
    let listed = blocks(&engine) - opened;
    assert_eq!(rows.len(), LISTED);
    assert!(listed < LISTED as u64 / 20, "a list of {LISTED} keys looked at {listed} blocks");

    let before = blocks(&engine);
    while engine.compact_step(3).expect("compact_step") {}
    let compacted = blocks(&engine) - before;
    // Each deleted key is looked up, to see that the delete is what is newest.
    assert!(compacted < BLOCKS + 50 * 4, "a compaction of 150 versions looked at {compacted} blocks");
    assert_eq!(engine.usage().rows, KEYS as u64 - 50);
}
