//! `/metrics`, under etcd's names.
//!
//! Numbers are kept where they arise and read when somebody scrapes: [`Readings`] from the member, [`Ledger`] from the
//! gRPC methods, `/proc` from the kernel, the storage engine's own figures. Counting costs the hot path a load and a store, or nothing. Only distributions
//! are kept here, because they cannot be read afterwards.
//!
//! Deliberately absent: names of etcd's that nothing here can update.

mod process;
mod text;

use std::sync::Arc;

use metastore_engine::Statistic;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder, exponential_buckets,
};

use crate::grpc::counts::MethodCounts;
use crate::grpc::{Code, Ledger};
use text::Page;

/// The member's numbers at one moment. Counters count from the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    pub member_id: u64,
    pub has_leader: bool,
    pub is_leader: bool,
    pub is_learner: bool,
    pub leader_changes: u64,
    pub proposals_committed: u64,
    pub proposals_applied: u64,
    pub proposals_pending: u64,
    pub proposals_failed: u64,
    pub read_indexes_failed: u64,
    pub slow_read_indexes: u64,
    pub cluster_version: Option<String>,
    pub puts: u64,
    pub deletes: u64,
    pub ranges: u64,
    pub txns: u64,
    pub db_total_bytes: u64,
    pub db_in_use_bytes: u64,
    pub quota_bytes: u64,
    pub keys: u64,
    pub current_revision: u64,
    pub compact_revision: u64,
    pub watch_streams: u64,
    pub watchers: u64,
    pub slow_watchers: u64,
    pub watch_events: u64,
    pub leases_granted: u64,
    pub leases_revoked: u64,
    pub leases_renewed: u64,
    pub leases_expired: u64,
    pub defragmenting: bool,
    /// What the storage engine says of itself.
    pub engine: Vec<Statistic>,
    /// The figures about other members, as they are to be shown.
    pub peers: String,
}

/// What `/metrics` shows beside the readings. One for the whole process.
#[derive(Debug)]
pub struct Metrics {
    /// Seconds per sync of the write-ahead log; to be observed by whoever syncs.
    pub wal_fsync_seconds: Histogram,
    /// Seconds per Defragment.
    pub defragment_seconds: Histogram,
    learner_promote_successes: IntCounter,
    learner_promote_failures: IntCounterVec,
    registry: Registry,
    ledger: Ledger,
    version: String,
}

impl Metrics {
    /// `version` is the one that is reported; `ledger` is where the routers count.
    pub fn new(version: String, ledger: Ledger) -> Arc<Metrics> {
        let registry = Registry::new();
        let wal_fsync_seconds = histogram(
            &registry,
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            (0.001, 14),
        );
        let defragment_seconds = histogram(
            &registry,
            "etcd_disk_backend_defrag_duration_seconds",
            "The latency distribution of backend defragmentation.",
            (0.1, 13),
        );
        let learner_promote_successes = IntCounter::new(
            "etcd_server_learner_promote_successes",
            "The number of learners made voters while this member led.",
        );
        let learner_promote_successes = learner_promote_successes.expect("a valid name");
        let failures = Opts::new(
            "etcd_server_learner_promote_failures",
            "The number of learners that could not be made voters while this member led.",
        );
        let learner_promote_failures = IntCounterVec::new(failures, &["Reason"]).expect("a valid name");
        let counters: [Box<dyn Collector>; 2] =
            [Box::new(learner_promote_successes.clone()), Box::new(learner_promote_failures.clone())];
        for counter in counters {
            registry.register(counter).expect("a name of its own");
        }
        Arc::new(Metrics {
            wal_fsync_seconds,
            defragment_seconds,
            learner_promote_successes,
            learner_promote_failures,
            registry,
            ledger,
            version,
        })
    }

    /// Counts an attempt to make a voter of a learner; the error is the reason for which it failed. There are few of them.
    pub fn learner_promoted(&self, result: Result<(), &str>) {
        match result {
            Ok(()) => self.learner_promote_successes.inc(),
            Err(reason) => self.learner_promote_failures.with_label_values(&[reason]).inc(),
        }
    }

