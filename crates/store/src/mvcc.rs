//! Every version of every key: one transaction is one revision.
//!
//! ```text
//!   begin ─▶ put / delete_range ... (sub 0, 1, 2) ─▶ end         the one writer
//!   View::range / history / hash_kv at a revision                any thread
//! ```
//!
//! The writer appends versions to the engine at `current + 1`. No reader reads there until the store publishes, so a
//! transaction becomes visible as a whole. The rules for revisions, versions and create revisions are etcd's
//! (`server/storage/mvcc`). An empty store has revision 1, so the first write is revision 2.

mod changed;
mod compaction;
mod hash;
mod range;
pub mod row;
mod view;
mod views;

pub use compaction::CompactionHashJob;
pub(crate) use compaction::begin_mark;
pub use hash::HashKv;
pub use range::{Order, RangeCursor, RangeQuery, RangeReply, RevisionBounds, Target};
pub use view::{NEVER_COMPACTED, Pin, ReadError, View};
pub use views::Views;

use std::sync::Arc;

use metastore_engine::{Applied, Engine, KeyRange, Published, Revision, Row, Version};
use metastore_mutants::{Mutant, mutant};

use crate::Refusal;
use crate::watch::Change;
use compaction::Compaction;
use row::KeyValue;

/// The revision of an empty store.
pub const FIRST_REVISION: i64 = 1;

/// The writing side.
pub struct Mvcc {
    view: View,
    /// The newest complete revision.
    current: i64,
    /// The revision below which reads are refused. Readers see it once it is published.
    compacted: i64,
    /// The changes of the open transaction so far, in order.
    changes: Vec<Change>,
    compaction: Option<Compaction>,
    /// Versions that compactions have dropped.
    dropped: u64,
}

/// The content of a put.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    pub key: &'a [u8],
    /// `None` keeps the value that the key has.
    pub value: Option<&'a [u8]>,
    /// `None` keeps the lease that the key has.
    pub lease: Option<i64>,
}

