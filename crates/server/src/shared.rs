//! Facts that every request may read without asking the engine thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metastore_engine::Sizes;
use metastore_proto::etcdserverpb::{AlarmMember, AlarmType};
use metastore_replica::Standing;
use metastore_store::mvcc::Views;
use metastore_store::{Member, Store};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::instruments::requests::{Requests, WatchSends};
use crate::instruments::tally::Tally;
use crate::keys::KeyCount;

/// Bits of a request's id below those of the member's.
const COUNT_BITS: u32 = 48;

/// Whether a request's id is one of this member's.
pub fn is_of(member_id: u64, id: u64) -> bool {
    id >> COUNT_BITS == member_id & (u64::MAX >> COUNT_BITS)
}

/// The member's state as its requests see it.
pub struct Shared {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The state. Each read takes one view from here, and reads from it to the end.
    pub views: Views,
    /// Leases that the leader found expired; written by the engine thread.
    pub lease_expired: Tally,
    pub keys: KeyCount,
    /// Held during a Defragment: one at a time.
    pub defragmenting: Arc<tokio::sync::Mutex<()>>,
    /// Notified when this member has become leader; for one listener.
    pub elected: Notify,
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    applied: AtomicU64,
    allocated: AtomicU64,
    is_leader: AtomicBool,
    sole_leader: AtomicBool,
    is_learner: AtomicBool,
    leader_changes: AtomicU64,
    /// Grows as long as the engine thread makes progress; see [`crate::duties::watchdog`].
    pulse: AtomicU64,
    held_up: AtomicBool,
    started: Instant,
    /// When the current leader was first seen, in microseconds after `started`; 0 if there was none yet.
    led_since_us: AtomicU64,
    /// Requests that the engine thread knows and has not answered.
    pending: AtomicU64,
    /// Free bytes for the state while a disk is short of space, and otherwise `u64::MAX`.
    shortage: AtomicU64,
    /// Bytes of the state file that is being written.
    state_written: AtomicU64,
    facts: RwLock<Facts>,
    auth_enabled: AtomicBool,
    next_id: AtomicU64,
}

/// The facts that the state records besides the keys.
#[derive(Default)]
struct Facts {
    members: Vec<Member>,
    cluster_version: Option<String>,
    downgrade: Option<String>,
    alarms: Vec<AlarmMember>,
}

/// The counters of one worker, for the metrics. Only that worker writes.
#[derive(Default)]
pub struct Counts {
    /// Ranges, and transactions, of requests that only read.
    pub ranges: Tally,
    pub txns: Tally,
    pub proposals_failed: Tally,
    /// Read-index rounds that failed.
    pub read_indexes_failed: Tally,
    /// Read-index rounds without an answer in time.
    pub slow_read_indexes: Tally,
    pub lease_renewed: Tally,
    pub requests: Requests,
    pub watch_sends: WatchSends,
}

/// The watches of one worker, as they were a moment ago.
#[derive(Default)]
pub struct WatchCounts {
    pub streams: AtomicU64,
    pub watchers: AtomicU64,
    pub slow: AtomicU64,
    pub events: AtomicU64,
    pub queued: AtomicU64,
}

impl Shared {
    pub fn new(cluster_id: u64, member_id: u64, store: &Store) -> Arc<Self> {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let shared = Self {
            cluster_id,
            member_id,
            views: store.views().clone(),
            lease_expired: Tally::default(),
            keys: KeyCount::default(),
            defragmenting: Arc::default(),
            elected: Notify::new(),
            term: AtomicU64::default(),
            leader: AtomicU64::default(),
            commit: AtomicU64::default(),
            applied: AtomicU64::default(),
            allocated: AtomicU64::default(),
            is_leader: AtomicBool::default(),
            sole_leader: AtomicBool::default(),
            is_learner: AtomicBool::default(),
            leader_changes: AtomicU64::default(),
            pulse: AtomicU64::default(),
            held_up: AtomicBool::default(),
            started: Instant::now(),
            led_since_us: AtomicU64::default(),
            pending: AtomicU64::default(),
            shortage: AtomicU64::new(u64::MAX),
            state_written: AtomicU64::default(),
            facts: RwLock::default(),
            auth_enabled: AtomicBool::default(),
            // etcd's layout: 2 bytes of the member's id, 5 of the time in milliseconds, 1 to count. The count carries
            // over into the time, which advances faster than any member makes requests.
            next_id: AtomicU64::new((millis & ((1 << 40) - 1)) << 8),
        };
        shared.set_facts(store);
        shared.set_applied(store);
        Arc::new(shared)
    }

    /// An id for a request or a lease: unique in the cluster, across restarts.
    pub fn next_id(&self) -> u64 {
        let count = self.next_id.fetch_add(1, Ordering::Relaxed) & ((1 << COUNT_BITS) - 1);
        self.member_id << COUNT_BITS | count
    }

