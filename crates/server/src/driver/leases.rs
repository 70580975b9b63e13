//! Leases: the leader keeps their time, everyone else sends its clients' questions to the leader.
//!
//! No step here takes longer the more leases there are, or the more a client asks for: batches of renewals and pieces of the
//! list are bounded, and the keys of a lease are read beside the engine thread.

use std::collections::HashMap;
use std::time::Instant;

use metastore_replica::{Renewed, Renewing};

use super::Driver;
use super::event::{Answer, LeaseEnd, TimeToLive, Waiter};

/// Leases of which one piece of the list consists at most: some 100 us of work.
pub const LEASES_AT_ONCE: usize = 1024;
const MS_PER_S: u64 = 1000;

/// Renewals that wait for the proof that this member leads.
pub(super) struct Proving {
    pub(super) waiter: Waiter,
    renewing: Renewing,
    pub(super) since: Instant,
}

/// Renewals that came too late; those on top are told to ask again.
pub(super) const TOO_LATE: usize = 64 << 10;

/// Renewals of leases whose time was over, until the leases are revoked. A client waits for one at a time.
#[derive(Default)]
pub struct TooLate {
    by_lease: HashMap<i64, Vec<Waiter>>,
    count: usize,
}

impl TooLate {
    /// Keeps one; it comes back if there is no room.
    pub(super) fn push(&mut self, lease: i64, waiter: Waiter) -> Result<(), Waiter> {
        if self.count >= TOO_LATE {
            return Err(waiter);
        }
        self.count += 1;
        self.by_lease.entry(lease).or_default().push(waiter);
        Ok(())
    }

    /// Those of one lease.
    pub(super) fn take(&mut self, lease: i64) -> Vec<Waiter> {
        let waiters = self.by_lease.remove(&lease).unwrap_or_default();
        self.count -= waiters.len();
        waiters
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Waiter> + '_ {
        self.count = 0;
        self.by_lease.drain().flat_map(|(_, waiters)| waiters)
    }
}

impl Driver {
    pub(super) fn renew(&mut self, waiter: Waiter, leases: &[i64]) {
        let (now_ms, id) = (self.now_ms(), self.shared.next_id());
        match self.leases.renew(&mut self.replica, leases, now_ms, id) {
            Renewed::Proven(renewals) => self.answer(waiter, Answer::Renewed(renewals)),
            Renewed::AwaitRead(renewing) | Renewed::AwaitOutcome(renewing) => {
                self.proving.insert(id, Proving { waiter, renewing, since: Instant::now() });
            }
            Renewed::NotLeader => self.answer(waiter, Answer::NotLeader),
        }
    }

    /// A read round has ended, or a command was applied: the proof that renewals may wait for.
    pub(super) fn prove(&mut self, id: u64) {
        let Some(Proving { waiter, renewing, .. }) = self.proving.remove(&id) else { return };
        let renewals = self.leases.proven(&self.replica, renewing);
        self.answer(waiter, renewals.map_or(Answer::NotLeader, Answer::Renewed));
    }

    /// A renewal of a lease whose time is over is answered only when the lease is gone with its keys, as in etcd.
    pub(super) fn await_end(&mut self, waiter: Waiter, lease: i64) {
        match self.leases.has_expired(lease, self.now_ms()) {
            _ if !self.leases.is_leader() => self.answer(waiter, Answer::NotLeader),
            true => {
                if let Err(waiter) = self.too_late.push(lease, waiter) {
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

    /// The next piece of all leases.
    pub(super) fn list_leases(&mut self, waiter: Waiter, after: Option<i64>) {
        let ids = self.replica.store().leases().ids_after(after).take(LEASES_AT_ONCE);
        let end = |id| LeaseEnd { ends_ms: self.leases.ends_ms(id).unwrap_or(u64::MAX), id };
        let leases = ids.map(end).collect();
        self.answer(waiter, Answer::Leases(leases));
    }

    /// A lease was revoked: renewals that came too late are answered now.
    pub(super) fn lease_revoked(&mut self, id: i64) {
        for waiter in self.too_late.take(id) {
            self.answer(waiter, Answer::LeaseEnded);
        }
    }

    /// Another member leads, and gives the leases their time: it is to be asked.
    pub(super) fn leases_lost(&mut self) {
        let mut waiters: Vec<_> = self.too_late.drain().collect();
        waiters.extend(self.proving.drain().map(|(_, proving)| proving.waiter));
        for waiter in waiters {
            self.answer(waiter, Answer::NotLeader);
        }
    }

    pub(super) fn revoke_expired(&mut self) {
        let now_ms = self.now_ms();
        let proposed = self.leases.revoke_expired(&mut self.replica, now_ms, || self.shared.next_id());
        self.shared.lease_expired.add(proposed.len() as u64);
    }
}

/// Whole seconds of what is left. Some time has passed since a lease was granted, even if the clock does not show it: as in
/// etcd, a lease never has its whole time left.
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
