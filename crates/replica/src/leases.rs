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
//! and [`LeaseKeeper::revoke_expired`] as often as it likes.
//!
//! Time is a parameter, in milliseconds of a monotonic clock; no two members' clocks are compared. What is deliberately absent:
//! who waits for an answer.

use metastore_proto::etcdserverpb::LeaseRevokeRequest;
use metastore_store::command::{Command, Kind};
use metastore_store::lease::{Expiry, Renewal};
use metastore_store::{Outcome, Reply};

use crate::Replica;

/// Leases revoked in one look, so that a mass expiry leaves room for other proposals.
const EXPIRED_AT_ONCE: usize = 1000;

/// One member's knowledge of when leases end: all of it while the member leads, none otherwise.
#[derive(Debug)]
pub struct LeaseKeeper {
    expiry: Expiry,
    election_ms: u64,
    /// The term in which this member keeps the time.
    term: Option<u64>,
}

impl LeaseKeeper {
    /// `election_ms` is the election timeout, which a new leader gives every lease on top of its time to live.
    pub fn new(election_ms: u64) -> Self {
        Self { expiry: Expiry::default(), election_ms, term: None }
    }

    /// Takes note of what was applied. Returns the lease that is gone now, if one is: who came too late to renew it can be
    /// told so.
    pub fn applied(&mut self, outcome: &Outcome, now_ms: u64) -> Option<i64> {
        match outcome.reply {
            Ok(Reply::LeaseGrant { id, ttl_s }) => {
                self.expiry.granted(id, ttl_s, now_ms);
                None
            }
            Ok(Reply::LeaseRevoke { id }) => {
                self.expiry.revoked(id);
                Some(id)
            }
            _ => None,
        }
    }

    /// Takes note of whether this member leads; returns that if it has changed. A new leader gives every lease its full time
    /// again, and the time that the election took; one that leads no more forgets, since another gives the leases their time.
    ///
    /// A leader keeps the time once it has applied an entry of its own term. Before that there may be revocations in its log that
    /// the leader before it has proposed: a lease that was renewed here could still be taken away by one of them.
    pub fn follow(&mut self, replica: &Replica, now_ms: u64) -> Option<bool> {
        let (standing, applied) = (replica.standing(), replica.store().applied());
        let term = (standing.is_leader() && applied.term == standing.term).then_some(standing.term);
        if term == self.term {
            return None;
        }
        self.term = term;
        if term.is_some() {
            self.expiry.promote(now_ms, replica.store().leases().restart_ttls(), self.election_ms);
        } else {
            self.expiry.demote();
        }
        Some(term.is_some())
    }

    /// Whether this member led when [`LeaseKeeper::follow`] looked last.
    pub fn is_leader(&self) -> bool {
        self.expiry.is_leader()
    }

    /// Gives a lease its whole time again, unless its time is over.
    ///
    /// A leader that was held up may have a successor already, which counts from when it was elected. So nobody is told of this
    /// before a read round ([`Replica::read`]) has shown that this member led all the while, in the same term.
    pub fn renew(&mut self, id: i64, now_ms: u64) -> Renewal {
        self.expiry.renew(id, now_ms)
    }

    /// What is left of a lease's time, in milliseconds; 0 if it is over. `None` if the lease is unknown or this is no leader.
    pub fn remaining_ms(&self, id: i64, now_ms: u64) -> Option<u64> {
        self.expiry.remaining_ms(id, now_ms)
    }

    /// Sorts ids by remaining time, those that this member does not know last; equal ones by id.
    pub fn sort_by_remaining(&self, ids: &mut [i64]) {
        self.expiry.sort_by_remaining(ids);
    }

    /// Proposes to revoke leases whose time is over, and returns which ones. `next_id` gives each proposal an id.
    ///
    /// Expiry goes through the log like every other command; but a leader that was deposed, and has just heard of it, must not
    /// have its successor revoke what that one has renewed. So nothing is sent on; what is dropped is handed out again after
    /// a while ([`metastore_store::lease::REVOKE_RETRY_MS`]).
    pub fn revoke_expired(&mut self, replica: &mut Replica, now_ms: u64, mut next_id: impl FnMut() -> u64) -> Vec<i64> {
        let expired = self.expiry.take_expired(now_ms, EXPIRED_AT_ONCE);
        if expired.is_empty() {
            return expired;
        }
        let caller = replica.store().auth().own_caller();
        let revoke = |&id: &i64| Command::encode_as(&caller, next_id(), Kind::LeaseRevoke, &LeaseRevokeRequest { id });
        match replica.propose_as_leader(expired.iter().map(revoke).collect()) {
            Ok(()) => expired,
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
