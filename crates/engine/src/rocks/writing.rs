//! Appending versions, and publishing them in one batch.

use std::collections::btree_map::Entry;

use parking_lot::MutexGuard;
use rocksdb::{FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};

use super::RocksDb;
use super::layout::{
    CURRENT, REVISIONS, STATE_KEY, SUPERSEDED, Stamp, State, Superseded, TABLES, Walk, parse_current, parse_state,
    revision_key, state_value, superseded_key, superseded_value, table_key, write_current, write_revision,
};
use super::pending::{Pending, Touched};
use crate::{EngineError, Published, Result, Table, Usage, Version};

impl RocksDb {
    /// The data that only the writer may change.
    ///
    /// # Errors
    /// Nothing may be written any more.
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Pending>> {
        let pending = self.pending.lock();
        match &pending.refusal {
            Some(why) => Err(EngineError(format!("{}: nothing more is written: {why}", self.path.display()))),
            None => Ok(pending),
        }
    }

    pub(super) fn append_version(&self, key: &[u8], version: Version, newest: Option<&Version>) -> Result<()> {
        let mut pending = self.writer()?;
        let pending = &mut *pending;
        let Pending { batch, keys, written, last, buffer, .. } = pending;
        let revision = version.revision;
        assert!(
            revision > *last,
            "append of revision {}.{} after {}.{}: revisions must ascend",
            revision.main,
            revision.sub,
            last.main,
            last.sub
        );
        let touched = match keys.entry(key.into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let base = newest.map_or_else(|| self.current_stamp(key), |newest| Ok(Some(Stamp::of(newest))))?;
                place.insert(Touched { base, versions: Vec::new() })
            }
        };
        // A tombstone is superseded from the start. A later version changes that only in the same revision.
        let replaced = touched.newest().filter(|old| !old.tombstone || old.revision.main == revision.main);
        if let Some(stamp) = replaced {
            let superseded = Superseded { stamp, dead: revision.main };
            batch.put_cf(self.family(SUPERSEDED), superseded_key(key, stamp.revision), superseded_value(superseded));
        }
        let stamp = Stamp::of(&version);
        if version.tombstone {
            let superseded = Superseded { stamp, dead: revision.main + 1 };
            batch.put_cf(self.family(SUPERSEDED), superseded_key(key, revision), superseded_value(superseded));
        }
        write_current(&version, buffer);
        batch.put_cf(self.family(CURRENT), key, &buffer);
        write_revision(key, &version, replaced, buffer);
        batch.put_cf(self.family(REVISIONS), revision_key(revision), &buffer);
        *written += usize::from(touched.versions.is_empty());
        touched.versions.push(version);
        *last = revision;
        self.stored.add(stamp.usage());
        Ok(())
    }

    /// The newest published version of a key.
    pub(super) fn current_stamp(&self, key: &[u8]) -> Result<Option<Stamp>> {
        let value = self.db.get_pinned_cf(self.family(CURRENT), key).map_err(|error| self.failed(&error))?;
        value.map(|value| Ok(parse_current(&value)?.0)).transpose()
    }

    /// Sets or removes a row of a table.
    pub(super) fn set_row(&self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut pending = self.writer()?;
        let usage =
            |value: Option<&[u8]>| value.map_or(Usage::default(), |value| Usage::of_table_row(table, key, value));
        if table.counts() {
            let old = pending.row(table, key).cloned().map_or_else(|| self.stored_row(table, key), Ok)?;
            self.stored.replace(usage(old.as_deref()), usage(value));
        }
        let stored = table_key(table, key);
        match value {
            Some(value) => pending.batch.put_cf(self.family(TABLES), stored, value),
            None => pending.batch.delete_cf(self.family(TABLES), stored),
        }
        pending.rows.insert((table, key.to_vec()), value.map(<[u8]>::to_vec));
        Ok(())
    }

    /// Writes all pending data, together with the published state.
    pub(super) fn write_pending(&self, published: Published) -> Result<()> {
        let mut pending = self.writer()?;
        let batch = std::mem::take(&mut pending.batch);
        let state = State { published, usage: self.stored.usage(), ..pending.state };
        self.write(&mut pending, batch, state)?;
        *self.published.write() = published;
        pending.clear();
        Ok(())
    }

    /// Writes a batch together with the state after it. After a failure nothing more is written.
    pub(super) fn write(&self, pending: &mut Pending, mut batch: WriteBatch, state: State) -> Result<()> {
        batch.put(STATE_KEY, state_value(&state, &self.stored.mark()));
        if let Err(error) = self.db.write_opt(batch, &unlogged()) {
            pending.refusal = Some(format!("an earlier write failed: {error}"));
            return Err(self.failed(&error));
        }
        pending.state = state;
        Ok(())
    }

    /// Makes the published data durable. The flush is atomic over the column families.
    pub(super) fn flush_all(&self) -> Result<()> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let default = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;
        let families = [default, CURRENT, REVISIONS, SUPERSEDED, TABLES].map(|name| self.family(name));
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.failed(&error))?;
        self.forgotten.advance(self.flushed_walk()?.done);
        Ok(())
    }

    /// The progress of compaction according to the files, which is what a crash would bring back. The writer continues
    /// during a flush, so the progress in memory may be ahead.
    fn flushed_walk(&self) -> Result<Walk> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let state = self.db.get_opt(STATE_KEY, &options).map_err(|error| self.failed(&error))?;
        let state = state.map(|state| parse_state(&state)).transpose()?;
        Ok(state.map_or_else(Walk::default, |(state, _)| state.walk))
    }
}

/// RocksDB's own log is off, because the raft log does its work.
pub(super) fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}
