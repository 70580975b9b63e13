//! The settings of a member.

use metastore_store::lease::CHECKPOINT_INTERVAL_MS;

use metastore_store::lease::minimum_ttl_s;

use crate::consensus::{Portions, Timing};
use crate::entry::EntryId;
use crate::entry_log::Retention;
use crate::wal::Options;

/// Log bytes after which a snapshot of an engine in memory is made; if the state is larger than this, its size counts
/// instead. The snapshot makes the older part of the log unnecessary. With a smaller value the state would be rewritten
/// more often than the log itself; a larger one would make restarts slow.
const SNAPSHOT_LOG_BYTES: u64 = 256 << 20;
/// Log bytes after which an engine on disk is flushed, which makes the older part of the log unnecessary. The cost of a
/// flush is the amount written since the last one. A larger value would make restarts after a crash slow.
const FLUSH_LOG_BYTES: u64 = 512 << 20;
/// Maximum number of learners that a cluster may have by default, as in etcd.
const MAX_LEARNERS: usize = 1;
/// The settings of a member, fixed at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the storage engine; a directory of another engine is refused.
    pub engine: &'static str,
    pub timing: Timing,
    /// How much of the log is kept in memory for followers.
    pub keep: Retention,
    /// Maximum number of learners that the cluster may have (`--max-learners`); it must be the same on all members.
    pub max_learners: usize,
    /// A committed entry that no member can apply, and that all members pass over (`--unsafe-skip-entry`).
    pub skip_entry: Option<EntryId>,
    /// The shortest time to live of a lease, in seconds ([`metastore_store::lease::minimum_ttl_s`]). It takes effect
    /// when a grant is applied, so it must be the same on all members.
    pub minimum_lease_ttl_s: i64,
    /// Whether this member, when it leads, notes the remaining time of long leases in the log, so that the next leader
    /// does not give them their whole time again (etcd: the feature gate LeaseCheckpoint).
    pub lease_checkpoints: bool,
    /// The time without a renewal after which it does so; all but tests use the default.
    pub checkpoint_interval_ms: u64,
    /// Log bytes after which an engine in memory is written as a snapshot; all but tests use the default.
    pub snapshot_log_bytes: u64,
    /// Log bytes after which an engine on disk is flushed; all but tests use the default.
    pub flush_log_bytes: u64,
    /// Options of the log, such as its segment size; all but tests use the default.
    pub log: Options,
    /// The random name that a data directory without a name is given at this start. With `None` it stays without.
    pub new_directory: Option<u64>,
    /// How much consensus does at once; all but tests use the default.
    pub portions: Portions,
}

/// etcd's defaults for a member that does not run. There are no elections, and no leader.
const STOPPED: Timing = Timing { election_ticks: 10, pre_vote: true };
const STOPPED_HEARTBEAT_MS: u64 = 100;

impl Settings {
    /// For a stopped member that is read or rewritten. Leases that were granted after its state was made durable get
    /// the minimum time to live of etcd's defaults; the member raises them by its own settings when it starts.
    pub fn of_stopped(engine: &'static str) -> Self {
        // No entries are kept for followers.
        let minimum_lease_ttl_s = minimum_ttl_s(STOPPED.election_ticks as u64, STOPPED_HEARTBEAT_MS);
        Self { minimum_lease_ttl_s, ..Self::new(engine, STOPPED, 0) }
    }

    pub fn new(engine: &'static str, timing: Timing, keep_entries: usize) -> Self {
        let (snapshot_log_bytes, flush_log_bytes) = (SNAPSHOT_LOG_BYTES, FLUSH_LOG_BYTES);
        let (max_learners, skip_entry, minimum_lease_ttl_s) = (MAX_LEARNERS, None, 0);
        let (log, portions) = (Options::default(), Portions::default());
        Self {
            engine,
            timing,
            keep: Retention::new(keep_entries),
            max_learners,
            skip_entry,
            minimum_lease_ttl_s,
            lease_checkpoints: false,
            checkpoint_interval_ms: CHECKPOINT_INTERVAL_MS,
            snapshot_log_bytes,
            flush_log_bytes,
            log,
            new_directory: None,
            portions,
        }
    }
}
