//! The facts about leases in the simulated world, for the checks.

use std::collections::{BTreeMap, BTreeSet};

use crate::waiting::Noted;

/// Grants, renewals, revocations and checkpoints that are under way, and those that are over.
#[derive(Default)]
pub struct LeaseBook {
    /// The times of all clocks when a client requested a grant or a renewal, by request.
    pub asked_at: BTreeMap<u64, Vec<u64>>,
    /// Renewals that reached a leader after its successor had begun to time the leases, by request.
    pub superseded: BTreeSet<u64>,
    /// The number of grants that were requested with each lease id.
    pub grants: BTreeMap<i64, i64>,
    /// Revocations by request: the name of the lease and, if a leader proposed it because the lease's time was over,
    /// this leader and the time of its clock.
    pub revocations: BTreeMap<u64, (i64, Option<(usize, u64)>)>,
    pub revoked: BTreeSet<i64>,
    /// Checkpoints of leases that were proposed and are not yet applied at their proposer.
    pub checkpoints: BTreeMap<u64, Noted>,
}

impl LeaseBook {
    /// The name of the lease that has this id now. An id may be granted anew, but only after the client that uses it
    /// has received an answer that the earlier lease has ended.
    pub fn name_of(&self, id: i64) -> i64 {
        id + self.grants.get(&id).copied().unwrap_or_default()
    }
}
