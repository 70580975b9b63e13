//! Checkpoints of leases: a new leader does not give a lease its whole time again of which a leader has noted what is
//! left (etcd, the feature gate LeaseCheckpoint). It gives what the last checkpoint in its log says, and an election
//! timeout more. A renewal that was answered gives the lease its whole time under every later leader, unless a leader
//! has noted a part of it since. That a lease never ends early is judged elsewhere, too ([`super::lease`]), but only if
//! it ends.
//!
//! Which checkpoint is the last one in the log of a new leader is known only within bounds: a leader may have proposed
//! more of them than any member has applied. All of them may be in the log from the last one that a member has applied
//! in an earlier term. A client that asks for a renewal may take all checkpoints back that were made before.

use std::collections::BTreeMap;

use crate::history::Violation;

const MS_PER_S: u64 = 1000;
/// The time by which a new leader may spread the ends of leases that would end together.
const SPREAD_MS: u64 = 100;

#[derive(Default)]
pub struct Checkpoints {
    leases: BTreeMap<i64, Lease>,
    /// The newest term whose leader has begun to time the leases.
    term: u64,
}

/// A lease, since a client has last asked for its renewal.
#[derive(Default)]
struct Lease {
    /// As they were proposed.
    checkpoints: Vec<Checkpoint>,
    /// Whether the renewal was answered: the whole time, and the newest term at that moment.
    renewed: Option<(u64, u64)>,
}

struct Checkpoint {
    proposal: u64,
    term: u64,
    left_ms: u64,
    /// Whether a member has applied it.
    applied: bool,
}

impl Checkpoints {
    /// A client asks for a renewal, which may come true without an answer.
    pub fn renewal_asked_for(&mut self, lease: i64) {
        self.leases.remove(&lease);
    }

    /// A client is answered that its lease has so many seconds again. Of two renewals, the answer may be to the first.
    pub fn renewed(&mut self, lease: i64, ttl_s: i64) {
        let renewed = (ttl_s.unsigned_abs() * MS_PER_S, self.term);
        self.leases.entry(lease).or_default().renewed = Some(renewed);
    }

    /// The leader of a term proposes to note what is left of a lease.
    pub fn noted(&mut self, lease: i64, proposal: u64, term: u64, left_s: i64) {
        let left_ms = left_s.unsigned_abs() * MS_PER_S;
        let checkpoints = &mut self.leases.entry(lease).or_default().checkpoints;
        checkpoints.push(Checkpoint { proposal, term, left_ms, applied: false });
    }

    /// A member has applied a proposal.
    pub fn applied(&mut self, proposal: u64) {
        let all = self.leases.values_mut().flat_map(|lease| &mut lease.checkpoints);
        all.filter(|checkpoint| checkpoint.proposal == proposal).for_each(|checkpoint| checkpoint.applied = true);
    }

    /// The leader of a term begins to time the leases, and gives this lease so much, an election timeout included.
    pub fn timed_anew(&mut self, id: i64, term: u64, gives_ms: u64, election_ms: u64) -> Result<(), Violation> {
        self.term = self.term.max(term);
        let Some(lease) = self.leases.get(&id) else { return Ok(()) };
        let gives = || format!("the leader of term {term} gives lease {id} {gives_ms} ms");
        if let Some((whole_ms, newest)) = lease.renewed.filter(|_| lease.checkpoints.is_empty())
            && term > newest
            && gives_ms < whole_ms + election_ms
        {
            return Err(format!("{}, which a renewal gave {whole_ms} ms", gives()));
        }
        match lease.most_left_ms(term) {
            Some(left_ms) if gives_ms > left_ms + election_ms + SPREAD_MS => {
                Err(format!("{}, of which {left_ms} ms were left", gives()))
            }
            _ => Ok(()),
        }
    }
}

