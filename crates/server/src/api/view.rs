//! The answers of the member to the HTTP paths and the metrics.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use metastore_store::mvcc::RangeQuery;
use tokio::time::Instant;

use super::maintenance::DEFAULT_QUOTA_BYTES;
use crate::grpc::{Call, LocalFuture};
use crate::http::MemberView;
use crate::instruments::tally::Tally;
use crate::member::{MemberHandle, open_reads};
use crate::metrics::{Readings, write_workers};
use crate::shared::{Counts, WatchCounts};

impl MemberView for Rc<MemberHandle> {
    fn readings(&self) -> LocalFuture<Readings> {
        let (readings, shared) = (numbers(self), self.shared.clone());
        Box::pin(async move {
            let engine = tokio::task::spawn_blocking(move || {
                // A failed disk is reported elsewhere.
                let view = shared.views.now();
                (shared.keys.get(&view).unwrap_or_default(), view.engine().statistics())
            });
            let (keys, engine) = engine.await.unwrap_or_default();
            Readings { keys, engine, ..readings }
        })
    }

    fn alarms(&self) -> Vec<&'static str> {
        self.shared.alarms().iter().map(|alarm| alarm.alarm().as_str_name()).collect()
    }

    fn has_leader(&self) -> bool {
        self.shared.leader() != 0
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
                let call = Call::of_member(Instant::now() + member.limits.request_timeout);
                member.read_barrier(&call).await.map_err(|status| status.message.into_owned())?;
            }
            let read = member.view().range(&RangeQuery { key: b"a", ..RangeQuery::default() });
            read.map(drop).map_err(|error| error.to_string())
        })
    }
}

/// The readings that are available at once: all except those of the engine.
fn numbers(member: &MemberHandle) -> Readings {
    let shared = &member.shared;
    let sizes = shared.sizes();
    let work = &member.metrics.engine.work;
    let sum = |of: fn(&Counts) -> &Tally| member.all.iter().map(|worker| of(&worker.counts).get()).sum::<u64>();
    let watches = |of: fn(&WatchCounts) -> &std::sync::atomic::AtomicU64| {
        member.all.iter().map(|worker| of(&worker.watches).load(Ordering::Relaxed)).sum::<u64>()
    };
    Readings {
        member_id: shared.member_id,
        has_leader: shared.leader() != 0,
        is_leader: shared.is_leader(),
        is_learner: shared.is_learner(),
        leader_changes: shared.leader_changes(),
        proposals_committed: shared.commit(),
        proposals_applied: shared.applied(),
        proposals_pending: shared.pending(),
        proposals_failed: sum(|counts| &counts.proposals_failed),
        read_indexes_failed: sum(|counts| &counts.read_indexes_failed),
        slow_read_indexes: sum(|counts| &counts.slow_read_indexes),
        cluster_version: shared.cluster_version(),
        puts: work.puts.get(),
        deletes: work.deletes.get(),
        ranges: sum(|counts| &counts.ranges) + work.ranges.get(),
        txns: sum(|counts| &counts.txns) + work.txns.get(),
        db_total_bytes: sizes.allocated,
        db_in_use_bytes: sizes.in_use,
        quota_bytes: DEFAULT_QUOTA_BYTES as u64,
        keys: 0,
        current_revision: member.view().revision() as u64,
        compact_revision: member.view().compact_revision().max(0) as u64,
        watch_streams: watches(|counts| &counts.streams),
        watchers: watches(|counts| &counts.watchers),
        slow_watchers: watches(|counts| &counts.slow),
        watch_events: watches(|counts| &counts.events),
        pending_responses: watches(|counts| &counts.queued),
        put_bytes: work.put_bytes.get(),
        open_reads: open_reads(),
        leases_granted: work.leases_granted.get(),
        leases_revoked: work.leases_revoked.get(),
        leases_renewed: sum(|counts| &counts.lease_renewed),
        leases_expired: shared.lease_expired.get(),
        alarms: shared.alarms().iter().map(|alarm| (alarm.member_id, alarm.alarm().as_str_name())).collect(),
        defragmenting: shared.defragmenting.try_lock().is_err(),
        engine: Vec::new(),
        peers: member.transport.meters().render(),
        workers: write_workers(&member.all),
    }
}
