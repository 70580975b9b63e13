//! Dropping versions in the order of their deaths, and giving their space back.
//!
//! ```text
//!   revisions      2 a   3 b   4 a   5 b✝  6 c   7 a   8 c   9 d✝
//!                  ───── deaths, done ───────── ▲            ▲
//!                  2, by 4; 3, by 5;            next: by 7   at
//!                  5, by itself                 dies 4
//! ```
//!
//! A version dies by the version that replaced it. Each version names the one that it replaced, so a walk over the
//! revisions visits the deaths in their order. The dropped versions are older than the position of the walk. RocksDB
//! writes a marker for each deleted row, and an iterator needs as long for a marker as for a row. But no markers lie
//! ahead of the walk, however many it has left behind.
//!
//! A tombstone dies by itself, after its own revision. A tombstone at exactly the revision of a compaction stays until
//! the next one, which therefore begins at that revision again. The other deaths at that revision are already done.

use std::sync::atomic::Ordering;

use metastore_mutants::{Mutant, mutant};
use rocksdb::properties::BACKGROUND_ERRORS;
use rocksdb::{BottommostLevelCompaction, CompactOptions, Range, ReadOptions, WriteBatch};

use super::RocksDb;
use super::dead_rows::Rewrite;
use super::layout::{
    CURRENT, REVISIONS, SUPERSEDED, Stamp, State, TABLES, Walk, Written, parse_revision, parse_revision_key,
    revision_key,
};
use super::reading::item;
use crate::{HighWaterMark, Result, Revision, Usage};

/// The most bytes of versions that a step reads, not counting the last version.
const STEP_BYTES: usize = 1 << 20;

/// The changes of one step.
struct Dropped {
    batch: WriteBatch,
    usage: Usage,
    /// The mark without the dropped versions.
    mark: HighWaterMark,
    /// Tombstones of earlier revisions are recognised as dropped by their revision alone.
    done: i64,
}

impl Walk {
    fn is_under_way(&self) -> bool {
        self.at > self.done
    }

    /// Continues an unfinished walk, or begins a new one. `None` if an earlier walk has reached `at`.
    fn towards(self, at: i64) -> Option<Self> {
        if self.is_under_way() {
            return Some(self);
        }
        (at > self.done).then_some(Self { at, next: Revision::new(self.done, 0), ..self })
    }

    /// Continues at `next`. Without it all published revisions were visited, which may be fewer than requested.
    fn goes_on(self, next: Option<Revision>, published: i64) -> Self {
        let done = self.at.min(published);
        next.map_or(Self { done, at: done, ..self }, |next| Self { next, ..self })
    }

    /// Whether a version that was replaced at a main revision is yet to be dropped. It is not if it is a
    /// tombstone that dies by itself.
    fn drops_replaced(&self, replaced: Stamp, main: i64) -> bool {
        main > self.done && !(replaced.tombstone && self.drops_tombstone(replaced.revision))
    }

    fn drops_tombstone(&self, revision: Revision) -> bool {
        revision.main < self.at
    }
}

impl RocksDb {
    /// Makes one step of the walk, and returns whether there is more to do. An unfinished walk at another
    /// revision is finished first.
    pub(super) fn drop_dead(&self, at: i64) -> Result<bool> {
        let mut pending = self.writer()?;
        assert!(
            pending.written == 0,
            "{} keys are written and not published while versions are dropped",
            pending.written
        );
        // Versions that the writer has looked up may be dropped.
        pending.keys.clear();
        let state = pending.state;
        let Some(walk) = state.walk.towards(at) else { return Ok(false) };
        // Set first, so that readers that miss a version know the reason.
        self.dropping.fetch_max(walk.at, Ordering::Release);
        let done = walk.at.min(state.published.revision);
        let (batch, usage, mark) = (WriteBatch::default(), Usage::default(), self.stored.mark());
        let mut dropped = Dropped { batch, usage, mark, done };
        let next = self.walk(walk, &mut dropped)?;
        let more = next.is_some() || walk.at < at;
        let walk = walk.goes_on(next, state.published.revision);
        if mutant(Mutant::ForgetsBeforeFlush) {
            self.forgotten.advance(walk.done);
        }
        // Rows of tables may be pending. They wait for their own applied index.
        let Usage { rows, bytes } = state.usage;
        let usage = Usage { rows: rows - dropped.usage.rows, bytes: bytes - dropped.usage.bytes };
        self.stored.set_mark(dropped.mark);
        self.write(&mut pending, dropped.batch, State { usage, walk, ..state })?;
        self.stored.remove(dropped.usage);
        self.deletes_below.store(walk.deletes_below(), Ordering::Release);
        if !more {
            let many = self.dead_rows.lock().are_many(self.stored.usage().rows);
            self.flush_wanted.fetch_or(many, Ordering::Relaxed);
        }
        Ok(more)
    }

