//! Random operations with restarts at random moments.

use crate::disk::{Disk, Place, append, publish, published};
use metastore_engine::contract::Model;
use metastore_engine::{Engine, KeyRange, Revision, RocksDb, Table, Usage, Version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;

/// The number of cases on disk and in memory, unless PROPTEST_CASES sets it, and the most operations per case.
const CASES: u32 = 16;
const CASES_IN_MEMORY: u32 = 100;
const OPERATIONS: usize = 100;

const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };
const TABLES: [Table; 3] = [Table::Lease, Table::LeaseKeys, Table::Meta];

#[derive(Clone, Debug)]
enum Operation {
    Append {
        key: u8,
        tombstone: bool,
    },
    SetRow {
        table: Table,
        key: u8,
        value: Option<u8>,
    },
    Publish,
    Flush,
    /// Begins a compaction at a share of the published revision.
    Compact {
        at: u8,
    },
    StepCompaction,
    /// RocksDB rewrites files, whether they are flushed or not.
    Rewrite,
    Defragment,
    /// Closes and opens again.
    Restart,
    /// A compaction, rewritten files, and a crash, without a flush in between.
    CrashAmid {
        at: u8,
    },
    /// Opens a copy as a crash would leave it, and continues there.
    Crash {
        finish: bool,
    },
}

fn operations() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        20 => (0..12u8, prop::bool::weighted(0.3)).prop_map(|(key, tombstone)| Append { key, tombstone }),
        5 => (prop::sample::select(TABLES.to_vec()), 0..4u8, prop::option::of(any::<u8>()))
            .prop_map(|(table, key, value)| SetRow { table, key, value }),
        10 => Just(Publish),
        3 => Just(Flush),
        2 => any::<u8>().prop_map(|at| Compact { at }),
        2 => Just(StepCompaction),
        3 => Just(Rewrite),
        1 => Just(Defragment),
        1 => Just(Restart),
        2 => any::<u8>().prop_map(|at| CrashAmid { at }),
        3 => any::<bool>().prop_map(|finish| Crash { finish }),
    ]
}

#[test]
fn a_restart_finds_what_was_published_and_a_crash_what_was_flushed() {
    random_restarts(CASES, || Place::Disk(Disk::new()));
}

#[test]
fn the_same_of_files_in_memory() {
    random_restarts(CASES_IN_MEMORY, Place::in_memory);
}