    /// Where routers count.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The page.
    pub fn render(&self, readings: &Readings) -> String {
        let mut page = Page::default();
        write_server(&mut page, readings, &self.version);
        write_store(&mut page, readings);
        write_engine(&mut page, readings);
        write_methods(&mut page, &self.ledger);
        process::write(&mut page);
        page.raw(&readings.peers);
        page.raw(&TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default());
        page.finish()
    }
}

/// etcd's buckets: from so many seconds on, so many of them, doubling.
fn histogram(registry: &Registry, name: &str, help: &str, (least, count): (f64, usize)) -> Histogram {
    let buckets = exponential_buckets(least, 2.0, count).expect("a positive start and a factor above 1");
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).expect("a valid name");
    registry.register(Box::new(histogram.clone())).expect("a name of its own");
    histogram
}

fn write_server(page: &mut Page, readings: &Readings, version: &str) {
    let r = readings;
    page.label("etcd_server_version", "Which version is running.", "server_version", version);
    if let Some(version) = &r.cluster_version {
        // Major and minor, as in etcd.
        let version = version.rsplit_once('.').map_or(&**version, |(short, _)| short);
        page.label("etcd_cluster_version", "Which version the cluster speaks.", "cluster_version", version);
    }
    page.label("etcd_server_id", "Server or member id in hexadecimal.", "server_id", &format!("{:x}", r.member_id));
    page.gauge("etcd_server_has_leader", "Whether or not a leader exists.", u8::from(r.has_leader));
    page.gauge("etcd_server_is_leader", "Whether or not this member is a leader.", u8::from(r.is_leader));
    page.gauge("etcd_server_is_learner", "Whether or not this member is a learner.", u8::from(r.is_learner));
    page.counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen.", r.leader_changes);
    page.gauge("etcd_server_proposals_committed_total", "Consensus proposals committed.", r.proposals_committed);
    page.gauge("etcd_server_proposals_applied_total", "Consensus proposals applied.", r.proposals_applied);
    page.gauge("etcd_server_proposals_pending", "The number of pending proposals.", r.proposals_pending);
    page.counter("etcd_server_proposals_failed_total", "Failed proposals seen.", r.proposals_failed);
    page.counter("etcd_server_read_indexes_failed_total", "Failed read indexes seen.", r.read_indexes_failed);
    page.counter("etcd_server_slow_read_indexes_total", "Read indexes that came too late.", r.slow_read_indexes);
    page.gauge("etcd_server_quota_backend_bytes", "Backend storage quota size in bytes.", r.quota_bytes);
}

fn write_store(page: &mut Page, readings: &Readings) {
    let r = readings;
    page.counter("etcd_mvcc_put_total", "Puts seen by this member.", r.puts);
    page.counter("etcd_mvcc_delete_total", "Deletes seen by this member.", r.deletes);
    page.counter("etcd_mvcc_range_total", "Ranges seen by this member.", r.ranges);
    page.counter("etcd_mvcc_txn_total", "Transactions seen by this member.", r.txns);
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the state as allocated.", r.db_total_bytes);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Size of the state in use.", r.db_in_use_bytes);
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys.", r.keys);
    page.gauge("etcd_debugging_mvcc_current_revision", "The current revision of the store.", r.current_revision);
    page.gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction.", r.compact_revision);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", r.watch_streams);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", r.watchers);
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that read history.", r.slow_watchers);
    page.counter("etcd_debugging_mvcc_events_total", "Events sent by this member.", r.watch_events);
    page.counter("etcd_debugging_lease_granted_total", "Leases granted.", r.leases_granted);
    page.counter("etcd_debugging_lease_revoked_total", "Leases revoked.", r.leases_revoked);
    page.counter("etcd_debugging_lease_renewed_total", "Lease renewals, seen by the leader.", r.leases_renewed);
    page.counter("etcd_debugging_server_lease_expired_total", "Leases expired.", r.leases_expired);
}

/// The medium's own figures have no name in etcd.
fn write_engine(page: &mut Page, readings: &Readings) {
    page.gauge("etcd_disk_defrag_inflight", "Whether or not defrag is active.", u8::from(readings.defragmenting));
    for statistic in &readings.engine {
        let name = format!("metastore_engine_{}", statistic.name);
        if statistic.is_counter() {
            page.counter(&name, statistic.help, statistic.value);
        } else {
            page.gauge(&name, statistic.help, statistic.value);
        }
    }
}

