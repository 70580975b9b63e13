//! Leases: the leader keeps their time; the other members forward the requests of their clients to the leader.
//!
//! The time of a step is bounded, however many leases there are and however much a client asks for. Batches of renewals
//! and pieces of the list are bounded, and the keys of a lease are read on another thread.

use std::time::Instant;

use metastore_replica::{Renewed, Renewing};

use super::Driver;
use super::event::{Answer, LeaseEnd, TimeToLive, Waiter};
use super::waiters::{Goal, GoalKind};

/// At most this many leases are in one piece of the list: about 100 us of work.
pub const LEASES_AT_ONCE: usize = 1024;
const MS_PER_S: u64 = 1000;

impl Driver {
    pub(super) fn renew(&mut self, waiter: Waiter, leases: &[i64]) {
        let (now_ms, id) = (self.now_ms(), self.shared.next_id());
        match self.leases.renew(&mut self.replica, leases, now_ms, id) {
            Renewed::Proven(renewals) => self.answer(waiter, Answer::Renewed(renewals)),
            Renewed::AwaitRead(renewing) | Renewed::AwaitOutcome(renewing) => {
                self.wait(id, waiter, Goal::Proof(Box::new(renewing)));
            }
            Renewed::NotLeader => self.answer(waiter, Answer::NotLeader),
        }
    }

    /// A read-index round has ended, or a command was applied: answers the renewals that waited for this proof.
    pub(super) fn proven(&mut self, waiter: Waiter, renewing: Renewing) {
        let renewals = self.leases.proven(&self.replica, renewing);
        self.answer(waiter, renewals.map_or(Answer::NotLeader, Answer::Renewed));
    }

    /// A renewal of a lease whose time is over is answered only when the lease is gone with its keys, as in etcd.
    pub(super) fn await_end(&mut self, waiter: Waiter, lease: i64) {
        match self.leases.has_expired(lease, self.now_ms()) {
            _ if !self.leases.is_leader() => self.answer(waiter, Answer::NotLeader),
            true => {
                let id = self.shared.next_id();
                // Without room, the client's thread asks again.
                if let Err(waiter) = self.waiters.add(id, waiter, Goal::LeaseEnd(lease), Instant::now()) {
                    self.answer(waiter, Answer::NotLeader);
                }
            }
            false => self.answer(waiter, Answer::LeaseEnded),
        }
    }

    pub(super) fn time_to_live(&mut self, waiter: Waiter, id: i64) {
        let answer = if self.leases.is_leader() { Answer::TimeToLive(self.time_left(id)) } else { Answer::NotLeader };
        self.answer(waiter, answer);
    }

    fn time_left(&self, id: i64) -> Option<TimeToLive> {
        let lease = self.replica.store().leases().get(id)?;
        let remaining_ms = self.leases.remaining_ms(id, self.now_ms()).unwrap_or_default();
        Some(TimeToLive { granted_s: lease.ttl_s, remaining_s: whole_seconds(remaining_ms) })
    }

    /// Answers with the next piece of all leases.
    pub(super) fn list_leases(&mut self, waiter: Waiter, after: Option<i64>) {
        let ids = self.replica.store().leases().ids_after(after).take(LEASES_AT_ONCE);
        let end = |id| LeaseEnd { ends_ms: self.leases.ends_ms(id).unwrap_or(u64::MAX), id };
        let leases = ids.map(end).collect();
        self.answer(waiter, Answer::Leases(leases));
    }

    /// A lease was revoked: answers the late renewals that waited for it.
    pub(super) fn lease_revoked(&mut self, id: i64) {
        for waiter in self.waiters.take_lease(id) {
            self.answer(waiter, Answer::LeaseEnded);
        }
    }

    /// Another member leads, and keeps the time of the leases: the waiters must ask that member.
    pub(super) fn leases_lost(&mut self) {
        for waiter in self.waiters.take_all(&[GoalKind::LeaseEnd, GoalKind::Proof], |_| true) {
            self.answer(waiter, Answer::NotLeader);
        }
    }

    /// Notes the remaining time of leases, if that is switched on.
    pub(super) fn checkpoint_leases(&mut self) {
        let (now_ms, id) = (self.now_ms(), self.shared.next_id());
        self.leases.checkpoint(&mut self.replica, now_ms, id);
    }

    pub(super) fn revoke_expired(&mut self) {
        let now_ms = self.now_ms();
        let proposed = self.leases.revoke_expired(&mut self.replica, now_ms, || self.shared.next_id());
        self.shared.lease_expired.add(proposed.len() as u64);
    }
}

/// The whole seconds that are left. Some time has passed since a lease was granted, even if the clock does not show it:
/// as in etcd, a lease never has its whole time left.
fn whole_seconds(remaining_ms: u64) -> i64 {
    (remaining_ms.saturating_sub(1) / MS_PER_S) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_never_has_its_whole_time_left() {
        let told = [0, 1, 999, 1000, 1001, 10_000, 10_001].map(whole_seconds);
        assert_eq!(told, [0, 0, 0, 0, 1, 9, 10]);
    }
}
