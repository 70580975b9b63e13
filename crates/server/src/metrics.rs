//! `/metrics`, under etcd's names.
//!
//! Numbers are kept where they arise, and read at a scrape: [`Readings`] from the member, [`Ledger`] from the gRPC
//! methods, `/proc` from the kernel, and the storage engine's own statistics. Counting costs the hot path a load and a
//! store, or nothing. Only distributions are kept here, because they cannot be read afterwards.
//!
//! Deliberately absent: etcd's metrics that nothing here could update.

mod checks;
pub mod engine;
pub mod process;

use std::sync::Arc;

use metastore_engine::Statistic;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, exponential_buckets,
};

use crate::grpc::counts::MethodCounts;
use crate::grpc::{Code, Ledger};
use crate::instruments::histogram::{Histogram as Local, Sum};
use crate::instruments::requests::{ByKind, Requests, WatchSends};
use crate::instruments::text::Page;
use crate::shared::WorkerFlags;
use checks::Checks;
use engine::EngineFigures;

/// The member's numbers at one moment. Counters count from the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    pub member_id: u64,
    pub cluster_version: Option<String>,
    /// The metrics that are one number, with their values.
    pub numbers: Vec<(&'static Number, u64)>,
    /// The active alarms: the member and the kind of each.
    pub alarms: Vec<(u64, &'static str)>,
    /// The storage engine's own statistics.
    pub engine: Vec<Statistic>,
    /// The metrics about other members, as text.
    pub peers: String,
    /// The distributions of all I/O threads, as text.
    pub workers: String,
}

/// A metric that is one number.
#[derive(Debug, PartialEq, Eq)]
pub struct Number {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: NumberKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberKind {
    Counter,
    Gauge,
}

/// The metrics that `/metrics` shows besides the readings. One for the whole process.
#[derive(Debug)]
pub struct Metrics {
    /// Seconds per sync of the write-ahead log, and per write to it; observed at the disk.
    pub wal_fsync_seconds: Histogram,
    pub wal_write_seconds: Histogram,
    pub wal_write_bytes: IntGauge,
    /// Seconds per sync of a snapshot's files, and of a state that another member sends.
    pub snap_fsync_seconds: Histogram,
    pub received_fsync_seconds: Histogram,
    /// Seconds per state that was made durable, sent to another member, and received from one.
    pub snap_save_seconds: Histogram,
    pub sent_seconds: Histogram,
    pub received_seconds: Histogram,
    /// Seconds per Defragment.
    pub defragment_seconds: Histogram,
    /// Seconds per Hash and HashKV.
    pub hash_seconds: Histogram,
    pub hash_rev_seconds: Histogram,
    /// Seconds to live of leases as they are granted.
    pub lease_ttl: Histogram,
    /// Answers of `/health`.
    pub health_successes: IntCounter,
    pub health_failures: IntCounter,
    pub checks: Checks,
    /// The metrics of the engine thread.
    pub engine: Arc<EngineFigures>,
    scrapes: IntCounterVec,
    scrapes_in_flight: IntGauge,
    learner_promote_successes: IntCounter,
    learner_promote_failures: IntCounterVec,
    registry: Registry,
    ledger: Ledger,
    version: String,
}

impl Metrics {
    /// `version` is the reported one; `ledger` holds the counters of the routers.
    pub fn new(version: String, ledger: Ledger) -> Arc<Metrics> {
        let registry = Registry::new();
        let seconds = |name: &str, help: &str, buckets: (f64, usize)| histogram(&registry, name, help, buckets);
        let counter = |name: &str, help: &str| -> IntCounter { register(&registry, IntCounter::new(name, help)) };
        let counters = |name: &str, help: &str, label: &str| -> IntCounterVec {
            register(&registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let gauge = |name: &str, help: &str| -> IntGauge { register(&registry, IntGauge::new(name, help)) };
        let scrapes =
            counters("promhttp_metric_handler_requests_total", "Total number of scrapes by HTTP status code.", "code");
        // Present from the start: a scrape shows the number of the scrapes before it.
        scrapes.with_label_values(&["200"]);
        Arc::new(Metrics {
            wal_fsync_seconds: seconds(
                "etcd_disk_wal_fsync_duration_seconds",
                "Seconds per sync of the log.",
                (0.001, 14),
            ),
            wal_write_seconds: seconds(
                "etcd_disk_wal_write_duration_seconds",
                "Seconds per write to the log.",
                (0.001, 14),
            ),
            wal_write_bytes: gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL."),
            snap_fsync_seconds: seconds(
                "etcd_snap_fsync_duration_seconds",
                "Seconds per sync of a snapshot.",
                (0.001, 14),
            ),
            received_fsync_seconds: seconds(
                "etcd_snap_db_fsync_duration_seconds",
                "The latency distributions of fsyncing a state that another member sends.",
                (0.001, 14),
            ),
            snap_save_seconds: seconds(
                "etcd_debugging_snap_save_total_duration_seconds",
                "Seconds per snapshot.",
                (0.001, 14),
            ),
            sent_seconds: seconds("etcd_disk_backend_snapshot_duration_seconds", "Seconds per state sent.", (0.01, 17)),
            received_seconds: seconds(
                "etcd_snap_db_save_total_duration_seconds",
                "The total latency distributions of saving a state that another member sends.",
                (0.1, 10),
            ),
            defragment_seconds: seconds(
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                (0.1, 13),
            ),
            hash_seconds: seconds("etcd_mvcc_hash_duration_seconds", "Seconds per hash.", (0.01, 15)),
            hash_rev_seconds: seconds(
                "etcd_mvcc_hash_rev_duration_seconds",
                "The latency distribution of storage hash by revision operation.",
                (0.01, 15),
            ),
            lease_ttl: seconds("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", (1.0, 24)),
            health_successes: counter("etcd_server_health_success", "The total number of successful health checks."),
            health_failures: counter("etcd_server_health_failures", "The total number of failed health checks."),
            checks: Checks::new(&registry),
            engine: Arc::default(),
            scrapes,
            scrapes_in_flight: gauge(
                "promhttp_metric_handler_requests_in_flight",
                "Current number of scrapes being served.",
            ),
            learner_promote_successes: counter(
                "etcd_server_learner_promote_successes",
                "The number of learners made voters while this member led.",
            ),
            learner_promote_failures: counters(
                "etcd_server_learner_promote_failures",
                "The number of learners that could not be made voters while this member led.",
                "Reason",
            ),
            registry,
            ledger,
            version,
        })
    }

    /// Counts an attempt to promote a learner; the error is the reason of a failure. There are few different reasons.
    pub fn learner_promoted(&self, result: Result<(), &str>) {
        match result {
            Ok(()) => self.learner_promote_successes.inc(),
            Err(reason) => self.learner_promote_failures.with_label_values(&[reason]).inc(),
        }
    }

    /// The counters of the routers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Renders the page, once it has its readings. Counts as a scrape.
    pub async fn scrape(&self, readings: impl Future<Output = Readings>) -> String {
        self.scrapes_in_flight.inc();
        let page = self.render(&readings.await);
        self.scrapes_in_flight.dec();
        self.scrapes.with_label_values(&["200"]).inc();
        page
    }

    fn render(&self, readings: &Readings) -> String {
        let mut page = Page::default();
        write_server(&mut page, readings, &self.version);
        write_engine(&mut page, readings);
        self.engine.write(&mut page);
        write_methods(&mut page, &self.ledger);
        page.raw(&readings.workers);
        process::write(&mut page);
        page.raw(&readings.peers);
        page.raw(&TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default());
        page.finish()
    }
}

/// etcd's buckets: `count` bounds, doubling from `least` seconds on.
fn histogram(registry: &Registry, name: &str, help: &str, (least, count): (f64, usize)) -> Histogram {
    let buckets = exponential_buckets(least, 2.0, count).expect("a positive start and a factor above 1");
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a valid name");
    registry.register(Box::new(collector.clone())).expect("a name of its own");
    collector
}

/// The distributions of all I/O threads, added up.
pub fn write_workers(workers: &[Arc<WorkerFlags>]) -> String {
    let mut page = Page::default();
    let requests: Vec<&Requests> = workers.iter().map(|worker| &worker.counts.requests).collect();
    let name = "etcd_server_request_duration_seconds";
    page.family(name, "Response latency distribution in seconds for each type.", "histogram");
    let taken: Vec<&ByKind> = requests.iter().map(|requests| &requests.taken).collect();
    ByKind::write(&taken, &mut page, name, "type", &[]);
    let name = "etcd_server_range_duration_seconds";
    page.family(name, "The latency distributions of txn.Range.", "histogram");
    for (success, text) in ["false", "true"].into_iter().enumerate() {
        let sum = Sum::of(requests.iter().map(|requests| &requests.ranges[success]));
        sum.iter().filter(|sum| sum.count() > 0).for_each(|sum| sum.write(&mut page, name, &[("success", text)], 1e9));
    }
    type Of = fn(&WatchSends) -> &Local;
    let sends: [(&str, &str, Of); 4] = [
        ("control_stream_duration_seconds", "Answers to requests of watch streams.", |sends| &sends.control),
        ("progress_duration_seconds", "Progress notifications.", |sends| &sends.progress),
        ("watch_stream_duration_seconds", "Responses with events.", |sends| &sends.events),
        ("watch_stream_duration_per_event_seconds", "Responses with events, for each event.", |sends| &sends.per_event),
    ];
    for (name, what, of) in sends {
        let name = format!("etcd_debugging_server_watch_send_loop_{name}");
        page.family(&name, &format!("The time that sending takes. {what}"), "histogram");
        let sum = Sum::of(workers.iter().map(|worker| of(&worker.counts.watch_sends)));
        sum.iter().for_each(|sum| sum.write(&mut page, &name, &[], 1e9));
    }
    page.finish()
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
    for (Number { name, help, kind }, value) in &r.numbers {
        match kind {
            NumberKind::Counter => page.counter(name, help, value),
            NumberKind::Gauge => page.gauge(name, help, value),
        }
    }
    let name = "etcd_debugging_server_alarms";
    page.family(name, "The alarms that stand, each with the member that it is about.", "gauge");
    for (member, kind) in &r.alarms {
        page.sample(name, &[("alarm_type", kind), ("server_id", &format!("{member:x}"))], 1);
    }
}

/// The storage engine's own statistics have no name in etcd.
fn write_engine(page: &mut Page, readings: &Readings) {
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
    if methods.iter().any(|method| method[0].handling.is_some()) {
        let name = "grpc_server_handling_seconds";
        page.family(name, "Response latency of RPCs handled by the server.", "histogram");
        for method in &methods {
            let sum = Sum::of(method.iter().filter_map(|counts| counts.handling.as_ref()));
            sum.iter().for_each(|sum| sum.write(page, name, &labels(&method[0]), 1e9));
        }
    }
    let name = "etcd_server_client_requests_total";
    page.family(name, "The total number of client requests per client version.", "counter");
    for (version, [unary, stream]) in ledger.client_requests() {
        for (kind, count) in [("stream", stream), ("unary", unary)].into_iter().filter(|(_, count)| *count > 0) {
            page.sample(name, &[("client_api_version", &version), ("type", kind)], count);
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
    use crate::grpc::counts::GrpcType;

    fn page() -> String {
        let ledger = Ledger::default();
        for _thread in 0..2 {
            let counts = ledger.open("etcdserverpb.KV", "Put", GrpcType::Unary);
            counts.started.add(3);
            counts.handled[Code::Ok as usize].add(2);
            counts.received_bytes.add(100);
            ledger.open("etcdserverpb.Watch", "Watch", GrpcType::BidiStream);
        }
        let metrics = Metrics::new("3.7.0".into(), ledger);
        metrics.wal_fsync_seconds.observe(0.003);
        let engine = vec![
            Statistic { name: "disk_bytes", help: "Bytes on disk.", value: 9 },
            Statistic { name: "flushed_bytes_total", help: "Bytes flushed.", value: 8 },
        ];
        const LEADER: &Number = &Number { name: "etcd_server_has_leader", help: "A leader.", kind: NumberKind::Gauge };
        const PUTS: &Number = &Number { name: "etcd_mvcc_put_total", help: "Puts.", kind: NumberKind::Counter };
        let numbers = vec![(LEADER, 1), (PUTS, 7)];
        metrics.render(&Readings { member_id: 0xabc, numbers, engine, ..Readings::default() })
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
            "# TYPE etcd_server_has_leader gauge",
            "# TYPE etcd_mvcc_put_total counter",
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
