//! Leases (placeholder until merged).
use std::collections::{BTreeMap, BTreeSet};

use crate::Refusal;

/// Leases.
#[derive(Default)]
pub struct Leases {
    leases: BTreeMap<i64, (i64, BTreeSet<Box<[u8]>>)>,
}

impl Leases {
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }
    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<(), Refusal> {
        if ttl > 9_000_000_000 {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.contains(id) {
            return Err(Refusal::LeaseExists);
        }
        self.leases.insert(id, (ttl, BTreeSet::new()));
        Ok(())
    }
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Box<[u8]>>, Refusal> {
        self.leases.remove(&id).map(|lease| lease.1.into_iter().collect()).ok_or(Refusal::LeaseNotFound)
    }
    pub fn attach(&mut self, key: &[u8], id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.1.insert(key.into());
        }
    }
    pub fn detach(&mut self, key: &[u8], id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.1.remove(key);
        }
    }
}
