//! The timing of leases on a leader: between the store, which says when leases end, and the log, which ends them.
//!
//! ```text
//!                 process            applied             follow               revoke_expired
//!   Replica ───────────────▶ Output ─────────▶ Keeper ◀───────── Standing   ─────────────────▶ Replica (the log)
//!                           outcomes           Expiry                            periodically
//! ```
//!
//! The driver of a member does this after every [`Replica::process`], in this order:
//!
//! 1. [`LeaseKeeper::applied`] with each outcome, and the answers.
//! 2. [`LeaseKeeper::follow`]. Not before the first step: a log that was replayed holds grants, and a grant that is
//!    noted after a promotion takes back the election timeout that the promotion added to the lease. And after each
//!    `process`, not only periodically: a member that lost leadership and won it again must be seen without it in
//!    between.
//!
//! [`LeaseKeeper::revoke_expired`] is called periodically, and at once while [`LeaseKeeper::has_more_expired`].
//!
//! Renewals come in batches ([`LeaseKeeper::renew`]). A batch is answered once it is proven that this member led after
//! the batch. The proof is one read round for all batches that came before it, whatever their number; or the outcome of
//! a proposal, if checkpoints are reset. No clock takes part in the proof ([decision
//! 12](../../../docs/decisions/0012-lease-renewals.md)).
//!
//! If checkpoints are switched on, [`LeaseKeeper::checkpoint`] is called periodically, too. One batch of them is under
//! way at a time. Until it is applied, a renewal of one of its leases takes the checkpoint back that is about to come.
//!
//! Time is a parameter, in milliseconds of a monotonic clock; the clocks of two members are never compared.
//! Deliberately absent: the waiters for answers.

use metastore_mutants::{Mutant, mutant};
use metastore_proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use metastore_store::command::{Command, Kind};
use metastore_store::lease::{Expiry, Renewal};
use metastore_store::{Outcome, Reply};

use crate::Replica;

/// Bounds of the work in one search for expired leases, so that it delays nothing else.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryBounds {
    /// Maximum number of leases revoked at once. The next ones are revoked when these are gone, so other proposals come
    /// in between.
    pub revoked_at_once: usize,
    /// Maximum number of timers examined. Many may belong to leases that were renewed since the timers were set.
    pub timers: usize,
}

impl Default for ExpiryBounds {
    /// About 2 ms of work.
    fn default() -> Self {
        Self { revoked_at_once: 1000, timers: 4096 }
    }
}

/// Checkpoints in one command, as in etcd.
const CHECKPOINTS_AT_ONCE: usize = 1000;

/// One member's knowledge of when leases end: complete while the member leads, empty otherwise.
#[derive(Debug)]
pub struct LeaseKeeper {
    expiry: Expiry,
    election_ms: u64,
    bounds: ExpiryBounds,
    /// The term in which this member times the leases.
    term: Option<u64>,
    /// The last lease whose revocation was proposed, until that is applied.
    revoking: Option<i64>,
    /// The checkpoints that were proposed and are not applied yet: the id of the proposal, and the leases in order.
    noting: Option<(u64, Vec<i64>)>,
}

/// Renewals that may be answered once they are proven.
#[derive(Debug)]
pub struct Renewing {
    renewals: Vec<Renewal>,
    term: u64,
}

/// The answer of a leader to a batch of renewals, with one result for each lease.
#[derive(Debug)]
pub enum Renewed {
    /// Answer now: no other member can lead.
    Proven(Vec<Renewal>),
    /// Answer when the id of the batch is readable ([`crate::Output::readable`]).
    AwaitRead(Renewing),
    /// Answer with the outcome of the id of the batch. The outcome may be lost.
    AwaitOutcome(Renewing),
    /// Another member must be asked.
    NotLeader,
}

impl LeaseKeeper {
    /// `election_ms` is the election timeout in milliseconds. A new leader adds it to the time to live of every lease.
    pub fn new(election_ms: u64, bounds: ExpiryBounds) -> Self {
        Self { expiry: Expiry::default(), election_ms, bounds, term: None, revoking: None, noting: None }
    }

