//! The time of leases, as a leader keeps it: between the store, which says when they end, and the log, which ends them.
//!
//! ```text
//!                 process            applied             follow               revoke_expired
//!   Replica ───────────────▶ Output ─────────▶ Keeper ◀───────── Standing   ─────────────────▶ Replica (the log)
//!                           outcomes           Expiry                            now and then
//! ```
//!
//! Whoever drives a member does this after every [`Replica::process`], in this order:
//!
//! 1. [`LeaseKeeper::applied`] with each outcome, and the answers.
//! 2. [`LeaseKeeper::follow`]. Not before: a log that was replayed holds grants, and a grant that is noted after a promotion
//!    takes back the election timeout that the promotion gave the lease. And after each `process`, not only now and then: a
//!    member that lost leadership and won it again must be seen without it in between.
//!
//! [`LeaseKeeper::revoke_expired`] is called now and then, and at once while [`LeaseKeeper::has_more_expired`].
//!
//! Renewals come in batches ([`LeaseKeeper::renew`]), and a batch is answered once something proves that this member led
//! after it: one read round for all batches that came before it, whatever their number; or the outcome of a proposal, if
//! checkpoints are taken back. No clock takes part in that ([decision 12](../../../docs/decisions/0012-lease-renewals.md)).
//!
//! Time is a parameter, in milliseconds of a monotonic clock; no two members' clocks are compared. What is deliberately absent:
//! who waits for an answer.

use metastore_mutants::Mutant;
use metastore_proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use metastore_store::command::{Command, Kind};
use metastore_store::lease::{Expiry, Renewal};
use metastore_store::{Outcome, Reply};

use crate::Replica;

/// How much one look for expired leases does, so that it holds up nothing else.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryBounds {
    /// Leases revoked at once. The next are revoked when these are gone: other proposals come in between.
    pub revoked_at_once: usize,
    /// Timers looked at. Many may belong to leases that were renewed since the timers were set.
    pub timers: usize,
}

impl Default for ExpiryBounds {
    /// About 2 ms of work.
    fn default() -> Self {
        Self { revoked_at_once: 1000, timers: 4096 }
    }
}

/// One member's knowledge of when leases end: all of it while the member leads, none otherwise.
#[derive(Debug)]
pub struct LeaseKeeper {
    expiry: Expiry,
    election_ms: u64,
    bounds: ExpiryBounds,
    /// The term in which this member keeps the time.
    term: Option<u64>,
    /// The lease whose revocation was proposed last and is not applied yet.
    revoking: Option<i64>,
}

/// Renewals that may be answered once their proof has come.
#[derive(Debug)]
pub struct Renewing {
    renewals: Vec<Renewal>,
    term: u64,
}

/// What a leader says to a batch of renewals, one result for each lease.
#[derive(Debug)]
pub enum Renewed {
    /// To be answered now: no other member can lead.
    Proven(Vec<Renewal>),
    /// To be answered when the id that was given with them is readable ([`crate::Output::readable`]).
    AwaitRead(Renewing),
    /// To be answered with the outcome of that id, which may be lost.
    AwaitOutcome(Renewing),
    /// Another member must be asked.
    NotLeader,
}

impl LeaseKeeper {
    /// `election_ms` is the election timeout, which a new leader gives every lease on top of its time to live.
    pub fn new(election_ms: u64, bounds: ExpiryBounds) -> Self {
        Self { expiry: Expiry::default(), election_ms, bounds, term: None, revoking: None }
    }

    /// Takes note of what was applied. Returns the lease that is gone now, if one is: renewals of it that wait for its end are
    /// to be answered.
    pub fn applied(&mut self, outcome: &Outcome, now_ms: u64) -> Option<i64> {
        match outcome.reply {
            Ok(Reply::LeaseGrant { id, ttl_s }) => {
                self.expiry.granted(id, ttl_s, now_ms);
                None
            }
            Ok(Reply::LeaseRevoke { id }) => {
                self.expiry.revoked(id);
                self.revoking.take_if(|last| *last == id);
                Some(id)
            }
            _ => None,
        }
    }

    /// Takes note of whether this member leads; returns that if it has changed. A new leader gives every lease its full time
    /// again, and the time that the election took; one that leads no more forgets, since another gives the leases their time.
    ///
    /// A leader keeps the time once it has applied an entry of its own term. Before that there may be revocations in its log that
    /// the leader before it has proposed: a lease that was renewed here could still be taken away by one of them. Nor does it
    /// know the last checkpoints.
    pub fn follow(&mut self, replica: &Replica, now_ms: u64) -> Option<bool> {
        let (standing, applied) = (replica.standing(), replica.store().applied());
        let term = (standing.is_leader() && applied.term == standing.term).then_some(standing.term);
        if term == self.term {
            return None;
        }
        (self.term, self.revoking) = (term, None);
        if term.is_some() {
            self.expiry.promote(now_ms, replica.store().leases().iter(), self.election_ms);
        } else {
            self.expiry.demote();
        }
        Some(term.is_some())
    }

