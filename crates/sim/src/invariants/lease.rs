//! Leases never expire early, and do expire. A lease lives at least its time to live since it was granted or renewed,
//! and is revoked after that (etcd, <https://etcd.io/docs/v3.6/learning/api/>, "Lease API"). etcd counts from the
//! moment at which the leader handled the request, on the leader's own clock. A new leader gives every lease its whole
//! time again.
//!
//! So on the clock of *any* member, at least the time to live must have passed between the client's request and the
//! moment at which that member found the lease expired. Clocks drift and jump ahead, but never go back, not even when a
//! member restarts. The clock of a member that joins later begins at 0.

use std::collections::BTreeMap;

use crate::history::Violation;

const MS_PER_S: u64 = 1000;

/// All leases. Each has a name of its own, even if it reuses the id of an ended lease.
#[derive(Default)]
pub struct Leases {
    leases: BTreeMap<i64, Lease>,
    /// The last moment at which a new leader began to time the leases.
    timed_anew: Clocks,
    /// The newest term whose leader has done so.
    term: u64,
}

/// The clock of each member at one moment, in ms.
#[derive(Clone, Default)]
struct Clocks(Vec<u64>);

#[derive(Default)]
struct Lease {
    /// Known once a client has the answer to its grant.
    ttl_ms: Option<u64>,
    /// When the last answered grant or renewal was requested.
    acknowledged: Clocks,
    /// When the last grant or renewal was requested, answered or not.
    asked: Clocks,
    /// The members that proposed to revoke the lease because its time was over, and when.
    expired: Vec<(usize, u64)>,
    /// Remaining times that leaders have recorded in the log.
    checkpoints: Vec<Checkpoint>,
    end: Option<End>,
}

/// A remaining time, in ms, and the moment at which a leader has recorded it.
struct Checkpoint {
    noted: Clocks,
    remaining_ms: u64,
}

#[derive(Clone, Copy)]
enum End {
    Revoked,
    Expired { member: usize, at_ms: u64 },
}

impl Clocks {
    fn of(&self, member: usize) -> u64 {
        self.0.get(member).copied().unwrap_or_default()
    }

    /// Whether no clock shows less than at the other moment.
    fn is_after(&self, other: &Self) -> bool {
        other.0.iter().enumerate().all(|(member, ms)| self.of(member) >= *ms)
    }

    fn advance(&mut self, to: &[u64]) {
        self.0.resize(self.0.len().max(to.len()), 0);
        self.0.iter_mut().zip(to).for_each(|(own, other)| *own = (*own).max(*other));
    }
}

impl Leases {
    /// A client requests a lease, or its renewal; an answer may never come.
    pub fn asked_for(&mut self, id: i64, now: &[u64]) -> Result<(), Violation> {
        self.leases.entry(id).or_default().asked.advance(now);
        Ok(())
    }

    /// A new leader begins to time the leases: it gives every lease its whole time again. This happens after its
    /// election, once its first entry is committed.
    pub fn timed_anew(&mut self, term: u64, now: &[u64]) -> Result<(), Violation> {
        self.timed_anew.advance(now);
        self.term = self.term.max(term);
        Ok(())
    }

    /// Whether a renewal at the leader of a term is worthless: the leader of a later term times the leases already, and
    /// does not hear of it. Such a renewal must not be answered as if it counted.
    pub fn superseded(&self, term: u64) -> bool {
        term < self.term
    }

    /// A client got a lease; `asked` is the time of its request on each member's clock.
    pub fn granted(&mut self, id: i64, ttl_s: i64, asked: &[u64]) -> Result<(), Violation> {
        self.promised(id, ttl_s, asked)
    }

    /// A client was answered that a lease was renewed; `asked` is the time of its request on each member's clock.
    pub fn renewed(&mut self, id: i64, ttl_s: i64, asked: &[u64]) -> Result<(), Violation> {
        self.promised(id, ttl_s, asked)
    }