    /// Notes an applied outcome. Returns the lease that has ended with it, if any: renewals that wait for its end are
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
            Ok(Reply::LeaseCheckpoint) => {
                self.noting.take_if(|(id, _)| *id == outcome.id);
                None
            }
            _ => None,
        }
    }

    /// Notes whether this member leads; returns that if it has changed. A new leader gives every lease its full time
    /// again, plus an election timeout. A member that no longer leads forgets the times: the new leader keeps them.
    ///
    /// A leader times the leases once it has applied an entry of its own term. Before that, its log may hold
    /// revocations that the previous leader has proposed. One of them could still end a lease that was renewed here.
    /// Nor does the leader know the last checkpoints before that.
    pub fn follow(&mut self, replica: &Replica, now_ms: u64) -> Option<bool> {
        let (standing, applied) = (replica.standing(), replica.store().applied());
        let term = (standing.is_leader() && applied.term == standing.term).then_some(standing.term);
        if term == self.term {
            return None;
        }
        (self.term, self.revoking, self.noting) = (term, None, None);
        if term.is_some() {
            self.expiry.promote(now_ms, replica.store().leases().iter(), self.election_ms);
            if let Some(interval_ms) = replica.checkpoint_interval_ms() {
                self.expiry.begin_checkpoints(now_ms, interval_ms);
            }
        } else {
            self.expiry.demote();
        }
        Some(term.is_some())
    }

    /// Whether this member led at the last [`LeaseKeeper::follow`].
    pub fn is_leader(&self) -> bool {
        self.expiry.is_leader()
    }

    /// Renews leases to their full time, unless their time is over, and asks for the proof that this member leads. `id`
    /// identifies the proof; it is unique in the cluster and over restarts.
    ///
    /// A leader that was held up may already have a successor, which counts the time of leases from its own election.
    /// So a renewal is not answered before the proof: it shows that no other member was elected before the renewal.
    ///
    /// A lease with a checkpoint, or with one under way, would get less than its full time from the next leader. So the
    /// checkpoint is reset first, through the log, and the outcome of that is the proof.
    pub fn renew(&mut self, replica: &mut Replica, leases: &[i64], now_ms: u64, id: u64) -> Renewed {
        let Some(term) = self.term else { return Renewed::NotLeader };
        let renewals: Vec<_> = leases.iter().map(|lease| self.expiry.renew(*lease, now_ms)).collect();
        let renewed = leases.iter().zip(&renewals).filter(|(_, renewal)| matches!(renewal, Renewal::Renewed(_)));
        let known = replica.store().leases();
        let mut checkpoints: Vec<_> = renewed
            .filter(|(lease, _)| known.has_checkpoint(**lease) || self.notes(**lease))
            .map(|(lease, _)| LeaseCheckpoint { id: *lease, remaining_ttl: 0 })
            .collect();
        if mutant(Mutant::CheckpointOutlivesRenewal) {
            checkpoints.clear();
        }
        if !checkpoints.is_empty() {
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
        if mutant(Mutant::RenewalUnproven) {
            return Renewed::Proven(renewals);
        }
        if replica.standing().sole_leader {
            return Renewed::Proven(renewals);
        }
        replica.read(id);
        Renewed::AwaitRead(Renewing { renewals, term })
    }

    /// Whether a checkpoint of a lease is under way.
    fn notes(&self, lease: i64) -> bool {
        if mutant(Mutant::CheckpointOvertaken) {
            return false;
        }
        self.noting.as_ref().is_some_and(|(_, leases)| leases.binary_search(&lease).is_ok())
    }

    /// Proposes to note the remaining time of long leases that nobody has renewed for a while; returns the checkpoints.
    /// `id` identifies the proposal. Checkpoints that are lost are made again with the next ones.
    pub fn checkpoint(&mut self, replica: &mut Replica, now_ms: u64, id: u64) -> Vec<LeaseCheckpoint> {
        if self.noting.is_some() {
            return Vec::new();
        }
        let due = self.expiry.take_checkpoints(now_ms, CHECKPOINTS_AT_ONCE, self.bounds.timers);
        if due.is_empty() {
            return Vec::new();
        }
        let checkpoints = due.iter().map(|&(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl }).collect();
        let request = LeaseCheckpointRequest { checkpoints };
        let command = Command::encode_as(&replica.store().auth().own_caller(), id, Kind::LeaseCheckpoint, &request);
        if replica.propose_as_leader(vec![command]).is_err() {
            return Vec::new();
        }
        let mut leases: Vec<_> = due.iter().map(|(lease, _)| *lease).collect();
        leases.sort_unstable();
        self.noting = Some((id, leases));
        request.checkpoints
    }

    /// Renewals that are proven now. `None` if this member has not led all the time: ask another one.
    pub fn proven(&self, replica: &Replica, renewing: Renewing) -> Option<Vec<Renewal>> {
        let standing = replica.standing();
        (standing.is_leader() && standing.term == renewing.term).then_some(renewing.renewals)
    }

    /// Whether a lease's time is over, and it is not revoked yet.
    pub fn has_expired(&self, id: i64, now_ms: u64) -> bool {
        self.expiry.ends_ms(id).is_some_and(|ends_ms| ends_ms <= now_ms)
    }

    /// The remaining time of a lease in milliseconds; 0 if it is over. `None` if the lease is unknown or this member
    /// does not lead.
    pub fn remaining_ms(&self, id: i64, now_ms: u64) -> Option<u64> {
        self.expiry.remaining_ms(id, now_ms)
    }

    /// The time at which a lease ends, in milliseconds. `None` if the lease is unknown or this member does not lead.
    pub fn ends_ms(&self, id: i64) -> Option<u64> {
        self.expiry.ends_ms(id)
    }

    /// Proposes to revoke leases whose time is over; returns their ids. `next_id` gives each proposal an id.
    ///
    /// Expiry goes through the log like every other command. But a deposed leader that has just learned of its
    /// successor must not make it revoke leases that the successor has renewed. So these proposals are never forwarded.
    /// Leases whose proposals are dropped are handed out again after a while
    /// ([`metastore_store::lease::REVOKE_RETRY_MS`]).
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

    /// Whether [`LeaseKeeper::revoke_expired`] has more to do at once: timers are due, and the leases that it revoked
    /// last are gone. Leases that are not gone wait for the disks of other members, or for a quorum; more proposals
    /// would only fill the log.
    pub fn has_more_expired(&self, now_ms: u64) -> bool {
        if mutant(Mutant::ExpiryStopsAtBound) {
            return false;
        }
        self.revoking.is_none() && self.expiry.next_deadline_ms().is_some_and(|due_ms| due_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests;
