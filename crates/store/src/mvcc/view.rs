//! Reading the store at a revision, from any thread, while the writer continues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use metastore_engine::{Engine, EngineError, Published, Revision, Row, Version};
use metastore_mutants::{Mutant, mutant};
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::hash::CompactionHashes;
use crate::watch::HistorySource;
use crate::{Auth, Refusal};

/// The compacted revision that a store reports before its first compaction, as in etcd.
pub const NEVER_COMPACTED: i64 = -1;

/// A handle for reading one state; cheap to clone, usable from any thread. See [`super::Views`].
#[derive(Clone)]
pub struct View {
    shared: Arc<ViewState>,
}

struct ViewState {
    engine: Arc<dyn Engine>,
    /// This number is raised when the compaction is published, before the first version is dropped. So a reader that
    /// checks it after its read knows whether the read is valid. It is never greater than the published revision.
    compact_revision: AtomicI64,
    pins: Mutex<BTreeMap<i64, usize>>,
    compaction_hashes: Mutex<CompactionHashes>,
    auth: RwLock<Arc<Auth>>,
    auth_enabled: AtomicBool,
}

/// As long as a pin lives, no version is dropped that a read at its revision or later needs.
pub struct Pin {
    shared: Arc<ViewState>,
    revision: i64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}

/// Why a read has no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request cannot be answered; the text is part of etcd's API.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The medium failed; the member must stop.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl View {
    pub(crate) fn new(engine: Arc<dyn Engine>, compact_revision: i64) -> Self {
        let compact_revision = AtomicI64::new(compact_revision);
        let (pins, compaction_hashes, auth, auth_enabled) = Default::default();
        let state = ViewState { engine, compact_revision, pins, compaction_hashes, auth, auth_enabled };
        Self { shared: Arc::new(state) }
    }

    pub(super) fn compaction_hashes(&self) -> MutexGuard<'_, CompactionHashes> {
        self.shared.compaction_hashes.lock()
    }

    pub fn engine(&self) -> &dyn Engine {
        &*self.shared.engine
    }

    /// The users and permissions, at least as new as the keys that can be read.
    pub fn users(&self) -> Arc<Auth> {
        self.shared.auth.read().clone()
    }

    /// Reads in the name of a caller, if `check` permits it. The permission is checked before the read, and again with
    /// its result: otherwise a read could show a key that was written after its permission was revoked.
    ///
    /// # Errors
    /// Those of `check` and `read`.
    pub fn read_as<T, E>(
        &self,
        check: impl Fn(&Auth) -> Result<(), E>,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let permitted = || self.auth().map_or(Ok(()), |auth| check(&auth));
        permitted()?;
        let result = read()?;
        if mutant(Mutant::ReadCheckedOnce) {
            return Ok(result);
        }
        permitted()?;
        Ok(result)
    }

    /// As [`View::users`]; `None` while authentication is disabled. A read uses [`View::read_as`].
    pub fn auth(&self) -> Option<Arc<Auth>> {
        self.shared.auth_enabled.load(Ordering::Acquire).then(|| self.users())
    }

    /// To be called before the keys of the same entries are published.
    pub(crate) fn set_auth(&self, auth: &Arc<Auth>) {
        let mut published = self.shared.auth.write();
        if !Arc::ptr_eq(&published, auth) {
            *published = auth.clone();
            self.shared.auth_enabled.store(auth.enabled(), Ordering::Release);
        }
    }

    /// The newest revision and log position that readers may see.
    pub fn published(&self) -> Published {
        self.shared.engine.published()
    }

    /// The newest revision that readers may see; 1 for an empty store.
    pub fn revision(&self) -> i64 {
        self.published().revision
    }

    /// The revision of the last compaction: reads below it are refused. [`NEVER_COMPACTED`] before the first one.
    pub fn compact_revision(&self) -> i64 {
        self.shared.compact_revision.load(Ordering::Acquire)
    }

    pub(crate) fn set_compact_revision(&self, revision: i64) {
        self.shared.compact_revision.store(revision, Ordering::Release);
    }

    /// The revision at which a request reads: a revision `<= 0` means the current one.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`] and [`Refusal::Compacted`], as etcd.
    pub fn readable(&self, revision: i64, current: i64) -> Result<i64, Refusal> {
        readable(revision, current, self.compact_revision())
    }

    /// [`View::readable`] for a range in a transaction. There, etcd takes only 0 for the current revision, and compares
    /// a negative revision with the compacted revision like any other.
    ///
    /// # Errors
    /// As [`View::readable`].
    pub fn readable_in_txn(&self, revision: i64, current: i64) -> Result<i64, Refusal> {
        readable_in_txn(revision, current, self.compact_revision())
    }

    /// Keeps the versions that reads at `revision` or later need.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if that revision is already compacted.
    pub fn pin(&self, revision: i64) -> Result<Pin, Refusal> {
        // The pin is entered before the check. So either a compaction sees the pin, or this check sees the compaction.
        *self.shared.pins.lock().entry(revision).or_insert(0) += 1;
        let pin = Pin { shared: self.shared.clone(), revision };
        if revision < self.compact_revision() { Err(Refusal::Compacted) } else { Ok(pin) }
    }

    /// Keeps the versions that reads at the compacted revision or later need, and returns that revision. Versions that
    /// a compaction has still to drop are not kept: a compaction in progress continues, and only a later one waits for
    /// the pin. So a sequence of readers of the whole history never holds up a compaction for longer than one reader
    /// takes to finish.
    pub(super) fn pin_compacted(&self) -> (i64, Pin) {
        loop {
            let compacted = self.compact_revision();
            // An error here means that another compaction was published between the two reads.
            if let Ok(pin) = self.pin(compacted) {
                return (compacted, pin);
            }
        }
    }

    /// Whether any reader is pinned below `revision`.
    pub(crate) fn pinned_below(&self, revision: i64) -> bool {
        self.shared.pins.lock().first_key_value().is_some_and(|(&pinned, _)| pinned < revision)
    }

    /// Stored versions in order of revision; see [`Engine::history`].
    pub fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>, EngineError> {
        self.shared.engine.history(from, to, rows)
    }
}

