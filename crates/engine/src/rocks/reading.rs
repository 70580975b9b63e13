//! Reading at a revision, while the writer goes on.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::atomic::Ordering;

use rocksdb::{DBRawIterator, ReadOptions};

use super::RocksDb;
use super::layout::{
    CURRENT, REVISIONS, SUPERSEDED, Stamp, Superseded, TABLES, parse_current, parse_revision, parse_revision_key,
    parse_superseded, revision_key, superseded_from, superseded_prefix, table_key,
};
use super::pending::Touched;
use crate::{KeyRange, Result, Revision, Row, Table, Version};

/// The most keys that a count visits: about 300 us, if they are in memory.
pub(super) const COUNT_STEP: usize = 1024;

impl RocksDb {
    /// The newest version with `main <= at`, unpublished ones included; for the writer.
    pub(super) fn newest_of_all(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        let mut pending = self.pending.lock();
        if at <= self.published.read().revision {
            // It was published a moment ago, so newer versions may be published, too. It must not be
            // remembered in `pending`.
            drop(pending);
            return self.newest_stored(key, at);
        }
        if let Some(touched) = pending.keys.get(key) {
            if let Some(version) = touched.newest_at(at) {
                return Ok(Some(version.clone()));
            }
            return self.newest_stored(key, at);
        }
        let found = self.newest_stored(key, at)?;
        // The writer probably writes this key next.
        let touched = Touched { base: found.as_ref().map(Stamp::of), versions: Vec::new() };
        pending.keys.insert(key.into(), touched);
        Ok(found)
    }

    /// The newest published version with `main <= at`.
    pub(super) fn newest_stored(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        let value = self.db.get_pinned_cf(self.family(CURRENT), key).map_err(|error| self.failed(&error))?;
        let Some(value) = value else { return Ok(None) };
        let (Stamp { revision, tombstone, .. }, row) = parse_current(&value)?;
        if revision.main > at {
            return self.newest_superseded(&mut None, key, at, true);
        }
        // Dropped, and still stored until its file is rewritten.
        if tombstone && revision.main < self.deletes_below.load(Ordering::Acquire) {
            return Ok(None);
        }
        Ok(Some(Version { revision, tombstone, row: Row::from(row) }))
    }

