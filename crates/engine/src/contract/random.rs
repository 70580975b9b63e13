//! Random operations on an engine and on the model, compared call by call.

use super::model::Model;
use super::{all_history, count, history, publish, scan, version};
use crate::{Engine, KeyRange, Revision, STEP, Table, Version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::sync::Arc;

/// The most operations in a case.
const OPERATIONS: usize = 80;

/// The most keys that one bulk operation writes, and the number of keys from which they are taken: enough to fill,
/// split and empty the nodes of any tree.
const BULK_KEYS: u16 = 400;
const BULK_RANGE: u16 = 900;

/// A revision to read at, as a share of the range that may be read: 0 is the compacted revision, 255 the published one.
type Moment = u8;

#[derive(Clone, Debug)]
enum Operation {
    Append { key: Vec<u8>, tombstone: bool },
    Bulk { first: u16, keys: u16, stride: u16, tombstone: bool },
    Publish,
    Put { table: Table, key: Vec<u8>, value: Vec<u8> },
    Delete { table: Table, key: Vec<u8> },
    StartCompaction { at: Moment, overtake: bool },
    StepCompaction,
    Newest { key: Vec<u8>, at: Moment },
    Scan { start: Vec<u8>, end: Option<Vec<u8>>, at: Moment, limit: usize },
    History { from: Moment, sub: i64, to: Moment },
    StartPinnedScan { start: Vec<u8>, end: Option<Vec<u8>>, at: Moment },
    StepPinnedScan { limit: usize },
}

/// So few keys that they collide.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(prop::sample::select(vec![0, b'a', b'b', 0xff]), 0..3),
        1 => (0..BULK_RANGE).prop_map(bulk_key),
    ]
}

fn bulk_key(number: u16) -> Vec<u8> {
    format!("b{number:04}").into_bytes()
}

fn tables() -> impl Strategy<Value = Table> {
    prop::sample::select(vec![Table::Alarm, Table::Lease, Table::LeaseKeys])
}

fn operations() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let moments = any::<Moment>;
    let end = || prop::option::weighted(0.7, keys());
    let value = || prop::collection::vec(any::<u8>(), 0..4);
    let bulk = (0..BULK_RANGE, 1..BULK_KEYS, prop::sample::select(vec![1u16, 7, 899]), any::<bool>());
    let limits = || prop_oneof![1usize..5, Just(STEP), Just(usize::MAX)];
    prop_oneof![
        8 => (keys(), prop::bool::weighted(0.3)).prop_map(|(key, tombstone)| Append { key, tombstone }),
        2 => bulk.prop_map(|(first, keys, stride, tombstone)| Bulk { first, keys, stride, tombstone }),
        6 => Just(Publish),
        2 => (tables(), keys(), value()).prop_map(|(table, key, value)| Put { table, key, value }),
        1 => (tables(), keys()).prop_map(|(table, key)| Delete { table, key }),
        2 => (moments(), any::<bool>()).prop_map(|(at, overtake)| StartCompaction { at, overtake }),
        4 => Just(StepCompaction),
        4 => (keys(), moments()).prop_map(|(key, at)| Newest { key, at }),
        4 => (keys(), end(), moments(), limits()).prop_map(|(start, end, at, limit)| Scan { start, end, at, limit }),
        3 => (moments(), 0..3i64, moments()).prop_map(|(from, sub, to)| History { from, sub, to }),
        1 => (keys(), end(), moments()).prop_map(|(start, end, at)| StartPinnedScan { start, end, at }),
        3 => limits().prop_map(|limit| StepPinnedScan { limit }),
    ]
}

/// Runs random operations on engines that `make` returns: `cases` times, unless PROPTEST_CASES says otherwise.
pub fn agrees_with_the_model(cases: u32, make: &dyn Fn() -> Arc<dyn Engine>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    // No file of failures: any crate may run this, and the output shows the shortest failing case.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(operations(), 1..OPERATIONS), |operations| {
            let engine = make();
            let mut run = Run::new(&*engine);
            for operation in operations {
                run.step(operation);
            }
            run.finish();
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// A scan whose calls are interleaved with other operations.
struct PinnedScan {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    at: i64,
    rows: Vec<Version>,
    expected: Vec<Version>,
}

struct Run<'a> {
    engine: &'a dyn Engine,
    model: Model,
    /// The revision of the next append.
    next: Revision,
    published: i64,
    /// The revision of the last compaction, finished or not: nothing is read below it.
    compacted: i64,
    /// Whether it is unfinished. Until it is finished, versions that it will drop may be there or not.
    compacting: bool,
    pinned: Option<PinnedScan>,
}

impl<'a> Run<'a> {
    fn new(engine: &'a dyn Engine) -> Self {
        Self {
            engine,
            model: Model::default(),
            next: Revision::new(1, 0),
            published: 0,
            compacted: 0,
            compacting: false,
            pinned: None,
        }
    }

