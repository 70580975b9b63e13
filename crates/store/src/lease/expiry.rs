//! The leader's lease timers.
//!
//! Each lease has one timer in an ordered set. A renewal only records the new end in the lease; the timer is moved
//! later, when it comes up. So a renewal costs one look-up, and each timer moves once per time to live, however often
//! the lease is renewed.
//!
//! With checkpoints, each lease that has more than their interval left has a second timer, in a set of its own: for the
//! moment at which the remaining time is noted. A renewal moves it in the same way, later.

use std::collections::{BTreeSet, HashMap};

use metastore_mutants::{Mutant, mutant};

use super::{EXPIRIES_PER_SECOND, Lease as Granted, MAX_TTL_S, REVOKE_RETRY_MS};

/// The result of a request to keep a lease alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease has its whole time to live again: this many seconds.
    Renewed(i64),
    /// The time of the lease is over, but it is not revoked yet. The answer (a TTL of 0, as for an unknown lease) waits
    /// for the revocation.
    Expired,
    /// There is no such lease.
    Unknown,
    /// This member is not the leader, so it does not know when leases end.
    NotLeader,
}

/// The ends of leases. Only the leader knows them; on a follower this is empty.
#[derive(Debug, Default)]
pub struct Expiry {
    timers: Option<Timers>,
}

#[derive(Debug, Default)]
struct Timers {
    /// Only looked up, never iterated, so its random seed has no effect.
    leases: HashMap<i64, Lease>,
    /// The time of the next check of each lease, and its id; one entry per lease.
    queue: BTreeSet<(u64, i64)>,
    /// `None` without checkpoints.
    checkpoints: Option<Checkpoints>,
}

#[derive(Debug)]
struct Checkpoints {
    interval_ms: u64,
    /// The time of the next checkpoint of leases, and their ids.
    queue: BTreeSet<(u64, i64)>,
}

#[derive(Debug)]
struct Lease {
    /// The time to live that a renewal gives: the one that was granted, even if there is a checkpoint.
    ttl_s: i64,
    ends_ms: u64,
    /// The time of the lease's entry in the queue. It is never later than the end of the lease, except after the lease
    /// was named for revocation: then it is the time at which the lease is named again.
    queued_ms: u64,
    /// The time of the lease's entry among the checkpoints.
    checkpoint_ms: Option<u64>,
}

impl Expiry {
    /// Starts all timers, on a new leader. Every lease lives its time to live, or what a checkpoint has left of it, and
    /// `extend_ms` (an election timeout) more, counted from now. It ends later still if more than
    /// [`EXPIRIES_PER_SECOND`] leases would end in one second.
    pub fn promote(&mut self, now_ms: u64, leases: impl IntoIterator<Item = (i64, Granted)>, extend_ms: u64) {
        let lives_ms = |lease: &Granted| {
            if mutant(Mutant::LeaseCutAtElection) {
                return 0;
            }
            if mutant(Mutant::CheckpointIgnored) {
                return ttl_ms(lease.ttl_s);
            }
            ttl_ms(lease.restart_ttl_s())
        };
        let mut ends: Vec<_> =
            leases.into_iter().map(|(id, lease)| (now_ms + extend_ms + lives_ms(&lease), id, lease.ttl_s)).collect();
        ends.sort_unstable();
        let mut timers = Timers::default();
        timers.leases.reserve(ends.len());
        let mut free_us = 0;
        for (ends_ms, id, ttl_s) in ends {
            let at_us = free_us.max(ends_ms * 1000);
            free_us = at_us + 1_000_000 / EXPIRIES_PER_SECOND;
            timers.add(id, ttl_s, at_us.div_ceil(1000));
        }
        self.timers = Some(timers);
    }

    /// Notes the remaining time of each lease from now on, on a leader, whenever it was not renewed for `interval_ms`.
    pub fn begin_checkpoints(&mut self, now_ms: u64, interval_ms: u64) {
        let Some(timers) = &mut self.timers else { return };
        timers.checkpoints = Some(Checkpoints { interval_ms, queue: BTreeSet::new() });
        for id in timers.queue.iter().map(|(_, id)| *id).collect::<Vec<_>>() {
            timers.plan_checkpoint(id, now_ms);
        }
    }

