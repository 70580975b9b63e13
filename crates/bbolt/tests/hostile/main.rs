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

use metastore_bbolt::{Database, Layout, Value, Writer};

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

/// A file that a program with bbolt wrote (page size 1024, no list of free pages, the end cut behind the last used
/// page): forty rows of which most were deleted, a bucket in a bucket with an empty one in it, and a row that is longer
/// than a page.
#[test]
fn a_file_of_bbolt_with_nested_buckets_and_free_pages_is_read() {
    let corpus = mutator::corpus("bbolt");
    let (_, file) = corpus.iter().find(|(name, _)| name == "bbolt-1.5.0").expect("it is in the corpus");
    let database = Database::open(&**file, 1 << 20).unwrap();
    let mut cursor = database.root().unwrap();
    let mut seen = Vec::new();
    let mut depth = 0;
    loop {
        let Some(row) = cursor.next().unwrap() else {
            if depth == 0 {
                break;
            }
            depth -= 1;
            continue;
        };
        let length = match row.value {
            Value::Bytes(value) => value.len(),
            Value::Bucket => 0,
        };
        seen.push((depth, String::from_utf8_lossy(row.key).into_owned(), length));
        if row.is_bucket() {
            cursor.enter().unwrap();
            depth += 1;
        }
    }
    let row = |depth: usize, key: &str, length: usize| (depth, key.to_owned(), length);
    let keys = (0..5).chain(30..40).map(|number| row(1, &format!("k{number:02}"), 100));
    let nested = [row(0, "nested", 0), row(1, "child", 0), row(2, "a", 1), row(2, "empty", 0), row(1, "row", 5)];
    let expected = [row(0, "key", 0)].into_iter().chain(keys).chain(nested).chain([row(1, "zlong", 3000)]);
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[test]
fn the_corpus_is_what_the_code_makes() {
    mutator::check_seeds("bbolt", &seeds());
}

/// Two hundred thousand rows, and seven long ones among them: both passes and a walk hold the pages of one path.
#[test]
fn memory_does_not_grow_with_the_number_of_rows() {
    const LONG: usize = 100_000;
    let value = vec![b'v'; LONG];
    let each = |row: &mut dyn FnMut(&[u8], &[u8])| {
        for number in 0..200_000_u32 {
            let length = if number % 30_000 == 1 { LONG } else { 20 };
            row(&number.to_be_bytes(), &value[..length]);
        }
    };
    let mut plan = None;
    let counting = meter::peak_bytes(|| {
        let mut layout = Layout::new();
        layout.bucket(b"key").unwrap();
        each(&mut |key, value| layout.row(key.len(), value.len()).unwrap());
        plan = Some(layout.finish());
    });
    let plan = plan.expect("the first pass has ended");
    let mut file = vec![0; plan.size_bytes() as usize];
    let mut end = 0;
    let writing = meter::peak_bytes(|| {
        let mut writer = Writer::new(plan);
        writer.bucket(b"key").unwrap();
        let mut take = |bytes: &[u8]| {
            file[end..end + bytes.len()].copy_from_slice(bytes);
            end += bytes.len();
        };
        each(&mut |key, value| {
            writer.row(key, value).unwrap();
            take(&writer.finished().split());
        });
        take(&writer.finish().unwrap());
    });
    assert_eq!(end, file.len());
    let mut rows = 0;
    let reading = meter::peak_bytes(|| {
        let database = Database::open(&*file, 1 << 20).unwrap();
        let mut cursor = database.bucket(b"key").unwrap().expect("the bucket is there");
        while cursor.next().unwrap().is_some() {
            rows += 1;
        }
    });
    assert_eq!(rows, 200_000);
    // A row that is longer than a page is held as the open page, and as the finished one. Vectors grow to twice their
    // size.
    let limits = [32 << 10, 32 * 1024 + 4 * LONG, 32 * 1024 + 2 * LONG];
    let peaks = [counting, writing, reading];
    assert!(peaks.iter().zip(limits).all(|(peak, limit)| *peak < limit), "{peaks:?} and at most {limits:?}");
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
