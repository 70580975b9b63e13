//! The replicated part: the leases that exist.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{DamagedLease, MAX_TTL_S, record};

/// Why a command about a lease has no effect; the same on every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// etcd: `requested lease not found`. Also the answer to a grant with id 0, which no lease can have.
    #[error("lease {0:016x} not found")]
    NotFound(i64),
    /// etcd: `lease already exists`.
    #[error("lease {0:016x} already exists")]
    Exists(i64),
    /// etcd: `too large lease TTL`.
    #[error("a time to live of {0} s is longer than {MAX_TTL_S} s")]
    TtlTooLarge(i64),
}

/// A lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The time to live that was granted, in seconds.
    pub ttl_s: i64,
    /// The time that was left at the last checkpoint, in seconds; 0 if there is none.
    pub remaining_ttl_s: i64,
}

impl Lease {
    /// The time that a new leader lets the lease live until it is renewed, in seconds.
    pub(super) fn restart_ttl_s(&self) -> i64 {
        if self.has_checkpoint() { self.remaining_ttl_s } else { self.ttl_s }
    }

    /// Whether a new leader would give the lease less than its time to live.
    fn has_checkpoint(&self) -> bool {
        self.remaining_ttl_s > 0
    }
}

/// All leases.
#[derive(Debug, Default)]
pub struct Leases {
    leases: BTreeMap<i64, Lease>,
    minimum_ttl_s: i64,
    /// The number of leases with a checkpoint. If it is 0, renewals look for none.
    checkpoints: usize,
}

impl Leases {
    /// Reads the rows of the lease table.
    ///
    /// # Errors
    /// A row is not a lease.
    pub fn load<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, DamagedLease> {
        let leases = rows.into_iter().map(|(key, value)| record::decode(key, value));
        let leases = leases.collect::<Result<BTreeMap<_, _>, _>>()?;
        let checkpoints = leases.values().filter(|lease| lease.has_checkpoint()).count();
        Ok(Self { leases, minimum_ttl_s: 0, checkpoints })
    }

    /// Sets the shortest time to live. Shorter leases are raised to it: the existing ones now, and later ones when they
    /// are granted. Stored rows stay as they are, as in etcd.
    pub fn set_minimum_ttl_s(&mut self, minimum_ttl_s: i64) {
        self.minimum_ttl_s = minimum_ttl_s;
        self.leases.values_mut().for_each(|lease| lease.ttl_s = lease.ttl_s.max(minimum_ttl_s));
    }

    /// The shortest time to live, in seconds.
    pub fn minimum_ttl_s(&self) -> i64 {
        self.minimum_ttl_s
    }

    /// The row of a lease in the lease table; `None` if there is no such lease.
    pub fn row(&self, id: i64) -> Option<([u8; 8], Vec<u8>)> {
        self.leases.get(&id).map(|lease| (record::key(id), record::encode(id, *lease)))
    }

    /// The key of a lease's row, whether or not there is such a lease.
    pub fn row_key(id: i64) -> [u8; 8] {
        record::key(id)
    }

    /// Adds a lease, and returns its time to live: `ttl_s`, or the minimum if that is longer.
    ///
    /// # Errors
    /// The id is 0 or taken, or the time is longer than [`MAX_TTL_S`].
    pub fn grant(&mut self, id: i64, ttl_s: i64) -> Result<i64, LeaseError> {
        if id == 0 {
            return Err(LeaseError::NotFound(id));
        }
        if ttl_s > MAX_TTL_S {
            return Err(LeaseError::TtlTooLarge(ttl_s));
        }
        if self.contains(id) {
            return Err(LeaseError::Exists(id));
        }
        let ttl_s = ttl_s.max(self.minimum_ttl_s);
        self.leases.insert(id, Lease { ttl_s, ..Lease::default() });
        Ok(ttl_s)
    }

    /// Removes a lease; the caller deletes its keys, all of them in one revision.
    ///
    /// # Errors
    /// There is no such lease.
    pub fn revoke(&mut self, id: i64) -> Result<(), LeaseError> {
        let lease = self.leases.remove(&id).ok_or(LeaseError::NotFound(id))?;
        self.checkpoints -= usize::from(lease.has_checkpoint());
        Ok(())
    }

