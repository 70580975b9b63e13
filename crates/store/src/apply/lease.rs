//! LeaseGrant, LeaseRevoke and checkpoints (etcd: `server/lease/lessor.go`).

use metastore_engine::{EngineError, Table};
use metastore_mutants::Mutant;
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
        let ttl_s = match self.leases.grant(id, ttl) {
            Ok(ttl_s) => ttl_s,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some((key, row)) = self.leases.row(id) {
            self.engine.put(Table::Lease, &key, &row)?;
        }
        Ok(Ok(Reply::LeaseGrant { id, ttl_s }))
    }

    /// Deletes every key of the lease, in key order, in one revision.
    pub(super) fn lease_revoke(&mut self, request: &LeaseRevokeRequest) -> Applying<Reply> {
        let id = request.id;
        if let Err(error) = self.leases.revoke(id) {
            return Ok(Err(error.into()));
        }
        for key in keys::keys_of(self.engine.as_ref(), id)? {
            self.mvcc.delete(&key)?;
            if !metastore_mutants::on(Mutant::LeaseKeysSurvive) {
                keys::detach(self.engine.as_ref(), id, &key)?;
            }
        }
        self.engine.delete(Table::Lease, &Leases::row_key(id))?;
        Ok(Ok(Reply::LeaseRevoke { id }))
    }

    /// Notes what leases had left. etcd's leaders propose this where checkpoints are switched on; ours only take checkpoints
    /// back. A lease that is gone by now is passed over, as in etcd.
    pub(super) fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) -> Applying<Reply> {
        for checkpoint in &request.checkpoints {
            if self.leases.checkpoint(checkpoint.id, checkpoint.remaining_ttl).is_ok()
                && let Some((key, row)) = self.leases.row(checkpoint.id)
            {
                self.engine.put(Table::Lease, &key, &row)?;
            }
        }
        Ok(Ok(Reply::LeaseCheckpoint))
    }

    /// Moves a key from one lease to another; 0 stands for none.
    pub(super) fn move_key(&mut self, key: &[u8], from: i64, to: i64) -> Result<(), HaltCause> {
        if from == to {
            return Ok(());
        }
        if from != 0 && !metastore_mutants::on(Mutant::LeaseKeepsFormerKey) {
            keys::detach(self.engine.as_ref(), from, key)?;
        }
        if to == 0 {
            return Ok(());
        }
        if !self.leases.contains(to) {
            // A put was checked before it ran, and a lease takes its keys with it, so the state is not sound.
            return Err(HaltCause::Malformed(LeaseError::NotFound(to).to_string()));
        }
        Ok(keys::attach(self.engine.as_ref(), to, key)?)
    }

    /// The keys of a lease, in order; none if there is no such lease. Whoever asks between two publications sees what is not
    /// published yet.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn lease_keys(&self, id: i64) -> Result<Vec<Vec<u8>>, EngineError> {
        keys::keys_of(self.engine.as_ref(), id)
    }
}
