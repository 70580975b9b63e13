//! The answers of the member to the HTTP paths and the metrics.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use metastore_engine::Sizes;
use metastore_store::mvcc::RangeQuery;

use crate::grpc::LocalFuture;
use crate::http::{MemberView, RaftStatus};
use crate::instruments::tally::Tally;
use crate::member::{MemberHandle, open_reads};
use crate::metrics::engine::WorkDone;
use crate::metrics::{Number, NumberKind, Readings, write_workers};
use crate::shared::{Counts, Shared, WatchCounts};

impl MemberView for Rc<MemberHandle> {
    fn readings(&self) -> LocalFuture<Readings> {
        let (mut readings, shared) = (readings(self), self.shared.clone());
        Box::pin(async move {
            let engine = tokio::task::spawn_blocking(move || {
                // A failed disk is reported elsewhere.
                let view = shared.views.now();
                (shared.keys.get(&view).unwrap_or_default(), view.engine().statistics())
            });
            let (keys, engine) = engine.await.unwrap_or_default();
            readings.numbers.push((&KEYS, keys));
            Readings { engine, ..readings }
        })
    }

    fn alarms(&self) -> Vec<&'static str> {
        self.shared.alarms().iter().map(|alarm| alarm.alarm().as_str_name()).collect()
    }

    fn has_leader(&self) -> bool {
        self.shared.leader() != 0
    }

    fn is_learner(&self) -> bool {
        self.shared.is_learner()
    }

    fn raft_status(&self) -> RaftStatus {
        let shared = &self.shared;
        RaftStatus {
            id: shared.member_id,
            term: shared.term(),
            commit: shared.commit(),
            applied: shared.applied(),
            leader: shared.leader(),
        }
    }

    fn auth_enabled(&self) -> bool {
        self.shared.auth_enabled()
    }

    fn awaits_answers(&self) -> bool {
        self.engine.awaits_answers()
    }

    fn cluster_version(&self) -> Option<String> {
        self.shared.cluster_version()
    }

    fn cluster_id(&self) -> u64 {
        self.shared.cluster_id
    }

    fn members(&self) -> Vec<metastore_store::Member> {
        self.shared.members()
    }

    fn try_read(&self, serializable: bool) -> LocalFuture<Result<(), String>> {
        let member = self.clone();
        Box::pin(async move {
            if !serializable {
                // Without a deadline, which would be that of a client: the error is the server's.
                let mut call = member.own_call();
                call.deadline = None;
                member.read_barrier(&call).await.map_err(|status| status.message.into_owned())?;
            }
            let read = member.view().range(&RangeQuery { key: b"a", ..RangeQuery::default() });
            read.map(drop).map_err(|error| error.to_string())
        })
    }
}

/// The readings that are available at once: all except those of the engine.
fn readings(member: &MemberHandle) -> Readings {
    let shared = &member.shared;
    let now = Now { member, shared, sizes: shared.sizes(), work: &member.metrics.engine.work };
    Readings {
        member_id: shared.member_id,
        cluster_version: shared.cluster_version(),
        numbers: NUMBERS.iter().map(|(number, read)| (number, read(&now))).collect(),
        alarms: shared.alarms().iter().map(|alarm| (alarm.member_id, alarm.alarm().as_str_name())).collect(),
        engine: Vec::new(),
        peers: member.transport.meters().render(),
        workers: write_workers(&member.all),
    }
}

/// The sources of the numbers at one moment.
struct Now<'a> {
    member: &'a MemberHandle,
    shared: &'a Shared,
    sizes: Sizes,
    work: &'a WorkDone,
}

impl Now<'_> {
    /// A count of requests, of all threads.
    fn sum(&self, of: fn(&Counts) -> &Tally) -> u64 {
        self.member.all.iter().map(|worker| of(&worker.counts).get()).sum()
    }

    /// A count of watches, of all threads.
    fn watches(&self, of: fn(&WatchCounts) -> &AtomicU64) -> u64 {
        self.member.all.iter().map(|worker| of(&worker.watches).load(Ordering::Relaxed)).sum()
    }
}

const fn counter(name: &'static str, help: &'static str) -> Number {
    Number { name, help, kind: NumberKind::Counter }
}

const fn gauge(name: &'static str, help: &'static str) -> Number {
    Number { name, help, kind: NumberKind::Gauge }
}

/// The number of keys is not available at once: it is counted on the pool.
const KEYS: Number = gauge("etcd_debugging_mvcc_keys_total", "Keys.");