    /// The newest version with `main <= at` of a key whose current version is newer; a tombstone only if `tombstones`.
    /// `past` is created when it is first needed, and may be used for other keys, too.
    fn newest_superseded<'a>(
        &'a self,
        past: &mut Option<DBRawIterator<'a>>,
        key: &[u8],
        at: i64,
        tombstones: bool,
    ) -> Result<Option<Version>> {
        let found = self.find_superseded(past, key, at)?;
        let Some(Superseded { stamp, dead }) = found.filter(|found| tombstones || !found.stamp.tombstone) else {
            return Ok(None);
        };
        let revision = stamp.revision;
        let value = self.db.get_pinned_cf(self.family(REVISIONS), revision_key(revision));
        if let Some(value) = value.map_err(|error| self.failed(&error))? {
            return Ok(Some(parse_revision(&value)?.version(revision)));
        }
        // Dropped: it was a tombstone, or the reader holds no pin.
        if dead <= self.dropping.load(Ordering::Acquire) {
            return Ok(None);
        }
        let Revision { main, sub } = revision;
        let why = format!("damaged: revision {main}.{sub} of key {} is missing", key.escape_ascii());
        Err(self.failed(&why))
    }

    /// The newest version with `main <= at` among those in `superseded`. The result is a tombstone or `None` if
    /// the key is dead at `at`.
    fn find_superseded<'a>(
        &'a self,
        past: &mut Option<DBRawIterator<'a>>,
        key: &[u8],
        at: i64,
    ) -> Result<Option<Superseded>> {
        let past = past.get_or_insert_with(|| {
            let mut options = ReadOptions::default();
            options.set_prefix_same_as_start(true);
            self.db.raw_iterator_cf_opt(self.family(SUPERSEDED), options)
        });
        let from = superseded_from(key, at);
        past.seek(&from);
        let Some((found_key, value)) = item(self, past)? else { return Ok(None) };
        if superseded_prefix(found_key) != superseded_prefix(&from) {
            return Ok(None);
        }
        let found = parse_superseded(found_key, value)?.1;
        // The version that had replaced it at `at` is no longer listed. So the key was dead at `at`: otherwise a later
        // version would be found.
        Ok((found.stamp.tombstone || found.dead > at).then_some(found))
    }

    pub(super) fn scan_step(
        &self,
        range: KeyRange<'_>,
        at: i64,
        limit: usize,
        rows: &mut Vec<Version>,
    ) -> Result<Option<Vec<u8>>> {
        let full = rows.len().saturating_add(limit);
        self.visit(range, at, self.settings.steps.rows, |found| {
            if rows.len() == full {
                return Ok(false);
            }
            rows.extend(found.alive()?);
            Ok(true)
        })
    }

    pub(super) fn count_step(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        self.visit(range, at, self.settings.steps.counted_keys, |found| {
            *count += u64::from(found.is_alive()?);
            Ok(true)
        })
    }

    /// Passes the keys of a range in order to `look`, until it returns false or has seen `step` of
    /// them. Returns the next key.
    fn visit(
        &self,
        range: KeyRange<'_>,
        at: i64,
        step: usize,
        mut look: impl FnMut(&mut Found<'_, '_>) -> Result<bool>,
    ) -> Result<Option<Vec<u8>>> {
        if range.is_empty() {
            return Ok(None);
        }
        // Readers read published revisions, and do not need the unpublished data.
        let pending = (at > self.published.read().revision).then(|| self.pending.lock());
        let nothing = BTreeMap::new();
        let written = pending.as_ref().map_or(&nothing, |pending| &pending.keys);
        let mut written = in_range(written, range).peekable();
        let mut options = ReadOptions::default();
        if let Some(end) = range.end {
            options.set_iterate_upper_bound(end);
        }
        let mut stored = self.db.raw_iterator_cf_opt(self.family(CURRENT), options);
        stored.seek(range.start);
        // It is created later than `stored`: a version that was current there, and is not any more, is here.
        let mut past = None;
        for visited in 0.. {
            let Some((key, unpublished)) = next_key(self, &stored, &mut written)? else { break };
            let value = item(self, &stored)?.filter(|(stored_key, _)| *stored_key == key).map(|(_, value)| value);
            let mut found = Found { db: self, past: &mut past, key, at, unpublished, stored: value };
            if visited == step || !look(&mut found)? {
                return Ok(Some(key.to_vec()));
            }
            let (is_unpublished, is_stored) = (unpublished.is_some(), value.is_some());
            if is_unpublished {
                written.next();
            }
            if is_stored {
                stored.next();
            }
        }
        Ok(None)
    }

    pub(super) fn history_step(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(revision_key(Revision::new(to.saturating_add(1), 0)));
        // A checkpoint is read once from end to end, and must not displace other data in the cache.
        options.fill_cache(!self.frozen);
        let mut stored = self.db.raw_iterator_cf_opt(self.family(REVISIONS), options);
        stored.seek(revision_key(from));
        for visited in 0.. {
            let Some((key, value)) = item(self, &stored)? else { break };
            let revision = parse_revision_key(key)?;
            if visited == self.settings.steps.rows {
                return Ok(Some(revision));
            }
            rows.push(parse_revision(value)?.version(revision));
            stored.next();
        }
        Ok(None)
    }

    pub(super) fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let written = self.pending.lock().row(table, key).cloned();
        written.map_or_else(|| self.stored_row(table, key), Ok)
    }

    pub(super) fn stored_row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(TABLES), table_key(table, key)).map_err(|error| self.failed(&error))
    }

    pub(super) fn rows_with_prefix(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        // Both are taken under the lock, so that no row moves from pending to the database between them.
        // Then the lock is released.
        let (changed, snapshot) = {
            let pending = self.pending.lock();
            let changed = pending.rows.range((Included((table, prefix.to_vec())), Unbounded));
            let changed = changed.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
            let changed: BTreeMap<_, _> = changed.map(|((_, key), value)| (key.clone(), value.clone())).collect();
            (changed, self.db.snapshot())
        };
        let mut options = ReadOptions::default();
        let begin = table_key(table, prefix);
        options.set_iterate_range(rocksdb::PrefixRange(&begin[..]));
        let mut stored = snapshot.raw_iterator_cf_opt(self.family(TABLES), options);
        stored.seek(&begin);
        let mut rows = BTreeMap::new();
        while let Some((key, value)) = item(self, &stored)? {
            rows.insert(key[1..].to_vec(), value.to_vec());
            stored.next();
        }
        for (key, value) in changed {
            match value {
                Some(value) => _ = rows.insert(key, value),
                None => _ = rows.remove(&key),
            }
        }
        Ok(rows.into_iter().collect())
    }

    pub(super) fn row_keys_step(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        keys: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let (from, step) = (prefix.max(from), self.settings.steps.rows);
        // Each source needs to deliver only one step, and the key after it.
        let (changed, snapshot) = {
            let pending = self.pending.lock();
            let changed = pending.rows.range((Included((table, from.to_vec())), Unbounded));
            let changed = changed.take_while(|((of, key), _)| *of == table && key.starts_with(prefix)).take(step + 1);
            let changed: Vec<_> = changed.map(|((_, key), value)| (key.clone(), value.is_some())).collect();
            (changed, self.db.snapshot())
        };
        let mut options = ReadOptions::default();
        options.set_iterate_range(rocksdb::PrefixRange(&table_key(table, prefix)[..]));
        let mut stored = snapshot.raw_iterator_cf_opt(self.family(TABLES), options);
        stored.seek(table_key(table, from));
        let mut found = BTreeMap::new();
        while found.len() <= step
            && let Some((key, _)) = item(self, &stored)?
        {
            found.insert(key[1..].to_vec(), true);
            stored.next();
        }
        found.extend(changed);
        let next = found.keys().nth(step).cloned();
        keys.extend(found.into_iter().take(step).filter_map(|(key, is_there)| is_there.then_some(key)));
        Ok(next)
    }
}