impl Lease {
    /// The most that checkpoints can have left of it in the log of this term's leader, when that begins.
    fn most_left_ms(&self, term: u64) -> Option<u64> {
        let mut earlier: Vec<_> = self.checkpoints.iter().filter(|known| known.term < term).collect();
        // The order in the log: a leader that does not know of its successor proposes in vain.
        earlier.sort_by_key(|checkpoint| checkpoint.term);
        let last = earlier.iter().rposition(|checkpoint| checkpoint.applied)?;
        earlier[last..].iter().map(|checkpoint| checkpoint.left_ms).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION_MS: u64 = 1000;
    const MORE_MS: u64 = ELECTION_MS + SPREAD_MS;

    /// Lease 7 has 5 s left, and then 3 s, as is noted in term 2 and applied.
    fn noted() -> Checkpoints {
        let mut check = Checkpoints::default();
        for (proposal, left_s) in [(50, 5), (51, 3)] {
            check.noted(7, proposal, 2, left_s);
            check.noted(8, proposal, 2, 9);
            check.applied(proposal);
        }
        check
    }

    #[test]
    fn a_new_leader_gives_no_more_than_was_left() {
        noted().timed_anew(7, 3, 3000 + MORE_MS, ELECTION_MS).unwrap();
        let why = noted().timed_anew(7, 3, 3001 + MORE_MS, ELECTION_MS).unwrap_err();
        assert_eq!(why, "the leader of term 3 gives lease 7 4101 ms, of which 3000 ms were left");
        noted().timed_anew(8, 3, 9001 + MORE_MS, ELECTION_MS).unwrap_err();
        noted().timed_anew(9, 3, 99_000, ELECTION_MS).unwrap();
    }

    #[test]
    fn a_checkpoint_of_the_own_term_or_a_later_one_binds_nobody() {
        noted().timed_anew(7, 2, 99_000, ELECTION_MS).unwrap();
        noted().timed_anew(7, 1, 99_000, ELECTION_MS).unwrap();
    }

    #[test]
    fn a_checkpoint_that_nobody_has_applied_may_be_in_the_log() {
        let mut check = noted();
        check.noted(7, 52, 3, 4);
        check.timed_anew(7, 4, 4000 + MORE_MS, ELECTION_MS).unwrap();
        check.timed_anew(7, 4, 4001 + MORE_MS, ELECTION_MS).unwrap_err();
        check.timed_anew(7, 3, 3001 + MORE_MS, ELECTION_MS).unwrap_err();
        // A leader that has been replaced.
        check.noted(7, 53, 1, 6);
        check.timed_anew(7, 4, 4001 + MORE_MS, ELECTION_MS).unwrap_err();
        let mut check = Checkpoints::default();
        check.noted(7, 50, 2, 1);
        check.timed_anew(7, 3, 99_000, ELECTION_MS).unwrap();
    }

    #[test]
    fn a_renewal_takes_checkpoints_back() {
        let mut check = noted();
        check.renewal_asked_for(7);
        check.timed_anew(7, 3, 99_000, ELECTION_MS).unwrap();
        check.timed_anew(8, 3, 9001 + MORE_MS, ELECTION_MS).unwrap_err();
        check.noted(7, 52, 2, 5);
        check.applied(52);
        check.timed_anew(7, 3, 5001 + MORE_MS, ELECTION_MS).unwrap_err();
    }

    #[test]
    fn a_renewal_that_was_answered_gives_the_whole_time_under_later_leaders() {
        let renewed = || {
            let mut check = noted();
            check.timed_anew(9, 2, 0, ELECTION_MS).unwrap();
            check.renewal_asked_for(7);
            check.renewed(7, 6);
            check
        };
        renewed().timed_anew(7, 3, 6000 + ELECTION_MS, ELECTION_MS).unwrap();
        let why = renewed().timed_anew(7, 3, 5999 + ELECTION_MS, ELECTION_MS).unwrap_err();
        assert_eq!(why, "the leader of term 3 gives lease 7 6999 ms, which a renewal gave 6000 ms");
        // A leader that is late, and one that may know of a later checkpoint.
        renewed().timed_anew(7, 2, 3000 + ELECTION_MS, ELECTION_MS).unwrap();
        let mut check = renewed();
        check.noted(7, 52, 2, 5);
        check.timed_anew(7, 3, 5000 + ELECTION_MS, ELECTION_MS).unwrap();
    }

    #[test]
    fn a_renewal_that_was_not_answered_promises_nothing() {
        let mut check = noted();
        check.renewal_asked_for(7);
        check.timed_anew(7, 3, 1000, ELECTION_MS).unwrap();
    }
}
