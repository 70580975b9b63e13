//! Any bytes as a database: refused, or read in time and memory in proportion. `crates/replica/tests/hostile` explains
//! how this works.
//!
//! `UPDATE=1 cargo test -p metastore-bbolt --test hostile` rewrites the inputs that the code makes.

mod databases;
#[path = "../bbolt/handmade.rs"]
mod handmade;
#[path = "../../../replica/tests/hostile/meter.rs"]
mod meter;
#[path = "../../../replica/tests/hostile/mutator.rs"]
mod mutator;

use handmade::{BUCKET, branch, bucket, file, inline, leaf};
use mutator::Memory;

/// Inputs that are made from the corpus; each has a few pages.
const MUTATIONS: u64 = 20_000;
/// The rows are held twice, the pages of the path once, and what is written anew has pages of 4 KiB.
const MEMORY: Memory = Memory { base_bytes: 256 << 10, per_byte: 20 };
const PAGE: usize = 1024;

#[test]
fn databases() {
    mutator::run("bbolt", MUTATIONS, MEMORY, databases::attempt);
}

/// If real inputs were refused, the tests would reach only the first checks.
#[test]
fn real_inputs_come_through() {
    let rows = seeds().into_iter().map(|(name, bytes)| (name, databases::rows(&bytes)));
    let read: Vec<_> = rows.filter_map(|(name, rows)| Some((name, rows?))).collect();
    assert_eq!(read, [("buckets", 6), ("levels", 3), ("long", 2), ("nested", 3), ("written", 20)]);
}

#[test]
fn the_corpus_is_what_the_code_makes() {
    mutator::check_seeds("bbolt", &seeds());
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let row = |key: &'static str| (0, key.as_bytes(), &b"value"[..]);
    let root = |id| leaf(2, PAGE, &[(BUCKET, b"key", &bucket(id))]);
    let small = inline(&[row("a"), row("b")]);
    let buckets =
        leaf(2, PAGE, &[(BUCKET, b"auth", &inline(&[])), (BUCKET, b"key", &bucket(3)), (BUCKET, b"meta", &small)]);
    let levels = |second| {
        let (left, right) = (branch(4, PAGE, &[(b"a", 6), (b"b", 7)]), branch(5, PAGE, &[(b"c", second), (b"d", 9)]));
        let leaves =
            [leaf(6, PAGE, &[row("a")]), leaf(7, PAGE, &[]), leaf(8, PAGE, &[row("c")]), leaf(9, PAGE, &[row("d")])];
        let pages = [vec![root(3), branch(3, PAGE, &[(b"a", 4), (b"c", 5)]), left, right], leaves.to_vec()].concat();
        file(PAGE, 2, &pages)
    };
    let long = file(PAGE, 2, &[root(3), leaf(3, PAGE, &[row("a"), (0, b"b", &[7; 2000])])]);
    let nested = inline(&[row("a"), (BUCKET, b"b", &small)]);
    vec![
        ("nothing", Vec::new()),
        ("buckets", file(PAGE, 2, &[buckets, leaf(3, PAGE, &[row("k"), row("l"), row("m"), row("n")])])),
        ("levels", levels(8)),
        ("levels-that-meet", levels(6)),
        ("long", long.clone()),
        ("long-and-cut", long[..long.len() - 1024].to_vec()),
        ("nested", file(PAGE, 2, &[leaf(2, PAGE, &[(BUCKET, b"x", &nested)])])),
        ("written", databases::written()),
        ("branch-below-itself", file(PAGE, 2, &[root(3), branch(3, PAGE, &[(b"a", 3)])])),
        ("root-of-all-ones", file(PAGE, u64::MAX, &[root(3)])),
        ("keys-out-of-order", file(PAGE, 2, &[root(3), leaf(3, PAGE, &[row("b"), row("a")])])),
    ]
}
