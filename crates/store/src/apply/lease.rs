//! LeaseGrant and LeaseRevoke (etcd: `server/lease/lessor.go`).

use metastore_engine::{Engine, EngineError, KeyRange, Table};
use metastore_proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest};
use metastore_proto::{Message, leasepb};

use super::{Applying, Reply};
use crate::Store;
use crate::lease::Leases;
use crate::mvcc::View;
use crate::mvcc::row::KeyValue;

impl Store {
    /// The id and the effective TTL were fixed before the command was proposed.
    pub(super) fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Applying<Reply> {
        let LeaseGrantRequest { id, ttl: ttl_s } = *request;
        if let Err(refusal) = self.leases.grant(id, ttl_s) {
            return Ok(Err(refusal));
        }
        let row = leasepb::Lease { id, ttl: ttl_s, remaining_ttl: 0 };
        self.engine.put(Table::Lease, &id.to_be_bytes(), &row.encode_to_vec())?;
        Ok(Ok(Reply::LeaseGrant { id, ttl_s }))
    }

    /// Deletes every key of the lease, in key order, in one revision.
    pub(super) fn lease_revoke(&mut self, request: &LeaseRevokeRequest) -> Applying<Reply> {
        let id = request.id;
        let keys = match self.leases.revoke(id) {
            Ok(keys) => keys,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for key in keys {
            self.mvcc.delete(&key)?;
        }
        self.engine.delete(Table::Lease, &id.to_be_bytes())?;
        Ok(Ok(Reply::LeaseRevoke { id }))
    }
}

/// Reads the leases, and from the live keys which lease each is attached to.
pub fn load_leases(engine: &dyn Engine, view: &View) -> Result<Leases, EngineError> {
    let mut leases = Leases::default();
    for (key, value) in engine.rows(Table::Lease)? {
        let damaged = |why: String| EngineError(format!("row {key:?} of table lease is damaged: {why}"));
        let lease = leasepb::Lease::decode(&value[..]).map_err(|error| damaged(error.to_string()))?;
        leases.grant(lease.id, lease.ttl).map_err(|refusal| damaged(refusal.to_string()))?;
    }
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let mut rows = Vec::new();
        let range = KeyRange { start: &start, end: None };
        from = view.engine().scan(range, i64::MAX, usize::MAX, &mut rows)?;
        for version in rows {
            let kv = KeyValue::of(&version.row);
            if kv.lease != 0 {
                leases.attach(kv.key, kv.lease);
            }
        }
    }
    Ok(leases)
}
