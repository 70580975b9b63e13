//! Leases: the leader keeps their time, everyone else sends its clients' questions to the leader.

use std::collections::HashMap;

use bytes::Bytes;
use metastore_replica::Fatal;
use metastore_store::lease::Renewal;

use super::Driver;
use super::event::{Answer, TimeToLive, Waiter};

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
    pub(super) fn renew(&mut self, waiter: Waiter, lease: i64) {
        match self.leases.renew(lease, self.now_ms()) {
            // Told only when the lease is gone with its keys, as in etcd.
            Renewal::Expired => {
                if let Err(waiter) = self.too_late.push(lease, waiter) {
                    self.answer(waiter, Answer::NotLeader);
                }
            }
            Renewal::NotLeader => self.answer(waiter, Answer::NotLeader),
            renewal => self.answer(waiter, Answer::Renewed(renewal)),
        }
    }

    pub(super) fn time_to_live(&mut self, waiter: Waiter, id: i64, keys: bool) -> Result<(), Fatal> {
        let answer =
            if self.leases.is_leader() { Answer::TimeToLive(self.time_left(id, keys)?) } else { Answer::NotLeader };
        self.answer(waiter, answer);
        Ok(())
    }

    fn time_left(&self, id: i64, keys: bool) -> Result<Option<TimeToLive>, Fatal> {
        let store = self.replica.store();
        let Some(lease) = store.leases().get(id) else { return Ok(None) };
        let remaining_ms = self.leases.remaining_ms(id, self.now_ms()).unwrap_or_default();
        let keys = if keys { store.lease_keys(id)? } else { Vec::new() };
        let keys = keys.into_iter().map(Bytes::from).collect();
        Ok(Some(TimeToLive { granted_s: lease.ttl_s, remaining_s: (remaining_ms / 1000) as i64, keys }))
    }

    /// All leases, those that end first in front, as far as this member knows.
    pub(super) fn list_leases(&mut self, waiter: Waiter) {
        let mut leases: Vec<i64> = self.replica.store().leases().ids().collect();
        self.leases.sort_by_remaining(&mut leases);
        self.answer(waiter, Answer::Leases(leases));
    }

    /// A lease was revoked: who came too late to renew it is told now.
    pub(super) fn lease_revoked(&mut self, id: i64) {
        for waiter in self.too_late.take(id) {
            self.answer(waiter, Answer::Renewed(Renewal::Unknown));
        }
    }

    /// Another member leads, and gives the leases their time: it is to be asked.
    pub(super) fn leases_lost(&mut self) {
        for waiter in self.too_late.drain().collect::<Vec<_>>() {
            self.answer(waiter, Answer::NotLeader);
        }
    }

    pub(super) fn revoke_expired(&mut self) {
        let now_ms = self.now_ms();
        let proposed = self.leases.revoke_expired(&mut self.replica, now_ms, || self.shared.next_id());
        self.shared.lease_expired.add(proposed.len() as u64);
    }
}