    /// Records the time that a lease had left when its leader wrote the checkpoint; 0 removes the checkpoint.
    ///
    /// # Errors
    /// There is no such lease.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl_s: i64) -> Result<(), LeaseError> {
        let lease = self.leases.get_mut(&id).ok_or(LeaseError::NotFound(id))?;
        self.checkpoints -= usize::from(lease.has_checkpoint());
        lease.remaining_ttl_s = remaining_ttl_s;
        self.checkpoints += usize::from(lease.has_checkpoint());
        Ok(())
    }

    /// Whether a lease has a checkpoint, so that a new leader would give it less than its time to live.
    pub fn has_checkpoint(&self, id: i64) -> bool {
        self.checkpoints > 0 && self.leases.get(&id).is_some_and(Lease::has_checkpoint)
    }

    /// The lease with this id.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Whether there is a lease with this id.
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = i64> {
        self.leases.keys().copied()
    }

    /// All ids greater than `after`, ascending; all ids if `after` is `None`.
    pub fn ids_after(&self, after: Option<i64>) -> impl Iterator<Item = i64> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.leases.range((from, Bound::Unbounded)).map(|(id, _)| *id)
    }

    /// All leases, ascending by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, *lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_checked_in_etcds_order() {
        let mut leases = Leases::default();
        assert_eq!(leases.grant(0, 5), Err(LeaseError::NotFound(0)));
        assert_eq!(leases.grant(7, MAX_TTL_S), Ok(MAX_TTL_S));
        assert_eq!(leases.grant(7, MAX_TTL_S + 1), Err(LeaseError::TtlTooLarge(MAX_TTL_S + 1)));
        assert_eq!(leases.grant(7, 5), Err(LeaseError::Exists(7)));
        assert_eq!(leases.get(7).map(|lease| lease.ttl_s), Some(MAX_TTL_S));
    }

    #[test]
    fn a_lease_is_revoked_once() {
        let mut leases = Leases::default();
        leases.grant(7, 5).unwrap();
        assert_eq!(leases.revoke(7), Ok(()));
        assert_eq!(leases.revoke(7), Err(LeaseError::NotFound(7)));
        assert!(leases.is_empty());
    }

    #[test]
    fn ids_are_listed_on_after_the_last_one_whether_or_not_it_is_still_there() {
        let mut leases = Leases::default();
        for id in [-3, 1, 5, i64::MAX] {
            leases.grant(id, 60).unwrap();
        }
        let after = |id| leases.ids_after(id).collect::<Vec<_>>();
        assert_eq!(after(None), [-3, 1, 5, i64::MAX]);
        assert_eq!([after(Some(-3)), after(Some(1))], [vec![1, 5, i64::MAX], vec![5, i64::MAX]]);
        assert_eq!([after(Some(4)), after(Some(i64::MAX))], [vec![5, i64::MAX], vec![]]);
    }

    #[test]
    fn the_minimum_raises_what_is_granted_and_what_was_loaded() {
        let mut leases = Leases::default();
        assert_eq!((leases.grant(1, 1), leases.grant(2, 60)), (Ok(1), Ok(60)));
        leases.set_minimum_ttl_s(15);
        assert_eq!((leases.grant(3, -1), leases.grant(4, 16)), (Ok(15), Ok(16)));
        let ttls: Vec<_> = leases.iter().map(|(_, lease)| lease.ttl_s).collect();
        assert_eq!(ttls, [15, 60, 15, 16]);
    }

    #[test]
    fn a_checkpoint_is_known_until_it_is_taken_back_or_its_lease_is_gone() {
        let mut leases = Leases::default();
        (1..=3).for_each(|id| assert_eq!(leases.grant(id, 60), Ok(60)));
        for (id, remaining_ttl_s) in [(1, 30), (2, 20), (2, 10)] {
            leases.checkpoint(id, remaining_ttl_s).unwrap();
        }
        let known = |leases: &Leases| (1..=3).filter(|id| leases.has_checkpoint(*id)).collect::<Vec<_>>();
        assert_eq!((known(&leases), leases.checkpoints), (vec![1, 2], 2));
        leases.checkpoint(1, 0).unwrap();
        leases.revoke(2).unwrap();
        assert_eq!((known(&leases), leases.checkpoints), (vec![], 0));
    }

    #[test]
    fn rows_survive_and_damaged_ones_are_named() {
        let mut leases = Leases::default();
        for (id, ttl_s) in [(1, 5), (-2, 60), (i64::MAX, 9)] {
            leases.grant(id, ttl_s).unwrap();
        }
        leases.checkpoint(1, 3).unwrap();
        assert_eq!(leases.checkpoint(9, 3), Err(LeaseError::NotFound(9)));
        let rows: Vec<_> = leases.ids().map(|id| leases.row(id).unwrap()).collect();
        assert_eq!(rows[1], (Leases::row_key(1), vec![8, 1, 16, 5, 24, 3]), "etcd's bytes");
        let loaded = Leases::load(rows.iter().map(|(key, value)| (&key[..], &value[..]))).unwrap();
        assert_eq!(loaded.leases, leases.leases);
        let restarts: Vec<_> = loaded.iter().map(|(id, lease)| (id, lease.restart_ttl_s())).collect();
        assert_eq!(restarts, [(-2, 60), (1, 3), (i64::MAX, 9)]);
        assert!(loaded.has_checkpoint(1) && !loaded.has_checkpoint(-2));
        assert!(leases.row(9).is_none());

        let torn = Leases::load([(&rows[1].0[..], &[8][..])]).unwrap_err().to_string();
        assert!(torn.contains("is not a lease"), "{torn}");
        let moved = Leases::load([(&rows[0].0[..], &rows[1].1[..])]).unwrap_err().to_string();
        assert!(moved.contains("holds lease 0000000000000001"), "{moved}");
    }
}
