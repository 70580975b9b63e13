//! Leases: keys that are deleted when their owner no longer renews its lease.
//!
//! A lease lives for at least its time to live after it was granted or renewed. Then it is revoked, and its keys are
//! deleted in one revision. The part that is equal on all members and the part that only the leader has are two types:
//!
//! ```text
//!   log: grant, revoke, checkpoint ──▶ Leases   the leases that exist                       (every member, replicated)
//!   put, delete of a key           ──▶ keys     the keys attached to them, in the engine
//!
//!   keepalive, time                ──▶ Expiry   the end of each lease ──▶ leases to revoke ──▶ log  (the leader alone)
//! ```
//!
//! Rules
//! - [`Leases`] is a pure function of the log and of one setting: no clock, ordered containers. The setting is the
//!   minimum time to live ([`minimum_ttl_s`]). As in etcd, a shorter grant is raised to the minimum when it is applied,
//!   so the minimum must be the same on all members, whatever software they run.
//! - [`Expiry`] takes the time as milliseconds of a monotonic clock, so a wall clock that jumps neither ends a lease
//!   early nor keeps one alive. It only names leases to revoke; the log ends them. A renewal is not logged.
//! - A lease whose time is over can no longer be renewed: the leader may have proposed its revocation already.
//! - A new leader gives every lease its whole time to live again, plus an election timeout, because it does not know
//!   the last renewals. A lease with a checkpoint gets only the time that the checkpoint has recorded. A renewal gives
//!   the whole granted time. So it first removes the checkpoint through the log, and is answered after that: otherwise
//!   the next leader would end the lease early.
//! - Where that is switched on, the leader notes the remaining time of long leases in the log again and again
//!   ([`CHECKPOINT_INTERVAL_MS`]), so that elections do not keep a lease alive that nobody renews.
//! - A lease that was named for revocation is named again after [`REVOKE_RETRY_MS`] unless it was revoked: a proposal
//!   may be lost.
//!
//! Cost: granting and renewing take at most O(log n); attaching and detaching write one row. Only an election and a
//! listing scan all leases.
//!
//! Leases are in memory, but their keys are not: the number of leases is about the number of clients, while the keys
//! may be more than memory can hold.
//!
//! Deliberately absent: the deletion of the keys (the state machine deletes them, in key order); a map from keys to
//! leases (the `KeyValue` of a key holds its lease).

mod expiry;
pub(crate) mod keys;
mod record;
mod registry;

pub use expiry::{Expiry, Renewal};
pub use keys::keys_of;
pub use record::DamagedLease;
pub use registry::{Lease, LeaseError, Leases};

/// The longest time to live that can be granted, in seconds, as in etcd.
pub const MAX_TTL_S: i64 = 9_000_000_000;

/// An expired lease that was named for revocation is named again after this time if it still exists (etcd: 3 s).
pub const REVOKE_RETRY_MS: u64 = 3_000;

/// The remaining time of a lease is noted after this time without a renewal, as in etcd, and again and again while the
/// lease has more than this left. Tests have shorter intervals.
pub const CHECKPOINT_INTERVAL_MS: u64 = 5 * 60 * 1000;

/// The largest number of leases that end in one second under a new leader. After a restart all leases begin anew at the
/// same time, so without this limit many would end at the same time.
pub const EXPIRIES_PER_SECOND: u64 = 10_000;

/// The shortest time to live, in seconds, as etcd computes it: one and a half election timeouts in whole heartbeats,
/// rounded up to seconds. A shorter lease could end while a new leader is being elected.
pub const fn minimum_ttl_s(election_ticks: u64, heartbeat_ms: u64) -> i64 {
    ((3 * election_ticks / 2) * heartbeat_ms).div_ceil(1000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_is_one_and_a_half_election_timeouts() {
        assert_eq!(minimum_ttl_s(10, 100), 2);
        assert_eq!(minimum_ttl_s(10, 1000), 15);
        assert_eq!(minimum_ttl_s(5, 10), 1);
        assert_eq!(minimum_ttl_s(11, 1000), 16, "16 and a half heartbeats are 16");
    }
}