    /// Up to `max` leases whose remaining time is to be noted, and that time in seconds. They had their whole time one
    /// interval ago or earlier. One call checks at most `step` timers.
    pub fn take_checkpoints(&mut self, now_ms: u64, max: usize, step: usize) -> Vec<(i64, i64)> {
        let mut taken = Vec::new();
        let Some(timers) = &mut self.timers else { return taken };
        for _ in 0..step {
            let Some(Checkpoints { interval_ms, queue }) = &timers.checkpoints else { break };
            let Some(&(at_ms, id)) = queue.first() else { break };
            if at_ms > now_ms || taken.len() == max {
                break;
            }
            let lease = &timers.leases[&id];
            let due_ms = lease.ends_ms.saturating_sub(ttl_ms(lease.ttl_s)) + interval_ms;
            let left_ms = lease.ends_ms.saturating_sub(now_ms);
            timers.drop_checkpoint(id);
            if due_ms > now_ms {
                timers.checkpoint_at(id, due_ms);
            } else if left_ms > 0 {
                taken.push((id, left_ms.div_ceil(1000) as i64));
                timers.plan_checkpoint(id, now_ms);
            }
        }
        taken
    }

    /// Drops all timers, on a follower.
    pub fn demote(&mut self) {
        self.timers = None;
    }

    /// Whether this member is the leader, and its timers run.
    pub fn is_leader(&self) -> bool {
        self.timers.is_some()
    }

    /// Starts the timer of a lease whose grant was applied.
    pub fn granted(&mut self, id: i64, ttl_s: i64, now_ms: u64) {
        if let Some(timers) = &mut self.timers {
            timers.remove(id);
            timers.add(id, ttl_s, now_ms + ttl_ms(ttl_s));
            timers.plan_checkpoint(id, now_ms);
        }
    }

    /// Drops the timer of a lease whose revocation was applied.
    pub fn revoked(&mut self, id: i64) {
        if let Some(timers) = &mut self.timers {
            timers.remove(id);
        }
    }

    /// Gives a lease its whole time to live again, unless its time is over.
    pub fn renew(&mut self, id: i64, now_ms: u64) -> Renewal {
        let Some(timers) = &mut self.timers else { return Renewal::NotLeader };
        match timers.leases.get_mut(&id) {
            None => Renewal::Unknown,
            Some(lease) if lease.ends_ms <= now_ms => Renewal::Expired,
            Some(lease) => {
                // After an election a lease may end later than this renewal would set: a renewal never shortens a life.
                if mutant(Mutant::RenewalIgnored) {
                    return Renewal::Renewed(lease.ttl_s);
                }
                lease.ends_ms = lease.ends_ms.max(now_ms + ttl_ms(lease.ttl_s));
                let (ttl_s, is_planned) = (lease.ttl_s, lease.checkpoint_ms.is_some());
                if !is_planned {
                    timers.plan_checkpoint(id, now_ms);
                }
                Renewal::Renewed(ttl_s)
            }
        }
    }

    /// The time left of a lease, in milliseconds; 0 if it is over. `None` if the lease is unknown or this is no leader.
    pub fn remaining_ms(&self, id: i64, now_ms: u64) -> Option<u64> {
        Some(self.ends_ms(id)?.saturating_sub(now_ms))
    }

    /// Names up to `max` leases to revoke; those that expired first come first. Each lease is named again after
    /// [`REVOKE_RETRY_MS`] until it is revoked. One call checks at most `step` timers, and many of them may belong to
    /// renewed leases: call again while [`Expiry::next_deadline_ms`] is not later than now.
    pub fn take_expired(&mut self, now_ms: u64, max: usize, step: usize) -> Vec<i64> {
        let mut expired = Vec::new();
        let Some(timers) = &mut self.timers else { return expired };
        for _ in 0..step {
            let Some(&(at_ms, id)) = timers.queue.first() else { break };
            if at_ms > now_ms || expired.len() == max {
                break;
            }
            let mut ends_ms = timers.leases[&id].ends_ms;
            if ends_ms > now_ms {
                if mutant(Mutant::RenewedLeaseNeverEnds) {
                    ends_ms = u64::MAX;
                }
                timers.requeue(id, ends_ms);
            } else {
                expired.push(id);
                timers.requeue(id, now_ms + REVOKE_RETRY_MS);
            }
        }
        expired
    }

