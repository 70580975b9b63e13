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
//! Index and history lie behind one lock, so that a version is in both or in neither; bytes of keys and rows are shared
//! between them. The tables have a lock of their own: copying a large one does not hold up readers of keys. No call takes
//! both. What was published and what is stored are read without either.
//!
//! Memory for a key with one version, beside the bytes of its row: 56 bytes in the index, 48 in the history, 16 and its own
//! bytes for the key (a 51-byte key takes about 200 in all, half-empty leaves and the allocator's rounding included). A
//! further version of a key takes 48 in the history and in the index 32 to 64, or about 100 if it is the second. A row
//! costs its bytes and 16.

mod history;
mod index;
mod leaf;
mod versions;

use crate::{Engine, KeyRange, Published, Result, Revision, STEP, Table, Usage, Version};
use history::{Entry, History};
use index::Index;
use leaf::Key;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use versions::Stored;

/// Keys that a count visits at most while it holds the lock. It copies nothing, so this is about 100 us, as a [`STEP`] of
/// rows that are copied.
const COUNT_STEP: usize = 8192;

/// State in memory.
#[derive(Debug, Default)]
pub struct Memory {
    versions: RwLock<Versioned>,
    tables: RwLock<[TableRows; Table::ALL.len()]>,
    /// Every read request asks for it: a lock of its own, which the writer holds for three words.
    published: RwLock<Published>,
    stored: Stock,
}

type TableRows = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Versioned {
    index: Index,
    history: History,
    /// The greatest revision ever appended; compaction does not lower it.
    last: Option<Revision>,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
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

    /// Returns where the next step begins, and what went.
    fn compact_step(&mut self, at: i64, from: Revision) -> (Option<Revision>, Usage) {
        let Self { index, history, .. } = self;
        let mut gone = Usage::default();
        let next = history.compact_step(at, from, |Entry { key, stored }| {
            let goes = index.compact(key, stored.stamp, at);
            if goes {
                gone.rows += 1;
                gone.bytes += stored.size_bytes();
            }
            goes
        });
        (next, gone)
    }
}

/// Rows and bytes stored. Atomics, because every write request checks the quota.
#[derive(Debug, Default)]
struct Stock {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Stock {
    fn add(&self, more: Usage) {
        self.rows.fetch_add(more.rows, Ordering::Relaxed);
        self.bytes.fetch_add(more.bytes, Ordering::Relaxed);
    }

    fn remove(&self, less: Usage) {
        self.rows.fetch_sub(less.rows, Ordering::Relaxed);
        self.bytes.fetch_sub(less.bytes, Ordering::Relaxed);
    }
}

/// What a row of a table counts for.
fn table_row_usage(key: &[u8], value: &[u8]) -> Usage {
    Usage { rows: 1, bytes: (key.len() + value.len()) as u64 }
}

impl Engine for Memory {
    fn append(&self, key: &[u8], version: Version) -> Result<()> {
        let stored = Stored::from(version);
        let bytes = stored.size_bytes();
        self.versions.write().append(key, stored);
        self.stored.add(Usage { rows: 1, bytes });
        Ok(())
    }

    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let old = self.tables.write()[table as usize].insert(key.to_vec(), value.to_vec());
        self.stored.add(table_row_usage(key, value));
        if let Some(old) = old {
            self.stored.remove(table_row_usage(key, &old));
        }
        Ok(())
    }

    fn delete(&self, table: Table, key: &[u8]) -> Result<()> {
        let old = self.tables.write()[table as usize].remove(key);
        if let Some(old) = old {
            self.stored.remove(table_row_usage(key, &old));
        }
        Ok(())
    }

    fn publish(&self, published: Published) -> Result<()> {
        *self.published.write() = published;
        Ok(())
    }

    fn compact_step(&self, at: i64, from: Revision) -> Result<Option<Revision>> {
        let (next, gone) = self.versions.write().compact_step(at, from);
        self.stored.remove(gone);
        Ok(next)
    }

    fn published(&self) -> Published {
        *self.published.read()
    }

    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        Ok(self.versions.read().index.newest(key, at).map(Stored::version))
    }

    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        Ok(self.versions.read().index.scan(range, at, limit, STEP, rows).map(<[u8]>::to_vec))
    }

    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        Ok(self.versions.read().index.count(range, at, COUNT_STEP, count).map(<[u8]>::to_vec))
    }

    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        Ok(self.versions.read().history.read(from, to, STEP, rows))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.tables.read()[table as usize].get(key).cloned())
    }

    fn rows(&self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let tables = self.tables.read();
        Ok(tables[table as usize].iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn usage(&self) -> Usage {
        Usage { rows: self.stored.rows.load(Ordering::Relaxed), bytes: self.stored.bytes.load(Ordering::Relaxed) }
    }
}