    /// Visits one step of the revisions, and collects the deaths there. Returns where the next step begins.
    fn walk(&self, walk: Walk, dropped: &mut Dropped) -> Result<Option<Revision>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(revision_key(Revision::new(walk.at.saturating_add(1), 0)));
        // The revisions are read only once, and must not displace other data in the cache.
        options.fill_cache(false);
        let mut revisions = self.db.raw_iterator_cf_opt(self.family(REVISIONS), options);
        revisions.seek(revision_key(walk.next));
        let (mut visited, mut bytes) = (0, 0);
        while let Some((key, value)) = item(self, &revisions)? {
            let revision = parse_revision_key(key)?;
            if visited == self.settings.steps.compacted || bytes >= STEP_BYTES {
                return Ok(Some(revision));
            }
            visited += 1;
            bytes += value.len();
            self.drop_at(walk, revision, parse_revision(value)?, dropped)?;
            revisions.next();
        }
        Ok(None)
    }

    /// Drops the versions that die at one version.
    fn drop_at(&self, walk: Walk, revision: Revision, written: Written<'_>, dropped: &mut Dropped) -> Result<()> {
        if let Some(replaced) = written.replaced.filter(|&replaced| walk.drops_replaced(replaced, revision.main)) {
            self.drop_version(replaced, revision.main, dropped);
        }
        if let Some(key) = written.deleted.filter(|_| walk.drops_tombstone(revision)) {
            let stamp = Stamp { revision, tombstone: true, row_bytes: written.row.len() as u32 };
            self.drop_version(stamp, revision.main + 1, dropped);
            // It may be the newest version of its key. Then its row in `current` goes when its file is rewritten.
            self.dead_rows.lock().add(key, stamp.row_bytes);
            // A compaction beyond the published revisions drops this one, too, but `done` stays behind.
            if revision.main >= dropped.done && self.current_stamp(key)? == Some(stamp) {
                dropped.batch.delete_cf(self.family(CURRENT), key);
            }
        }
        Ok(())
    }

    /// Drops a version; `dead` is the least revision at which a compaction drops it.
    fn drop_version(&self, stamp: Stamp, dead: i64, dropped: &mut Dropped) {
        dropped.batch.delete_cf(self.family(REVISIONS), revision_key(stamp.revision));
        let Usage { rows, bytes } = stamp.usage();
        dropped.usage.rows += rows;
        dropped.usage.bytes += bytes;
        dropped.mark.dropped(dead, stamp.usage());
    }

    /// Rewrites all files, so that no deleted row takes space.
    pub(super) fn compact_files(&self) -> Result<()> {
        // The flush makes the deaths durable, so that the rewrite leaves out all dead rows.
        self.flush_wanted.store(false, Ordering::Relaxed);
        self.dead_rows.lock().clear();
        self.flush_all()?;
        self.rewriting(|| {
            for name in [CURRENT, REVISIONS, SUPERSEDED, TABLES] {
                self.db.compact_range_cf_opt(self.family(name), None::<&[u8]>, None::<&[u8]>, &every_file());
            }
        })
    }

    /// The parts of `current` to be rewritten after the next flush, because much of them is dead. Each
    /// part is returned once.
    pub(super) fn take_dead_rows(&self) -> Option<Rewrite> {
        let taken = self.dead_rows.lock().take(self.stored.usage().rows);
        self.flush_wanted.store(false, Ordering::Relaxed);
        taken
    }

    /// Rewrites files with many dead rows. The cost is proportional to the amount of deleted data.
    pub(super) fn rewrite_dead_rows(&self, rewrite: Rewrite) -> Result<()> {
        let current = self.family(CURRENT);
        self.rewriting(|| match rewrite {
            Rewrite::All => self.db.compact_range_cf_opt(current, None::<&[u8]>, None::<&[u8]>, &every_file()),
            Rewrite::Runs(runs) => {
                for run in runs {
                    let sizes = self.db.get_approximate_sizes_cf(current, &[Range::new(&run.first, &run.last)]);
                    if run.is_dense(sizes.iter().sum()) {
                        self.db.compact_range_cf_opt(current, Some(&run.first), Some(&run.last), &every_file());
                    }
                }
            }
        })
    }

    /// Rewrites files. The `rocksdb` crate does not report failures, so the error counter is compared.
    fn rewriting(&self, rewrite: impl FnOnce()) -> Result<()> {
        let errors = self.whole(BACKGROUND_ERRORS);
        rewrite();
        if self.whole(BACKGROUND_ERRORS) > errors {
            let why = "files could not be rewritten; RocksDB's own notes (LOG in this directory) say why";
            return Err(self.failed(&why));
        }
        Ok(())
    }
}

