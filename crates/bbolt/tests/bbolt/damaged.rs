//! Files that are damaged, or made to deceive: the reader names the page and the reason. Data pages have no checksum in
//! bbolt, so a changed key or value can only be found by a hash over the whole file, which a backup has.

use metastore_bbolt::{Database, MetaFault, PageFault, ReadError};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::handmade::{BUCKET, branch, bucket, file, inline, leaf, meta};
use crate::rows::{self, MAX_PATH_BYTES, read, read_with, write};

const PAGE: usize = 1024;

/// The page and the reason for which a file is refused.
fn fault(file: &[u8]) -> (u64, PageFault) {
    match read(file) {
        Err(ReadError::Page { page, fault }) => (page, fault),
        other => panic!("not refused because of a page: {other:?}"),
    }
}

/// A file whose only bucket, `b`, has its root at page 3.
fn one_bucket(pages: &[Vec<u8>]) -> Vec<u8> {
    let root = leaf(2, PAGE, &[(BUCKET, b"b", &bucket(3))]);
    file(PAGE, 2, &[&[root], pages].concat())
}

#[test]
fn files_of_any_page_size_and_without_free_list_are_read() {
    for page_bytes in [1024, 4096, 16384, 65536] {
        let root = leaf(2, page_bytes, &[(BUCKET, b"b", &bucket(3)), (BUCKET, b"in", &inline(&[(0, b"x", b"y")]))]);
        let whole = file(page_bytes, 2, &[root, leaf(3, page_bytes, &[(0, b"k", b"v")])]);
        let expected = vec![
            (b"b".to_vec(), vec![(b"k".to_vec(), b"v".to_vec())]),
            (b"in".to_vec(), vec![(b"x".to_vec(), b"y".to_vec())]),
        ];
        assert_eq!(read(&*whole).unwrap(), expected);
        // The page size is found if the first meta page is not valid, too.
        let mut half = whole.clone();
        half[20] ^= 1;
        assert_eq!(read(&*half).unwrap(), expected);
        half[page_bytes + 20] ^= 1;
        assert!(matches!(read(&*half), Err(ReadError::NoMeta { first: MetaFault::Version(3), .. })));
    }
}

#[test]
fn the_newest_valid_meta_page_counts() {
    let name = |name: &[u8], id| leaf(id, PAGE, &[(BUCKET, name, &inline(&[]))]);
    let pages = [name(b"older", 2), name(b"newer", 3)].concat();
    for newest in [0, 1] {
        let (number, root) = (|page: u64| if page == newest { 8 + page } else { 6 + page }, 2);
        let roots = [0, 1].map(|page| if page == newest { root + 1 } else { root });
        let metas = [0, 1].map(|page| meta(number(page), PAGE, roots[page as usize], 4));
        let mut whole = [metas.concat(), pages.clone()].concat();
        assert_eq!(read(&*whole).unwrap()[0].0, b"newer");
        whole[newest as usize * PAGE + 70] ^= 1;
        assert_eq!(read(&*whole).unwrap()[0].0, b"older");
    }
}

#[test]
fn what_is_no_database_is_named() {
    let refused = |bytes: &[u8]| match read(bytes) {
        Err(ReadError::NoMeta { first, second }) => (first, second),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b""), (MetaFault::Missing, MetaFault::Missing));
    assert_eq!(refused(&[0; 5000]), (MetaFault::Magic(0), MetaFault::Missing));
    let sizes = [meta(0, 1000, 2, 4), meta(1, 1000, 2, 4)].concat();
    assert_eq!(refused(&sizes).0, MetaFault::PageSize(1000));
    let mut sums = [meta(0, PAGE, 2, 2), meta(1, PAGE, 2, 2)].concat();
    sums[40] ^= 1;
    sums[PAGE + 40] ^= 1;
    assert_eq!(refused(&sums).0, MetaFault::Checksum);
}

#[test]
fn ways_that_meet_again_are_refused() {
    // A branch below itself.
    assert_eq!(fault(&one_bucket(&[branch(3, PAGE, &[(b"a", 3)])])), (3, PageFault::Visited));
    let mutual = [branch(3, PAGE, &[(b"a", 4)]), branch(4, PAGE, &[(b"a", 3)])];
    assert_eq!(fault(&one_bucket(&mutual)), (3, PageFault::Visited));
    // A leaf with two parents, also if it has no rows which could be out of order.
    for rows in [&[(0, &b"k"[..], &b"v"[..])][..], &[]] {
        let twice = [branch(3, PAGE, &[(b"a", 4), (b"l", 4)]), leaf(4, PAGE, rows)];
        assert_eq!(fault(&one_bucket(&twice)), (4, PageFault::Visited));
    }
    // Two buckets with one root, and a bucket in itself.
    let root = |other| leaf(2, PAGE, &[(BUCKET, b"b", &bucket(3)), (BUCKET, b"c", &bucket(other))]);
    for other in [2, 3] {
        let shared = file(PAGE, 2, &[root(other), leaf(3, PAGE, &[])]);
        assert_eq!(fault(&shared), (other, PageFault::Visited));
    }
    // A page that is a continuation of another one.
    let long = leaf(3, PAGE, &[(0, b"k", &[0; 1500])]);
    let root = leaf(2, PAGE, &[(BUCKET, b"b", &bucket(3)), (BUCKET, b"c", &bucket(4))]);
    let mut inside = file(PAGE, 2, &[root, long]);
    let second = leaf(4, PAGE, &[]);
    inside[4 * PAGE..5 * PAGE].copy_from_slice(&second);
    assert_eq!(fault(&inside), (4, PageFault::Visited));
}

