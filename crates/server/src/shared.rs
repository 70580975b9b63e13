//! What every request may read without asking the engine thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metastore_replica::Standing;
use metastore_store::mvcc::Views;
use metastore_store::{Member, Members, Store};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::grpc::counts::Tally;
use crate::keys::KeyCount;

/// Page size that file sizes are rounded to, as in etcd's backend.
const PAGE_BYTES: u64 = 4096;
/// Pages of a backend file without rows: two meta pages, free list, root.
const EMPTY_PAGES: u64 = 5;
/// What a row takes in a page beside its bytes.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// The member's state as its requests see it.
pub struct Shared {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Where the state is; each read asks once, and reads to its end from what it was told.
    pub views: Views,
    /// Leases that the leader found expired; written by the engine thread.
    pub lease_expired: Tally,
    pub keys: KeyCount,
    /// Held while the medium gives space back: one at a time.
    pub defragmenting: Arc<tokio::sync::Mutex<()>>,
    /// Told when this member has become leader; for one listener.
    pub elected: Notify,
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    applied: AtomicU64,
    is_leader: AtomicBool,
    sole_leader: AtomicBool,
    is_learner: AtomicBool,
    leader_changes: AtomicU64,
    started: Instant,
    /// When the leader of now was heard of first, in microseconds after `started`; 0 if there was none yet.
    led_since_us: AtomicU64,
    /// Requests that the engine thread knows and has not answered.
    pending: AtomicU64,
    /// High-water mark of the size in use; see [`Shared::sizes`].
    size: AtomicU64,
    members: RwLock<(Vec<Member>, Option<String>)>,
    next_id: AtomicU64,
}

/// What one worker counts, for the metrics. Only that worker writes.
#[derive(Default)]
pub struct Counts {
    pub puts: Tally,
    pub deletes: Tally,
    pub ranges: Tally,
    pub txns: Tally,
    pub proposals_failed: Tally,
    /// Read rounds that brought no answer.
    pub read_indexes_failed: Tally,
    /// Read rounds whose answer came too late, or to another question.
    pub slow_read_indexes: Tally,
    pub lease_granted: Tally,
    pub lease_revoked: Tally,
    pub lease_renewed: Tally,
}

/// The watches of one worker, as they were a moment ago.
#[derive(Default)]
pub struct WatchCounts {
    pub streams: AtomicU64,
    pub watchers: AtomicU64,
    pub slow: AtomicU64,
    pub events: AtomicU64,
}

/// Sizes in bytes, as etcd's clients and operators know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub allocated: u64,
    pub in_use: u64,
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
            is_leader: AtomicBool::default(),
            sole_leader: AtomicBool::default(),
            is_learner: AtomicBool::default(),
            leader_changes: AtomicU64::default(),
            started: Instant::now(),
            led_since_us: AtomicU64::default(),
            pending: AtomicU64::default(),
            size: AtomicU64::default(),
            members: RwLock::default(),
            // etcd's layout: 2 bytes of the member's id, 5 of the time in milliseconds, 1 to count; the count carries over
            // into the time, which runs faster than any member makes requests.
            next_id: AtomicU64::new((millis & ((1 << 40) - 1)) << 8),
        };
        shared.set_members(store.members());
        shared.set_applied(store);
        Arc::new(shared)
    }

    /// An id for a request or a lease: unique in the cluster, across restarts.
    pub fn next_id(&self) -> u64 {
        let count = self.next_id.fetch_add(1, Ordering::Relaxed) & ((1 << 48) - 1);
        self.member_id << 48 | count
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
        self.size.fetch_max(self.in_use(), Ordering::Relaxed);
    }

    pub fn set_pending(&self, requests: usize) {
        self.pending.store(requests as u64, Ordering::Relaxed);
    }

    /// Requests that wait for consensus.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    pub fn set_members(&self, members: &Members) {
        let version = members.cluster_version().map(str::to_owned);
        let learns = members.get(self.member_id).is_some_and(|own| own.is_learner);
        self.is_learner.store(learns, Ordering::Relaxed);
        *self.members.write() = (members.iter().cloned().collect(), version);
    }

    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// Id of the leader, 0 without one.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
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

    /// When the leader of now, or the last one, was heard of first.
    pub fn led_since(&self) -> Option<Instant> {
        let us = self.led_since_us.load(Ordering::Relaxed);
        (us > 0).then(|| self.started + Duration::from_micros(us))
    }

    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    /// Whether what is published here is the newest state that anyone was told of; see [`Standing::sole_leader`].
    pub fn sole_leader(&self) -> bool {
        self.sole_leader.load(Ordering::Acquire)
    }

    pub fn members(&self) -> Vec<Member> {
        self.members.read().0.clone()
    }

    /// The version that all members understand; `None` until the first leader has set it.
    pub fn cluster_version(&self) -> Option<String> {
        self.members.read().1.clone()
    }

    /// The size of the state as a file of pages would have it, on every engine: what its rows take now, and the most they
    /// took since the start or the last [`Shared::shrink`]. Bytes on the medium are among the engine's own figures.
    pub fn sizes(&self) -> Sizes {
        let in_use = self.in_use();
        Sizes { allocated: self.size.fetch_max(in_use, Ordering::Relaxed).max(in_use), in_use }
    }

    /// Lets the size fall to what is in use.
    pub fn shrink(&self) -> Sizes {
        let in_use = self.in_use();
        self.size.store(in_use, Ordering::Relaxed);
        Sizes { allocated: in_use, in_use }
    }

    fn in_use(&self) -> u64 {
        let usage = self.views.now().engine().usage();
        let bytes = usage.bytes + usage.rows * ROW_OVERHEAD_BYTES;
        (EMPTY_PAGES + bytes.div_ceil(PAGE_BYTES)) * PAGE_BYTES
    }
}

/// What a worker and the other threads tell each other beside the mailbox.
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

    /// To be called before the first watcher looks at the current revision.
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
