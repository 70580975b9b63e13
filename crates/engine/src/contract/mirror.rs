//! Two engines in lockstep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::{Applied, Engine, HighWaterMark, KeyRange, Published, Result, Revision, Statistic, Table, Usage, Version};

/// An engine that makes every call on two engines and panics at the first difference.
///
/// Steps of two engines end at different keys. The rows that one engine returned in one step, the other must return in
/// as many steps as it needs. The engines take turns in being first. During a compaction the engines may have dropped
/// different versions, which no reader may notice. Answers that may differ for that reason are not compared.
pub struct Mirror {
    engines: [Arc<dyn Engine>; 2],
    /// Writers hold the lock for writing, so that no reader sees the two engines at different moments.
    compaction: RwLock<Compaction>,
    /// The number of calls, for taking turns.
    calls: AtomicUsize,
}

/// The progress of compaction.
#[derive(Clone, Copy, Default)]
struct Compaction {
    /// The greatest revision whose compaction was begun and is not finished.
    under_way: Option<i64>,
    /// The revision of the last step, and the engines that have more to do there.
    at: i64,
    more: [bool; 2],
}

impl Compaction {
    /// Makes a step on each engine that has more to do.
    fn step(&mut self, engines: &[Arc<dyn Engine>; 2], at: i64) -> Result<bool> {
        if at != self.at || !self.more.contains(&true) {
            (self.at, self.more) = (at, [true; 2]);
        }
        for (engine, more) in engines.iter().zip(&mut self.more) {
            *more = *more && engine.compact_step(at)?;
        }
        let more = self.more.contains(&true);
        // An unfinished compaction leaves differences until a compaction at its revision or later is finished.
        let under_way = self.under_way.unwrap_or(at).max(at);
        self.under_way = (more || under_way > at).then_some(under_way);
        Ok(more)
    }
}

/// The engines in the order of one read. The read lock keeps writers out.
struct Turn<'a> {
    first: &'a dyn Engine,
    second: &'a dyn Engine,
    /// The revision of an unfinished compaction.
    compaction: Option<i64>,
    _reader: RwLockReadGuard<'a, Compaction>,
}

impl Mirror {
    pub fn new(a: Arc<dyn Engine>, b: Arc<dyn Engine>) -> Self {
        Self { engines: [a, b], compaction: RwLock::default(), calls: AtomicUsize::new(0) }
    }

    /// Begins a call that changes nothing.
    fn turn(&self) -> Turn<'_> {
        let reader = self.compaction.read();
        let first = self.calls.fetch_add(1, Ordering::Relaxed) % 2;
        let (first, second) = (&*self.engines[first], &*self.engines[1 - first]);
        Turn { first, second, compaction: reader.under_way, _reader: reader }
    }

    /// Makes a call on both engines; the results must be equal.
    fn both<T: PartialEq + std::fmt::Debug>(&self, what: &str, call: impl Fn(&dyn Engine) -> Result<T>) -> Result<T> {
        let [a, b] = &self.engines;
        let answers = (call(&**a)?, call(&**b)?);
        assert!(answers.0 == answers.1, "{what}: the first engine says {:?}, the second {:?}", answers.0, answers.1);
        Ok(answers.0)
    }

    fn change<T: PartialEq + std::fmt::Debug>(&self, what: &str, call: impl Fn(&dyn Engine) -> Result<T>) -> Result<T> {
        let _writer = self.compaction.write();
        self.both(what, call)
    }

    fn read<T: PartialEq + std::fmt::Debug>(&self, what: &str, call: impl Fn(&dyn Engine) -> Result<T>) -> Result<T> {
        let _reader = self.compaction.read();
        self.both(what, call)
    }
}

impl Turn<'_> {
    /// Whether a read at `at` gives the same on both engines.
    fn comparable(&self, at: i64) -> bool {
        self.compaction.is_none_or(|compaction| at >= compaction)
    }
}

impl Engine for Mirror {
    fn append(&self, key: &[u8], version: Version) -> Result<()> {
        self.change("append", |engine| engine.append(key, version.clone()))
    }

