//! LeaseGrant, LeaseRevoke and checkpoints (etcd: `server/lease/lessor.go`).

use metastore_engine::{EngineError, Table};
use metastore_mutants::{Mutant, mutant};
use metastore_proto::etcdserverpb::{LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest};

use super::{Applying, HaltCause, Reply};
use crate::lease::{LeaseError, Leases, keys};
use crate::{Refusal, Store};

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::NotFound(_) => Self::LeaseNotFound,
            LeaseError::Exists(_) => Self::LeaseExists,
            LeaseError::TtlTooLarge(_) => Self::LeaseTtlTooLarge,
        }
    }
}

impl Store {
    /// The id was fixed before the command was proposed. The time to live is raised to the minimum here, as in etcd.
    pub(super) fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Applying<Reply> {
        let LeaseGrantRequest { id, ttl } = *request;
        let ttl_s = self.leases.grant(id, ttl).map_err(Refusal::from)?;
        if let Some((key, row)) = self.leases.row(id) {
            self.engine.put(Table::Lease, &key, &row)?;
        }
        self.work.granted_s = Some(ttl_s);
        Ok(Reply::LeaseGrant { id, ttl_s })
    }

    /// Deletes every key of the lease, in key order, in one revision.
    pub(super) fn lease_revoke(&mut self, request: &LeaseRevokeRequest) -> Applying<Reply> {
        let id = request.id;
        self.leases.revoke(id).map_err(Refusal::from)?;
        for key in keys::keys_of(self.engine.as_ref(), id)? {
            self.mvcc.delete(&key)?;
            self.work.deletes += 1;
            if mutant(Mutant::LeaseKeysSurvive) {
                continue;
            }
            keys::detach(self.engine.as_ref(), id, &key)?;
        }
        self.engine.delete(Table::Lease, &Leases::row_key(id))?;
        self.work.lease_revoked = true;
        Ok(Reply::LeaseRevoke { id })
    }

    /// Records the remaining time of leases, or removes that with 0. Leaders note it where checkpoints are switched on,
    /// and remove it in any case. A lease that no longer exists is skipped, as in etcd.
    pub(super) fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) -> Applying<Reply> {
        for checkpoint in &request.checkpoints {
            if self.leases.checkpoint(checkpoint.id, checkpoint.remaining_ttl).is_ok()
                && let Some((key, row)) = self.leases.row(checkpoint.id)
            {
                self.engine.put(Table::Lease, &key, &row)?;
            }
        }
        Ok(Reply::LeaseCheckpoint)
    }

    /// Moves a key from one lease to another; 0 means no lease.
    pub(super) fn move_key(&mut self, key: &[u8], mut from: i64, to: i64) -> Result<(), HaltCause> {
        if from == to {
            return Ok(());
        }
        if mutant(Mutant::LeaseKeepsFormerKey) {
            from = 0;
        }
        if from != 0 {
            keys::detach(self.engine.as_ref(), from, key)?;
        }
        if to == 0 {
            return Ok(());
        }
        if !self.leases.contains(to) {
            // A put is checked before it runs, and a revoked lease deletes its keys: so the state is damaged.
            return Err(HaltCause::Malformed(LeaseError::NotFound(to).to_string()));
        }
        Ok(keys::attach(self.engine.as_ref(), to, key)?)
    }

    /// The keys of a lease, in order; none if there is no such lease. A caller between two publications also sees
    /// changes that are not published yet.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn lease_keys(&self, id: i64) -> Result<Vec<Vec<u8>>, EngineError> {
        keys::keys_of(self.engine.as_ref(), id)
    }
}
