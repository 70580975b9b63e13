//! Reading: newest, scan, count, history.

use super::{ALL, all_history, count, delete, history, publish, put, scan, write};
use crate::{Engine, KeyRange, Revision, STEP, Version};
use std::slice::from_ref;

/// More keys than one step visits.
const MANY: usize = 3 * STEP + 7;

/// So many keys that a count takes several calls, unless the engine counts faster than key by key.
const VERY_MANY: usize = 40_000;

fn key(number: usize) -> Vec<u8> {
    format!("key{number:06}").into_bytes()
}

/// Writes keys `0..n` in a scattered order, one revision each from `main` on. Returns the versions in key order.
fn put_scattered(engine: &dyn Engine, n: usize, main: i64, tombstone: bool) -> Vec<Version> {
    // Coprime to every n used here, so that each number comes once.
    const STRIDE: usize = 7919;
    let numbers = (0..n).map(|i| i * STRIDE % n);
    let mut written: Vec<_> = (main..)
        .zip(numbers)
        .map(|(main, number)| (number, write(engine, &key(number), Revision::new(main, 0), tombstone)))
        .collect();
    written.sort_by_key(|(number, _)| *number);
    written.into_iter().map(|(_, version)| version).collect()
}

fn range<'a>(start: &'a [u8], end: &'a [u8]) -> KeyRange<'a> {
    KeyRange { start, end: Some(end) }
}

pub fn newest_is_read_at_a_revision(engine: &dyn Engine) {
    let versions = [put(engine, b"a", 2), put(engine, b"a", 4), delete(engine, b"a", 6), put(engine, b"a", 8)];
    put(engine, b"aa", 9);
    let expected =
        [(1, None), (2, Some(0)), (3, Some(0)), (5, Some(1)), (6, Some(2)), (7, Some(2)), (i64::MAX, Some(3))];
    for (at, version) in expected {
        assert_eq!(engine.newest(b"a", at).unwrap().as_ref(), version.map(|i: usize| &versions[i]), "at {at}");
    }
    publish(engine, 9);
    for (at, version) in expected {
        assert_eq!(
            engine.newest(b"a", at).unwrap().as_ref(),
            version.map(|i: usize| &versions[i]),
            "published, at {at}"
        );
    }
    for at in [i64::MIN, -1, 0] {
        assert_eq!(engine.newest(b"a", at).unwrap(), None, "at {at}");
        assert_eq!((scan(engine, ALL, at, 10), count(engine, ALL, at)), (vec![], 0), "at {at}");
    }
    for absent in [&b""[..], b"A", b"a\0", b"b"] {
        assert_eq!(engine.newest(absent, i64::MAX).unwrap(), None, "{absent:?}");
    }
}

pub fn scan_returns_live_keys_in_order(engine: &dyn Engine) {
    let b = put(engine, b"b", 2);
    let a = put(engine, b"a", 3);
    put(engine, b"c", 4);
    delete(engine, b"c", 5);
    let empty = put(engine, b"", 6);
    let last = put(engine, &[0xff, 0xff], 7);
    assert_eq!(scan(engine, ALL, 7, 10), [empty, a, b, last]);
}

pub fn scan_reads_at_a_revision(engine: &dyn Engine) {
    let old = put(engine, b"a", 2);
    delete(engine, b"a", 3);
    let b = put(engine, b"b", 4);
    let new = put(engine, b"a", 5);
    assert_eq!(scan(engine, ALL, 1, 10), []);
    assert_eq!(scan(engine, ALL, 2, 10), [old]);
    assert_eq!(scan(engine, ALL, 3, 10), []);
    assert_eq!(scan(engine, ALL, 4, 10), from_ref(&b));
    assert_eq!(scan(engine, ALL, 5, 10), [new, b]);
}

