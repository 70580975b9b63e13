//! The state in memory, durable through the log and its snapshots.
//!
//! Two views of the same versions, and the tables:
//!
//! ```text
//!   index     key ──▶ versions, ascending        newest, scan, count          (index.rs, leaf.rs, versions.rs)
//!   history   revision ──▶ version and key       history, compaction          (history.rs)
//!   tables    table, key ──▶ value                                            (below)
//! ```
//!
//! Index and history are behind one lock, so that a version is in both or in neither. They share the bytes of keys and
//! rows. The tables have a lock of their own: copying a large table does not block readers of keys. No call takes both
//! locks. The published state and the usage are read without either.
//!
//! A frozen copy ([`frozen`]) shares the chunks of history and holds nothing back: a chunk is copied before it changes.
//!
//! Memory of a key with one version, besides the bytes of its row: 56 bytes in the index, 48 in the history, and 16 and
//! its own bytes for the key. A 51-byte key takes about 200 bytes in all, half-empty leaves and the allocator's
//! rounding included. A further version of a key takes 48 bytes in the history, and 32 to 64 in the index, or about 100
//! if it is the second. A row takes its bytes and 16.

mod frozen;
mod history;
mod index;
mod leaf;
mod versions;

use crate::stock::Stock;
use crate::{
    Applied, COMPACTION_STEP, Engine, HighWaterMark, KeyRange, Published, Result, Revision, STEP, Statistic, Steps,
    Table, Usage, Version,
};
use frozen::Frozen;
use history::{CHUNK_VERSIONS, Entry, History};
use index::{Index, LEAF_KEYS};
use leaf::Key;
use metastore_mutants::{Mutant, mutant};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::sync::{Arc, OnceLock};
use versions::Stored;

/// The most keys that a count visits while it holds the lock. It copies nothing, so this takes about 100 us, as long as
/// a [`STEP`] of copied rows.
const COUNT_STEP: usize = 8192;

/// The granularity of the state in memory. The default suits all callers except tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySettings {
    pub steps: Steps,
    /// The most keys in a leaf of the index; four or more.
    pub leaf_keys: usize,
    /// The most versions in a chunk of the history. A step of a compaction visits no more than one chunk.
    pub chunk_versions: usize,
}

impl Default for MemorySettings {
    fn default() -> Self {
        let steps = Steps { rows: STEP, counted_keys: COUNT_STEP, compacted: COMPACTION_STEP };
        Self { steps, leaf_keys: LEAF_KEYS, chunk_versions: CHUNK_VERSIONS }
    }
}

/// The state in memory.
#[derive(Debug)]
pub struct Memory {
    steps: Steps,
    versions: RwLock<Versioned>,
    tables: RwLock<Tables>,
    /// Every read request needs it, so it has a lock of its own, which the writer holds only to store three words.
    published: RwLock<Published>,
    stored: Stock,
}

type TableRows = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = [TableRows; Table::COUNT];

#[derive(Debug)]
struct Versioned {
    index: Index,
    history: History,
    /// The greatest revision ever appended. Compaction does not lower it.
    last: Option<Revision>,
    /// The revision of the unfinished compaction, and where it continues.
    compaction: Option<(i64, Revision)>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    pub fn new() -> Self {
        Self::with(MemorySettings::default())
    }

    /// An empty state with a granularity of its own.
    pub fn with(settings: MemorySettings) -> Self {
        let MemorySettings { steps, leaf_keys, chunk_versions } = settings;
        let (index, history) = (Index::new(leaf_keys), History::new(chunk_versions));
        let versions = Versioned { index, history, last: None, compaction: None };
        let (tables, published, stored) = Default::default();
        Self { steps, versions: RwLock::new(versions), tables, published, stored }
    }
}

impl Versioned {
    fn append(&mut self, key: &[u8], stored: Stored) {
        let revision = stored.stamp.revision();
        if let Some(last) = self.last {
            assert!(
                revision > last,
                "append of revision {}.{} after {}.{}: revisions must ascend",
                revision.main,
                revision.sub,
                last.main,
                last.sub
            );
        }
        self.last = Some(revision);
        let key: Key = self.index.append(key, stored.clone());
        self.history.push(Entry { key, stored });
    }

    /// Returns whether there is more to do, and the usage of the dropped versions, which is also subtracted from
    /// the mark. A compaction at another revision than before begins at the first version, and so finishes the
    /// one that it overtakes.
    fn compact_step(&mut self, at: i64, step: usize, mark: &mut HighWaterMark) -> (bool, Usage) {
        let Self { index, history, compaction, .. } = self;
        let from = compaction.filter(|(under_way, _)| *under_way == at).map(|(_, next)| next).unwrap_or_default();
        let mut gone = Usage::default();
        let next = history.compact_step((at, from), step, |Entry { key, stored }| {
            if mutant(Mutant::TombstonesStay) && stored.stamp.is_tombstone() {
                return false;
            }
            let dead = index.compact(key, stored.stamp, at);
            if let Some(dead) = dead {
                let Usage { rows, bytes } = stored.usage();
                gone.rows += rows;
                gone.bytes += bytes;
                mark.dropped(dead, stored.usage());
            }
            dead.is_some()
        });
        *compaction = next.map(|next| (at, next));
        (next.is_some(), gone)
    }
}