    fn append_after(&self, key: &[u8], version: Version, newest: &Version) -> Result<()> {
        self.change("append_after", |engine| engine.append_after(key, version.clone(), newest))
    }

    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.change("put", |engine| engine.put(table, key, value))
    }

    fn delete(&self, table: Table, key: &[u8]) -> Result<()> {
        self.change("delete", |engine| engine.delete(table, key))
    }

    fn publish(&self, published: Published) -> Result<()> {
        self.change("publish", |engine| engine.publish(published))
    }

    fn compact_step(&self, at: i64) -> Result<bool> {
        self.compaction.write().step(&self.engines, at)
    }

    fn begin_compaction(&self, at: i64) {
        let _writer = self.compaction.write();
        self.engines.iter().for_each(|engine| engine.begin_compaction(at));
    }

    fn set_mark(&self, mark: HighWaterMark) {
        let _writer = self.compaction.write();
        self.engines.iter().for_each(|engine| engine.set_mark(mark.clone()));
    }

    fn outlives_process(&self) -> bool {
        self.engines.iter().all(|engine| engine.outlives_process())
    }

    fn flush(&self) -> Result<Applied> {
        self.read("flush", |engine| engine.flush())
    }

    fn wants_flush(&self) -> bool {
        self.engines.iter().any(|engine| engine.wants_flush())
    }

    fn checkpoint(&self) -> Result<Arc<dyn Engine>> {
        let compaction = self.compaction.read();
        let [a, b] = &self.engines;
        let (a, b) = (a.checkpoint()?, b.checkpoint()?);
        Ok(Arc::new(Self { compaction: RwLock::new(*compaction), ..Self::new(a, b) }))
    }

    fn defragment(&self) -> Result<()> {
        self.read("defragment", |engine| engine.defragment())
    }

    fn statistics(&self) -> Vec<Statistic> {
        self.engines.iter().flat_map(|engine| engine.statistics()).collect()
    }

    fn published(&self) -> Published {
        let _reader = self.compaction.read();
        let [a, b] = [0, 1].map(|engine: usize| self.engines[engine].published());
        assert_eq!(a, b, "published");
        a
    }

    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        let turn = self.turn();
        let (first, second) = (turn.first.newest(key, at)?, turn.second.newest(key, at)?);
        if turn.comparable(at) {
            // A tombstone that the compaction will drop counts as absent.
            let lasts =
                |v: &&Version| !v.tombstone || turn.compaction.is_none_or(|compaction| v.revision.main > compaction);
            let (first, second) = (first.as_ref().filter(lasts), second.as_ref().filter(lasts));
            assert_eq!(first, second, "newest of {} at {at}", key.escape_ascii());
        }
        Ok(first)
    }

    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        let turn = self.turn();
        let old = rows.len();
        let next = turn.first.scan(range, at, limit, rows)?;
        let mut other = Vec::new();
        follow(range, next.as_deref(), limit, |range| turn.second.scan(range, at, limit, &mut other))?;
        if turn.comparable(at) {
            assert_eq!(rows[old..], other, "scan of {range:?} at {at}, limit {limit}, up to {next:?}");
        }
        Ok(next)
    }

    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        let turn = self.turn();
        let old = *count;
        let next = turn.first.count(range, at, count)?;
        let mut other = 0;
        follow(range, next.as_deref(), usize::MAX, |range| turn.second.count(range, at, &mut other))?;
        if turn.comparable(at) {
            assert_eq!(*count - old, other, "count of {range:?} at {at}, up to {next:?}");
        }
        Ok(next)
    }

    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        let turn = self.turn();
        let old = rows.len();
        let next = turn.first.history(from, to, rows)?;
        let (mut other, mut begin) = (Vec::new(), Some(from));
        while let Some(from) = begin.filter(|&from| next.is_none_or(|next| from < next)) {
            begin = turn.second.history(from, to, &mut other)?;
            assert!(begin.is_none_or(|begin| begin > from), "history from {from:?} continues at {begin:?}");
        }
        // Only published versions after the revision of the unfinished compaction.
        let (least, most) = (turn.compaction.unwrap_or(i64::MIN), turn.first.published().revision);
        let same = |v: &&Version| {
            least < v.revision.main && v.revision.main <= most && next.is_none_or(|next| v.revision < next)
        };
        let same = |rows: &[Version]| rows.iter().filter(same).cloned().collect::<Vec<_>>();
        assert_eq!(same(&rows[old..]), same(&other), "history from {from:?} to {to}, up to {next:?}");
        Ok(next)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read("get", |engine| engine.get(table, key))
    }

    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.read("rows", |engine| engine.rows(table, prefix))
    }

    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        let turn = self.turn();
        let old = keys.len();
        let next = turn.first.row_keys(table, prefix, from, keys)?;
        // The second engine may end its step elsewhere.
        let mut other = super::row_keys(turn.second, table, prefix, from);
        other.retain(|key| next.as_ref().is_none_or(|next| key < next));
        assert_eq!(keys[old..], other, "keys of rows of {table:?}, up to {next:?}");
        Ok(next)
    }

    fn usage(&self) -> Usage {
        let turn = self.turn();
        let (first, second) = (turn.first.usage(), turn.second.usage());
        assert!(turn.compaction.is_some() || first == second, "usage: {first:?} and {second:?}");
        first
    }

    fn mark(&self) -> HighWaterMark {
        let turn = self.turn();
        let (first, second) = (turn.first.mark(), turn.second.mark());
        assert!(turn.compaction.is_some() || first == second, "mark: {first:?} and {second:?}");
        first
    }
}

/// Continues step by step until `next`, where the first engine stopped.
fn follow(
    range: KeyRange<'_>,
    next: Option<&[u8]>,
    limit: usize,
    mut step: impl FnMut(KeyRange<'_>) -> Result<Option<Vec<u8>>>,
) -> Result<()> {
    if limit == 0 {
        step(range)?;
        return Ok(());
    }
    let end = next.or(range.end);
    let mut start = range.start.to_vec();
    while let Some(next) = step(KeyRange { start: &start, end })? {
        assert!(next > start, "a step from {start:?} continues at {next:?}");
        start = next;
    }
    Ok(())
}