pub fn scan_respects_the_range(engine: &dyn Engine) {
    let rows = put_scattered(engine, MANY, 1, false);
    let check = |range: KeyRange<'_>, expected: &[Version]| {
        assert_eq!(scan(engine, range, i64::MAX, MANY), expected, "{range:?}");
        assert_eq!(count(engine, range, i64::MAX), expected.len() as u64, "{range:?}");
    };
    check(range(&key(3), &key(5)), &rows[3..5]);
    check(range(&key(3), b"key000003\0"), &rows[3..4]);
    check(range(b"key000003\0", &key(5)), &rows[4..5]);
    check(range(b"", &key(2)), &rows[..2]);
    check(range(b"a", b"z"), &rows);
    check(KeyRange { start: &key(MANY - 2), end: None }, &rows[MANY - 2..]);
    for empty in
        [range(&key(5), &key(5)), range(&key(5), &key(3)), range(b"z", b"a"), range(b"x", b"y"), range(b"", b"")]
    {
        check(empty, &[]);
    }
    for from in (0..MANY).step_by(50) {
        let to = MANY.min(from + 300);
        check(range(&key(from), &key(to)), &rows[from..to]);
    }
}

pub fn scan_stops_at_the_limit_and_continues(engine: &dyn Engine) {
    let rows = put_scattered(engine, 10, 1, false);
    for limit in 1..=11 {
        assert_eq!(scan(engine, ALL, i64::MAX, limit), rows, "limit {limit}");
    }
    let mut first = Vec::new();
    let next = engine.scan(ALL, i64::MAX, 3, &mut first).unwrap().expect("seven keys are left");
    assert_eq!(first, rows[..3]);
    assert!(key(2) < next && next <= key(3), "continues at {next:?}");
    let mut none = Vec::new();
    assert!(engine.scan(ALL, i64::MAX, 0, &mut none).unwrap().is_some(), "nothing is done with limit 0");
    assert_eq!(none, []);
}

pub fn scan_appends_to_the_rows_it_is_given(engine: &dyn Engine) {
    let a = put(engine, b"a", 1);
    let b = put(engine, b"b", 2);
    let mut rows = vec![b.clone()];
    while engine.scan(ALL, i64::MAX, 1, &mut rows).unwrap().is_some() && rows.len() < 2 {}
    assert_eq!(rows, [b, a]);
    publish(engine, 2);
    engine.history(Revision::default(), 1, &mut rows).unwrap();
    assert_eq!(rows.len(), 3);
    let mut total = 5;
    engine.count(ALL, i64::MAX, &mut total).unwrap();
    assert_eq!(total, 7);
}

pub fn scan_is_bounded_on_live_keys(engine: &dyn Engine) {
    let rows = put_scattered(engine, MANY, 1, false);
    // Unpublished, and published.
    for _ in 0..2 {
        let mut first = Vec::new();
        let next = engine.scan(ALL, i64::MAX, usize::MAX, &mut first).unwrap();
        assert!(next.is_some(), "{MANY} keys are more than one step");
        assert!(first.len() <= STEP, "{} rows in one step", first.len());
        assert_eq!(scan(engine, ALL, i64::MAX, usize::MAX), rows);
        publish(engine, MANY as i64);
    }
}

/// Keys that are dead, or not yet created at the revision, use up a step as live ones do.
pub fn scan_is_bounded_on_dead_keys(engine: &dyn Engine) {
    put_scattered(engine, MANY, 1, false);
    put_scattered(engine, MANY, 10_000, true);
    let last = put(engine, b"zzz", 20_000);
    publish(engine, 20_000);
    for at in [0, i64::MAX] {
        let mut rows = Vec::new();
        assert!(engine.scan(ALL, at, usize::MAX, &mut rows).unwrap().is_some(), "{MANY} keys in one step at {at}");
        assert_eq!(rows, []);
    }
    assert_eq!(scan(engine, ALL, i64::MAX, 1), [last]);
    assert_eq!(count(engine, ALL, i64::MAX), 1);
    assert_eq!(count(engine, ALL, 0), 0);
}

