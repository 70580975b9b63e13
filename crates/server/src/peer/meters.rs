//! etcd's `etcd_network_*` metrics about other members.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

/// The label of a sender that neither is nor was a peer: the number of labels must not depend on what strangers send.
const STRANGER: &str = "unknown";

/// All metrics, by member. Those of a removed member are removed with it.
#[derive(Debug)]
pub struct Meters {
    registry: Registry,
    local: String,
    active: IntGaugeVec,
    known: IntGaugeVec,
    disconnected: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    sent_failures: IntCounterVec,
    received_failures: IntCounterVec,
    round_trip: HistogramVec,
    send: StateVecs,
    receive: StateVecs,
}

#[derive(Debug)]
struct StateVecs {
    success: IntCounterVec,
    inflight: IntGaugeVec,
    failures: IntCounterVec,
    seconds: HistogramVec,
}

/// The metrics of one member.
#[derive(Clone, Debug)]
pub struct PeerMeters {
    pub active: IntGauge,
    pub disconnected: IntCounter,
    pub sent_bytes: IntCounter,
    pub received_bytes: IntCounter,
    pub sent_failures: IntCounter,
    pub received_failures: IntCounter,
    pub round_trip_seconds: Histogram,
    pub state_sent: StateMeters,
    pub state_received: StateMeters,
}

/// States sent to, or received from, one member.
#[derive(Clone, Debug)]
pub struct StateMeters {
    pub success: IntCounter,
    pub inflight: IntGauge,
    pub failures: IntCounter,
    pub seconds: Histogram,
}

impl Meters {
    /// `id` is this member's.
    pub fn new(id: u64) -> Arc<Meters> {
        let registry = Registry::new();
        let of = ["Local", "Remote"];
        let gauges = |name: &str, help: &str, labels: &[&str]| -> IntGaugeVec {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> IntCounterVec {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let histograms = |name: &str, help: &str, label: &str, (least, count): (f64, usize)| -> HistogramVec {
            let buckets = exponential_buckets(least, 2.0, count).expect("a positive start and a factor above 1");
            register(&registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[label]))
        };
        let states = |verb: &str, label: &str| StateVecs {
            success: counters(
                &format!("etcd_network_snapshot_{verb}_success"),
                "Total number of snapshots that went through.",
                &[label],
            ),
            inflight: gauges(
                &format!("etcd_network_snapshot_{verb}_inflights_total"),
                "Total number of snapshots under way.",
                &[label],
            ),
            failures: counters(
                &format!("etcd_network_snapshot_{verb}_failures"),
                "Total number of snapshots that failed.",
                &[label],
            ),
            seconds: histograms(
                &format!("etcd_network_snapshot_{verb}_total_duration_seconds"),
                "Seconds that a snapshot took on its way.",
                label,
                (0.1, 10),
            ),
        };
        let (send, receive) = (states("send", "To"), states("receive", "From"));
        let (local, known) =
            (format!("{id:x}"), gauges("etcd_network_known_peers", "The current number of known peers.", &of));
        // A member counts itself, as in etcd.
        known.with_label_values(&[&local, &local]).set(1);
        Arc::new(Meters {
            local,
            active: gauges("etcd_network_active_peers", "The current number of active peer connections.", &of),
            known,
            disconnected: counters("etcd_network_disconnected_peers_total", "Peers that were lost.", &of),
            sent: counters("etcd_network_peer_sent_bytes_total", "Bytes sent to peers.", &["To"]),
            received: counters("etcd_network_peer_received_bytes_total", "Bytes received from peers.", &["From"]),
            sent_failures: counters("etcd_network_peer_sent_failures_total", "Sends that failed.", &["To"]),
            received_failures: counters(
                "etcd_network_peer_received_failures_total",
                "Receives that failed.",
                &["From"],
            ),
            round_trip: histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Round-trip time between peers.",
                "To",
                (0.0001, 16),
            ),
            send,
            receive,
            registry,
        })
    }

