//! Compaction: old revisions are refused at once, and the versions that only they need are dropped bit by bit.
//!
//! ```text
//!   compact, publish ─▶ reads below are refused
//!          └─▶ CompactionHashJob     any thread: hashes what is there, and holds back the dropping meanwhile
//!                compact_step ...    the writer, between other work: one bounded step each
//!                finished            the hash is remembered
//! ```
//!
//! etcd's members compare the hashes that compactions leave behind, so each has to be that of everything since the compaction
//! before. There is none if that one was not through when this one began, as in etcd: it would depend on how far that one had
//! got. Nor is there one after a restart, or if nobody ran the job; compaction goes on without.

use std::sync::{Arc, OnceLock, Weak};

use metastore_engine::{Engine, EngineError, Result, Revision, Table};
use metastore_mutants::Mutant;

use super::Mvcc;
use super::hash::{HashKv, KvHasher};
use super::view::{NEVER_COMPACTED, Pin, View};
use crate::{Refusal, schema};

/// Dropping of old versions that is under way.
pub(super) struct Compaction {
    at: i64,
    /// The job, until somebody takes it.
    offer: Option<CompactionHashJob>,
    /// What the job found; remembered once the compaction is through.
    hash: Arc<OnceLock<HashKv>>,
}

impl Compaction {
    fn new(at: i64) -> Self {
        Self { at, offer: None, hash: Arc::default() }
    }

    /// The revision below which reads are refused, and the compaction that a restart interrupted.
    pub(super) fn resume(engine: &dyn Engine) -> Result<(i64, Option<Self>)> {
        let scheduled = schema::compact_revision(engine, schema::SCHEDULED_COMPACTION)?;
        let finished = schema::compact_revision(engine, schema::FINISHED_COMPACTION)?;
        let known = scheduled.or(finished).filter(|_| !metastore_mutants::on(Mutant::CompactionForgotten));
        let at = known.unwrap_or(NEVER_COMPACTED);
        let interrupted = scheduled.filter(|_| scheduled != finished);
        // The engine knows of it, unless the mark was not stored with the state.
        interrupted.into_iter().for_each(|at| engine.begin_compaction(at));
        Ok((at, interrupted.map(Self::new)))
    }
}

/// Lets the high-water mark begin with the state that was loaded into an engine: without what was there only meanwhile, and
/// without what a compaction that is under way has still to drop.
pub(crate) fn begin_mark(engine: &dyn Engine) -> Result<()> {
    Compaction::resume(engine)?;
    engine.set_mark(engine.mark().lowered(engine.usage()));
    Ok(())
}

/// Computes the hash that a compaction leaves behind. It reads every version up to the compacted revision, so it is run beside
/// the writer; as long as it lives, no version is dropped.
pub struct CompactionHashJob {
    view: View,
    _pin: Pin,
    /// Revision of the compaction before.
    before: i64,
    at: i64,
    /// Gone if a later compaction took the place of this one, or the store is closed.
    result: Weak<OnceLock<HashKv>>,
}

impl CompactionHashJob {
    /// Does it, on whatever thread calls.
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
            // Nobody else sets it. It stands there before the pin goes, and the dropping begins.
            _ = result.set(hasher.finish(self.view.revision()));
        }
        Ok(())
    }
}

impl Mvcc {
    /// Schedules the dropping of versions that nobody can read any more. Reads below `revision` are refused from the
    /// next [`Mvcc::publish`] on.
    ///
    /// # Errors
    /// Outside: the medium failed. Inside: [`Refusal::Compacted`] or [`Refusal::FutureRevision`].
    pub fn compact(&mut self, revision: i64) -> Result<std::result::Result<(), Refusal>> {
        let before = self.compacted;
        if revision <= before {
            return Ok(Err(Refusal::Compacted));
        }
        if revision > self.current {
            return Ok(Err(Refusal::FutureRevision));
        }
        let row = schema::revision_key(Revision::new(revision, 0), false);
        self.view.engine().put(Table::Meta, schema::SCHEDULED_COMPACTION, &row)?;
        self.view.engine().begin_compaction(revision);
        // The engine finishes one that this one overtakes.
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
        if !metastore_mutants::on(Mutant::CompactRevisionNotRaised) {
            self.compacted = revision;
        }
        self.compaction = Some(compaction);
        Ok(Ok(()))
    }

    /// The job of a compaction that was scheduled and published, once. It is to be taken before the first
    /// [`Mvcc::compact_step`]; after that it is no longer to be had.
    pub fn take_compaction_hash(&mut self) -> Option<CompactionHashJob> {
        let readable = self.view.revision();
        self.compaction.as_mut()?.offer.take_if(|job| job.at <= readable)
    }

    /// Whether old versions wait to be dropped.
    pub fn compacting(&self) -> bool {
        self.compaction.is_some()
    }

    /// Drops one bounded step of old versions; everything must be published. Returns whether it did something; nothing happens
    /// while a reader is still below the compacted revision.
    pub fn compact_step(&mut self) -> Result<bool> {
        let Some(compaction) = &mut self.compaction else { return Ok(false) };
        // Nobody wanted its hash, and it would hold this up for ever.
        compaction.offer = None;
        if self.view.pinned_below(compaction.at) {
            return Ok(false);
        }
        let engine = self.view.engine();
        let too_far = 10 * i64::from(metastore_mutants::on(Mutant::CompactionDropsReadable));
        if engine.compact_step(compaction.at + too_far)? {
            return Ok(true);
        }
        let revision = schema::revision_key(Revision::new(compaction.at, 0), false);
        engine.put(Table::Meta, schema::FINISHED_COMPACTION, &revision)?;
        // With the next write it might come never; then a restart would take it up again.
        engine.publish(engine.published())?;
        if let Some(hash) = compaction.hash.get() {
            self.view.compaction_hashes().remember(*hash);
        }
        self.compaction = None;
        Ok(true)
    }
}