pub fn scan_continues_at_its_revision_while_keys_come_and_go(engine: &dyn Engine) {
    let expected = put_scattered(engine, MANY, 1, false);
    let at = MANY as i64;
    let (mut rows, mut start, mut main) = (Vec::new(), Vec::new(), at);
    while let Some(next) = engine.scan(KeyRange { start: &start, end: None }, at, 100, &mut rows).unwrap() {
        // Before, at and after the position of the scan.
        for change in [key(0), next.clone(), [&next[..], b"new"].concat(), key(MANY - 1)] {
            main += 1;
            write(engine, &change, Revision::new(main, 0), main % 2 == 0);
        }
        publish(engine, main);
        super::compact(engine, at);
        start = next;
    }
    assert_eq!(rows, expected);
}

pub fn count_equals_scan(engine: &dyn Engine) {
    put_scattered(engine, MANY, 1, false);
    for number in (0..MANY).step_by(3) {
        delete(engine, &key(number), 10_000 + number as i64);
    }
    for number in (0..MANY).step_by(9) {
        put(engine, &key(number), 20_000 + number as i64);
    }
    // Unpublished, and published.
    let counts = [0, 1].map(|_| {
        let mut counts = Vec::new();
        for at in [0, 1, 400, 9_000, 10_000, 10_500, 20_000, 20_400, i64::MAX] {
            for range in [ALL, range(&key(10), &key(600)), range(&key(127), &key(129)), range(&key(400), b"z")] {
                let found = count(engine, range, at);
                assert_eq!(found, scan(engine, range, at, STEP).len() as u64, "{range:?} at {at}");
                counts.push(found);
            }
        }
        publish(engine, 30_000);
        counts
    });
    assert_eq!(counts[0], counts[1]);
}

pub fn count_continues_over_many_keys(engine: &dyn Engine) {
    put_scattered(engine, VERY_MANY, 1, false);
    let half = VERY_MANY as i64 / 2;
    // Unpublished, and published.
    for _ in 0..2 {
        assert_eq!(count(engine, ALL, i64::MAX), VERY_MANY as u64);
        assert_eq!(count(engine, ALL, half), half as u64);
        let mut total = 0;
        assert!(engine.count(ALL, half, &mut total).unwrap().is_some(), "{VERY_MANY} keys under one lock");
        publish(engine, VERY_MANY as i64);
    }
}

pub fn history_is_ordered_and_bounded(engine: &dyn Engine) {
    let mut written = put_scattered(engine, MANY, 1, false);
    written.sort_by_key(|version| version.revision);
    publish(engine, MANY as i64);
    let mut first = Vec::new();
    let next = engine.history(Revision::default(), i64::MAX, &mut first).unwrap().expect("more than one step");
    assert!(first.len() <= STEP, "{} rows in one step", first.len());
    assert_eq!(next, written[first.len()].revision);
    assert_eq!(all_history(engine), written);
}

pub fn history_ends_at_its_last_revision(engine: &dyn Engine) {
    for main in 1..=MANY as i64 {
        write(engine, b"a", Revision::new(main, 0), false);
        write(engine, b"b", Revision::new(main, 1), true);
    }
    publish(engine, MANY as i64);
    let all = all_history(engine);
    let middle = MANY / 2;
    assert_eq!(history(engine, Revision::default(), middle as i64), all[..2 * middle]);
    assert_eq!(history(engine, Revision::new(middle as i64, 1), middle as i64 + 300), all[2 * middle - 1..][..601]);
    assert_eq!(history(engine, Revision::new(middle as i64, 2), middle as i64), []);
    assert_eq!(history(engine, Revision::new(MANY as i64 + 1, 0), i64::MAX), []);
    assert_eq!(history(engine, Revision::new(9, 0), 8), []);
    assert_eq!(history(engine, Revision::default(), 0), []);
}
