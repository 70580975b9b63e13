//! LeaseGrant, LeaseRevoke and checkpoints (etcd: `server/lease/lessor.go`).

use metastore_engine::{Engine, EngineError, KeyRange, Table};
use metastore_proto::etcdserverpb::{LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest};

use super::{Applying, HaltCause, Reply};
use crate::lease::{LeaseError, Leases};
use crate::mvcc::View;
use crate::mvcc::row::KeyValue;
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
    /// The id and the effective TTL were fixed before the command was proposed.
    pub(super) fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Applying<Reply> {
        let LeaseGrantRequest { id, ttl: ttl_s } = *request;
        if let Err(error) = self.leases.grant(id, ttl_s) {
            return Ok(Err(error.into()));
        }
        if let Some((key, row)) = self.leases.row(id) {
            self.engine.put(Table::Lease, &key, &row)?;
        }
        Ok(Ok(Reply::LeaseGrant { id, ttl_s }))
    }

    /// Deletes every key of the lease, in key order, in one revision.
    pub(super) fn lease_revoke(&mut self, request: &LeaseRevokeRequest) -> Applying<Reply> {
        let id = request.id;
        let keys = match self.leases.revoke(id) {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error.into())),
        };
        for key in keys {
            self.mvcc.delete(&key)?;
        }
        self.engine.delete(Table::Lease, &Leases::row_key(id))?;
        Ok(Ok(Reply::LeaseRevoke { id }))
    }

    /// Notes what leases had left. etcd's leaders propose this where checkpoints are switched on; ours do not. A lease that is
    /// gone by now is passed over, as in etcd.
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
        self.leases.detach(key, from);
        if to == 0 {
            return Ok(());
        }
        // A put was checked before it ran, and a lease takes its keys with it, so this cannot fail on a sound state.
        self.leases.attach(key, to).map_err(|error| HaltCause::Malformed(error.to_string()))
    }
}

/// Reads the leases, and from the live keys which lease each is attached to.
pub fn load_leases(engine: &dyn Engine, view: &View) -> Result<Leases, EngineError> {
    let rows = engine.rows(Table::Lease, b"")?;
    let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
    let mut leases = Leases::load(rows).map_err(|error| EngineError(error.to_string()))?;
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let mut found = Vec::new();
        let range = KeyRange { start: &start, end: None };
        from = view.engine().scan(range, i64::MAX, usize::MAX, &mut found)?;
        for version in found {
            let kv = KeyValue::of(&version.row);
            if kv.lease != 0 {
                let damaged = |error: LeaseError| EngineError(format!("key {:?} is attached to it: {error}", kv.key));
                leases.attach(kv.key, kv.lease).map_err(damaged)?;
            }
        }
    }
    Ok(leases)
}