    /// Whether this member led when [`LeaseKeeper::follow`] looked last.
    pub fn is_leader(&self) -> bool {
        self.expiry.is_leader()
    }

    /// Gives leases their whole time again, unless their time is over, and asks for the proof that this member leads under `id`,
    /// unique in the cluster and over restarts.
    ///
    /// A leader that was held up may have a successor already, which counts from when it was elected. So nobody is told of this
    /// before the proof: it shows that no other member was elected before the renewal.
    ///
    /// A lease with a checkpoint would get less than its time from the next leader. So the checkpoint is taken back first, through
    /// the log, and the outcome of that is the proof.
    pub fn renew(&mut self, replica: &mut Replica, leases: &[i64], now_ms: u64, id: u64) -> Renewed {
        let Some(term) = self.term else { return Renewed::NotLeader };
        let renewals: Vec<_> = leases.iter().map(|lease| self.expiry.renew(*lease, now_ms)).collect();
        let renewed = leases.iter().zip(&renewals).filter(|(_, renewal)| matches!(renewal, Renewal::Renewed(_)));
        let known = replica.store().leases();
        let checkpoints: Vec<_> = renewed
            .filter(|(lease, _)| known.has_checkpoint(**lease))
            .map(|(lease, _)| LeaseCheckpoint { id: *lease, remaining_ttl: 0 })
            .collect();
        if !checkpoints.is_empty() && !metastore_mutants::on(Mutant::CheckpointOutlivesRenewal) {
            let taken_back = LeaseCheckpointRequest { checkpoints };
            let proposed = replica.propose_as_leader(vec![Command::encode_as(
                &replica.store().auth().own_caller(),
                id,
                Kind::LeaseCheckpoint,
                &taken_back,
            )]);
            return if proposed.is_ok() {
                Renewed::AwaitOutcome(Renewing { renewals, term })
            } else {
                Renewed::NotLeader
            };
        }
        if replica.standing().sole_leader {
            return Renewed::Proven(renewals);
        }
        replica.read(id);
        Renewed::AwaitRead(Renewing { renewals, term })
    }

    /// Renewals whose proof has come. `None` if this member has not led all the while: another one must be asked.
    pub fn proven(&self, replica: &Replica, renewing: Renewing) -> Option<Vec<Renewal>> {
        let standing = replica.standing();
        (standing.is_leader() && standing.term == renewing.term).then_some(renewing.renewals)
    }

    /// Whether a lease's time is over, and it is not revoked yet.
    pub fn has_expired(&self, id: i64, now_ms: u64) -> bool {
        self.expiry.ends_ms(id).is_some_and(|ends_ms| ends_ms <= now_ms)
    }

    /// What is left of a lease's time, in milliseconds; 0 if it is over. `None` if the lease is unknown or this is no leader.
    pub fn remaining_ms(&self, id: i64, now_ms: u64) -> Option<u64> {
        self.expiry.remaining_ms(id, now_ms)
    }

    /// When a lease ends. `None` if the lease is unknown or this is no leader.
    pub fn ends_ms(&self, id: i64) -> Option<u64> {
        self.expiry.ends_ms(id)
    }

    /// Proposes to revoke leases whose time is over, and returns which ones. `next_id` gives each proposal an id.
    ///
    /// Expiry goes through the log like every other command; but a leader that was deposed, and has just heard of it, must not
    /// have its successor revoke what that one has renewed. So nothing is sent on; what is dropped is handed out again after
    /// a while ([`metastore_store::lease::REVOKE_RETRY_MS`]).
    pub fn revoke_expired(&mut self, replica: &mut Replica, now_ms: u64, mut next_id: impl FnMut() -> u64) -> Vec<i64> {
        let expired = self.expiry.take_expired(now_ms, self.bounds.revoked_at_once, self.bounds.timers);
        let Some(last) = expired.last().copied() else { return expired };
        let caller = replica.store().auth().own_caller();
        let revoke = |&id: &i64| Command::encode_as(&caller, next_id(), Kind::LeaseRevoke, &LeaseRevokeRequest { id });
        match replica.propose_as_leader(expired.iter().map(revoke).collect()) {
            Ok(()) => {
                self.revoking = Some(last);
                expired
            }
            Err(_) => Vec::new(),
        }
    }

    /// Whether there is more for [`LeaseKeeper::revoke_expired`] to do at once: timers are due, and the leases that it has revoked
    /// last are gone. What is not gone waits for the others' disks, or for a quorum; more of it would only fill the log.
    pub fn has_more_expired(&self, now_ms: u64) -> bool {
        let ready = self.revoking.is_none() && !metastore_mutants::on(Mutant::ExpiryStopsAtBound);
        ready && self.expiry.next_deadline_ms().is_some_and(|due_ms| due_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests;
