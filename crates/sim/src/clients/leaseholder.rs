//! A client with leases: it renews some, abandons others, and grants ended leases anew.

use bytes::Bytes;
use metastore_proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
};

use super::{Behaviour, Wish, value};
use crate::history::{Request, Response};
use crate::random::Random;

/// Leases that a client holds at the same time, at most.
const HELD: usize = 2;
/// The same for a client that collects leases: so many leases end together when it stops renewing them.
const COLLECTED: usize = 20;
/// The share of clients that collect leases, in thousandths.
const COLLECTORS_PERMILLE: u64 = 400;
/// The shortest and the longest time to live of a lease, in seconds.
const TTL_S: (u64, u64) = (1, 6);

pub struct Leaseholder {
    /// Distinguishes the keys and leases of this client from those of other clients.
    number: u64,
    /// The leases of this client; a collector moves a renewed lease to the end.
    held: Vec<i64>,
    /// Leases that have certainly ended. Their ids may be granted anew.
    gone: Vec<i64>,
    /// Leases that this client has asked to revoke, with an outcome that is still unknown.
    revoking: Vec<i64>,
    /// The number of leases that it holds at most; drawn with its first request.
    most: Option<usize>,
}

impl Leaseholder {
    pub fn new(number: u64) -> Self {
        Self { number, held: Vec::new(), gone: Vec::new(), revoking: Vec::new(), most: None }
    }

    /// Collects leases, and renews all of them in turn.
    fn collect(&mut self, id: u64, random: &mut Random) -> Wish {
        if self.held.is_empty() || (self.held.len() < COLLECTED && random.permille(500)) {
            return Wish::Do(Request::LeaseGrant(LeaseGrantRequest { id: (id << 8) as i64, ttl: TTL_S.1 as i64 }));
        }
        self.held.rotate_left(1);
        Wish::KeepAlive(self.held[self.held.len() - 1])
    }

    /// A key out of few, so that a later lease takes over the keys of an earlier one.
    fn key(&self, random: &mut Random) -> Bytes {
        format!("lease/{}/{}", self.number, random.below(3)).into()
    }

    /// A lease has ended. A revocation that is still under way may take effect later, and would revoke a new lease with
    /// the same id.
    fn lose(&mut self, lease: i64) {
        self.held.retain(|held| *held != lease);
        if !self.revoking.contains(&lease) && !self.gone.contains(&lease) {
            self.gone.push(lease);
        }
    }
}

impl Behaviour for Leaseholder {
    fn wish(&mut self, id: u64, random: &mut Random, _: i64) -> Wish {
        let most = *self.most.get_or_insert_with(|| match random.permille(COLLECTORS_PERMILLE) {
            true => COLLECTED,
            false => HELD,
        });
        if most == COLLECTED {
            return self.collect(id, random);
        }
        let held = random.pick(&self.held).copied();
        let Some(lease) = held.filter(|_| self.held.len() >= HELD || random.permille(700)) else {
            let ttl = random.between(TTL_S.0, TTL_S.1) as i64;
            // The id of a former lease, or one that was never used. The low 8 bits distinguish the leases of one id.
            let former = self.gone.pop().filter(|_| random.permille(600));
            let id = former.unwrap_or((id << 8) as i64);
            return Wish::Do(Request::LeaseGrant(LeaseGrantRequest { id, ttl }));
        };
        match random.below(22) {
            0..8 => Wish::KeepAlive(lease),
            8..14 => {
                let (key, value) = (self.key(random), value(id, random));
                Wish::Do(Request::Put(PutRequest { key, value, lease, ..PutRequest::default() }))
            }
            14 => {
                let (key, value) = (self.key(random), value(id, random));
                Wish::Do(Request::Put(PutRequest { key, value, ..PutRequest::default() }))
            }
            15 => {
                self.held.retain(|held| *held != lease);
                self.revoking.push(lease);
                Wish::Do(Request::LeaseRevoke(LeaseRevokeRequest { id: lease }))
            }
            16 => {
                // This lease is renewed once more, and then never again.
                self.held.retain(|held| *held != lease);
                Wish::KeepAlive(lease)
            }
            17 => {
                let (key, value) = (self.key(random), value(id, random));
                Wish::Do(Request::Put(PutRequest { key, value, ignore_lease: true, ..PutRequest::default() }))
            }
            18 => Wish::Do(Request::DeleteRange(DeleteRangeRequest { key: self.key(random), ..Default::default() })),
            _ => {
                let (key, range_end) = (Bytes::from_static(b"lease/"), Bytes::from_static(b"lease0"));
                Wish::Do(Request::Range(RangeRequest { key, range_end, ..RangeRequest::default() }))
            }
        }
    }

    fn told(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::LeaseGrant(_), Response::LeaseGrant(granted)) => self.held.push(granted.id),
            (Request::LeaseRevoke(revoke), _) => {
                self.revoking.retain(|revoking| *revoking != revoke.id);
                self.lose(revoke.id);
            }
            (Request::Put(put), Response::Refused(_)) if put.lease != 0 => self.lose(put.lease),
            _ => {}
        }
    }

    fn renewed(&mut self, lease: i64, lives: bool) {
        if !lives {
            self.lose(lease);
        }
    }
}