    /// The time at which `take_expired` may have something to do, or earlier; never later.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.as_ref()?.queue.first().map(|(at_ms, _)| *at_ms)
    }

    /// The time at which a lease ends. `None` if the lease is unknown or this is no leader.
    pub fn ends_ms(&self, id: i64) -> Option<u64> {
        Some(self.timers.as_ref()?.leases.get(&id)?.ends_ms)
    }
}

impl Timers {
    fn add(&mut self, id: i64, ttl_s: i64, ends_ms: u64) {
        self.leases.insert(id, Lease { ttl_s, ends_ms, queued_ms: ends_ms, checkpoint_ms: None });
        self.queue.insert((ends_ms, id));
    }

    fn remove(&mut self, id: i64) {
        self.drop_checkpoint(id);
        if let Some(lease) = self.leases.remove(&id) {
            self.queue.remove(&(lease.queued_ms, id));
        }
    }

    /// Plans a checkpoint of a lease that has none planned, as in etcd: only if enough time is left.
    fn plan_checkpoint(&mut self, id: i64, now_ms: u64) {
        let Some(interval_ms) = self.checkpoints.as_ref().map(|checkpoints| checkpoints.interval_ms) else { return };
        if self.leases[&id].ends_ms.saturating_sub(now_ms) > interval_ms {
            self.checkpoint_at(id, now_ms + interval_ms);
        }
    }

    fn checkpoint_at(&mut self, id: i64, at_ms: u64) {
        let Some(checkpoints) = &mut self.checkpoints else { return };
        checkpoints.queue.insert((at_ms, id));
        self.leases.get_mut(&id).expect("every checkpoint has a lease").checkpoint_ms = Some(at_ms);
    }

    fn drop_checkpoint(&mut self, id: i64) {
        let planned = self.leases.get_mut(&id).and_then(|lease| lease.checkpoint_ms.take());
        if let (Some(at_ms), Some(checkpoints)) = (planned, &mut self.checkpoints) {
            checkpoints.queue.remove(&(at_ms, id));
        }
    }

    fn requeue(&mut self, id: i64, at_ms: u64) {
        let lease = self.leases.get_mut(&id).expect("every timer has a lease");
        self.queue.remove(&(lease.queued_ms, id));
        lease.queued_ms = at_ms;
        self.queue.insert((at_ms, id));
    }
}

