//! Probes: whether the peer answers, and how long an answer takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::{Instant, MissedTickBehavior};

use super::link::Link;
use super::pipeline::ask;
use super::transport::TransportState;
use crate::config::Url;

/// The time between two probes, as in etcd.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);

/// Where members answer probes.
pub const PATH: &str = "/raft/probing";

/// Measures the time that a request takes, for ever. Logs when the peer stops answering, and when it answers again.
pub(super) async fn keep_probing(shared: Arc<TransportState>, link: Arc<Link>) {
    let mut interval = tokio::time::interval(PROBE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.reset();
    let (mut kept, mut healthy) = (None, true);
    loop {
        interval.tick().await;
        let Some(url) = link.urls.pick() else { continue };
        let (start, reused) = (Instant::now(), kept.is_some());
        let asked = ask(&shared, &mut kept, &url, Method::GET, PATH, HeaderMap::new(), Bytes::new()).await;
        let error = match asked {
            Ok(reply) if says_ok(&reply.body) => None,
            Ok(reply) => Some(format!("{}{PATH} answered {}", url.text, reply.status)),
            Err(error) => Some(error.to_string()),
        };
        match error {
            // The first request on a connection includes the time for connecting.
            None if reused => link.meters.round_trip_seconds.observe(start.elapsed().as_secs_f64()),
            None => {}
            Some(_) => kept = None,
        }
        if error.is_none() != healthy {
            healthy = error.is_none();
            report(&link, &url, error);
        }
    }
}

fn report(link: &Link, url: &Url, error: Option<String>) {
    let id = format_args!("{:x}", link.id);
    match error {
        Some(error) => {
            seldom!(
                CHANGES: warn, (link.local, link.id),
                "remote-peer-id" = %id, error, "prober detected unhealthy status"
            )
        }
        None => {
            seldom!(
                CHANGES: info, (link.local, link.id),
                "remote-peer-id" = %id, url = url.text, "prober detected healthy status again"
            )
        }
    }
}

fn says_ok(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|health| health["OK"] == true)
}
