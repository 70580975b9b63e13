//! Leases: the leader keeps their time, everyone else sends its clients' questions to the leader.

use bytes::Bytes;
use metastore_proto::etcdserverpb::LeaseRevokeRequest;
use metastore_replica::Fatal;
use metastore_store::command::{Command, Kind};
use metastore_store::lease::Renewal;

use super::event::{Answer, TimeToLive, Waiter};
use super::{Driver, EXPIRED_AT_ONCE};

impl Driver {
    pub(super) fn renew(&mut self, waiter: Waiter, lease: i64) {
        match self.expiry.renew(lease, self.now_ms()) {
            // Told only when the lease is gone with its keys, as in etcd.
            Renewal::Expired => self.too_late.entry(lease).or_default().push(waiter),
            Renewal::NotLeader => self.answer(waiter, Answer::NotLeader),
            renewal => self.answer(waiter, Answer::Renewed(renewal)),
        }
    }

    pub(super) fn time_to_live(&mut self, waiter: Waiter, id: i64, keys: bool) -> Result<(), Fatal> {
        let answer =
            if self.expiry.is_leader() { Answer::TimeToLive(self.time_left(id, keys)?) } else { Answer::NotLeader };
        self.answer(waiter, answer);
        Ok(())
    }

    fn time_left(&self, id: i64, keys: bool) -> Result<Option<TimeToLive>, Fatal> {
        let store = self.replica.store();
        let Some(lease) = store.leases().get(id) else { return Ok(None) };
        let remaining_ms = self.expiry.remaining_ms(id, self.now_ms()).unwrap_or_default();
        let keys = if keys { store.lease_keys(id)? } else { Vec::new() };
        let keys = keys.into_iter().map(Bytes::from).collect();
        Ok(Some(TimeToLive { granted_s: lease.ttl_s, remaining_s: (remaining_ms / 1000) as i64, keys }))
    }

    /// All leases, those that end first in front, as far as this member knows.
    pub(super) fn list_leases(&mut self, waiter: Waiter) {
        let mut leases: Vec<i64> = self.replica.store().leases().ids().collect();
        self.expiry.sort_by_remaining(&mut leases);
        self.answer(waiter, Answer::Leases(leases));
    }

    /// A lease was revoked: who came too late to renew it is told now.
    pub(super) fn lease_revoked(&mut self, id: i64) {
        self.expiry.revoked(id);
        for waiter in self.too_late.remove(&id).unwrap_or_default() {
            self.answer(waiter, Answer::Renewed(Renewal::Unknown));
        }
    }

    /// A new leader gives every lease its full time again, and the time that the election took.
    pub(super) fn keep_lease_time(&mut self) {
        let extend_ms = (self.heartbeat * self.election_ticks as u32).as_millis() as u64;
        let leases = self.replica.store().leases().restart_ttls();
        self.expiry.promote(self.started.elapsed().as_millis() as u64, leases, extend_ms);
    }

    /// Another member leads, and gives the leases their time: it is to be asked.
    pub(super) fn forget_lease_time(&mut self) {
        self.expiry.demote();
        for waiter in self.too_late.drain().flat_map(|(_, waiters)| waiters).collect::<Vec<_>>() {
            self.answer(waiter, Answer::NotLeader);
        }
    }

    /// Expiry goes through the log like every other command; but a leader that was deposed, and has just heard of it, must not
    /// have its successor revoke what that one has renewed.
    pub(super) fn revoke_expired(&mut self) {
        let expired = self.expiry.take_expired(self.now_ms(), EXPIRED_AT_ONCE);
        if expired.is_empty() {
            return;
        }
        let revoke = |&lease: &i64| {
            let request = LeaseRevokeRequest { id: lease };
            Command::encode(self.shared.next_id(), Kind::LeaseRevoke, &request)
        };
        // What is dropped is handed out again after a while.
        if self.replica.propose_as_leader(expired.iter().map(revoke).collect()).is_ok() {
            self.shared.lease_expired.add(expired.len() as u64);
        }
    }
}
