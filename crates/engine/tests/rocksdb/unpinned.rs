//! Readers that hold no pin, while the versions that they read are dropped.

use crate::disk::{Disk, append, publish};
use metastore_engine::{Engine, KeyRange, Revision, RocksDb};
use std::sync::atomic::{AtomicBool, Ordering};

const KEYS: i64 = 30;
const REVISIONS: i64 = 400;
/// How many revisions the readers are behind: the versions that they read are being replaced and dropped.
const BEHIND: [i64; 2] = [0, 1];

/// The results are not specified. But there must be no error, and no version newer than the requested revision.
#[test]
fn a_reader_below_the_compaction_finds_no_damage() {
    let disk = Disk::new();
    let engine = disk.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for behind in BEHIND {
            let (engine, done) = (&engine, &done);
            threads.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    read(engine, engine.published().revision - behind);
                }
            });
        }
        // Ends the readers also if a write fails.
        let _done = Done(&done);
        for revision in 1..=REVISIONS {
            for sub in 0..KEYS {
                append(&engine, key(sub).as_bytes(), Revision::new(revision, sub), (revision + sub) % 4 == 0);
            }
            publish(&engine, revision);
            assert!(!engine.compact_step(revision).expect("compact_step"), "one step");
        }
    });
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn key(number: i64) -> String {
    format!("key{number:02}")
}

fn read(engine: &RocksDb, at: i64) {
    for number in 0..KEYS {
        let found = engine.newest(key(number).as_bytes(), at).expect("newest");
        assert!(found.is_none_or(|version| version.revision.main <= at), "newer than {at}");
    }
    let all = KeyRange { start: b"", end: None };
    let mut rows = Vec::new();
    assert_eq!(engine.scan(all, at, usize::MAX, &mut rows).expect("scan"), None);
    assert!(rows.iter().all(|version| version.revision.main <= at && !version.tombstone), "newer than {at}");
    let mut count = 0;
    assert_eq!(engine.count(all, at, &mut count).expect("count"), None);
    assert!(count <= KEYS as u64);
    rows.clear();
    engine.history(Revision::new(at, 0), i64::MAX, &mut rows).expect("history");
}