    fn promised(&mut self, id: i64, ttl_s: i64, asked: &[u64]) -> Result<(), Violation> {
        let ttl_ms = u64::try_from(ttl_s).ok().filter(|ttl_s| *ttl_s > 0).map(|ttl_s| ttl_s.saturating_mul(MS_PER_S));
        let Some(ttl_ms) = ttl_ms else { return Err(format!("lease {id} is given {ttl_s} s to live")) };
        let lease = self.leases.entry(id).or_default();
        if let Some(known) = lease.ttl_ms.filter(|known| *known != ttl_ms) {
            return Err(format!("lease {id} is given {ttl_ms} ms to live, and was given {known} ms before"));
        }
        lease.ttl_ms = Some(ttl_ms);
        lease.asked.advance(asked);
        lease.acknowledged.advance(asked);
        // The answer may come after the end of the lease, but it makes the same promise.
        lease.judge(id)
    }

    /// A member has proposed, at `at_ms` of its clock, to revoke a lease because its time was over. Until the
    /// revocation takes effect the member may be wrong: it may not know that it is no longer the leader.
    pub fn expired(&mut self, id: i64, member: usize, at_ms: u64) -> Result<(), Violation> {
        self.leases.entry(id).or_default().expired.push((member, at_ms));
        Ok(())
    }

    /// A leader has recorded in the log how many seconds of a lease remain on its clock. A record that takes time from
    /// the lease excuses nothing: its leader may be wrong as long as the record takes no effect.
    pub fn noted(&mut self, id: i64, member: usize, remaining_s: i64, now: &[u64]) {
        let (lease, remaining_ms) = (self.leases.entry(id).or_default(), remaining_s.unsigned_abs() * MS_PER_S);
        let noted = Clocks(now.to_owned());
        if lease.may_end(member, noted.of(member) + remaining_ms) {
            lease.checkpoints.push(Checkpoint { noted, remaining_ms });
        }
    }

    /// A lease has ended: by the proposal of a member at a moment of its clock, or (`None`) at the request of a client.
    pub fn revoked(&mut self, id: i64, by: Option<(usize, u64)>) -> Result<(), Violation> {
        let lease = self.leases.entry(id).or_default();
        let end = match by {
            None => End::Revoked,
            Some((member, at_ms)) if !lease.expired.contains(&(member, at_ms)) => {
                return Err(format!(
                    "lease {id} is revoked by member {member}, which has not proposed it at {at_ms} ms"
                ));
            }
            Some((member, at_ms)) => End::Expired { member, at_ms },
        };
        lease.end.get_or_insert(end);
        lease.judge(id)
    }

    /// The leases whose grant a client knows and whose end is not known.
    pub fn living(&self) -> impl Iterator<Item = i64> {
        self.leases.iter().filter(|(_, lease)| lease.ttl_ms.is_some() && lease.end.is_none()).map(|(id, _)| *id)
    }

    /// A lease that lives although its time is over. `slack_ms` must cover the time for which a request may be under
    /// way, and the time that the revocation takes. `now` is the clock of each member.
    pub fn overdue(&self, now: &[u64], slack_ms: u64) -> Option<i64> {
        self.living().find(|id| {
            let lease = &self.leases[id];
            let rest_ms = lease.ttl_ms.unwrap_or_default().saturating_add(slack_ms);
            let over = |(member, now): (usize, &u64)| {
                let last = lease.asked.of(member).max(self.timed_anew.of(member));
                *now >= last.saturating_add(rest_ms)
            };
            !now.is_empty() && now.iter().enumerate().all(over)
        })
    }
}

impl Lease {
    /// Checks that the lease has not ended too early.
    fn judge(&self, id: i64) -> Result<(), Violation> {
        let (Some(ttl_ms), Some(End::Expired { member, at_ms })) = (self.ttl_ms, self.end) else { return Ok(()) };
        if !self.may_end(member, at_ms) {
            let asked = self.acknowledged.of(member);
            return Err(format!(
                "lease {id} of {ttl_ms} ms was asked for at {asked} ms and has expired at {at_ms} ms, on the clock of \
                 member {member}"
            ));
        }
        Ok(())
    }

