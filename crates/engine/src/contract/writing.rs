//! Writing: versions, tables, the published state, the usage.

use super::{ALL, all_history, delete, publish, put, row_keys, scan, version, write};
use crate::{Applied, Engine, Published, Revision, STEP, Table, Usage, Version};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice::from_ref;

pub fn nothing_is_stored_at_first(engine: &dyn Engine) {
    assert_eq!(engine.published(), Published::default());
    assert_eq!(engine.usage(), Usage::default());
    assert_eq!(engine.newest(b"a", i64::MAX).unwrap(), None);
    assert_eq!(scan(engine, ALL, i64::MAX, 10), []);
    assert_eq!(all_history(engine), []);
    assert!(!engine.compact_step(i64::MAX).unwrap());
    for table in Table::ALL {
        assert_eq!(engine.rows(table, b"").unwrap(), []);
    }
}

pub fn publish_is_read_back(engine: &dyn Engine) {
    for revision in 1..4 {
        let published = Published { revision, applied: Applied { index: 10 + revision as u64, term: 7 } };
        engine.publish(published).unwrap();
        assert_eq!(engine.published(), published);
    }
}

pub fn append_is_visible_to_the_writer_at_once(engine: &dyn Engine) {
    let first = put(engine, b"a", 2);
    assert_eq!(engine.newest(b"a", i64::MAX).unwrap(), Some(first));
    let second = delete(engine, b"a", 3);
    assert_eq!(engine.newest(b"a", i64::MAX).unwrap(), Some(second));
    assert_eq!(engine.published(), Published::default(), "only publish moves it");
}

pub fn revisions_inside_a_transaction_are_ordered(engine: &dyn Engine) {
    let first = write(engine, b"a", Revision::new(2, 0), false);
    let second = write(engine, b"a", Revision::new(2, 1), true);
    let third = write(engine, b"a", Revision::new(2, 2), false);
    assert_eq!(engine.newest(b"a", 2).unwrap().as_ref(), Some(&third));
    assert_eq!(scan(engine, ALL, 2, 10), from_ref(&third));
    publish(engine, 2);
    assert_eq!(all_history(engine), [first, second, third]);
}

pub fn rows_are_stored_as_they_are(engine: &dyn Engine) {
    let rows: [&[u8]; 4] = [b"", &[0], &[0xff; 300], &vec![7; 100_000]];
    for (main, bytes) in (1..).zip(rows) {
        // Keys are any bytes, too; the first one is empty.
        let version = Version { revision: Revision::new(main, 0), tombstone: false, row: bytes.into() };
        engine.append(&bytes[..bytes.len().min(200)], version).unwrap();
    }
    for (main, bytes) in (1..).zip(rows) {
        let stored = engine.newest(&bytes[..bytes.len().min(200)], main).unwrap().expect("appended");
        assert_eq!((stored.revision.main, &*stored.row), (main, bytes));
    }
    assert_eq!(scan(engine, ALL, i64::MAX, 10).len(), rows.len());
}

pub fn tables_are_apart(engine: &dyn Engine) {
    for table in Table::ALL {
        engine.put(table, b"k", table.name().as_bytes()).unwrap();
    }
    engine.put(Table::Lease, b"k", b"new").unwrap();
    engine.delete(Table::Auth, b"k").unwrap();
    engine.delete(Table::Auth, b"absent").unwrap();
    for table in Table::ALL {
        let expected = match table {
            Table::Auth => None,
            Table::Lease => Some(b"new".to_vec()),
            other => Some(other.name().into()),
        };
        assert_eq!(engine.get(table, b"k").unwrap(), expected, "{table:?}");
        assert_eq!(engine.rows(table, b"").unwrap().len(), usize::from(expected.is_some()), "{table:?}");
    }
    assert_eq!(engine.newest(b"k", i64::MAX).unwrap(), None, "tables hold no versioned keys");
}

pub fn table_rows_are_in_key_order(engine: &dyn Engine) {
    let keys: [&[u8]; 5] = [b"", &[0], b"a", b"a\0", &[0xff, 0xff]];
    for &at in &[3, 0, 4, 1, 2] {
        engine.put(Table::Meta, keys[at], &[at as u8]).unwrap();
    }
    let expected: Vec<_> = (0u8..).zip(keys).map(|(at, key)| (key.to_vec(), vec![at])).collect();
    assert_eq!(engine.rows(Table::Meta, b"").unwrap(), expected);
}

pub fn table_rows_are_read_by_prefix(engine: &dyn Engine) {
    let keys: [&[u8]; 6] = [b"", b"a", b"aa", b"ab", &[0xff], &[0xff, 0xff]];
    let check = |prefix: &[u8], expected: &[&[u8]]| {
        let rows = engine.rows(Table::Lease, prefix).unwrap();
        let found: Vec<_> = rows.iter().map(|(key, _)| &key[..]).collect();
        assert_eq!(found, expected, "with prefix {}", prefix.escape_ascii());
        assert_eq!(row_keys(engine, Table::Lease, prefix, b""), expected, "with prefix {}", prefix.escape_ascii());
    };
    for key in keys {
        engine.put(Table::Lease, key, b"").unwrap();
        engine.put(Table::Cluster, key, b"the table before").unwrap();
        engine.put(Table::Members, key, b"the table behind").unwrap();
    }
    // Pending, published, and partly changed again.
    for _ in 0..2 {
        check(b"", &keys);
        check(b"a", &keys[1..4]);
        check(b"aa", &keys[2..3]);
        check(b"aaa", &[]);
        check(b"b", &[]);
        check(&[0xff], &keys[4..]);
        publish(engine, 1);
    }
    engine.delete(Table::Lease, b"aa").unwrap();
    engine.put(Table::Lease, b"ac", b"new").unwrap();
    engine.put(Table::Lease, b"a", b"changed").unwrap();
    check(b"a", &[b"a", b"ab", b"ac"]);
    publish(engine, 1);
    check(b"a", &[b"a", b"ab", b"ac"]);
    assert_eq!(engine.get(Table::Lease, b"a").unwrap(), Some(b"changed".to_vec()));
}

