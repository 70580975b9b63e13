//! The metrics of the engine thread, which alone writes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metastore_replica::Observer;
use metastore_store::Work;

use super::Metrics;
use crate::instruments::histogram::{Bounds, Histogram, Sum};
use crate::instruments::requests::{ByKind, recognize};
use crate::instruments::tally::Tally;
use crate::instruments::text::Page;
use crate::shared::is_of;

/// An apply that takes longer counts as slow, as in etcd.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// The engine thread's metrics.
#[derive(Debug)]
pub struct EngineFigures {
    applies: ByKind,
    slow_applies: Tally,
    /// Publishing a batch to the storage engine.
    commits: Histogram,
    /// Steps of compactions, and whole compactions, in microseconds.
    compaction_pauses_us: Histogram,
    compactions_us: Histogram,
    /// Seconds since 1970.
    last_compaction: Tally,
    compacted_keys: Tally,
    /// Heartbeats of this leader that were sent too late.
    late_heartbeats: Tally,
    /// Another member's state is being installed in the place of this one's.
    installing: AtomicBool,
    /// The operations that applied commands ran.
    pub work: WorkDone,
}

/// Operations that commands ran since the start of the process, as etcd counts them.
#[derive(Debug, Default)]
pub struct WorkDone {
    pub puts: Tally,
    pub deletes: Tally,
    /// Without those of requests that only read.
    pub ranges: Tally,
    pub txns: Tally,
    pub put_bytes: Tally,
    pub leases_granted: Tally,
    pub leases_revoked: Tally,
}

impl Default for EngineFigures {
    /// etcd's buckets.
    fn default() -> Self {
        EngineFigures {
            applies: ByKind::new(Bounds::from_us(100, 20)),
            slow_applies: Tally::default(),
            commits: Histogram::new(Bounds::from_us(1000, 14)),
            compaction_pauses_us: Histogram::new(Bounds::Doubling { least: 1000, count: 13 }),
            compactions_us: Histogram::new(Bounds::Doubling { least: 100_000, count: 14 }),
            last_compaction: Tally::default(),
            compacted_keys: Tally::default(),
            late_heartbeats: Tally::default(),
            installing: AtomicBool::default(),
            work: WorkDone::default(),
        }
    }
}

impl EngineFigures {
    /// Records one step of a compaction, and how many versions it dropped.
    pub fn compaction_step(&self, took: Duration, dropped: u64) {
        self.compaction_pauses_us.observe(took.as_micros() as u64);
        self.compacted_keys.add(dropped);
    }

    /// Records a compaction that has ended.
    pub fn compacted(&self, took: Duration) {
        self.compactions_us.observe(took.as_micros() as u64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.last_compaction.add(now.saturating_sub(self.last_compaction.get()));
    }

    pub fn heartbeat_was_late(&self) {
        self.late_heartbeats.add(1);
    }

    pub fn set_installing(&self, installing: bool) {
        self.installing.store(installing, Ordering::Relaxed);
    }

    pub(super) fn write(&self, page: &mut Page) {
        let name = "etcd_server_apply_duration_seconds";
        page.family(name, "The latency distributions of v3 apply called by backend.", "histogram");
        ByKind::write(&[&self.applies], page, name, "op", &[("version", "v3")]);
        page.counter("etcd_server_slow_apply_total", "Slow applies seen.", self.slow_applies.get());
        let histogram = |page: &mut Page, name: &str, help: &str, of: &Histogram, unit: f64| {
            page.family(name, help, "histogram");
            Sum::of([of]).iter().for_each(|sum| sum.write(page, name, &[], unit));
        };
        histogram(
            page,
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of commit called by backend.",
            &self.commits,
            1e9,
        );
        histogram(
            page,
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "The time that writes wait for one step of a compaction.",
            &self.compaction_pauses_us,
            1e3,
        );
        histogram(
            page,
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "The time that compactions take.",
            &self.compactions_us,
            1e3,
        );
        page.gauge(
            "etcd_debugging_mvcc_db_compaction_last",
            "The unix time of the last compaction; 0 if there was none.",
            self.last_compaction.get(),
        );
        page.counter(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Versions of keys that were compacted.",
            self.compacted_keys.get(),
        );
        page.counter(
            "etcd_server_heartbeat_send_failures_total",
            "Heartbeats that this leader sent too late, mostly for a slow disk.",
            self.late_heartbeats.get(),
        );
        page.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 if the server is applying the incoming snapshot, 0 if none.",
            u8::from(self.installing.load(Ordering::Relaxed)),
        );
    }
}