fn random_restarts(cases: u32, place: fn() -> Place) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(operations(), 1..OPERATIONS), |operations| {
            let mut run = Run::new(place());
            for operation in operations {
                run.step(operation);
            }
            run.restart();
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

struct Run {
    engine: RocksDb,
    place: Place,
    /// Everything written since the beginning, as if nothing was ever compacted.
    written: Model,
    /// The published states, each with the revision below which nothing is read from then on. The index is
    /// the published revision.
    moments: Vec<(Model, i64)>,
    /// The revision that was published when the last flush began.
    flushed: usize,
    next: Revision,
    /// The revision of the last compaction, finished or not.
    compacted: i64,
    compacting: bool,
}

impl Run {
    fn new(place: Place) -> Self {
        Self {
            engine: place.open(),
            place,
            written: Model::default(),
            moments: vec![(Model::default(), 0)],
            flushed: 0,
            next: Revision::new(1, 0),
            compacted: 0,
            compacting: false,
        }
    }

    fn published(&self) -> i64 {
        self.moments.len() as i64 - 1
    }

    fn step(&mut self, operation: Operation) {
        match operation {
            Operation::Append { key, tombstone } => {
                let key = format!("key{key}").into_bytes();
                let version = append(&self.engine, &key, self.next, tombstone);
                self.written.versions.push((key, version));
                self.next.sub += 1;
            }
            Operation::SetRow { table, key, value } => self.set_row(table, &[key], value),
            Operation::Publish => self.publish(),
            Operation::Flush => {
                let applied = self.engine.flush().expect("flush");
                assert_eq!(applied, self.engine.published().applied);
                self.flushed = self.moments.len() - 1;
            }
            Operation::Compact { at } => {
                self.compacted = (self.published() * i64::from(at) / 255).max(self.compacted);
                self.compacting = true;
                // Publish first, as the store does: from then on reads of dropped versions are refused, also in a
                // state that a crash leaves.
                self.publish();
                self.step_compaction();
            }
            Operation::StepCompaction => self.step_compaction(),
            Operation::Rewrite => self.engine.rewrite_files(),
            Operation::Defragment => {
                self.engine.defragment().expect("defragment");
                self.flushed = self.moments.len() - 1;
            }
            Operation::Restart => self.restart(),
            Operation::CrashAmid { at } => {
                self.publish();
                self.step(Operation::Flush);
                self.step(Operation::Compact { at });
                self.engine.rewrite_superseded();
                self.crash(false);
            }
            Operation::Crash { finish } => self.crash(finish),
        }
    }

    fn set_row(&mut self, table: Table, key: &[u8], value: Option<u8>) {
        let rows = self.written.tables.entry(table).or_default();
        match value {
            Some(value) => {
                self.engine.put(table, key, &[value]).expect("put");
                rows.insert(key.to_vec(), vec![value]);
            }
            None => {
                self.engine.delete(table, key).expect("delete");
                rows.remove(key);
            }
        }
    }

    fn publish(&mut self) {
        publish(&self.engine, self.next.main);
        self.moments.push((self.written.clone(), self.compacted));
        self.next = Revision::new(self.next.main + 1, 0);
    }

    fn step_compaction(&mut self) {
        if !self.compacting {
            return;
        }
        if self.next.sub > 0 {
            self.publish();
        }
        self.compacting = self.engine.compact_step(self.compacted).expect("compact_step");
    }

    fn restart(&mut self) {
        let moment = self.published();
        let elsewhere = Place::in_memory();
        drop(std::mem::replace(&mut self.engine, elsewhere.open()));
        self.engine = self.place.open();
        assert_eq!(self.engine.published().revision, moment, "everything published is there, and no more");
        self.go_on(false);
    }

    fn crash(&mut self, finish: bool) {
        let copy = self.place.crash(&self.engine);
        // The engine first: the drop of the old place removes its directory.
        self.engine = copy.open();
        self.place = copy;
        let found = self.engine.published().revision as usize;
        let (flushed, published) = (self.flushed, self.moments.len() - 1);
        assert!(flushed <= found && found <= published, "{found} was found, flushed {flushed}, published {published}");
        self.go_on(finish);
    }

    /// Compares the opened state with the one that was published at its revision, and continues from there.
    fn go_on(&mut self, finish: bool) {
        let found = self.engine.published();
        let revision = found.revision;
        assert_eq!(found, if revision == 0 { Default::default() } else { published(revision) });
        self.moments.truncate(revision as usize + 1);
        (self.written, self.compacted) = self.moments[revision as usize].clone();
        self.flushed = self.flushed.min(revision as usize);
        self.next = Revision::new(revision + 1, 0);
        self.compacting = false;
        self.compare();
        if finish {
            while self.engine.compact_step(self.compacted).expect("compact_step") {}
            let mut rest = self.written.clone();
            rest.compact(self.compacted);
            assert_eq!(
                history(&self.engine),
                rest.history(Revision::default(), i64::MAX),
                "gone on with, it drops the rest"
            );
            assert_eq!(self.engine.usage(), rest.usage());
            self.compare();
        }
    }

    fn compare(&self) {
        let (engine, written) = (&self.engine, &self.written);
        for table in TABLES {
            let expected: Vec<_> = written.tables.get(&table).cloned().unwrap_or_default().into_iter().collect();
            assert_eq!(engine.rows(table, b"").expect("rows"), expected, "{table:?}");
        }
        let (least, most) = (self.compacted, engine.published().revision);
        for at in [least, (least + most) / 2, most] {
            let mut rows = Vec::new();
            assert_eq!(engine.scan(ALL, at, usize::MAX, &mut rows).expect("scan"), None);
            assert_eq!(rows, written.live(ALL, at), "at {at}");
            let mut count = 0;
            assert_eq!(engine.count(ALL, at, &mut count).expect("count"), None);
            assert_eq!(count, rows.len() as u64, "at {at}");
            for key in (0..12).map(|key| format!("key{key}")) {
                // A tombstone that some compaction dropped, or will drop, counts as absent.
                let alive = |version: &&Version| !version.tombstone;
                let found = engine.newest(key.as_bytes(), at).expect("newest");
                let expected = written.newest(key.as_bytes(), at).filter(alive);
                assert_eq!(found.as_ref().filter(alive), expected, "{key} at {at}");
            }
        }
        // The compactions dropped some of the versions that they may drop.
        let stored = history(engine);
        let all: BTreeSet<_> = written.history(Revision::default(), most).iter().map(|v| v.revision).collect();
        let there: BTreeSet<_> = stored.iter().map(|version| version.revision).collect();
        let mut kept = written.clone();
        kept.compact(least);
        assert!(there.is_subset(&all), "versions that were never published: {there:?} {all:?}");
        for (_, Version { revision, .. }) in &kept.versions {
            assert!(there.contains(revision), "{revision:?} is missing");
        }
        let versions = stored.into_iter().map(|version| (Vec::new(), version)).collect();
        let stored = Model { versions, tables: written.tables.clone() };
        assert_eq!(engine.usage(), stored.usage(), "what is counted is what is stored");
    }
}

fn history(engine: &dyn Engine) -> Vec<Version> {
    let mut rows = Vec::new();
    let mut from = Some(Revision::default());
    while let Some(begin) = from {
        from = engine.history(begin, i64::MAX, &mut rows).expect("history");
    }
    rows
}

/// A compaction writes while rows of tables are pending. The rows and their usage must stay pending.
#[test]
fn rows_of_tables_wait_for_their_applied_index() {
    let disk = Disk::new();
    let engine = disk.open();
    append(&engine, b"a", Revision::new(1, 0), false);
    append(&engine, b"a", Revision::new(2, 0), false);
    engine.put(Table::Meta, b"row", b"old").expect("put");
    publish(&engine, 2);
    engine.put(Table::Meta, b"row", b"not published").expect("put");
    assert!(!engine.compact_step(2).expect("compact_step"));
    engine.flush().expect("flush");
    let crashed = disk.copy();
    let found = crashed.open();
    assert_eq!(found.published(), published(2));
    assert_eq!(found.get(Table::Meta, b"row").expect("get"), Some(b"old".to_vec()));
    assert_eq!(history(&found).len(), 1, "what the compaction did is there");
    assert_eq!(found.usage(), Usage { rows: 2, bytes: 17 + 5 + 6 });
    publish(&engine, 3);
    assert_eq!(engine.get(Table::Meta, b"row").expect("get"), Some(b"not published".to_vec()));
}
