//! Any bytes as a database of etcd: refused, or taken up in memory in proportion. `crates/replica/tests/hostile`
//! explains how this works.
//!
//! `UPDATE=1 cargo test -p metastore-backup --test hostile` rewrites the inputs that the code makes.

mod databases;
#[path = "../../../bbolt/tests/bbolt/handmade.rs"]
mod handmade;
#[path = "../../../replica/tests/hostile/meter.rs"]
mod meter;
#[path = "../../../replica/tests/hostile/mutator.rs"]
mod mutator;

use metastore_proto::Message;
use metastore_proto::mvccpb::KeyValue;

use handmade::{BUCKET, branch, bucket, file, inline, leaf};
use mutator::Memory;

/// Inputs that are made from the corpus; each has a few pages.
const MUTATIONS: u64 = 10_000;
/// Rows are held in the small tables, in the engine and in the database that is written anew, whose pages have 4 KiB.
const MEMORY: Memory = Memory { base_bytes: 2 << 20, per_byte: 40 };
const PAGE: usize = 1024;

#[test]
fn databases() {
    mutator::run("backup", MUTATIONS, MEMORY, databases::attempt);
}

/// If real inputs were refused, the tests would reach only the first checks.
#[test]
fn real_inputs_come_through() {
    let taken = seeds().into_iter().map(|(name, bytes)| (name, databases::revision(&bytes)));
    let taken: Vec<_> = taken.filter_map(|(name, revision)| Some((name, revision?))).collect();
    let expected = [
        ("taken-empty", 1),
        ("taken-keys", 4),
        ("taken-levels", 3),
        ("taken-tables", 3),
        ("taken-one-page-in-two-buckets", 2),
        ("taken-row-of-another-revision", 2),
    ];
    assert_eq!(taken, expected);
}

#[test]
fn the_corpus_is_what_the_code_makes() {
    mutator::check_seeds("backup", &seeds());
}

fn revision(main: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &[0; 8]].concat()
}

fn row(main: i64) -> Vec<u8> {
    let (key, value) = (format!("k{main}").into(), "v".into());
    KeyValue { key, value, create_revision: main, mod_revision: main, version: 1, lease: 0 }.encode_to_vec()
}

/// A page with the versions of these revisions.
fn versions(id: u64, revisions: &[i64]) -> Vec<u8> {
    let rows: Vec<_> = revisions.iter().map(|main| (revision(*main), row(*main))).collect();
    let rows: Vec<_> = rows.iter().map(|(key, row)| (0, &key[..], &row[..])).collect();
    leaf(id, PAGE, &rows)
}

/// A database of which the bucket of keys is at page 3, and in whose bucket `meta` these rows are.
fn database(meta: &[(u32, &[u8], &[u8])], pages: &[Vec<u8>]) -> Vec<u8> {
    let root = leaf(2, PAGE, &[(BUCKET, b"key", &bucket(3)), (BUCKET, b"meta", &inline(meta))]);
    file(PAGE, 2, &[&[root], pages].concat())
}

/// The names say what becomes of them.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (index, term) = (9_u64.to_be_bytes(), 3_u64.to_be_bytes());
    let applied: [(u32, &[u8], &[u8]); 2] = [(0, b"consistent_index", &index), (0, b"term", &term)];
    let with_table = |name: &[u8], key: &[u8], value: &[u8]| {
        let (keys, table) = (inline(&[(0, &revision(3), &row(3))]), inline(&[(0, key, value)]));
        let rows = [(BUCKET, &b"key"[..], &keys[..]), (BUCKET, name, &table)];
        let mut rows = rows.to_vec();
        rows.sort_by_key(|(_, name, _)| *name);
        file(PAGE, 2, &[leaf(2, PAGE, &rows)])
    };
    let keys = database(&applied, &[versions(3, &[2, 3, 4])]);
    let levels = [branch(3, PAGE, &[(&revision(2), 4), (&revision(3), 5)]), versions(4, &[2]), versions(5, &[3])];
    let mut crowded = keys.clone();
    // The number of rows in the header of page 3.
    crowded[3 * PAGE + 10..3 * PAGE + 12].fill(0xff);
    let mut overflowing = keys.clone();
    // The number of pages that follow page 3 and belong to it.
    overflowing[3 * PAGE + 12..3 * PAGE + 16].fill(0xff);
    let shared = leaf(2, PAGE, &[(BUCKET, b"key", &bucket(3)), (BUCKET, b"meta", &bucket(3))]);
    let far = leaf(2, PAGE, &[(BUCKET, b"key", &bucket(u64::MAX)), (BUCKET, b"meta", &inline(&applied))]);
    let beyond = [(0, &b"consistent_index"[..], &[0xff; 8][..])];
    vec![
        ("taken-empty", database(&[], &[leaf(3, PAGE, &[])])),
        ("taken-keys", keys.clone()),
        ("taken-levels", database(&applied, &levels)),
        ("taken-tables", with_table(b"lease", &7_i64.to_be_bytes(), &[0x08, 7, 0x10, 100])),
        ("beyond-the-index", database(&beyond, &[leaf(3, PAGE, &[(0, &[0xff; 17], b"")])])),
        ("cut-off", keys[..3 * PAGE].to_vec()),
        ("keys-below-themselves", database(&applied, &[branch(3, PAGE, &[(&revision(2), 3)])])),
        ("more-rows-than-fit", crowded),
        ("more-pages-than-there-are", overflowing),
        // The rows of one bucket mean nothing in the other, and are kept.
        ("taken-one-page-in-two-buckets", file(PAGE, 2, &[shared, versions(3, &[2])])),
        ("a-page-far-away", file(PAGE, 2, &[far])),
        ("revisions-out-of-order", database(&applied, &[versions(3, &[3, 2])])),
        ("the-last-revision", database(&applied, &[versions(3, &[i64::MAX])])),
        ("a-negative-revision", database(&applied, &[versions(3, &[-2])])),
        // etcd takes the revision from the key as well.
        ("taken-row-of-another-revision", database(&applied, &[leaf(3, PAGE, &[(0, &revision(2), &row(9))])])),
        ("a-row-that-is-no-row", database(&applied, &[leaf(3, PAGE, &[(0, &revision(2), b"\xff\xff")])])),
        ("a-lease-without-an-id", with_table(b"lease", b"odd", b"")),
        ("a-member-without-json", with_table(b"members", b"ab", b"{")),
        ("a-user-that-is-none", with_table(b"authUsers", b"root", b"\xff\xff")),
        ("an-unknown-bucket", with_table(b"zebra", b"k", b"v")),
    ]
}
