//! Crashes during a compaction, whose position in the revisions is part of the state.

use crate::disk::{Disk, append, publish, published};
use metastore_engine::{Engine, KeyRange, Revision, RocksDb, STEP, Usage, Version};

/// Many versions of a few keys, so that a compaction takes several steps.
const REVISIONS: i64 = 10 * STEP as i64;
const KEYS: i64 = 50;

fn key(number: i64) -> Vec<u8> {
    format!("key{number:02}").into_bytes()
}

/// A database in which every key is written many times, and sometimes deleted.
fn filled() -> (Disk, RocksDb) {
    let disk = Disk::new();
    let engine = disk.open();
    for main in 1..=REVISIONS {
        append(&engine, &key(main % KEYS), Revision::new(main, 0), main % 7 == 0);
    }
    publish(&engine, REVISIONS);
    engine.flush().expect("flush");
    (disk, engine)
}

/// Continues a compaction. Returns its number of steps.
fn compact(engine: &RocksDb, at: i64) -> usize {
    let mut steps = 1;
    while engine.compact_step(at).expect("compact_step") {
        steps += 1;
    }
    steps
}

fn stored(engine: &RocksDb) -> (Vec<Version>, Usage) {
    let (mut rows, mut from) = (Vec::new(), Some(Revision::default()));
    while let Some(begin) = from {
        from = engine.history(begin, i64::MAX, &mut rows).expect("history");
    }
    (rows, engine.usage())
}

#[test]
fn a_compaction_goes_on_where_a_crash_left_it() {
    let (disk, engine) = filled();
    let whole = compact(&disk.copy().open(), REVISIONS);
    let (flushed, lost) = (3, 4);
    for _ in 0..flushed {
        assert!(engine.compact_step(REVISIONS).expect("compact_step"));
    }
    engine.flush().expect("flush");
    let then = stored(&engine);
    for _ in 0..lost {
        assert!(engine.compact_step(REVISIONS).expect("compact_step"));
    }
    let crashed = disk.copy();
    let found = crashed.open();
    assert_eq!(stored(&found), then, "what the flush made durable is gone, and the rest is there");
    assert_eq!(compact(&found, REVISIONS), whole - flushed, "it is not begun anew");
    compact(&engine, REVISIONS);
    assert_eq!(stored(&found), stored(&engine));
    drop(engine);
    // A restart keeps the position, too: there is nothing left to do.
    assert_eq!(compact(&disk.open(), REVISIONS), 1);
}

#[test]
fn a_compaction_that_is_overtaken_is_finished_after_a_crash() {
    let (disk, engine) = filled();
    assert!(engine.compact_step(REVISIONS / 2).expect("compact_step"), "more than one step");
    engine.flush().expect("flush");
    let crashed = disk.copy();
    let found = crashed.open();
    compact(&found, REVISIONS);
    let (anew, once) = filled();
    compact(&once, REVISIONS);
    assert_eq!(stored(&found), stored(&once));
    drop((once, anew));
}

/// When RocksDB rewrites files, it drops dead versions, and that is durable at once. So it must not use a compaction
/// that a crash can undo.
#[test]
fn a_crash_after_files_were_rewritten_loses_nothing() {
    let (disk, engine) = filled();
    let before = answers(&engine, 1);
    compact(&engine, REVISIONS);
    engine.rewrite_files();
    let crashed = disk.copy();
    let found = crashed.open();
    assert_eq!(found.published(), published(REVISIONS));
    assert_eq!(answers(&found, 1), before, "the compaction was not flushed, so everything can still be read");
    compact(&found, REVISIONS);
    assert_eq!(stored(&found), stored(&engine));
}

/// The answers of reads at revisions from `from` on.
fn answers(engine: &RocksDb, from: i64) -> Vec<(Vec<Version>, Vec<Option<Version>>)> {
    let read = |at| {
        let mut rows = Vec::new();
        let all = KeyRange { start: b"", end: None };
        assert_eq!(engine.scan(all, at, usize::MAX, &mut rows).expect("scan"), None);
        let mut count = 0;
        assert_eq!(engine.count(all, at, &mut count).expect("count"), None);
        assert_eq!(count, rows.len() as u64, "at {at}");
        (rows, (0..KEYS).map(|number| engine.newest(&key(number), at).expect("newest")).collect())
    };
    (from..=REVISIONS).step_by(97).map(read).collect()
}

/// The same after a flush that made the compaction durable: readers do not miss the versions that are gone.
#[test]
fn what_is_forgotten_is_missed_by_no_reader() {
    let (disk, engine) = filled();
    let at = REVISIONS / 2;
    compact(&engine, at);
    let before = answers(&engine, at);
    engine.rewrite_files();
    assert_eq!(answers(&engine, at), before);
    engine.flush().expect("flush");
    engine.rewrite_files();
    assert_eq!(answers(&engine, at), before);
    drop(engine);
    let engine = disk.open();
    engine.rewrite_files();
    assert_eq!(answers(&engine, at), before);
}