/// Milliseconds in `ttl_s` seconds. A log or state of another implementation may hold times that cannot be granted:
/// they count as 0 or as the longest time that can be granted.
fn ttl_ms(ttl_s: i64) -> u64 {
    ttl_s.clamp(0, MAX_TTL_S) as u64 * 1000
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::CHECKPOINT_INTERVAL_MS;
    use super::*;

    /// The number of timers that one call checks.
    const STEP: usize = 100;

    fn leader() -> Expiry {
        let mut expiry = Expiry::default();
        expiry.promote(0, [], 0);
        expiry
    }

    fn granted(ttl_s: i64) -> Granted {
        Granted { ttl_s, ..Granted::default() }
    }

    #[test]
    fn a_lease_lives_its_whole_time_and_is_named_until_it_is_revoked() {
        let mut expiry = leader();
        expiry.granted(1, 5, 1000);
        assert_eq!(expiry.next_deadline_ms(), Some(6000));
        assert!(expiry.take_expired(5999, 10, STEP).is_empty());
        assert_eq!(expiry.remaining_ms(1, 5999), Some(1));
        assert_eq!(expiry.take_expired(6000, 10, STEP), [1]);
        assert!(expiry.take_expired(6000 + REVOKE_RETRY_MS - 1, 10, STEP).is_empty());
        assert_eq!(expiry.take_expired(6000 + REVOKE_RETRY_MS, 10, STEP), [1], "the proposal may have been lost");
        expiry.revoked(1);
        assert_eq!((expiry.next_deadline_ms(), expiry.remaining_ms(1, 0)), (None, None));
    }

    #[test]
    fn renewals_and_what_they_answer() {
        let mut expiry = Expiry::default();
        assert_eq!(expiry.renew(1, 0), Renewal::NotLeader);
        expiry.promote(0, [], 0);
        assert_eq!(expiry.renew(1, 0), Renewal::Unknown);
        expiry.granted(1, 5, 0);
        assert_eq!(expiry.renew(1, 4999), Renewal::Renewed(5));
        assert!(expiry.take_expired(9998, 10, STEP).is_empty());
        assert_eq!(expiry.renew(1, 9999), Renewal::Expired, "even before it was named");
        assert_eq!(expiry.take_expired(9999, 10, STEP), [1]);
        expiry.revoked(1);
        assert_eq!(expiry.renew(1, 9999), Renewal::Unknown);
        expiry.demote();
        assert_eq!((expiry.renew(1, 0), expiry.is_leader()), (Renewal::NotLeader, false));
        expiry.granted(1, 5, 0);
        assert!(expiry.take_expired(u64::MAX, 10, STEP).is_empty(), "a deposed leader revokes nothing");
    }

    #[test]
    fn a_new_leader_extends_and_spreads() {
        let mut expiry = Expiry::default();
        let count = 3 * EXPIRIES_PER_SECOND as i64;
        expiry.promote(500, (1..=count).map(|id| (id, granted(10))), 1000);
        assert_eq!(expiry.next_deadline_ms(), Some(11_500));
        let mut named = 0;
        for second in 0..4 {
            let now_ms = 11_500 + second * 1000;
            while expiry.next_deadline_ms().is_some_and(|at| at <= now_ms) {
                for id in expiry.take_expired(now_ms, usize::MAX, STEP) {
                    expiry.revoked(id);
                    named += 1;
                }
            }
            let bound = EXPIRIES_PER_SECOND * second + EXPIRIES_PER_SECOND / 1000;
            assert!(named <= bound, "{named} after {second} s");
        }
        assert_eq!(named, count as u64);
    }

    #[test]
    fn a_renewal_never_shortens_a_life() {
        let mut expiry = Expiry::default();
        expiry.promote(0, [(1, granted(10))], 5000);
        assert_eq!(expiry.renew(1, 1), Renewal::Renewed(10));
        assert_eq!(expiry.remaining_ms(1, 1), Some(14_999));
    }

    #[test]
    fn ends_are_known_to_the_leader_alone() {
        let mut expiry = leader();
        expiry.granted(1, 30, 0);
        expiry.granted(2, 10, 0);
        expiry.granted(3, 10, 0);
        expiry.renew(2, 5000);
        assert_eq!([1, 2, 3, 9].map(|id| expiry.ends_ms(id)), [Some(30_000), Some(15_000), Some(10_000), None]);
        expiry.demote();
        assert_eq!(expiry.ends_ms(1), None);
    }

    #[test]
    fn a_checkpoint_shortens_the_first_time_under_a_new_leader_and_no_renewal() {
        let mut expiry = Expiry::default();
        expiry.promote(0, [(1, Granted { ttl_s: 100, remaining_ttl_s: 30 })], 1000);
        assert_eq!(expiry.remaining_ms(1, 0), Some(31_000));
        assert_eq!(expiry.renew(1, 10_000), Renewal::Renewed(100));
        assert_eq!(expiry.remaining_ms(1, 10_000), Some(100_000));
    }

    const MINUTE_MS: u64 = 60_000;

    #[test]
    fn what_is_left_of_a_long_lease_is_noted_every_five_minutes() {
        let mut expiry = leader();
        expiry.granted(1, 700, 0);
        expiry.begin_checkpoints(0, CHECKPOINT_INTERVAL_MS);
        expiry.granted(2, 300, 0);
        expiry.granted(3, 301, 0);
        let mut taken = |at_ms| expiry.take_checkpoints(at_ms, 10, STEP);
        assert!(taken(5 * MINUTE_MS - 1).is_empty());
        assert_eq!(taken(5 * MINUTE_MS), [(1, 400), (3, 1)], "300 s are not more than five minutes");
        assert!(taken(10 * MINUTE_MS - 1).is_empty());
        assert_eq!(taken(10 * MINUTE_MS + 1), [(1, 100)], "a part of a second counts whole");
        assert!(taken(11 * MINUTE_MS).is_empty(), "the rest is too short");
        expiry.revoked(1);
        expiry.demote();
        assert!(expiry.take_checkpoints(u64::MAX, 10, STEP).is_empty());
        expiry.promote(0, [(1, granted(700))], 0);
        assert!(expiry.take_checkpoints(6 * MINUTE_MS, 10, STEP).is_empty(), "checkpoints are switched off");
    }

    #[test]
    fn a_lease_that_is_renewed_in_time_has_no_checkpoint() {
        let mut expiry = leader();
        expiry.begin_checkpoints(0, CHECKPOINT_INTERVAL_MS);
        expiry.granted(1, 3600, 0);
        for minute in 1..20 {
            assert_eq!(expiry.renew(1, minute * MINUTE_MS), Renewal::Renewed(3600));
            assert!(expiry.take_checkpoints(minute * MINUTE_MS, 10, STEP).is_empty(), "minute {minute}");
        }
        assert!(expiry.take_checkpoints(24 * MINUTE_MS - 1, 10, STEP).is_empty());
        assert_eq!(expiry.take_checkpoints(24 * MINUTE_MS, 10, STEP), [(1, 3300)]);
        // Noted for the last time with less than five minutes left, and then renewed.
        assert_eq!(expiry.take_checkpoints(77 * MINUTE_MS, 10, STEP), [(1, 120)]);
        assert!(expiry.take_checkpoints(78 * MINUTE_MS, 10, STEP).is_empty());
        assert_eq!(expiry.renew(1, 78 * MINUTE_MS), Renewal::Renewed(3600));
        assert_eq!(expiry.take_checkpoints(83 * MINUTE_MS, 10, STEP), [(1, 3300)]);
    }

    #[test]
    fn a_new_leader_notes_what_is_left_after_five_minutes_of_its_own() {
        let mut expiry = Expiry::default();
        expiry.promote(0, [(1, Granted { ttl_s: 1000, remaining_ttl_s: 400 }), (2, granted(1000))], 1000);
        expiry.begin_checkpoints(0, CHECKPOINT_INTERVAL_MS);
        assert_eq!(expiry.take_checkpoints(5 * MINUTE_MS, 10, STEP), [(1, 101)]);
        assert_eq!(expiry.take_checkpoints(5 * MINUTE_MS + 1000, 10, STEP), [(2, 700)], "it began with a second more");
    }

    #[test]
    fn checkpoints_are_taken_in_bounded_portions() {
        let mut expiry = leader();
        expiry.begin_checkpoints(0, CHECKPOINT_INTERVAL_MS);
        (1..=30).for_each(|id| expiry.granted(id, 1000, 0));
        (1..=5).for_each(|id| assert_eq!(expiry.renew(id, 1), Renewal::Renewed(1000)));
        let mut taken = |step| expiry.take_checkpoints(5 * MINUTE_MS, 10, step).len();
        assert_eq!([taken(5), taken(5), taken(100), taken(100), taken(100)], [0, 5, 10, 10, 0]);
    }

    #[test]
    fn times_that_cannot_be_granted_are_cut() {
        let mut expiry = Expiry::default();
        let checkpoint = Granted { ttl_s: 1, remaining_ttl_s: i64::MAX };
        expiry.promote(0, [(1, granted(i64::MAX)), (2, granted(i64::MIN)), (3, checkpoint)], 0);
        let longest_ms = MAX_TTL_S as u64 * 1000;
        assert_eq!(expiry.remaining_ms(1, 0), Some(longest_ms));
        assert_eq!(expiry.take_expired(0, 10, STEP), [2]);
        assert!(expiry.remaining_ms(3, 0).is_some_and(|left_ms| left_ms >= longest_ms));
    }

    #[test]
    fn one_call_is_bounded() {
        let mut expiry = leader();
        let count = STEP as i64 + 1;
        (1..=count).for_each(|id| expiry.granted(id, 1, 0));
        (1..count).for_each(|id| assert_eq!(expiry.renew(id, 500), Renewal::Renewed(1)));
        assert!(expiry.take_expired(1000, 10, STEP).is_empty(), "all timers it looked at were renewed");
        assert_eq!(expiry.next_deadline_ms(), Some(1000), "so there is more to do now");
        assert_eq!(expiry.take_expired(1000, 10, STEP), [count]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Grant(i64, i64),
        Renew(i64),
        Revoke(i64),
        Pass(u64),
        Take(usize),
        Promote(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 1i64..12;
        prop_oneof![
            4 => (id.clone(), -1i64..8).prop_map(|(id, ttl_s)| Step::Grant(id, ttl_s)),
            6 => id.clone().prop_map(Step::Renew),
            2 => id.prop_map(Step::Revoke),
            6 => (0u64..2500).prop_map(Step::Pass),
            4 => (1usize..5).prop_map(Step::Take),
            1 => (0u64..2000).prop_map(Step::Promote),
        ]
    }

    /// A lease in the plain map: its time to live, its end, and the time at which it was last named.
    type Plain = BTreeMap<i64, (i64, u64, Option<u64>)>;

    fn due(plain: &Plain, now_ms: u64) -> Vec<i64> {
        let is_due = |(ends_ms, named): (u64, Option<u64>)| {
            ends_ms <= now_ms && named.is_none_or(|named| named + REVOKE_RETRY_MS <= now_ms)
        };
        plain.iter().filter(|(_, lease)| is_due((lease.1, lease.2))).map(|(id, _)| *id).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_plain_map(steps in prop::collection::vec(step(), 1..120)) {
            let (mut expiry, mut plain, mut now_ms) = (leader(), Plain::new(), 0);
            for step in steps {
                match step {
                    Step::Grant(id, ttl_s) => {
                        expiry.granted(id, ttl_s, now_ms);
                        plain.insert(id, (ttl_s, now_ms + ttl_ms(ttl_s), None));
                    }
                    Step::Renew(id) => {
                        let expected = match plain.get_mut(&id) {
                            None => Renewal::Unknown,
                            Some(lease) if lease.1 <= now_ms => Renewal::Expired,
                            Some(lease) => {
                                lease.1 = lease.1.max(now_ms + ttl_ms(lease.0));
                                Renewal::Renewed(lease.0)
                            }
                        };
                        prop_assert_eq!(expiry.renew(id, now_ms), expected);
                    }
                    Step::Revoke(id) => {
                        expiry.revoked(id);
                        plain.remove(&id);
                    }
                    Step::Pass(ms) => now_ms += ms,
                    Step::Take(max) => {
                        let due = due(&plain, now_ms);
                        let taken = expiry.take_expired(now_ms, max, STEP);
                        prop_assert_eq!(taken.len(), due.len().min(max));
                        for id in taken {
                            prop_assert!(due.contains(&id), "{id} named at {now_ms}, due {due:?}");
                            plain.get_mut(&id).unwrap().2 = Some(now_ms);
                        }
                    }
                    Step::Promote(extend_ms) => {
                        expiry.promote(now_ms, plain.iter().map(|(id, lease)| (*id, granted(lease.0))), extend_ms);
                        for (id, lease) in &mut plain {
                            let earliest = now_ms + extend_ms + ttl_ms(lease.0);
                            let ends_ms = now_ms + expiry.remaining_ms(*id, now_ms).unwrap();
                            prop_assert!((earliest..earliest + 3).contains(&ends_ms), "{ends_ms}, not {earliest}");
                            (lease.1, lease.2) = (ends_ms, None);
                        }
                    }
                }
                for (id, lease) in &plain {
                    prop_assert_eq!(expiry.remaining_ms(*id, now_ms), Some(lease.1.saturating_sub(now_ms)));
                }
                let next = expiry.next_deadline_ms();
                prop_assert_eq!(next.is_none(), plain.is_empty());
                prop_assert!(due(&plain, now_ms).is_empty() || next.is_some_and(|at| at <= now_ms));
            }
        }
    }
}