impl Mvcc {
    /// Opens the state that `engine` holds.
    ///
    /// # Errors
    /// If the medium fails, or if the state is compacted beyond its newest revision, so that no revision could be read.
    pub fn open(engine: Arc<dyn Engine>) -> metastore_engine::Result<Self> {
        let current = engine.published().revision.max(FIRST_REVISION);
        let (at, mut compaction) = Compaction::resume(engine.as_ref())?;
        if mutant(Mutant::CompactionNotResumed) {
            compaction = None;
        }
        if at > current {
            let why = format!("the state is damaged: compacted at revision {at}, but the newest is {current}");
            return Err(metastore_engine::EngineError(why));
        }
        Ok(Self { view: View::new(engine, at), current, compacted: at, changes: Vec::new(), compaction, dropped: 0 })
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// The newest complete revision.
    pub fn current(&self) -> i64 {
        self.current
    }

    /// [`View::readable_in_txn`] for the writer, which sees a compaction before it is published.
    ///
    /// # Errors
    /// As [`View::readable`].
    pub fn readable_in_txn(&self, revision: i64) -> Result<i64, Refusal> {
        view::readable_in_txn(revision, self.current, self.compacted)
    }

    /// Makes everything up to the newest complete revision visible to readers. Only after that, reads below a new
    /// compaction are refused: before it, readers had no newer revision to read instead.
    pub fn publish(&mut self, applied: Applied) -> metastore_engine::Result<()> {
        self.view.engine().publish(Published { revision: self.current, applied })?;
        self.view.set_compact_revision(self.compacted);
        Ok(())
    }

    /// The revision that a read in the open transaction sees.
    pub fn seen(&self) -> i64 {
        self.current + i64::from(!self.changes.is_empty())
    }

    /// The newest version of `key`, if it is alive; versions of the open transaction included.
    pub fn live(&self, key: &[u8]) -> metastore_engine::Result<Option<Version>> {
        Ok(self.view.engine().newest(key, i64::MAX)?.filter(|version| !version.tombstone))
    }

    /// Writes one key; returns its previous row, if the key was alive. If the put keeps the value or the lease, the
    /// caller must have checked that the key exists.
    pub fn put(&mut self, put: &Put<'_>) -> metastore_engine::Result<Option<Row>> {
        let replaced = self.live(put.key)?;
        let previous = replaced.as_ref().map(|version| version.row.clone());
        let before = previous.as_deref().map(KeyValue::of).unwrap_or_default();
        let revision = self.next_revision();
        let create_revision = if previous.is_some() { before.create_revision } else { revision.main };
        let row = KeyValue {
            key: put.key,
            create_revision,
            mod_revision: revision.main,
            version: before.version + 1,
            value: put.value.unwrap_or(before.value),
            lease: put.lease.unwrap_or(before.lease),
        }
        .to_row();
        // Watchers get no previous value of a key that this transaction creates, even if it deleted the key first.
        let replaced = replaced.filter(|_| create_revision < revision.main);
        self.append(put.key, Version { revision, tombstone: false, row }, replaced)?;
        Ok(previous)
    }

    /// Deletes every live key in the range, and passes the row of each to `deleted`. Returns how many there were.
    pub fn delete_range(
        &mut self,
        range: KeyRange<'_>,
        mut deleted: impl FnMut(&Row) -> metastore_engine::Result<()>,
    ) -> metastore_engine::Result<i64> {
        let mut count = 0;
        let mut from = Some(range.start.to_vec());
        while let Some(start) = from {
            // Rows are collected before they are deleted; one step of the engine bounds how many.
            let mut rows = Vec::new();
            let range = KeyRange { start: &start, ..range };
            from = self.view.engine().scan(range, i64::MAX, usize::MAX, &mut rows)?;
            if mutant(Mutant::DeleteEndsAfterStep) {
                from = None;
            }
            count += rows.len() as i64;
            for version in rows {
                deleted(&version.row)?;
                self.delete_live(version)?;
            }
        }
        Ok(count)
    }

    /// Deletes one key; returns its previous row, if the key was alive.
    pub fn delete(&mut self, key: &[u8]) -> metastore_engine::Result<Option<Row>> {
        let Some(version) = self.live(key)? else { return Ok(None) };
        let row = version.row.clone();
        self.delete_live(version)?;
        Ok(Some(row))
    }

    fn delete_live(&mut self, replaced: Version) -> metastore_engine::Result<()> {
        let key = row::key_of(&replaced.row);
        let row = KeyValue { key, ..KeyValue::default() }.to_row();
        let version = Version { revision: self.next_revision(), tombstone: true, row };
        self.append(key, version, Some(replaced.clone()))
    }

    /// Appends a version; `replaced` is the version that it replaces. Watchers get the row from before the transaction
    /// as the previous value. The two differ if a transaction writes a key twice, as etcd allows in different nested
    /// transactions.
    fn append(&mut self, key: &[u8], version: Version, replaced: Option<Version>) -> metastore_engine::Result<()> {
        let engine = self.view.engine();
        match &replaced {
            Some(newest) => engine.append_after(key, version.clone(), newest)?,
            None => engine.append(key, version.clone())?,
        }
        let mut before = match replaced {
            Some(replaced) if replaced.revision.main > self.current => engine.newest(key, self.current)?,
            replaced => replaced,
        };
        if mutant(Mutant::PreviousIsAfter) {
            before = Some(version.clone());
        }
        self.changes.push(Change { version, previous: row_if_alive(before) });
        Ok(())
    }

    fn next_revision(&self) -> Revision {
        Revision::new(self.current + 1, self.changes.len() as i64)
    }

    /// Ends the transaction. If it changed anything, its changes become the current revision.
    pub fn end(&mut self) -> Vec<Change> {
        if !self.changes.is_empty() {
            self.current += 1;
        }
        if mutant(Mutant::EmptyRevision) && self.changes.is_empty() {
            self.current += 1;
        }
        std::mem::take(&mut self.changes)
    }
}

fn row_if_alive(version: Option<Version>) -> Option<Row> {
    version.filter(|version| !version.tombstone).map(|version| version.row)
}