    /// Whether the lease may end at this moment of a member's clock: its time to live is over, or the rest of it that a
    /// leader has recorded since the last renewal. The part before the record passed on the clock of that leader.
    fn may_end(&self, member: usize, at_ms: u64) -> bool {
        let over = |since: &Clocks, rest_ms| at_ms >= since.of(member).saturating_add(rest_ms);
        let Some(ttl_ms) = self.ttl_ms else { return true };
        let since_renewal = |checkpoint: &&Checkpoint| checkpoint.noted.is_after(&self.acknowledged);
        over(&self.acknowledged, ttl_ms)
            || self
                .checkpoints
                .iter()
                .filter(since_renewal)
                .any(|checkpoint| over(&checkpoint.noted, checkpoint.remaining_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lease 7 of 2 s, asked for when member 0's clock showed 100 ms and member 1's 5000 ms.
    fn granted() -> Leases {
        let mut check = Leases::default();
        check.asked_for(7, &[100, 5000]).unwrap();
        check.granted(7, 2, &[100, 5000]).unwrap();
        check
    }

    fn expire(check: &mut Leases, member: usize, at_ms: u64) -> Result<(), Violation> {
        check.expired(7, member, at_ms)?;
        check.revoked(7, Some((member, at_ms)))
    }

    #[test]
    fn a_lease_that_lives_its_time() {
        for (member, at_ms) in [(0, 2100), (1, 7000), (2, 2000)] {
            let mut check = granted();
            assert_eq!(check.living().collect::<Vec<_>>(), [7]);
            expire(&mut check, member, at_ms).unwrap();
            assert_eq!(check.living().count(), 0);
        }
    }

    #[test]
    fn a_lease_that_expires_early() {
        let violation = expire(&mut granted(), 0, 2099).unwrap_err();
        let wanted = "lease 7 of 2000 ms was asked for at 100 ms and has expired at 2099 ms, on the clock of member 0";
        assert_eq!(violation, wanted);
        expire(&mut granted(), 1, 6999).unwrap_err();
        // A member that joined later.
        expire(&mut granted(), 2, 1999).unwrap_err();
    }

    /// Regressions (seeds 8716 and 8034): the time before the checkpoint passed on another clock.
    #[test]
    fn a_checkpoint_counts_from_its_own_moment_on_every_clock() {
        for (member, at_ms, early) in [(0, 2099, true), (0, 2100, false), (1, 6299, true), (1, 6300, false)] {
            let mut check = granted();
            // The clock of member 0 has jumped; on the clock of member 1 a moment has passed.
            check.noted(7, 0, 1, &[1100, 5300, 30]);
            assert_eq!(expire(&mut check, member, at_ms).is_err(), early, "{member} at {at_ms}");
        }
        // A member that joined since.
        for (at_ms, early) in [(1029, true), (1030, false)] {
            let mut check = granted();
            check.noted(7, 0, 1, &[1100, 5300, 30]);
            assert_eq!(expire(&mut check, 2, at_ms).is_err(), early);
        }
    }

    #[test]
    fn a_checkpoint_before_a_renewal_counts_no_more() {
        let mut check = granted();
        check.noted(7, 0, 1, &[1200, 5300]);
        check.renewed(7, 2, &[1250, 5350]).unwrap();
        expire(&mut check, 1, 6400).unwrap_err();
    }

    #[test]
    fn a_checkpoint_that_takes_time_from_a_lease_excuses_nothing() {
        for (noted, early) in [(1099, true), (1100, false)] {
            let mut check = granted();
            check.noted(7, 0, 1, &[noted, 5300]);
            assert_eq!(expire(&mut check, 1, 6400).is_err(), early);
        }
    }

    #[test]
    fn a_renewal_that_was_answered_counts() {
        let mut check = granted();
        check.renewed(7, 2, &[1000, 5900]).unwrap();
        expire(&mut check, 0, 2999).unwrap_err();
        for (at_ms, early) in [(2049, true), (2050, false)] {
            let mut check = granted();
            check.renewed(7, 2, &[1000, 5900, 50]).unwrap();
            // The answer to an older request.
            check.renewed(7, 2, &[900, 5800, 40]).unwrap();
            assert_eq!(expire(&mut check, 2, at_ms).is_err(), early);
        }
    }

    #[test]
    fn a_renewal_that_was_not_answered_does_not() {
        let mut check = granted();
        check.asked_for(7, &[1000, 5900]).unwrap();
        expire(&mut check, 0, 2100).unwrap();
    }

    #[test]
    fn answers_that_come_after_the_end() {
        let mut check = granted();
        expire(&mut check, 0, 4000).unwrap();
        check.renewed(7, 2, &[2000, 6900]).unwrap();
        check.renewed(7, 2, &[2001, 6901]).unwrap_err();
        let mut check = Leases::default();
        expire(&mut check, 0, 4000).unwrap();
        check.granted(7, 2, &[2000]).unwrap();
        assert_eq!(check.living().count(), 0);
    }

    #[test]
    fn a_member_that_is_wrong_does_no_harm_alone() {
        let mut check = granted();
        check.expired(7, 0, 300).unwrap();
        assert_eq!(check.living().count(), 1);
        check.revoked(7, Some((0, 300))).unwrap_err();
    }

    #[test]
    fn a_client_may_revoke_at_any_time() {
        let mut check = granted();
        check.revoked(7, None).unwrap();
        assert_eq!(check.living().count(), 0);
    }

    #[test]
    fn a_revocation_that_nobody_proposed() {
        granted().revoked(7, Some((0, 9000))).unwrap_err();
    }

    #[test]
    fn times_to_live_that_cannot_be() {
        granted().renewed(7, 3, &[200, 5100]).unwrap_err();
        granted().granted(8, 0, &[200, 5100]).unwrap_err();
        granted().granted(8, -1, &[200, 5100]).unwrap_err();
    }

    #[test]
    fn a_lease_that_does_not_expire() {
        let check = granted();
        assert_eq!(check.overdue(&[2600, 7500], 500), Some(7));
        for now in [&[2599, 7500][..], &[2600, 7499], &[2600, 7500, 2499], &[]] {
            assert_eq!(check.overdue(now, 500), None, "{now:?}");
        }
        assert_eq!(check.overdue(&[2600, 7500, 2500], 500), Some(7));
    }

    #[test]
    fn what_may_have_prolonged_a_lease() {
        let mut check = granted();
        check.asked_for(7, &[200, 5000]).unwrap();
        assert_eq!(check.overdue(&[2600, 7500], 500), None);
        assert_eq!(check.overdue(&[2700, 7500], 500), Some(7));
        check.renewed(7, 2, &[300, 5000]).unwrap();
        assert_eq!(check.overdue(&[2700, 7500], 500), None);
        assert_eq!(check.overdue(&[2800, 7500], 500), Some(7));
        check.timed_anew(3, &[300, 5100]).unwrap();
        assert_eq!(check.overdue(&[2800, 7599], 500), None);
        assert_eq!(check.overdue(&[2800, 7600], 500), Some(7));
        check.revoked(7, None).unwrap();
        assert_eq!(check.overdue(&[2800, 7600], 500), None);
    }

    #[test]
    fn a_renewal_at_a_leader_that_was_replaced() {
        let mut check = granted();
        assert!(!check.superseded(2));
        check.timed_anew(3, &[300, 5100]).unwrap();
        assert_eq!([2, 3, 4].map(|term| check.superseded(term)), [true, false, false]);
        check.timed_anew(2, &[400, 5200]).unwrap();
        assert!(check.superseded(2));
    }

    #[test]
    fn a_lease_that_nobody_knows_of_is_not_overdue() {
        let mut check = Leases::default();
        check.asked_for(7, &[100]).unwrap();
        assert_eq!((check.living().count(), check.overdue(&[1_000_000], 0)), (0, None));
    }
}
