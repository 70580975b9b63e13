//! Leases: keys that go away when their owner does.
//!
//! A lease lives at least its time to live since it was granted or renewed, then it is revoked, and its keys are deleted in
//! one revision. What must be equal on all members and what only the leader knows are two types:
//!
//! ```text
//!   log: grant, revoke, checkpoint ──▶ Leases   which leases there are                      (every member, replicated)
//!   put, delete of a key           ──▶ keys     which keys hang on them, in the engine
//!
//!   keepalive, time               ──▶ Expiry   when each of them ends ──▶ "revoke these" ──▶ log     (the leader alone)
//! ```
//!
//! Rules
//! - [`Leases`] is a pure function of the log and of one setting: no clock, ordered containers. The setting is the minimum time
//!   to live ([`minimum_ttl_s`]). As in etcd, a grant is raised to it when it is applied, so it must be the same on all
//!   members, whatever they run.
//! - [`Expiry`] takes the time as milliseconds of a monotonic clock, so a wall clock that jumps neither ends a lease early nor
//!   keeps one alive. It only ever names leases to revoke; the log ends them. A renewal is not logged.
//! - A lease whose time is over can no longer be renewed: the leader may have proposed to revoke it already.
//! - A new leader gives every lease its whole time again, plus an election timeout: it cannot know of the last renewals. A lease
//!   with a checkpoint gets what the checkpoint has left of its time. A renewal gives the time that was granted, so it takes
//!   the checkpoint back through the log before it is answered: the next leader must not go by it.
//! - A lease that was named is named again after [`REVOKE_RETRY_MS`] unless it was revoked: a proposal may be lost.
//!
//! Cost: granting and renewing take O(log n) at most, attaching and detaching one row; nothing scans all leases but a promotion and a listing.
//!
//! Leases are in memory, their keys are not: a member holds as many leases as it has clients, but more keys than memory.
//!
//! Deliberately absent: the deletion of the keys (the state machine does that, in key order), a map from keys to leases (a key's lease stands in its `KeyValue`), and periodic checkpoints of remaining time, which
//! etcd has switched off by default (a checkpoint in the log is understood).

mod expiry;
pub(crate) mod keys;
mod record;
mod registry;

pub use expiry::{Expiry, Renewal};
pub use keys::keys_of;
pub use record::DamagedLease;
pub use registry::{Lease, LeaseError, Leases};

/// The longest time to live that may be granted, in seconds, as in etcd.
pub const MAX_TTL_S: i64 = 9_000_000_000;

/// After this time without its revocation, an expired lease is named again (etcd: 3 s).
pub const REVOKE_RETRY_MS: u64 = 3_000;

/// A new leader spreads the ends of leases so that no more than this many come in a second: after a restart all leases begin
/// anew at once, and would else end at once.
pub const EXPIRIES_PER_SECOND: u64 = 10_000;

/// The shortest time to live in seconds, as etcd computes it: one and a half election timeouts in whole heartbeats, rounded up
/// to seconds. A shorter lease could end while a new leader is being elected.
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