pub(super) fn every_file() -> CompactOptions {
    let mut options = CompactOptions::default();
    // Files that RocksDB rewrites by itself at the same time need not wait.
    options.set_exclusive_manual_compaction(false);
    options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
    options
}

#[cfg(test)]
mod tests {
    use rocksdb::IteratorMode;
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    use super::super::dead_rows::MANY_ROWS;
    use super::super::layout::superseded_key;
    use super::*;
    use crate::contract::Scratch;
    use crate::{Applied, Engine, KeyRange, Published, RocksDbSettings, Row, STEP, Version};

    /// The number of versions that the first compaction drops, and of versions written after it.
    const DROPPED: i64 = 300_000;
    const MORE: i64 = 3_000;

    fn open(scratch: &Scratch) -> RocksDb {
        let settings = RocksDbSettings { block_cache_bytes: 8 << 20, ..Default::default() };
        RocksDb::open(&scratch.path().join("state"), settings).unwrap()
    }

    fn write(engine: &RocksDb, key: &[u8], main: i64, tombstone: bool) {
        let version = Version { revision: Revision::new(main, 0), tombstone, row: Row::from(key) };
        engine.append(key, version).unwrap();
        engine.publish(Published { revision: main, applied: Applied { index: main as u64, term: 1 } }).unwrap();
    }

    fn compact(engine: &RocksDb, at: i64) {
        while engine.compact_step(at).unwrap() {}
    }

    /// The number of markers of deleted rows that RocksDB passed in this thread.
    fn marks_passed(during: impl FnOnce()) -> u64 {
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut context = PerfContext::default();
        context.reset();
        during();
        context.metric(PerfMetric::InternalDeleteSkippedCount)
    }

    #[test]
    fn no_step_passes_what_a_former_compaction_deleted() {
        let scratch = Scratch::new();
        let engine = open(&scratch);
        let key = |number: i64| format!("key{:03}", number * 7919 % 1_000).into_bytes();
        for main in 1..=DROPPED {
            write(&engine, &key(main), main, main % 5 == 0);
        }
        let first = marks_passed(|| compact(&engine, DROPPED));
        for main in DROPPED + 1..=DROPPED + MORE {
            write(&engine, &key(main), main, main % 5 == 0);
        }
        let second = marks_passed(|| compact(&engine, DROPPED + MORE));
        assert_eq!((first, second), (0, 0), "marks passed by each compaction");
        // The markers do exist: a reader from the beginning passes them.
        let reader = marks_passed(|| _ = engine.history(Revision::default(), i64::MAX, &mut Vec::new()).unwrap());
        assert!(reader > 100_000, "{reader} marks");
    }

    /// The number of rows that RocksDB skipped in this thread without returning them.
    fn passed_unseen(during: impl FnOnce()) -> u64 {
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut context = PerfContext::default();
        context.reset();
        during();
        context.metric(PerfMetric::InternalDeleteSkippedCount) + context.metric(PerfMetric::InternalKeySkippedCount)
    }

