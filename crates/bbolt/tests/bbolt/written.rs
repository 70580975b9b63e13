//! Files of the writer, read back by the reader.

use metastore_bbolt::{Database, Layout, WriteError, Writer};
use proptest::prelude::*;

use crate::rows::{Buckets, MAX_PATH_BYTES, Rows, bucket, plan, read, try_write, write};

const PAGE_BYTES: usize = 4096;

/// Id, kind, number of elements and number of further pages of each page, in the order of the file.
fn headers(file: &[u8]) -> Vec<(u64, u16, u16, u32)> {
    let mut headers = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let header = &file[at..at + 16];
        let id = u64::from_le_bytes(header[..8].try_into().unwrap());
        let pair = [8, 10].map(|at| u16::from_le_bytes(header[at..at + 2].try_into().unwrap()));
        let overflow = u32::from_le_bytes(header[12..].try_into().unwrap());
        assert_eq!(id, (at / PAGE_BYTES) as u64, "each page bears the number of its place");
        headers.push((id, pair[0], pair[1], overflow));
        at += (overflow as usize + 1) * PAGE_BYTES;
    }
    headers
}

/// Writes, reads back, and checks the shape of the tree. Returns the headers of the pages.
fn there_and_back(buckets: &Buckets) -> Vec<(u64, u16, u16, u32)> {
    let file = write(buckets);
    assert!(read(&*file).expect("a file that was just written") == *buckets, "what was written is read");
    let headers = headers(&file);
    for (id, kind, count, _) in &headers {
        assert!(*kind != 1 || *count >= 2, "page {id} is a branch with {count} children: bbolt needs two");
    }
    headers
}

#[test]
fn a_file_without_buckets_is_that_of_a_new_database() {
    assert_eq!(there_and_back(&vec![]), [(0, 4, 0, 0), (1, 4, 0, 0), (2, 16, 0, 0), (3, 2, 0, 0)]);
}

#[test]
fn small_buckets_and_empty_ones_are_inside_the_root_page() {
    // Header and element take 16 bytes each: 1024 bytes are a quarter of a page.
    let buckets = vec![bucket("at the limit", 1, 100, 892), bucket("empty", 0, 0, 0)];
    assert_eq!(there_and_back(&buckets).len(), 4);
    assert_eq!(there_and_back(&vec![bucket("over the limit", 1, 100, 893)]).len(), 5);
}

#[test]
fn pages_are_filled_to_the_last_byte() {
    // Eight rows of 510 bytes, with the header of the page.
    let full = there_and_back(&vec![bucket("a", 8, 100, 394)]);
    assert_eq!(full[3..], [(3, 2, 8, 0), (4, 2, 1, 0)]);
    let over = there_and_back(&vec![bucket("a", 8, 100, 395)]);
    assert_eq!(over[3..], [(3, 2, 7, 0), (4, 2, 1, 0), (5, 1, 2, 0), (6, 2, 1, 0)]);
}

#[test]
fn a_long_row_continues_on_pages_of_its_own() {
    let mut rows = bucket("a", 3, 10, 10);
    rows.1[1].1 = vec![7; 100_000];
    let headers = there_and_back(&vec![rows]);
    assert_eq!(headers[3..], [(3, 2, 1, 0), (4, 2, 1, 24), (29, 2, 1, 0), (30, 1, 3, 0), (31, 2, 1, 0)]);
}

#[test]
fn no_branch_is_left_with_one_child_however_many_there_are() {
    for count in 1..60 {
        // A leaf for each row; a branch page has room for three of them, or for one, which is not enough.
        for key_len in [1000, 3000, 5000] {
            there_and_back(&vec![bucket("a", count, key_len, 3000)]);
        }
    }
}

#[test]
fn a_tree_of_many_levels() {
    let headers = there_and_back(&vec![bucket("a", 600, 2000, 2000), bucket("b", 10_000, 17, 40)]);
    assert!(headers.iter().filter(|(_, kind, ..)| *kind == 1).count() > 300);
}

#[test]
fn many_buckets_make_the_root_bucket_a_tree() {
    let buckets = (0..200).map(|number| bucket(&format!("{number:04}"), number % 70, 20, 10)).collect();
    there_and_back(&buckets);
}