/// See [`View::readable`].
fn readable(revision: i64, current: i64, compacted: i64) -> Result<i64, Refusal> {
    if revision > current {
        return Err(Refusal::FutureRevision);
    }
    let at = if revision <= 0 { current } else { revision };
    if at < compacted { Err(Refusal::Compacted) } else { Ok(at) }
}

/// See [`View::readable_in_txn`].
pub(super) fn readable_in_txn(revision: i64, current: i64, compacted: i64) -> Result<i64, Refusal> {
    if revision < 0 && revision < compacted {
        return Err(Refusal::Compacted);
    }
    readable(revision, current, compacted)
}

/// The history that unsynced watchers read.
impl HistorySource for View {
    fn current_revision(&self) -> i64 {
        self.revision()
    }

    fn compact_revision(&self) -> i64 {
        self.compact_revision()
    }

    fn history(
        &self,
        from: Revision,
        to: i64,
        limit: usize,
        rows: &mut Vec<Version>,
    ) -> Result<Option<Revision>, EngineError> {
        let enough = rows.len().saturating_add(limit);
        let mut next = Some(from);
        while let Some(from) = next
            && rows.len() < enough
        {
            next = self.shared.engine.history(from, to, rows)?;
            if mutant(Mutant::CatchUpEndsAfterStep) {
                return Ok(None);
            }
        }
        Ok(next)
    }

    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Row>, EngineError> {
        let found = self.shared.engine.newest(key, main)?;
        if main < self.compact_revision() {
            return Ok(None);
        }
        Ok(found.filter(|version| !version.tombstone).map(|version| version.row))
    }
}