    const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };

    /// The number of keys that are deleted together. The keys around them stay.
    const DELETED: i64 = 40_000;

    /// Writes keys and deletes most of them, in the order that `key` gives them, and compacts.
    fn mass_delete(engine: &RocksDb, key: impl Fn(i64) -> Vec<u8>) -> i64 {
        write(engine, b"a", 1, false);
        write(engine, b"z", 2, false);
        (1..=DELETED).for_each(|number| write(engine, &key(number), 2 + number, false));
        engine.flush().unwrap();
        (1..=DELETED).for_each(|number| write(engine, &key(number), 2 + DELETED + number, true));
        let at = 2 + 2 * DELETED + 1;
        write(engine, b"a", at, false);
        compact(engine, at);
        at
    }

    fn current(engine: &RocksDb) -> usize {
        engine.db.iterator_cf(engine.family(CURRENT), IteratorMode::Start).count()
    }

    #[test]
    fn a_step_over_deleted_keys_passes_no_more_than_it_counts() {
        let scratch = Scratch::new();
        let engine = open(&scratch);
        let at = mass_delete(&engine, |number| format!("key{number:08}").into_bytes());
        let (mut start, mut rows, mut most, mut steps) = (Some(Vec::new()), Vec::new(), 0, 0);
        while let Some(from) = start.take() {
            most = most.max(passed_unseen(|| {
                let range = KeyRange { start: &from, end: None };
                start = engine.scan(range, at, 2 - rows.len(), &mut rows).unwrap();
            }));
            steps += 1;
            if rows.len() == 2 {
                break;
            }
        }
        assert_eq!(rows.iter().map(|row| row.revision.main).collect::<Vec<_>>(), [at, 2]);
        // The rows of a key from before its deletion are skipped: one or two per key.
        assert!(most <= 2 * STEP as u64 + 2, "a step passed {most} rows unseen; {steps} steps");
        assert_eq!(engine.newest(b"key00000001", at).unwrap(), None, "it is as if it were gone");
    }

    #[test]
    fn a_flush_after_a_mass_delete_rewrites_what_is_full_of_dead_rows() {
        type Order = (&'static str, fn(i64) -> i64);
        let orders: [Order; 2] = [("in order", |number| number), ("scattered", |number| number * 7919 % DELETED)];
        for (order, place) in orders {
            let scratch = Scratch::new();
            let engine = open(&scratch);
            let at = mass_delete(&engine, |number| format!("key{:08}", place(number)).into_bytes());
            assert!(engine.wants_flush(), "{order}");
            engine.flush().unwrap();
            assert!(!engine.wants_flush(), "{order}: it had its flush");
            assert_eq!(current(&engine), 2, "{order}: what is alive is left");
            let mut rows = Vec::new();
            let unseen = passed_unseen(|| assert_eq!(engine.scan(ALL, at, 2, &mut rows).unwrap(), None));
            assert!(rows.len() == 2 && unseen < 10, "{order}: {} rows, and {unseen} unseen", rows.len());
        }
    }

    /// Bytes that a compression makes no shorter.
    fn noise(len: usize) -> impl FnMut() -> Row {
        let mut state = 1u64;
        move || {
            let words = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            words.flatten().take(len).collect::<Vec<_>>().into()
        }
    }

    #[test]
    fn a_flush_rewrites_a_run_of_dead_rows_unless_most_of_its_files_is_alive() {
        const DEAD: i64 = MANY_ROWS as i64;
        // So many that the dead rows are no good part of all.
        const LIVE: i64 = 5 * DEAD;
        type Case = (&'static str, fn(i64) -> Vec<u8>, i64);
        let cases: [Case; 2] = [
            ("beside", |number| format!("live{number:08}").into_bytes(), 0),
            ("between", |number| format!("key{:08}+{number}", number * DEAD / LIVE).into_bytes(), DEAD),
        ];
        for (place, live, left) in cases {
            let scratch = Scratch::new();
            let engine = open(&scratch);
            let published = |main: i64| Published { revision: main, applied: Applied { index: main as u64, term: 1 } };
            let mut row = noise(120);
            for number in 1..=LIVE {
                let version = Version { revision: Revision::new(1, number), tombstone: false, row: row() };
                engine.append(&live(number), version).unwrap();
            }
            engine.publish(published(1)).unwrap();
            for (main, tombstone) in [(2, false), (3, true)] {
                for number in 1..=DEAD {
                    let row = Row::from(&b"row"[..]);
                    let version = Version { revision: Revision::new(main, number), tombstone, row };
                    engine.append(format!("key{number:08}").as_bytes(), version).unwrap();
                }
                engine.publish(published(main)).unwrap();
                engine.flush().unwrap();
            }
            write(&engine, b"z", 4, false);
            compact(&engine, 4);
            assert!(engine.wants_flush(), "{place}");
            assert_eq!(current(&engine) as i64, LIVE + DEAD + 1);
            engine.flush().unwrap();
            assert!(!engine.wants_flush(), "{place}");
            assert_eq!(current(&engine) as i64, LIVE + left + 1, "dead rows {place} live ones");
        }
    }

    #[test]
    fn a_flush_is_wanted_once_a_compaction_has_come_to_its_end() {
        let scratch = Scratch::new();
        let engine = open(&scratch);
        let key = |number: i64| format!("key{number:08}").into_bytes();
        let dead = MANY_ROWS as i64;
        (1..=dead).for_each(|number| write(&engine, &key(number), number, true));
        let at = dead + 10 * STEP as i64;
        (dead + 1..=at).for_each(|main| write(&engine, b"z", main, false));
        let mut wanted = Vec::new();
        while engine.compact_step(at).unwrap() {
            wanted.push(engine.wants_flush());
        }
        assert!(wanted.len() > 10 && !wanted.contains(&true), "{wanted:?}");
        assert!(engine.wants_flush());
    }

    #[test]
    fn a_dead_row_stays_until_its_death_is_durable() {
        let scratch = Scratch::new();
        let engine = open(&scratch);
        write(&engine, b"key", 1, false);
        write(&engine, b"key", 2, true);
        write(&engine, b"other", 3, false);
        engine.flush().unwrap();
        compact(&engine, 3);
        engine.rewrite_files();
        assert_eq!(
            (current(&engine), engine.newest(b"key", 3).unwrap()),
            (2, None),
            "a crash would undo the compaction"
        );
        engine.flush().unwrap();
        engine.rewrite_files();
        assert_eq!((current(&engine), engine.newest(b"key", 3).unwrap()), (1, None));
    }

    #[test]
    fn a_tombstone_at_the_revision_of_a_compaction_stays_and_a_dropped_one_is_gone_after_a_start_too() {
        let scratch = Scratch::new();
        let engine = open(&scratch);
        for (key, revision, tombstone) in [(b"a", 1, false), (b"a", 2, true), (b"b", 3, false), (b"b", 4, true)] {
            write(&engine, key, revision, tombstone);
        }
        write(&engine, b"c", 5, false);
        engine.flush().unwrap();
        compact(&engine, 4);
        engine.flush().unwrap();
        engine.rewrite_files();
        let newest = |engine: &RocksDb, key| engine.newest(key, 5).unwrap().map(|version| version.tombstone);
        assert_eq!((newest(&engine, b"a"), newest(&engine, b"b"), current(&engine)), (None, Some(true), 2));
        compact(&engine, 5);
        engine.flush().unwrap();
        drop(engine);
        let engine = open(&scratch);
        assert_eq!(
            (newest(&engine, b"b"), current(&engine)),
            (None, 2),
            "its row stands there until its file is rewritten"
        );
    }

    fn superseded(engine: &RocksDb) -> usize {
        engine.db.iterator_cf(engine.family(SUPERSEDED), IteratorMode::Start).count()
    }

    #[test]
    fn the_dead_are_forgotten_once_their_death_is_durable() {
        let scratch = Scratch::new();
        let engine = open(&scratch);
        for main in 1..=100 {
            write(&engine, b"key", main, main % 10 == 0);
        }
        engine.flush().unwrap();
        // All versions except the last, and the ten tombstones, are in `superseded` from the start.
        assert_eq!(superseded(&engine), 100);
        compact(&engine, 50);
        engine.rewrite_files();
        assert_eq!(superseded(&engine), 100, "a crash would undo the compaction");
        engine.flush().unwrap();
        engine.rewrite_files();
        assert_eq!(superseded(&engine), 51, "50 is a tombstone, and stays until the next compaction");
        compact(&engine, 60);
        engine.defragment().unwrap();
        assert_eq!(superseded(&engine), 41, "defragment flushes first");
        compact(&engine, 70);
        drop(engine);
        let engine = open(&scratch);
        engine.rewrite_files();
        assert_eq!(superseded(&engine), 31, "what is found at the start is durable");
    }

    /// Rows in `superseded` disappear one by one, in any order.
    #[test]
    fn a_key_that_died_does_not_come_back_when_its_tombstone_is_forgotten_first() {
        let scratch = Scratch::new();
        let mut engine = open(&scratch);
        for (main, tombstone) in [(1, false), (2, false), (3, true), (6, false)] {
            write(&engine, b"key", main, tombstone);
        }
        compact(&engine, 4);
        let all = KeyRange { start: b"", end: None };
        for forgotten in [None, Some(3), Some(1), Some(2)] {
            if let Some(main) = forgotten {
                let key = superseded_key(b"key", Revision::new(main, 0));
                engine.db.delete_cf_opt(engine.family(SUPERSEDED), key, &super::super::writing::unlogged()).unwrap();
            }
            // Before and after a restart.
            for _ in 0..2 {
                for at in [4, 5] {
                    let (mut rows, mut count) = (Vec::new(), 0);
                    engine.scan(all, at, usize::MAX, &mut rows).unwrap();
                    engine.count(all, at, &mut count).unwrap();
                    let newest = engine.newest(b"key", at).unwrap();
                    assert_eq!((newest, rows, count), (None, vec![], 0), "at {at}, without {forgotten:?}");
                }
                drop(engine);
                engine = open(&scratch);
            }
        }
    }
}
