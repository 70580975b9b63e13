//! Flipped bits in table files cause an error, never a wrong answer.

use crate::disk::{Disk, append, publish, rewrite};
use metastore_engine::{Engine, KeyRange, Result, Revision, RocksDb, Table, Version};
use std::collections::BTreeSet;
use std::fs;

const KEYS: i64 = 120;
const REVISIONS: i64 = 4;
/// The number of places at which each table file is damaged.
const PLACES: usize = 5;

const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };

fn filled() -> Disk {
    let disk = Disk::new();
    let engine = disk.open();
    for revision in 1..=REVISIONS {
        for sub in 0..KEYS {
            append(&engine, &key(sub), Revision::new(revision, sub), revision > 1 && sub % 5 == 0);
        }
        for number in 0..KEYS {
            let value = format!("{number} at {revision}").repeat(4);
            engine.put(Table::Lease, &key(number), value.as_bytes()).expect("put");
        }
        publish(&engine, revision);
    }
    drop(engine);
    disk
}

fn key(number: i64) -> Vec<u8> {
    format!("key{:05}", number * 7919 % 10_007).into_bytes()
}

/// The full answer to each call, with the name of the call.
fn answers(engine: &RocksDb) -> Vec<(&'static str, Result<String>)> {
    fn said<T: std::fmt::Debug>(answer: Result<T>) -> Result<String> {
        answer.map(|answer| format!("{answer:?}"))
    }
    let mut answers = Vec::new();
    for at in [1, REVISIONS] {
        answers.push(("scan", said(scan(engine, at))));
        answers.push(("count", said(count(engine, at))));
        answers.extend((0..KEYS).map(|number| ("newest", said(engine.newest(&key(number), at)))));
    }
    answers.push(("history", said(history(engine))));
    answers.extend((0..KEYS).map(|number| ("get", said(engine.get(Table::Lease, &key(number))))));
    answers.push(("rows", said(engine.rows(Table::Lease, b""))));
    answers.push(("compact_step", said(compact(engine))));
    answers.push(("defragment", said(engine.defragment())));
    answers
}

fn scan(engine: &RocksDb, at: i64) -> Result<Vec<Version>> {
    let (mut rows, mut start) = (Vec::new(), Some(Vec::new()));
    while let Some(from) = start {
        start = engine.scan(KeyRange { start: &from, ..ALL }, at, usize::MAX, &mut rows)?;
    }
    Ok(rows)
}

fn count(engine: &RocksDb, at: i64) -> Result<u64> {
    let (mut count, mut start) = (0, Some(Vec::new()));
    while let Some(from) = start {
        start = engine.count(KeyRange { start: &from, ..ALL }, at, &mut count)?;
    }
    Ok(count)
}

fn history(engine: &RocksDb) -> Result<Vec<Version>> {
    let (mut rows, mut from) = (Vec::new(), Some(Revision::default()));
    while let Some(begin) = from {
        from = engine.history(begin, i64::MAX, &mut rows)?;
    }
    Ok(rows)
}

/// Compacts everything, and returns the number of remaining rows.
fn compact(engine: &RocksDb) -> Result<u64> {
    while engine.compact_step(REVISIONS + 1)? {}
    Ok(engine.usage().rows)
}

#[test]
fn a_flipped_bit_is_an_error_and_never_a_wrong_answer() {
    let disk = filled();
    let intact = disk.copy();
    let expected = answers(&intact.open());
    assert!(expected.iter().all(|(_, answer)| answer.is_ok()));
    let mut noticed = BTreeSet::new();
    for file in disk.tables() {
        let length = fs::read(&file).unwrap().len();
        for place in 0..PLACES {
            let copy = disk.copy();
            let file = copy.path().join(file.file_name().unwrap());
            let mut bytes = fs::read(&file).unwrap();
            let at = place * length / PLACES + place;
            bytes[at] ^= 1 << (place % 8);
            rewrite(&file, &bytes);
            let Ok(engine) = copy.try_open() else {
                noticed.insert("open");
                continue;
            };
            for ((call, right), (_, found)) in expected.iter().zip(answers(&engine)) {
                match found {
                    Ok(found) => {
                        let same = found == *right.as_ref().unwrap();
                        assert!(same, "{call} answers otherwise, byte {at} of {}: {found:.200}", file.display());
                    }
                    Err(_) => _ = noticed.insert(call),
                }
            }
        }
    }
    let calls = ["compact_step", "count", "defragment", "get", "history", "newest", "open", "rows", "scan"];
    assert_eq!(noticed.into_iter().collect::<Vec<_>>(), calls, "each of them came upon damage");
}
