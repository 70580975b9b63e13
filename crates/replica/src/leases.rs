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
}

impl LeaseKeeper {
    /// `election_ms` is the election timeout, which a new leader gives every lease on top of its time to live.
    pub fn new(election_ms: u64) -> Self {
        Self { expiry: Expiry::default(), election_ms }
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
    pub fn follow(&mut self, replica: &Replica, now_ms: u64) -> Option<bool> {
        let leads = replica.standing().is_leader();
        if leads == self.is_leader() {
            return None;
        }
        if leads {
            self.expiry.promote(now_ms, replica.store().leases().restart_ttls(), self.election_ms);
        } else {
            self.expiry.demote();
        }
        Some(leads)
    }

    /// Whether this member led when [`LeaseKeeper::follow`] looked last.
    pub fn is_leader(&self) -> bool {
        self.expiry.is_leader()
    }

    /// Gives a lease its whole time again, unless its time is over. Before anybody may be told, the others must have said that
    /// this member led all the while: [`ConfirmedRenewal`].
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

    /// Proposes to revoke leases whose time is over, and returns how many it proposed. `next_id` gives each proposal an id.
    ///
    /// Expiry goes through the log like every other command; but a leader that was deposed, and has just heard of it, must not
    /// have its successor revoke what that one has renewed. So nothing is sent on; what is dropped is handed out again after
    /// a while ([`metastore_store::lease::REVOKE_RETRY_MS`]).
    pub fn revoke_expired(&mut self, replica: &mut Replica, now_ms: u64, mut next_id: impl FnMut() -> u64) -> usize {
        let expired = self.expiry.take_expired(now_ms, EXPIRED_AT_ONCE);
        if expired.is_empty() {
            return 0;
        }
        let revoke = |&id: &i64| Command::encode(next_id(), Kind::LeaseRevoke, &LeaseRevokeRequest { id });
        match replica.propose_as_leader(expired.iter().map(revoke).collect()) {
            Ok(()) => expired.len(),
            Err(_) => 0,
        }
    }
}

/// The way from a request for renewal to an answer that may be told.
///
/// A leader that was held up may have a successor already, which counts from when it was elected. So what this one renewed is
/// told only once a read round ([`Replica::read`]) has shown that it led all the time. A lease that it does not know may be one
/// that was granted by the leader before it, so it is asked again after a round.
///
/// A caller does what [`RenewalStep`] says and comes back with the result; `leads_in` is the term in which the member leads
/// then, if it does.
#[derive(Debug)]
pub struct ConfirmedRenewal {
    term: u64,
    known: Option<i64>,
    asked_again: bool,
}

/// What is to be done next about a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalStep {
    /// [`LeaseKeeper::renew`]; what has expired is answered once it is revoked. Then [`ConfirmedRenewal::renewed`].
    Renew,
    /// A read round, then [`ConfirmedRenewal::confirmed`].
    Confirm,
    /// To be told: the time to live in seconds.
    Renewed(i64),
    /// To be told: there is no such lease.
    Unknown,
    /// Another member is to be asked.
    NotLeader,
}

impl ConfirmedRenewal {
    /// Begins in this term of the member, with [`RenewalStep::Renew`].
    pub fn new(term: u64) -> Self {
        Self { term, known: None, asked_again: false }
    }

    /// What [`LeaseKeeper::renew`] said.
    pub fn renewed(&mut self, renewal: Renewal, leads_in: Option<u64>) -> RenewalStep {
        match renewal {
            Renewal::NotLeader => RenewalStep::NotLeader,
            Renewal::Renewed(ttl_s) => {
                self.known = Some(ttl_s);
                RenewalStep::Confirm
            }
            Renewal::Unknown | Renewal::Expired if self.asked_again => self.end(leads_in),
            Renewal::Unknown | Renewal::Expired => RenewalStep::Confirm,
        }
    }

    /// A read round has come back: this member knows whatever was granted before it began.
    pub fn confirmed(&mut self, leads_in: Option<u64>) -> RenewalStep {
        if self.known.is_none() && !self.asked_again {
            self.asked_again = true;
            return RenewalStep::Renew;
        }
        self.end(leads_in)
    }

    fn end(&self, leads_in: Option<u64>) -> RenewalStep {
        match self.known {
            _ if leads_in != Some(self.term) => RenewalStep::NotLeader,
            Some(ttl_s) => RenewalStep::Renewed(ttl_s),
            None => RenewalStep::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