    pub fn set_standing(&self, standing: &Standing) {
        self.term.store(standing.term, Ordering::Relaxed);
        self.commit.store(standing.commit, Ordering::Relaxed);
        let before = self.leader.swap(standing.leader, Ordering::Relaxed);
        if before != standing.leader && standing.leader != 0 {
            self.leader_changes.fetch_add(1, Ordering::Relaxed);
            self.led_since_us.store(self.started.elapsed().as_micros().max(1) as u64, Ordering::Relaxed);
        }
        if !self.is_leader.swap(standing.is_leader(), Ordering::Relaxed) && standing.is_leader() {
            self.elected.notify_one();
        }
        self.sole_leader.store(standing.sole_leader, Ordering::Release);
    }

    pub fn set_applied(&self, store: &Store) {
        self.applied.store(store.applied().index, Ordering::Relaxed);
        self.allocated.store(store.view().engine().sizes().allocated, Ordering::Relaxed);
    }

    /// Sets how many bytes are free for the state, if a disk is short of space.
    pub fn set_shortage(&self, free_bytes: Option<u64>) {
        self.shortage.store(free_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The bytes that are free for the state, if a disk of this member is short of space.
    pub fn shortage(&self) -> Option<u64> {
        Some(self.shortage.load(Ordering::Relaxed)).filter(|free_bytes| *free_bytes != u64::MAX)
    }

    pub fn set_state_written(&self, bytes: u64) {
        self.state_written.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the state file that is being written; 0 once its predecessor is removed.
    pub fn state_written(&self) -> u64 {
        self.state_written.load(Ordering::Relaxed)
    }

    pub fn set_pending(&self, requests: usize) {
        self.pending.store(requests as u64, Ordering::Relaxed);
    }

    /// Requests that wait for consensus.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Copies the facts that the state records besides the keys.
    pub fn set_facts(&self, store: &Store) {
        let members = store.members();
        let learns = members.get(self.member_id).is_some_and(|own| own.is_learner);
        self.is_learner.store(learns, Ordering::Relaxed);
        self.auth_enabled.store(store.auth().enabled(), Ordering::Relaxed);
        *self.facts.write() = Facts {
            members: members.iter().cloned().collect(),
            cluster_version: members.cluster_version().map(str::to_owned),
            downgrade: members.downgrade().map(str::to_owned),
            alarms: store.alarms().of(AlarmType::None as i32),
        };
    }

    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// Id of the leader, 0 without one.
    pub fn leader(&self) -> u64 {
        if self.held_up() { 0 } else { self.leader.load(Ordering::Relaxed) }
    }

    /// Records that the engine thread makes progress.
    pub fn beat(&self) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
    }

    pub fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    /// Whether the engine thread makes no progress.
    pub fn held_up(&self) -> bool {
        self.held_up.load(Ordering::Relaxed)
    }

    pub fn set_held_up(&self, held_up: bool) {
        self.held_up.store(held_up, Ordering::Relaxed);
    }

    pub fn commit(&self) -> u64 {
        self.commit.load(Ordering::Relaxed)
    }

    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    pub fn is_leader(&self) -> bool {
        self.is_leader.load(Ordering::Relaxed)
    }

    /// Whether this member follows without a vote.
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    /// When the current leader, or the last one, was first seen.
    pub fn led_since(&self) -> Option<Instant> {
        let us = self.led_since_us.load(Ordering::Relaxed);
        (us > 0).then(|| self.started + Duration::from_micros(us))
    }

    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    /// Whether no client was ever answered from a newer state than the one published here; see
    /// [`Standing::sole_leader`].
    pub fn sole_leader(&self) -> bool {
        self.sole_leader.load(Ordering::Acquire)
    }

    pub fn members(&self) -> Vec<Member> {
        self.facts.read().members.clone()
    }

    /// The version that all members understand; `None` until the first leader has set it.
    pub fn cluster_version(&self) -> Option<String> {
        self.facts.read().cluster_version.clone()
    }

    /// The version to which the cluster is being downgraded, if it is.
    pub fn downgrade(&self) -> Option<String> {
        self.facts.read().downgrade.clone()
    }

    /// The alarms that are raised.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.facts.read().alarms.clone()
    }

    /// Whether clients must authenticate.
    pub fn auth_enabled(&self) -> bool {
        self.auth_enabled.load(Ordering::Relaxed)
    }

    /// [`Sizes::allocated`] after the last entry; a Defragment since then does not count.
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// The size of the state as a file of pages would have it, on every engine: the bytes that its rows take now, and
    /// the most that they took since the member was founded or last defragmented. Bytes on disk are among the engine's
    /// own statistics.
    pub fn sizes(&self) -> Sizes {
        self.views.now().engine().sizes()
    }
}

/// State that a worker and the other threads share besides the mailbox.
#[derive(Default)]
pub struct WorkerFlags {
    pub counts: Counts,
    pub watches: WatchCounts,
    watched: AtomicBool,
    events_bytes: AtomicUsize,
}

impl WorkerFlags {
    /// Whether this worker has watchers.
    pub fn watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    /// To be called before the first watcher reads the current revision.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::SeqCst);
    }

    /// Reserves room for events on their way to the worker; false if there is none.
    pub fn take_room(&self, bytes: usize, limit: usize) -> bool {
        let under_way = self.events_bytes.load(Ordering::Relaxed);
        if under_way > 0 && under_way + bytes > limit {
            return false;
        }
        self.events_bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Gives room back.
    pub fn free_room(&self, bytes: usize) {
        self.events_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
