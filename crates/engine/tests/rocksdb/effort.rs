//! Reads visit no more data than they must.

use crate::disk::{Disk, append, publish};
use metastore_engine::{Engine, KeyRange, Revision, RocksDb, Version};

/// The number of keys in the database, and in one list.
const KEYS: i64 = 120_000;
const LISTED: usize = 10_000;
/// The most blocks that may be read. The keys fill more than ten times as many.
const BLOCKS: u64 = 40;

/// The size of a large row, and the most of them that one step may read.
const LARGE: usize = 300_000;
const LARGE_IN_A_STEP: i64 = 5;

/// The number of blocks that were read since the database was opened, from the cache or not.
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
        append(&engine, &key(number), Revision::new(1 + number, 0), false);
    }
    publish(&engine, KEYS);
    while engine.compact_step(KEYS).expect("compact_step") {}
    // A hundred dead versions among the live ones.
    let last = KEYS + 1;
    for number in 0..100 {
        append(&engine, &key(number * 1_001), Revision::new(last, number), number % 2 == 0);
    }
    publish(&engine, last);
    engine.defragment().expect("defragment");
    drop(engine);

    let engine = disk.open();
    let opened = blocks(&engine);
    assert!(opened < BLOCKS, "opening looked at {opened} blocks");

    let mut rows = Vec::new();
    let mut start = Vec::new();
    while let Some(next) =
        engine.scan(KeyRange { start: &start, end: None }, last, LISTED - rows.len(), &mut rows).expect("scan")
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
    assert!(!engine.compact_step(last + 1).expect("compact_step"), "what was written since is less than one step");
    let compacted = blocks(&engine) - before;
    // The compaction visits the versions written since the last one. For each deleted key it looks up the newest
    // version, to see that this is the delete.
    assert!(compacted < BLOCKS + 50 * 4, "a compaction of 150 versions looked at {compacted} blocks");
    assert_eq!(engine.usage().rows, KEYS as u64 - 50);
}

#[test]
fn a_step_of_a_compaction_reads_few_large_rows() {
    let disk = Disk::new();
    let engine = disk.open();
    let revisions = 20;
    for main in 1..=revisions {
        let row = vec![0; LARGE].into();
        engine.append(b"key", Version { revision: Revision::new(main, 0), tombstone: false, row }).expect("append");
        publish(&engine, main);
    }
    let mut steps = 1;
    while engine.compact_step(revisions).expect("compact_step") {
        steps += 1;
    }
    assert!(steps >= revisions / LARGE_IN_A_STEP, "{revisions} rows of {LARGE} bytes in {steps} steps");
    assert_eq!(engine.usage().rows, 1);
}