    /// The metrics of one member, from zero if it is new.
    pub fn peer(&self, id: u64) -> PeerMeters {
        let (local, remote) = (self.local.as_str(), format!("{id:x}"));
        let (pair, remote) = ([local, remote.as_str()], [remote.as_str()]);
        self.known.with_label_values(&pair).set(1);
        PeerMeters {
            active: self.active.with_label_values(&pair),
            disconnected: self.disconnected.with_label_values(&pair),
            sent_bytes: self.sent.with_label_values(&remote),
            received_bytes: self.received.with_label_values(&remote),
            sent_failures: self.sent_failures.with_label_values(&remote),
            received_failures: self.received_failures.with_label_values(&remote),
            round_trip_seconds: self.round_trip.with_label_values(&remote),
            state_sent: self.send.peer(&remote),
            state_received: self.receive.peer(&remote),
        }
    }

    /// A receive from a sender that is no member failed.
    pub fn stranger_failed(&self) {
        self.received_failures.with_label_values(&[STRANGER]).inc();
    }

    /// Removes the metrics of a member that was removed.
    pub fn forget(&self, id: u64) {
        let (local, remote) = (self.local.as_str(), format!("{id:x}"));
        let (pair, remote) = ([local, remote.as_str()], [remote.as_str()]);
        // Labels that were never there need not be removed.
        let _ = self.known.remove_label_values(&pair);
        let _ = self.active.remove_label_values(&pair);
        let _ = self.disconnected.remove_label_values(&pair);
        for counters in [&self.sent, &self.received, &self.sent_failures, &self.received_failures] {
            let _ = counters.remove_label_values(&remote);
        }
        let _ = self.round_trip.remove_label_values(&remote);
        self.send.forget(&remote);
        self.receive.forget(&remote);
    }

    /// All metrics in Prometheus' text format. Families without a member are left out.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl StateVecs {
    fn peer(&self, remote: &[&str; 1]) -> StateMeters {
        StateMeters {
            success: self.success.with_label_values(remote),
            inflight: self.inflight.with_label_values(remote),
            failures: self.failures.with_label_values(remote),
            seconds: self.seconds.with_label_values(remote),
        }
    }

    fn forget(&self, remote: &[&str; 1]) {
        let _ = self.success.remove_label_values(remote);
        let _ = self.inflight.remove_label_values(remote);
        let _ = self.failures.remove_label_values(remote);
        let _ = self.seconds.remove_label_values(remote);
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a valid name");
    registry.register(Box::new(collector.clone())).expect("a name of its own");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_brings_its_figures_and_takes_them_along() {
        let meters = Meters::new(0xa);
        assert_eq!(meters.render().lines().last(), Some(r#"etcd_network_known_peers{Local="a",Remote="a"} 1"#));
        let peer = meters.peer(0xb);
        peer.sent_bytes.inc_by(7);
        peer.round_trip_seconds.observe(0.0003);
        meters.stranger_failed();
        let page = meters.render();
        for line in [
            r#"etcd_network_known_peers{Local="a",Remote="b"} 1"#,
            r#"etcd_network_active_peers{Local="a",Remote="b"} 0"#,
            r#"etcd_network_disconnected_peers_total{Local="a",Remote="b"} 0"#,
            r#"etcd_network_peer_sent_bytes_total{To="b"} 7"#,
            r#"etcd_network_peer_received_bytes_total{From="b"} 0"#,
            r#"etcd_network_peer_sent_failures_total{To="b"} 0"#,
            r#"etcd_network_peer_received_failures_total{From="unknown"} 1"#,
            r#"etcd_network_peer_round_trip_time_seconds_bucket{To="b",le="0.0004"} 1"#,
            r#"etcd_network_snapshot_send_success{To="b"} 0"#,
            r#"etcd_network_snapshot_receive_inflights_total{From="b"} 0"#,
            r#"etcd_network_snapshot_send_total_duration_seconds_bucket{To="b",le="51.2"} 0"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\nnot in\n{page}");
        }
        meters.forget(0xb);
        assert!(!meters.render().contains(r#""b""#), "{}", meters.render());
    }
}