#[test]
fn one_bucket_is_found_by_its_name() {
    let buckets = vec![bucket("alarm", 0, 0, 0), bucket("key", 1000, 17, 40), bucket("lease", 3, 8, 8)];
    let file = write(&buckets);
    let database = Database::open(&*file, MAX_PATH_BYTES).unwrap();
    for (name, rows) in &buckets {
        let mut cursor = database.bucket(name).unwrap().expect("the bucket is there");
        let mut found = Rows::new();
        while let Some(row) = cursor.next().unwrap() {
            let metastore_bbolt::Value::Bytes(value) = row.value else { panic!("a bucket in a bucket") };
            found.push((row.key.to_vec(), value.to_vec()));
        }
        assert!(found == *rows);
        assert!(cursor.next().unwrap().is_none(), "the buckets behind it are not part of it");
    }
    assert!(database.bucket(b"auth").unwrap().is_none());
}

#[test]
fn what_bbolt_cannot_hold_is_refused() {
    let mut layout = Layout::new();
    assert_eq!(layout.row(1, 1), Err(WriteError::NoBucket));
    assert_eq!(layout.bucket(b""), Err(WriteError::KeyLength(0)));
    layout.bucket(b"b").unwrap();
    for name in ["a", "b"] {
        let order = WriteError::NameOrder { before: "b".into(), name: name.into() };
        assert_eq!(layout.bucket(name.as_bytes()), Err(order));
    }
    assert_eq!(layout.row(0, 1), Err(WriteError::KeyLength(0)));
    assert_eq!(layout.row(32769, 1), Err(WriteError::KeyLength(32769)));
    assert_eq!(layout.row(1, (1 << 31) - 1), Err(WriteError::ValueLength((1 << 31) - 1)));
    assert_eq!(layout.row(32768, (1 << 31) - 2), Ok(()));
}

#[test]
fn keys_that_do_not_ascend_are_refused() {
    for keys in [["b", "a"], ["a", "a"]] {
        let mut writer = Writer::new(plan(&vec![bucket("x", 2, 0, 0)]));
        writer.bucket(b"x").unwrap();
        writer.row(keys[0].as_bytes(), b"").unwrap();
        let order = WriteError::KeyOrder { before: keys[0].into(), key: keys[1].into() };
        assert_eq!(writer.row(keys[1].as_bytes(), b""), Err(order));
    }
    // Each bucket begins anew.
    let mut writer = Writer::new(plan(&vec![bucket("x", 1, 0, 0), bucket("y", 1, 0, 0)]));
    for name in ["x", "y"] {
        writer.bucket(name.as_bytes()).unwrap();
        writer.row(b"00000000", b"").unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_second_pass_with_other_rows_is_refused() {
    let first = vec![bucket("a", 100, 20, 100), bucket("b", 3, 20, 10)];
    let changes: [fn(&mut Buckets); 6] = [
        |buckets| drop(buckets.pop()),
        |buckets| drop(buckets[0].1.pop()),
        |buckets| drop(buckets[1].1.pop()),
        |buckets| buckets[1].1[0].1.push(0),
        |buckets| buckets[1].0.push(0),
        |buckets| {
            // The same lengths, but in two rows.
            buckets[1].1[0].1.push(0);
            buckets[1].1[1].1.pop();
        },
    ];
    for change in changes {
        let mut second = first.clone();
        change(&mut second);
        assert!(matches!(try_write(plan(&first), &second), Err(WriteError::Differs { .. })));
    }
}

#[test]
fn a_second_pass_with_more_rows_stops_within_the_size_that_was_named() {
    let plan = plan(&vec![bucket("a", 10, 20, 100)]);
    let mut writer = Writer::new(plan);
    writer.bucket(b"a").unwrap();
    let rows = bucket("a", 10_000, 20, 100).1;
    let stopped = rows.iter().position(|(key, value)| writer.row(key, value).is_err()).expect("it stops");
    assert!(stopped < 100, "{stopped}");
}

/// Lengths near the limits at which something changes: a page, a quarter of one, several.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0..60_usize, 2 => 900..1100_usize, 2 => 3900..4200_usize, 1 => 0..20_000_usize]
}

fn buckets() -> impl Strategy<Value = Buckets> {
    let key = prop_oneof![6 => 1..20_usize, 2 => 900..1100_usize, 1 => 3900..4200_usize];
    let key = (key, any::<[u8; 3]>()).prop_map(|(length, bytes)| {
        let mut key = bytes.to_vec();
        key.resize(length, b'k');
        key
    });
    let value = (length(), any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    let rows = prop::collection::btree_map(key, value, 0..120).prop_map(|rows| rows.into_iter().collect::<Rows>());
    let name = prop::collection::vec(any::<u8>(), 1..20);
    prop::collection::btree_map(name, rows, 0..6).prop_map(|buckets| buckets.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_buckets_are_read_back(buckets in buckets()) {
        there_and_back(&buckets);
    }
}