/// The rows of a table whose keys begin with `prefix`.
fn rows_of(tables: &Tables, table: Table, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = tables[table as usize].range::<[u8], _>((Included(prefix), Unbounded));
    let rows = rows.take_while(|(key, _)| key.starts_with(prefix));
    rows.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// One step over the keys of these rows, from `from` on. Returns where to continue.
fn row_keys_of(
    tables: &Tables,
    table: Table,
    prefix: &[u8],
    from: &[u8],
    (step, keys): (usize, &mut Vec<Vec<u8>>),
) -> Option<Vec<u8>> {
    let rows = tables[table as usize].range::<[u8], _>((Included(prefix.max(from)), Unbounded));
    let mut found = rows.map(|(key, _)| key).take_while(|key| key.starts_with(prefix));
    keys.extend(found.by_ref().take(step).cloned());
    found.next().cloned()
}

impl Engine for Memory {
    fn append(&self, key: &[u8], version: Version) -> Result<()> {
        let stored = Stored::from(version);
        let usage = stored.usage();
        self.versions.write().append(key, stored);
        self.stored.add(usage);
        Ok(())
    }

    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let old = self.tables.write()[table as usize].insert(key.to_vec(), value.to_vec());
        let old = old.map_or(Usage::default(), |old| Usage::of_table_row(table, key, &old));
        self.stored.replace(old, Usage::of_table_row(table, key, value));
        Ok(())
    }

    fn delete(&self, table: Table, key: &[u8]) -> Result<()> {
        let old = self.tables.write()[table as usize].remove(key);
        if let Some(old) = old {
            self.stored.remove(Usage::of_table_row(table, key, &old));
        }
        Ok(())
    }

    fn publish(&self, published: Published) -> Result<()> {
        *self.published.write() = published;
        Ok(())
    }

    fn compact_step(&self, at: i64) -> Result<bool> {
        let mut mark = self.stored.mark();
        let (more, gone) = self.versions.write().compact_step(at, self.steps.compacted, &mut mark);
        self.stored.set_mark(mark);
        self.stored.remove(gone);
        if !more {
            self.stored.end_compaction(at);
        }
        Ok(more)
    }

    fn begin_compaction(&self, at: i64) {
        self.stored.begin_compaction(at);
    }

    fn set_mark(&self, mark: HighWaterMark) {
        self.stored.set_mark(mark);
    }

    fn outlives_process(&self) -> bool {
        false
    }

    fn flush(&self) -> Result<Applied> {
        Ok(self.published().applied)
    }

    fn checkpoint(&self) -> Result<Arc<dyn Engine>> {
        let history = self.versions.read().history.clone();
        let tables = self.tables.read();
        let mut copied = Tables::default();
        // Without the keys of leases: there may be as many as keys in all, and they can be computed from the versions.
        Table::ALL.into_iter().for_each(|table| copied[table as usize] = tables[table as usize].clone());
        drop(tables);
        let tables = copied;
        let (published, usage, mark) = (self.published(), self.usage(), self.mark());
        Ok(Arc::new(Frozen { steps: self.steps, history, tables, published, usage, mark, index: OnceLock::new() }))
    }

    /// Nothing to do: a compaction frees what it drops.
    fn defragment(&self) -> Result<()> {
        Ok(())
    }

    /// Nothing that the figures of the process do not show.
    fn statistics(&self) -> Vec<Statistic> {
        Vec::new()
    }

    fn published(&self) -> Published {
        *self.published.read()
    }

    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        Ok(self.versions.read().index.newest(key, at).map(Stored::version))
    }

    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        Ok(self.versions.read().index.scan(range, at, limit, self.steps.rows, rows).map(<[u8]>::to_vec))
    }

    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        Ok(self.versions.read().index.count(range, at, self.steps.counted_keys, count).map(<[u8]>::to_vec))
    }

    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        Ok(self.versions.read().history.read(from, to, self.steps.rows, rows))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.tables.read()[table as usize].get(key).cloned())
    }

    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(rows_of(&self.tables.read(), table, prefix))
    }

    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        Ok(row_keys_of(&self.tables.read(), table, prefix, from, (self.steps.rows, keys)))
    }

    fn usage(&self) -> Usage {
        self.stored.usage()
    }

    fn mark(&self) -> HighWaterMark {
        self.stored.mark()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be as many as keys in all, and the writer waits while a copy is made.
    #[test]
    fn a_frozen_copy_leaves_out_the_keys_of_leases() {
        let memory = Memory::new();
        memory.put(Table::Lease, b"lease", b"").unwrap();
        memory.put(Table::LeaseKeys, b"lease/key", b"").unwrap();
        let frozen = memory.checkpoint().unwrap();
        assert_eq!(frozen.rows(Table::Lease, b"").unwrap().len(), 1);
        assert!(frozen.rows(Table::LeaseKeys, b"").unwrap().is_empty());
    }
}
