//! Compaction: older revisions are refused at once; the versions that only they need are dropped in bounded steps.
//!
//! ```text
//!   compact, publish ─▶ reads below the revision are refused
//!          └─▶ CompactionHashJob     any thread: hashes the versions, and holds back dropping until it is done
//!                compact_step ...    the writer, between other work: one bounded step each
//!                finished            the hash is remembered
//! ```
//!
//! etcd's members compare the hashes that compactions leave behind. So each hash must cover exactly the versions since
//! the previous compaction. There is no hash if the previous compaction was still dropping versions when this one
//! began, as in etcd: the hash would depend on that progress. Nor is there a hash after a restart, or if the job was
//! not run. The compaction continues in all these cases.

use std::sync::{Arc, OnceLock, Weak};

use metastore_engine::{Engine, EngineError, Result, Revision, Table};
use metastore_mutants::{Mutant, mutant};

use super::Mvcc;
use super::hash::{HashKv, KvHasher};
use super::view::{NEVER_COMPACTED, Pin, View};
use crate::not_done::NotDone;
use crate::{Refusal, schema};

/// A compaction whose old versions are being dropped.
pub(super) struct Compaction {
    at: i64,
    /// The job, until it is taken.
    offer: Option<CompactionHashJob>,
    /// The hash that the job computed; it is remembered when the compaction is finished.
    hash: Arc<OnceLock<HashKv>>,
}

impl Compaction {
    fn new(at: i64) -> Self {
        Self { at, offer: None, hash: Arc::default() }
    }

    /// Returns the revision below which reads are refused, and the compaction that a restart interrupted.
    pub(super) fn resume(engine: &dyn Engine) -> Result<(i64, Option<Self>)> {
        let scheduled = schema::compact_revision(engine, schema::SCHEDULED_COMPACTION)?;
        let finished = schema::compact_revision(engine, schema::FINISHED_COMPACTION)?;
        let mut at = scheduled.or(finished).unwrap_or(NEVER_COMPACTED);
        if mutant(Mutant::CompactionForgotten) {
            at = NEVER_COMPACTED;
        }
        let interrupted = scheduled.filter(|_| scheduled != finished);
        // The engine already knows of this compaction, unless its high-water mark was not stored with the state.
        interrupted.into_iter().for_each(|at| engine.begin_compaction(at));
        Ok((at, interrupted.map(Self::new)))
    }
}

/// Sets the high-water mark of an engine into which a state was loaded: it leaves out data that existed only during the
/// loading, and data that an unfinished compaction has still to drop.
pub(crate) fn begin_mark(engine: &dyn Engine) -> Result<()> {
    Compaction::resume(engine)?;
    engine.set_mark(engine.mark().lowered(engine.usage()));
    Ok(())
}

/// Computes the hash that a compaction leaves behind. It reads every version up to the compacted revision, so it runs
/// beside the writer. No version is dropped as long as the job lives.
pub struct CompactionHashJob {
    view: View,
    _pin: Pin,
    /// The revision of the previous compaction.
    before: i64,
    at: i64,
    /// No longer there if a later compaction has replaced this one, or if the store is closed.
    result: Weak<OnceLock<HashKv>>,
}

impl CompactionHashJob {
    /// Computes the hash, on the calling thread.
    ///
    /// # Errors
    /// If the medium fails; the member must stop.
    pub fn run(self) -> std::result::Result<(), EngineError> {
        let mut hasher = KvHasher::of_compaction(&self.view, self.before, self.at)?;
        let mut from = Some(Revision::default());
        while let Some(next) = from {
            if self.result.strong_count() == 0 {
                return Ok(());
            }
            from = hasher.step(&self.view, next)?;
        }
        if let Some(result) = self.result.upgrade() {
            // The only write to the result. It happens before the pin is released and versions are dropped.
            _ = result.set(hasher.finish(self.view.revision()));
        }
        Ok(())
    }
}

impl Mvcc {
    /// Schedules the dropping of versions that no read can see any more. Reads below `revision` are refused after the
    /// next [`Mvcc::publish`].
    ///
    /// # Errors
    /// Refused with [`Refusal::Compacted`] or [`Refusal::FutureRevision`], or the medium failed.
    pub(crate) fn compact(&mut self, revision: i64) -> std::result::Result<(), NotDone<EngineError>> {
        let before = self.compacted;
        if revision <= before {
            return Err(Refusal::Compacted.into());
        }
        if revision > self.current {
            return Err(Refusal::FutureRevision.into());
        }
        let row = schema::revision_key(Revision::new(revision, 0), false);
        self.view.engine().put(Table::Meta, schema::SCHEDULED_COMPACTION, &row)?;
        self.view.engine().begin_compaction(revision);
        // The engine itself finishes a compaction that this one overtakes.
        let mut compaction = Compaction::new(revision);
        if self.compaction.is_none() {
            compaction.offer = self.view.pin(before).ok().map(|pin| CompactionHashJob {
                view: self.view.clone(),
                _pin: pin,
                before,
                at: revision,
                result: Arc::downgrade(&compaction.hash),
            });
        }
        let former = std::mem::replace(&mut self.compacted, revision);
        if mutant(Mutant::CompactRevisionNotRaised) {
            self.compacted = former;
        }
        self.compaction = Some(compaction);
        Ok(())
    }

    /// The job of a compaction that was scheduled and published, given out once. It must be taken before the first
    /// [`Mvcc::compact_step`], which discards it.
    pub fn take_compaction_hash(&mut self) -> Option<CompactionHashJob> {
        let readable = self.view.revision();
        self.compaction.as_mut()?.offer.take_if(|job| job.at <= readable)
    }

    /// Whether old versions wait to be dropped.
    pub fn compacting(&self) -> bool {
        self.compaction.is_some()
    }

    /// Versions that compactions have dropped since the state was opened.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Drops one bounded step of old versions; everything must be published. Returns whether it did something. It does
    /// nothing while a reader is pinned below the compacted revision.
    pub fn compact_step(&mut self) -> Result<bool> {
        let Some(compaction) = &mut self.compaction else { return Ok(false) };
        // The job was not taken. Its pin would hold up the compaction for ever.
        compaction.offer = None;
        if self.view.pinned_below(compaction.at) {
            return Ok(false);
        }
        let engine = self.view.engine();
        let mut at = compaction.at;
        if mutant(Mutant::CompactionDropsReadable) {
            at += 10;
        }
        let before = engine.usage().rows;
        let more = engine.compact_step(at)?;
        self.dropped += before.saturating_sub(engine.usage().rows);
        if more {
            return Ok(true);
        }
        let revision = schema::revision_key(Revision::new(compaction.at, 0), false);
        engine.put(Table::Meta, schema::FINISHED_COMPACTION, &revision)?;
        // The next write might never come. Without this publication, a restart would then begin the compaction again.
        engine.publish(engine.published())?;
        if let Some(hash) = compaction.hash.get() {
            self.view.compaction_hashes().remember(*hash);
        }
        self.compaction = None;
        Ok(true)
    }
}
