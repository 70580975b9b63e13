//! A crash while one thread writes and another flushes.

use crate::disk::{Place, append, publish};
use metastore_engine::{Engine, KeyRange, Revision, RocksDb, Table, Usage, Version};
use std::sync::atomic::{AtomicBool, Ordering};

/// The number of copies that are taken while the threads run.
const CRASHES: usize = 25;
/// The number of keys that each revision writes.
const KEYS: i64 = 20;
/// The number of revisions that the concurrent compaction keeps.
const KEPT: i64 = 5;

/// The flush is atomic. In every copy keys, history, tables and applied index must be of one revision, which is not
/// before the last one that a flush returned.
#[test]
fn a_crash_during_flushes_leaves_one_published_moment() {
    Place::each().into_iter().for_each(|place| crash_during_flushes(&place));
}

fn crash_during_flushes(place: &Place) {
    let engine = place.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for revision in 1.. {
                write(&engine, revision);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                engine.flush().expect("flush");
            }
        });
        // RocksDB may rewrite files at any time. It then drops for good the versions that the
        // compaction filter calls dead.
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                engine.rewrite_files();
            }
        });
        // Ends the threads also if a check fails.
        let _done = Done(&done);
        for _ in 0..CRASHES {
            let flushed = engine.flush().expect("flush").index;
            let copy = place.crash(&engine);
            let found = copy.open();
            assert!(found.published().applied.index >= flushed, "{flushed} was flushed");
            check(&found);
        }
    });
}

/// Ends the threads on drop.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(engine: &RocksDb, revision: i64) {
    for sub in 0..KEYS {
        append(engine, &key(sub), Revision::new(revision, sub), false);
    }
    engine.put(Table::Meta, b"revision", &revision.to_be_bytes()).expect("put");
    let compacts = revision % KEPT == 0;
    if compacts {
        engine.put(Table::Meta, b"compacted", &(revision - KEPT).to_be_bytes()).expect("put");
    }
    publish(engine, revision);
    if compacts {
        assert!(!engine.compact_step(revision - KEPT).expect("compact_step"), "one step");
    }
}

fn key(number: i64) -> Vec<u8> {
    format!("key{number:02}").into_bytes()
}

fn check(engine: &RocksDb) {
    let published = engine.published();
    let revision = published.revision;
    assert_eq!(published.applied.index, 10 * revision.unsigned_abs());
    if revision == 0 {
        return;
    }
    assert_eq!(engine.get(Table::Meta, b"revision").expect("get"), Some(revision.to_be_bytes().to_vec()));
    let mut rows = Vec::new();
    let compacted = engine.get(Table::Meta, b"compacted").expect("get");
    let compaction_rows = u64::from(compacted.is_some());
    let compacted = compacted.map_or(1, |bytes| i64::from_be_bytes(bytes.try_into().expect("a revision")));
    for at in compacted.max(1)..=revision {
        rows.clear();
        engine.scan(KeyRange { start: b"", end: None }, at, usize::MAX, &mut rows).expect("scan");
        let expected: Vec<_> = (0..KEYS).map(|sub| Revision::new(at, sub)).collect();
        assert_eq!(rows.iter().map(|row| row.revision).collect::<Vec<_>>(), expected, "at {at} of {revision}");
    }
    rows.clear();
    let next = engine.history(Revision::default(), i64::MAX, &mut rows).expect("history");
    assert_eq!(next, None);
    let kept = rows.len() as i64 / KEYS;
    let compacted = rows[0].revision.main;
    assert_eq!(kept, revision - compacted + 1, "every revision from {compacted} on");
    assert!(kept <= 2 * KEPT + 1, "{kept} revisions are kept");
    let rows_bytes: usize = rows.iter().map(|row| 17 + row.row.len()).sum();
    let usage = engine.usage();
    let tables = Usage { rows: 1 + compaction_rows, bytes: 16 + 17 * compaction_rows };
    assert_eq!((usage.rows, usage.bytes), (rows.len() as u64 + tables.rows, rows_bytes as u64 + tables.bytes));
}

/// The number of rows in a flush that takes some time, and the bytes of each.
const LARGE_ROWS: i64 = 2000;
const LARGE_BYTES: usize = 16 << 10;
/// The number of crashes that must hit such a flush, and the most flushes that are tried for it.
const CRASHES_DURING: usize = 3;
const FLUSHES: i64 = 50;

/// RocksDB may rewrite files while others are flushed. Versions that a compaction dropped are needed until
/// the flush that makes the compaction durable has ended: a crash before that brings back a state in which
/// they can still be read.
#[test]
fn nothing_is_forgotten_before_the_flush_that_makes_its_death_durable_has_ended() {
    let place = Place::in_memory();
    let engine = place.open();
    let (mut crashes, mut last) = (0, 0);
    for _ in 0..FLUSHES {
        let first = last + 1;
        last += KEYS;
        for revision in first..=last {
            append(&engine, b"key", Revision::new(revision, 0), false);
        }
        publish(&engine, last);
        engine.flush().expect("flush");
        let flushed = engine.published();
        // Keys that are written once, so that they supersede nothing.
        for sub in 0..LARGE_ROWS {
            let key = format!("large{last:06}/{sub:06}");
            let row = key.as_bytes().repeat(LARGE_BYTES / key.len()).into();
            let version = Version { revision: Revision::new(last + 1, sub), tombstone: false, row };
            engine.append(key.as_bytes(), version).expect("append");
        }
        publish(&engine, last + 1);
        while engine.compact_step(last).expect("compact_step") {}
        std::thread::scope(|threads| {
            let flush = threads.spawn(|| engine.flush().expect("flush"));
            while !flush.is_finished() {
                engine.rewrite_superseded();
                let copy = place.crash(&engine);
                let found = copy.open();
                if found.published() != flushed {
                    break;
                }
                for at in first..=last {
                    let newest = found.newest(b"key", at).expect("newest").map(|version| version.revision);
                    assert_eq!(newest, Some(Revision::new(at, 0)), "the compaction was not durable");
                }
                crashes += 1;
            }
        });
        last += 1;
        if crashes >= CRASHES_DURING {
            return;
        }
    }
    panic!("{crashes} crashes came during {FLUSHES} flushes");
}