type Read = fn(&Now<'_>) -> u64;

/// The metrics that are one number: each is one row, with the way to read it.
static NUMBERS: &[(Number, Read)] = &[
    (gauge("etcd_server_has_leader", "Whether or not a leader exists."), |now| u64::from(now.shared.leader() != 0)),
    (gauge("etcd_server_is_leader", "Whether or not this member is a leader."), |now| {
        u64::from(now.shared.is_leader())
    }),
    (gauge("etcd_server_is_learner", "Whether or not this member is a learner."), |now| {
        u64::from(now.shared.is_learner())
    }),
    (counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen."), |now| {
        now.shared.leader_changes()
    }),
    (gauge("etcd_server_proposals_committed_total", "Consensus proposals committed."), |now| now.shared.commit()),
    (gauge("etcd_server_proposals_applied_total", "Consensus proposals applied."), |now| now.shared.applied()),
    (gauge("etcd_server_proposals_pending", "The number of pending proposals."), |now| now.shared.pending()),
    (counter("etcd_server_proposals_failed_total", "Failed proposals seen."), |now| {
        now.sum(|counts| &counts.proposals_failed)
    }),
    (counter("etcd_server_read_indexes_failed_total", "Failed read indexes seen."), |now| {
        now.sum(|counts| &counts.read_indexes_failed)
    }),
    (counter("etcd_server_slow_read_indexes_total", "Read indexes that came too late."), |now| {
        now.sum(|counts| &counts.slow_read_indexes)
    }),
    (gauge("etcd_server_quota_backend_bytes", "Backend storage quota size in bytes."), |now| {
        now.member.limits.quota.limit().unwrap_or_default()
    }),
    (gauge("metastore_disk_short_of_space", "Whether a disk of this member has too little free space."), |now| {
        u64::from(now.shared.shortage().is_some())
    }),
    (counter("etcd_mvcc_put_total", "Puts seen by this member."), |now| now.work.puts.get()),
    (counter("etcd_mvcc_delete_total", "Deletes seen by this member."), |now| now.work.deletes.get()),
    (counter("etcd_mvcc_range_total", "Ranges seen by this member."), |now| {
        now.sum(|counts| &counts.ranges) + now.work.ranges.get()
    }),
    (counter("etcd_mvcc_txn_total", "Transactions seen by this member."), |now| {
        now.sum(|counts| &counts.txns) + now.work.txns.get()
    }),
    (gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the state as allocated."), |now| now.sizes.allocated),
    (gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Size of the state in use."), |now| now.sizes.in_use),
    (gauge("etcd_debugging_mvcc_current_revision", "The current revision of the store."), |now| {
        now.member.view().revision() as u64
    }),
    (gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction."), |now| {
        now.member.view().compact_revision().max(0) as u64
    }),
    (gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams."), |now| now.watches(|counts| &counts.streams)),
    (gauge("etcd_debugging_mvcc_watcher_total", "Watchers."), |now| now.watches(|counts| &counts.watchers)),
    (gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that read history."), |now| {
        now.watches(|counts| &counts.slow)
    }),
    (counter("etcd_debugging_mvcc_events_total", "Events sent by this member."), |now| {
        now.watches(|counts| &counts.events)
    }),
    (gauge("etcd_debugging_mvcc_pending_events_total", "Responses that watchers have not taken."), |now| {
        now.watches(|counts| &counts.queued)
    }),
    (gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Keys and values put through this member."), |now| {
        now.work.put_bytes.get()
    }),
    (gauge("etcd_mvcc_db_open_read_transactions", "Reads that go on beside the I/O threads."), |_| open_reads()),
    (counter("etcd_debugging_lease_granted_total", "Leases granted."), |now| now.work.leases_granted.get()),
    (counter("etcd_debugging_lease_revoked_total", "Leases revoked."), |now| now.work.leases_revoked.get()),
    (counter("etcd_debugging_lease_renewed_total", "Lease renewals, seen by the leader."), |now| {
        now.sum(|counts| &counts.lease_renewed)
    }),
    (counter("etcd_debugging_server_lease_expired_total", "Leases expired."), |now| now.shared.lease_expired.get()),
    (gauge("etcd_debugging_auth_revision", "The revision of users, roles and permissions."), |now| {
        now.member.view().users().revision()
    }),
    (
        counter(
            "metastore_audit_lost_total",
            "Records of the audit log that were lost: its queue was full, or a write failed.",
        ),
        |now| now.member.audit.lost(),
    ),
    (gauge("etcd_disk_defrag_inflight", "Whether or not defrag is active."), |now| {
        u64::from(now.shared.defragmenting.try_lock().is_err())
    }),
];