/// Measures batches of entries. The clock is read once per batch, not once per command. Each command of a batch counts
/// as having taken an equal share, so that counts and sums are right.
pub struct Stopwatch {
    figures: Arc<EngineFigures>,
    lease_ttl: prometheus::Histogram,
    member_id: u64,
    began: Instant,
    /// The commands of this batch, by kind and success, with how many there are of each.
    batch: Vec<((u32, bool), u64)>,
}

impl Stopwatch {
    pub fn new(metrics: &Metrics, member_id: u64) -> Stopwatch {
        let (figures, lease_ttl) = (metrics.engine.clone(), metrics.lease_ttl.clone());
        Stopwatch { figures, lease_ttl, member_id, began: Instant::now(), batch: Vec::new() }
    }
}

impl Observer for Stopwatch {
    fn begin(&mut self) {
        self.began = Instant::now();
    }

    fn recognize(&self, command: &[u8]) -> u32 {
        recognize(command)
    }

    fn applied(&mut self, kind: u32, accepted: bool) {
        match self.batch.iter_mut().find(|(what, _)| *what == (kind, accepted)) {
            Some((_, count)) => *count += 1,
            None => self.batch.push(((kind, accepted), 1)),
        }
    }

    fn worked(&mut self, id: u64, work: &Work) {
        let done = &self.figures.work;
        let answers = is_of(self.member_id, id);
        done.puts.add(work.puts);
        done.deletes.add(work.deletes);
        done.ranges.add(work.all_reads(answers));
        done.txns.add(work.txns(answers));
        done.put_bytes.add(work.put_bytes);
        done.leases_revoked.add(u64::from(work.lease_revoked));
        if let Some(ttl_s) = work.granted_s {
            done.leases_granted.add(1);
            self.lease_ttl.observe(ttl_s as f64);
        }
    }

    fn publishing(&mut self) {
        let now = Instant::now();
        let took = now - self.began;
        let commands: u64 = self.batch.iter().map(|(_, count)| count).sum();
        let share = took.as_nanos() as u64 / commands.max(1);
        for ((kind, accepted), count) in self.batch.drain(..) {
            self.figures.applies.of(kind, accepted).observe_many(share, count);
        }
        if commands > 0 && took > SLOW_APPLY {
            self.figures.slow_applies.add(1);
        }
        self.began = now;
    }

    fn published(&mut self) {
        self.figures.commits.observe_time(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Ledger;

    #[test]
    fn a_batch_is_shared_out_among_its_commands() {
        let metrics = Metrics::new("3.7.0".into(), Ledger::default());
        let figures = metrics.engine.clone();
        let mut watch = Stopwatch::new(&metrics, 1);
        watch.begin();
        for (kind, accepted) in [(4, true), (4, true), (7, false)] {
            watch.applied(kind, accepted);
        }
        watch.publishing();
        watch.published();
        figures.compaction_step(Duration::from_millis(3), 5);
        figures.compacted(Duration::from_millis(250));
        figures.heartbeat_was_late();
        figures.set_installing(true);
        let mut page = Page::default();
        figures.write(&mut page);
        let page = page.finish();
        for line in [
            r#"etcd_server_apply_duration_seconds_count{op="Put",success="true",version="v3"} 2"#,
            r#"etcd_server_apply_duration_seconds_count{op="Compaction",success="false",version="v3"} 1"#,
            "etcd_server_slow_apply_total 0",
            "etcd_disk_backend_commit_duration_seconds_count 1",
            r#"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_bucket{le="2"} 0"#,
            r#"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_bucket{le="4"} 1"#,
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_sum 250",
            "etcd_debugging_mvcc_db_compaction_keys_total 5",
            "etcd_server_heartbeat_send_failures_total 1",
            "etcd_server_snapshot_apply_in_progress_total 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\nnot in\n{page}");
        }
    }
}