pub fn keys_of_rows_come_step_by_step(engine: &dyn Engine) {
    let count = 3 * STEP as u32 + 7;
    let key = |lease: u8, number: u32| [&[lease][..], &number.to_be_bytes()].concat();
    for (lease, number) in (0..count).flat_map(|number| (1..=3).map(move |lease| (lease, number))) {
        engine.put(Table::LeaseKeys, &key(lease, number), b"").unwrap();
        // Some rows are published, some are not.
        if number == count / 2 {
            publish(engine, 1);
        }
    }
    // Whole steps of deleted rows, published and not.
    let is_gone = |number: u32| (10..10 + STEP as u32 + 20).contains(&number) || number >= count - 5;
    for number in (0..count).filter(|number| is_gone(*number)) {
        engine.delete(Table::LeaseKeys, &key(2, number)).unwrap();
    }
    let left: Vec<_> = (0..count).filter(|number| !is_gone(*number)).map(|number| key(2, number)).collect();
    for _ in 0..2 {
        assert_eq!(row_keys(engine, Table::LeaseKeys, &[2], b""), left);
        assert_eq!(row_keys(engine, Table::LeaseKeys, &[2], &left[3]), left[3..]);
        assert!(row_keys(engine, Table::LeaseKeys, &[2], &[3]).is_empty(), "from behind all");
        assert!(row_keys(engine, Table::LeaseKeys, &[4], b"").is_empty());
        publish(engine, 2);
    }
}

pub fn keys_of_leases_are_apart_and_not_counted(engine: &dyn Engine) {
    engine.put(Table::Lease, b"k", b"12").unwrap();
    let counted = engine.usage();
    engine.put(Table::LeaseKeys, b"k", b"123").unwrap();
    engine.put(Table::LeaseKeys, b"l", b"").unwrap();
    assert_eq!(engine.usage(), counted);
    publish(engine, 1);
    engine.delete(Table::LeaseKeys, b"l").unwrap();
    engine.put(Table::LeaseKeys, b"k", b"4").unwrap();
    publish(engine, 1);
    assert_eq!(engine.usage(), counted);
    assert_eq!(engine.rows(Table::LeaseKeys, b"").unwrap(), [(b"k".to_vec(), b"4".to_vec())]);
    assert_eq!(engine.rows(Table::Lease, b"").unwrap(), [(b"k".to_vec(), b"12".to_vec())]);
    assert_eq!(engine.rows(Table::Meta, b"").unwrap(), []);
}

/// A version counts with 17 bytes of revision key (18 for a tombstone) and its row; a row of a table
/// with its key and value.
pub fn usage_counts_versions_and_table_rows(engine: &dyn Engine) {
    let usage = |rows, bytes| assert_eq!(engine.usage(), Usage { rows, bytes });
    let append = |main, tombstone, row: &[u8]| {
        engine.append(b"key", Version { revision: Revision::new(main, 0), tombstone, row: row.into() }).unwrap();
    };
    append(1, false, b"12345");
    usage(1, 22);
    append(2, true, b"123");
    usage(2, 22 + 21);
    engine.put(Table::Lease, b"ab", b"cde").unwrap();
    usage(3, 43 + 5);
    engine.put(Table::Lease, b"ab", b"f").unwrap();
    usage(3, 43 + 3);
    engine.delete(Table::Lease, b"absent").unwrap();
    usage(3, 43 + 3);
    engine.delete(Table::Lease, b"ab").unwrap();
    usage(2, 43);
    publish(engine, 2);
    super::compact(engine, 2);
    usage(1, 21);
    super::compact(engine, 3);
    usage(0, 0);
}

/// A revision that does not ascend is a broken invariant of the caller: the engine panics before it stores anything.
pub fn revisions_must_ascend(engine: &dyn Engine) {
    let stored = write(engine, b"a", Revision::new(5, 1), false);
    for revision in [Revision::new(5, 1), Revision::new(5, 0), Revision::new(4, 9)] {
        let append = || engine.append(b"b", version(b"b", revision, false));
        assert!(catch_unwind(AssertUnwindSafe(append)).is_err(), "{revision:?} was taken after 5.1");
    }
    publish(engine, 5);
    assert_eq!(all_history(engine), [stored]);
    write(engine, b"b", Revision::new(5, 2), true);
    publish(engine, 5);
    super::compact(engine, 6);
    let append = || engine.append(b"b", version(b"b", Revision::new(5, 2), false));
    assert!(catch_unwind(AssertUnwindSafe(append)).is_err(), "compaction does not make a revision free again");
    publish(engine, 6);
    put(engine, b"b", 6);
}
