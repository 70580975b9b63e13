//! The stored form of a lease: a row of the table `lease`, in etcd's format.

use metastore_proto::Message;
use metastore_proto::leasepb;

use super::Lease;

/// A row of the lease table that cannot be read as a lease.
#[derive(Debug, thiserror::Error)]
#[error("lease table: row with key {key:02x?} {reason}; restore this member from a backup or from its peers")]
pub struct DamagedLease {
    key: Vec<u8>,
    reason: String,
}

/// The key of a lease's row: the id, big endian.
pub(super) fn key(id: i64) -> [u8; 8] {
    id.to_be_bytes()
}

/// The value of a lease's row: a `leasepb.Lease`.
pub(super) fn encode(id: i64, lease: Lease) -> Vec<u8> {
    leasepb::Lease { id, ttl: lease.ttl_s, remaining_ttl: lease.remaining_ttl_s }.encode_to_vec()
}

/// Reads a row of the lease table.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(i64, Lease), DamagedLease> {
    let damaged = |reason: String| DamagedLease { key: key.to_vec(), reason };
    let row = leasepb::Lease::decode(value).map_err(|e| damaged(format!("is not a lease ({e})")))?;
    if self::key(row.id) != key {
        return Err(damaged(format!("holds lease {:016x}", row.id)));
    }
    Ok((row.id, Lease { ttl_s: row.ttl, remaining_ttl_s: row.remaining_ttl }))
}