/// A key that a visit has reached.
struct Found<'a, 'db> {
    db: &'db RocksDb,
    /// For versions that are not current.
    past: &'a mut Option<DBRawIterator<'db>>,
    key: &'a [u8],
    at: i64,
    unpublished: Option<&'a Touched>,
    /// The value of its current version, if it has a published one.
    stored: Option<&'a [u8]>,
}

impl Found<'_, '_> {
    /// Its newest version with `main <= at`, if that is no tombstone.
    fn alive(&mut self) -> Result<Option<Version>> {
        if let Some(version) = self.unpublished.and_then(|touched| touched.newest_at(self.at)) {
            return Ok((!version.tombstone).then(|| version.clone()));
        }
        let Some(value) = self.stored else { return Ok(None) };
        let (Stamp { revision, tombstone, .. }, row) = parse_current(value)?;
        if revision.main > self.at {
            return self.db.newest_superseded(self.past, self.key, self.at, false);
        }
        Ok((!tombstone).then(|| Version { revision, tombstone, row: Row::from(row) }))
    }

    /// Whether there is such a version. Copies nothing.
    fn is_alive(&mut self) -> Result<bool> {
        if let Some(version) = self.unpublished.and_then(|touched| touched.newest_at(self.at)) {
            return Ok(!version.tombstone);
        }
        let Some(value) = self.stored else { return Ok(false) };
        let stamp = parse_current(value)?.0;
        if stamp.revision.main > self.at {
            return Ok(self
                .db
                .find_superseded(self.past, self.key, self.at)?
                .is_some_and(|found| !found.stamp.tombstone));
        }
        Ok(!stamp.tombstone)
    }
}

/// Keys with unpublished versions.
fn in_range<'a>(
    keys: &'a BTreeMap<Box<[u8]>, Touched>,
    range: KeyRange<'a>,
) -> impl Iterator<Item = (&'a [u8], &'a Touched)> {
    let end = range.end.map_or(Unbounded, Excluded);
    let keys = keys.range::<[u8], _>((Included(range.start), end));
    keys.filter(|(_, touched)| !touched.versions.is_empty()).map(|(key, touched)| (&**key, touched))
}

/// The least key at which either iterator stands, and its unpublished versions.
fn next_key<'a, 'p: 'a>(
    db: &RocksDb,
    stored: &'a DBRawIterator<'_>,
    written: &mut Peekable<impl Iterator<Item = (&'p [u8], &'p Touched)>>,
) -> Result<Option<(&'a [u8], Option<&'a Touched>)>> {
    let stored = item(db, stored)?.map(|(key, _)| key);
    Ok(match (stored, written.peek()) {
        (None, None) => None,
        (Some(stored), Some((key, _))) if stored < *key => Some((stored, None)),
        (_, Some((key, touched))) => Some((key, Some(touched))),
        (Some(stored), None) => Some((stored, None)),
    })
}

/// The item at which an iterator stands. A failed iterator has no item either, but must not be
/// mistaken for one at its end.
pub(super) fn item<'a>(db: &RocksDb, iterator: &'a DBRawIterator<'_>) -> Result<Option<(&'a [u8], &'a [u8])>> {
    match iterator.item() {
        Some(item) => Ok(Some(item)),
        None => iterator.status().map(|()| None).map_err(|error| db.failed(&error)),
    }
}