    fn step(&mut self, operation: Operation) {
        match operation {
            Operation::Append { key, tombstone } => self.append(&key, tombstone),
            Operation::Bulk { first, keys, stride, tombstone } => {
                for number in 0..keys {
                    let number = (u32::from(first) + u32::from(number) * u32::from(stride)) % u32::from(BULK_RANGE);
                    self.append(&bulk_key(number as u16), tombstone);
                }
            }
            Operation::Publish => self.publish(),
            Operation::Put { table, key, value } => {
                self.engine.put(table, &key, &value).expect("put");
                self.model.tables.entry(table).or_default().insert(key, value);
            }
            Operation::Delete { table, key } => {
                self.engine.delete(table, &key).expect("delete");
                self.model.tables.entry(table).or_default().remove(&key);
            }
            Operation::StartCompaction { at, overtake } => self.start_compaction(at, overtake),
            Operation::StepCompaction => self.step_compaction(),
            Operation::Newest { key, at } => self.compare_newest(&key, self.revision(at)),
            Operation::Scan { start, end, at, limit } => {
                let range = KeyRange { start: &start, end: end.as_deref() };
                self.compare_scan(range, self.revision(at), limit);
            }
            Operation::History { from, sub, to } => {
                let (from, to) = (self.revision(from), self.revision(to));
                self.compare_history(Revision::new(from, sub), to);
            }
            Operation::StartPinnedScan { start, end, at } => self.start_pinned_scan(start, end, at),
            Operation::StepPinnedScan { limit } => self.step_pinned_scan(limit),
        }
        self.compare_tables();
    }

    fn revision(&self, at: Moment) -> i64 {
        self.compacted + (self.published - self.compacted) * i64::from(at) / i64::from(Moment::MAX)
    }

    fn append(&mut self, key: &[u8], tombstone: bool) {
        let version = version(key, self.next, tombstone);
        self.engine.append(key, version.clone()).expect("append");
        assert_eq!(self.engine.newest(key, i64::MAX).expect("newest").as_ref(), Some(&version));
        self.model.versions.push((key.to_vec(), version));
        self.next.sub += 1;
    }

    fn publish(&mut self) {
        publish(self.engine, self.next.main);
        assert_eq!(self.engine.published().revision, self.next.main);
        self.published = self.next.main;
        self.next = Revision::new(self.published + 1, 0);
    }

    /// No version may be unpublished during a compaction step. Rows of tables may.
    fn publish_versions(&mut self) {
        if self.next.sub > 0 {
            self.publish();
        }
    }

    fn start_compaction(&mut self, at: Moment, overtake: bool) {
        while self.compacting && !overtake {
            self.step_compaction();
        }
        let pinned = self.pinned.as_ref().map_or(i64::MAX, |scan| scan.at);
        self.compacted = self.revision(at).min(pinned).max(self.compacted);
        self.compacting = true;
    }

    fn step_compaction(&mut self) {
        if !self.compacting {
            return;
        }
        self.publish_versions();
        self.compacting = self.engine.compact_step(self.compacted).expect("compact_step");
        if !self.compacting {
            self.model.compact(self.compacted);
            assert_eq!(all_history(self.engine), self.model.history(Revision::default(), i64::MAX));
        }
    }

    fn compare_newest(&self, key: &[u8], at: i64) {
        let found = self.engine.newest(key, at).expect("newest");
        let expected = self.model.newest(key, at);
        // A tombstone that the compaction will drop counts as absent.
        let may_be_gone = expected.is_some_and(|version| version.tombstone && version.revision.main < self.compacted);
        if !(may_be_gone && self.compacting && found.is_none()) {
            assert_eq!(found.as_ref(), expected, "newest of {key:?} at {at}");
        }
    }

    fn compare_scan(&self, range: KeyRange<'_>, at: i64, limit: usize) {
        let expected = self.model.live(range, at);
        assert_eq!(scan(self.engine, range, at, limit), expected, "scan of {range:?} at {at}");
        assert_eq!(count(self.engine, range, at), expected.len() as u64, "count of {range:?} at {at}");
    }

    fn compare_history(&self, from: Revision, to: i64) {
        // An unfinished compaction has dropped an unknown part of the versions up to its revision.
        let exact = if self.compacting { Revision::new(self.compacted + 1, 0) } else { Revision::default() };
        let from = from.max(exact);
        assert_eq!(history(self.engine, from, to), self.model.history(from, to), "history from {from:?} to {to}");
    }

    fn start_pinned_scan(&mut self, start: Vec<u8>, end: Option<Vec<u8>>, at: Moment) {
        let at = self.revision(at);
        let expected = self.model.live(KeyRange { start: &start, end: end.as_deref() }, at);
        self.pinned = Some(PinnedScan { start, end, at, rows: Vec::new(), expected });
    }

    fn step_pinned_scan(&mut self, limit: usize) {
        let Some(scan) = &mut self.pinned else { return };
        let range = KeyRange { start: &scan.start, end: scan.end.as_deref() };
        match self.engine.scan(range, scan.at, limit, &mut scan.rows).expect("scan") {
            Some(next) => scan.start = next,
            None => {
                assert_eq!(scan.rows, scan.expected, "scan at {} between other operations", scan.at);
                self.pinned = None;
            }
        }
    }

    fn compare_tables(&self) {
        for (&table, rows) in &self.model.tables {
            let expected: Vec<_> = rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(self.engine.rows(table, b"").expect("rows"), expected, "{table:?}");
            let keys = super::row_keys(self.engine, table, b"", b"");
            assert!(keys.iter().eq(expected.iter().map(|(key, _)| key)), "{table:?}");
            for (key, value) in rows {
                assert_eq!(self.engine.get(table, key).expect("get").as_ref(), Some(value), "{table:?} {key:?}");
            }
        }
        if !self.compacting {
            assert_eq!(self.engine.usage(), self.model.usage());
        }
    }

    fn finish(mut self) {
        while self.pinned.is_some() {
            self.step_pinned_scan(STEP);
        }
        while self.compacting {
            self.step_compaction();
        }
        self.publish();
        self.compare_tables();
        self.compare_scan(super::ALL, self.published, STEP);
        self.compare_history(Revision::default(), i64::MAX);
    }
}