#[test]
fn pages_that_are_not_there_are_refused() {
    for page in [0, 1, 4, 1 << 40, u64::MAX] {
        let outside = one_bucket(&[branch(3, PAGE, &[(b"a", page)])]);
        assert_eq!(fault(&outside), (page, PageFault::Outside { last: 3 }));
    }
    assert_eq!(fault(&file(PAGE, 9, &[])), (9, PageFault::Outside { last: 1 }));
    let mut beyond = one_bucket(&[leaf(3, PAGE, &[])]);
    for overflow in [1, u32::MAX] {
        beyond[3 * PAGE + 12..][..4].copy_from_slice(&overflow.to_le_bytes());
        assert_eq!(fault(&beyond), (3, PageFault::Overflow(overflow)));
    }
}

#[test]
fn a_page_that_is_longer_than_the_bound_is_not_read() {
    let long = one_bucket(&[leaf(3, PAGE, &[(0, b"k", &[0; 100_000])])]);
    // 98 pages, below the root page.
    let needed = 99 * PAGE as u64;
    let size = PageFault::Size { size_bytes: needed, max_bytes: needed - 1 };
    let refused = read_with(&*long, needed - 1);
    assert!(matches!(refused, Err(ReadError::Page { page: 3, fault }) if fault == size), "{refused:?}");
    assert!(read_with(&*long, needed).is_ok_and(|buckets| buckets[0].1[0].1.len() == 100_000));
}

#[test]
fn pages_of_other_kinds_or_places_are_refused() {
    let page = |change: fn(&mut [u8])| {
        let mut file = one_bucket(&[leaf(3, PAGE, &[(0, b"k", b"v")])]);
        change(&mut file[3 * PAGE..]);
        fault(&file)
    };
    assert_eq!(page(|page| page[0] = 7), (3, PageFault::Id(7)));
    for kind in [0, 3, 4, 16] {
        let mut file = one_bucket(&[leaf(3, PAGE, &[])]);
        file[3 * PAGE + 8] = kind;
        assert_eq!(fault(&file), (3, PageFault::Kind(kind.into())));
    }
    assert_eq!(page(|page| page[10] = 64), (3, PageFault::Count(64)));
    assert_eq!(page(|page| page[10..12].fill(255)), (3, PageFault::Count(65535)));
    assert_eq!(fault(&one_bucket(&[branch(3, PAGE, &[])])), (3, PageFault::NoChildren));
}

#[test]
fn elements_that_lie_are_refused() {
    // The fields of the second element: flags, position, length of the key, length of the value.
    let element = |field: usize, number: u32| {
        let mut file = one_bucket(&[leaf(3, PAGE, &[(0, b"k", b"v"), (0, b"l", b"v")])]);
        file[3 * PAGE + 32 + 4 * field..][..4].copy_from_slice(&number.to_le_bytes());
        fault(&file)
    };
    assert_eq!(element(0, 2), (3, PageFault::Flags(1)));
    assert_eq!(element(0, 1), (3, PageFault::Bucket(1)));
    // Into the elements, and into the row before.
    for position in [0, 15, 17] {
        assert_eq!(element(1, position), (3, PageFault::ElementOverlaps(1)));
    }
    for position in [PAGE as u32 - 33, u32::MAX] {
        assert_eq!(element(1, position), (3, PageFault::ElementOutside(1)));
    }
    assert_eq!(element(2, 0), (3, PageFault::NoKey(1)));
    for length in [PAGE as u32, u32::MAX] {
        assert_eq!(element(2, length), (3, PageFault::ElementOutside(1)));
        assert_eq!(element(3, length), (3, PageFault::ElementOutside(1)));
    }
}

#[test]
fn buckets_that_are_too_short_are_refused() {
    let whole = inline(&[]);
    for length in [0, 15, 16, 31] {
        let root = leaf(2, PAGE, &[(BUCKET, b"b", &whole[..length])]);
        assert_eq!(fault(&file(PAGE, 2, &[root])), (2, PageFault::Bucket(0)), "{length}");
    }
    let rows = inline(&[(0, b"x", b"y")]);
    let root = leaf(2, PAGE, &[(BUCKET, b"b", &rows[..rows.len() - 1])]);
    assert_eq!(fault(&file(PAGE, 2, &[root])), (2, PageFault::ElementOutside(0)));
}