type Read = fn(&MethodCounts) -> u64;

/// The counts of all I/O threads, added up by method.
fn write_methods(page: &mut Page, ledger: &Ledger) {
    let mut threads = ledger.all();
    threads.sort_by_key(|counts| (counts.service, counts.method));
    let methods: Vec<&[Arc<MethodCounts>]> =
        threads.chunk_by(|left, right| (left.service, left.method) == (right.service, right.method)).collect();
    let sum = |of: &[Arc<MethodCounts>], read: &dyn Fn(&MethodCounts) -> u64| of.iter().map(|c| read(c)).sum::<u64>();
    let totals: [(&str, &str, Read); 3] = [
        ("grpc_server_started_total", "RPCs started on the server.", |counts| counts.started.get()),
        ("grpc_server_msg_received_total", "Messages received from clients.", |counts| counts.received.get()),
        ("grpc_server_msg_sent_total", "Messages sent to clients.", |counts| counts.sent.get()),
    ];
    for (name, help, read) in totals {
        page.family(name, help, "counter");
        for method in &methods {
            page.sample(name, &labels(&method[0]), sum(method, &read));
        }
    }
    page.family("grpc_server_handled_total", "RPCs completed on the server, by code.", "counter");
    for method in &methods {
        for code in Code::ALL {
            let [kind, name, service] = labels(&method[0]);
            let labels = [("grpc_code", code.name()), kind, name, service];
            page.sample("grpc_server_handled_total", &labels, sum(method, &|c| c.handled[code as usize].get()));
        }
    }
    let bytes = |read: Read| sum(&threads, &read);
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received from gRPC clients.",
        bytes(|counts| counts.received_bytes.get()),
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent to gRPC clients.",
        bytes(|counts| counts.sent_bytes.get()),
    );
}

fn labels(counts: &MethodCounts) -> [(&'static str, &'static str); 3] {
    [("grpc_method", counts.method), ("grpc_service", counts.service), ("grpc_type", counts.kind.label())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::counts::Kind;

    fn page() -> String {
        let ledger = Ledger::default();
        for _thread in 0..2 {
            let counts = ledger.open("etcdserverpb.KV", "Put", Kind::Unary);
            counts.started.add(3);
            counts.handled[Code::Ok as usize].add(2);
            counts.received_bytes.add(100);
            ledger.open("etcdserverpb.Watch", "Watch", Kind::BidiStream);
        }
        let metrics = Metrics::new("3.7.0".into(), ledger);
        metrics.wal_fsync_seconds.observe(0.003);
        let engine = vec![
            Statistic { name: "disk_bytes", help: "Bytes on disk.", value: 9 },
            Statistic { name: "flushed_bytes_total", help: "Bytes flushed.", value: 8 },
        ];
        metrics.render(&Readings { member_id: 0xabc, has_leader: true, puts: 7, engine, ..Readings::default() })
    }

    #[test]
    fn threads_are_added_up_and_what_did_not_happen_is_zero() {
        let page = page();
        for line in [
            r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 6"#,
            r#"grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 0"#,
            r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 4"#,
            r#"grpc_server_handled_total{grpc_code="DataLoss",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 0"#,
            "etcd_network_client_grpc_received_bytes_total 200",
            r#"etcd_server_id{server_id="abc"} 1"#,
            "etcd_server_has_leader 1",
            "etcd_mvcc_put_total 7",
            "# TYPE metastore_engine_disk_bytes gauge",
            "metastore_engine_disk_bytes 9",
            "# TYPE metastore_engine_flushed_bytes_total counter",
            "metastore_engine_flushed_bytes_total 8",
            r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="0.004"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\nnot in\n{page}");
        }
    }

    #[test]
    fn every_family_is_declared_once_before_its_samples() {
        let page = page();
        let mut declared = std::collections::HashSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next().unwrap()), "{line}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                assert!(declared.contains(name) || family.is_some_and(|name| declared.contains(name)), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }
}