#[test]
fn keys_out_of_order_are_refused() {
    let order = |page, element| (page, PageFault::KeyOrder(element));
    // In a leaf, and in a branch.
    for second in [&b"a"[..], b"k"] {
        assert_eq!(fault(&one_bucket(&[leaf(3, PAGE, &[(0, b"k", b""), (0, second, b"")])])), order(3, 1));
        let (left, right) = (leaf(4, PAGE, &[(0, b"k", b"")]), leaf(5, PAGE, &[(0, b"z", b"")]));
        let root = branch(3, PAGE, &[(b"k", 4), (second, 5)]);
        assert_eq!(fault(&one_bucket(&[root, left, right])), order(3, 1));
    }
    // A key below the one by which its page is named, and a page with a key that belongs to the next page.
    let root = || branch(3, PAGE, &[(b"k", 4), (b"m", 5)]);
    let (left, right) = (leaf(4, PAGE, &[(0, b"j", b"")]), leaf(5, PAGE, &[(0, b"z", b"")]));
    assert_eq!(fault(&one_bucket(&[root(), left, right])), order(4, 0));
    let (left, right) = (leaf(4, PAGE, &[(0, b"k", b""), (0, b"m", b"")]), leaf(5, PAGE, &[(0, b"z", b"")]));
    assert_eq!(fault(&one_bucket(&[root(), left, right])), order(3, 1));
    // Names of buckets: the rows of the bucket before do not matter.
    let names = leaf(2, PAGE, &[(BUCKET, b"b", &inline(&[(0, b"z", b"")])), (BUCKET, b"a", &inline(&[]))]);
    assert_eq!(fault(&file(PAGE, 2, &[names])), order(2, 1));
}

#[test]
fn trees_and_buckets_of_endless_depth_are_refused() {
    let deep = |pages: u64| {
        let mut chain: Vec<Vec<u8>> = (0..pages).map(|page| branch(3 + page, PAGE, &[(b"a", 4 + page)])).collect();
        chain.push(leaf(3 + pages, PAGE, &[(0, b"k", b"v")]));
        one_bucket(&chain)
    };
    assert!(read(&*deep(58)).is_ok());
    assert_eq!(fault(&deep(59)), (3 + 59, PageFault::Depth(60)));
    let nested = |buckets: usize| {
        let value = (1..buckets).fold(inline(&[]), |inner, _| inline(&[(BUCKET, b"b", &inner)]));
        file(8192, 2, &[leaf(2, 8192, &[(BUCKET, b"b", &value)])])
    };
    assert_eq!(read(&*nested(59)).unwrap().len(), 59);
    assert_eq!(fault(&nested(60)), (2, PageFault::Depth(60)));
}

#[test]
fn a_walk_is_over_after_an_error() {
    let lost = one_bucket(&[branch(3, PAGE, &[(b"a", 9), (b"b", 4)]), leaf(4, PAGE, &[(0, b"k", b"")])]);
    let database = Database::open(&*lost, MAX_PATH_BYTES).unwrap();
    let mut cursor = database.bucket(b"b").unwrap().unwrap();
    assert!(cursor.next().is_err());
    assert!(cursor.next().unwrap().is_none());
}

fn small() -> Vec<u8> {
    let rows = vec![("k".into(), "v".into()), ("long".into(), vec![7; 900])];
    write(&vec![(b"a".to_vec(), rows.clone()), rows::bucket("b", 20, 17, 400), rows::bucket("c", 0, 0, 0)])
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let whole = small();
    for length in 0..whole.len() {
        let error = read(&whole[..length]).expect_err("a file that was cut");
        assert!(matches!(error, ReadError::NoMeta { .. } | ReadError::Truncated { .. }), "{length}: {error}");
    }
    // More bytes are harmless: bbolt makes its files grow in advance.
    assert_eq!(read(&*[&whole[..], &[0; 999]].concat()).unwrap(), read(&*whole).unwrap());
}

#[test]
fn one_valid_meta_page_is_enough_whichever_bit_is_flipped() {
    let whole = small();
    let rows = read(&*whole).unwrap();
    for bit in 0..3 * 4096 * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&*flipped).is_ok_and(|read| read == rows), "bit {bit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No panic, no error of another kind, and never more bytes than the file has.
    #[test]
    fn flipped_bits_among_the_rows_do_no_harm(flips in prop::collection::vec((any::<Index>(), 0..8_u32), 1..5)) {
        let mut file = small();
        for (at, bit) in flips {
            // Anywhere in a page, and among its header and elements.
            let at = 3 * 4096 + at.index(file.len() - 3 * 4096);
            for at in [at, at / 4096 * 4096 + at % 256] {
                file[at] ^= 1_u8 << bit;
            }
        }
        match read(&*file) {
            Err(error) => prop_assert!(matches!(error, ReadError::Page { .. }), "{}", error),
            Ok(buckets) => {
                let rows = buckets.iter().flat_map(|(_, rows)| rows);
                prop_assert!(rows.map(|(key, value)| key.len() + value.len()).sum::<usize>() < file.len());
            }
        }
    }
}
