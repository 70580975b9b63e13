//! The results of the checks of `/livez` and `/readyz`.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::register;

/// The last result of each check that was ever asked for, and how often each result came.
#[derive(Debug)]
pub struct Checks {
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl Checks {
    pub(super) fn new(registry: &Registry) -> Self {
        let last = Opts::new("etcd_server_healthcheck", "The last result of each check of health: 1 is good.");
        let total = Opts::new("etcd_server_healthchecks_total", "The total number of checks of health, by result.");
        Self {
            last: register(registry, IntGaugeVec::new(last, &["type", "name"])),
            total: register(registry, IntCounterVec::new(total, &["type", "name", "status"])),
        }
    }

    /// Records that a check of a path had this result.
    pub fn record(&self, path: &str, check: &str, good: bool) {
        self.last.with_label_values(&[path, check]).set(good.into());
        let status = if good { "success" } else { "error" };
        self.total.with_label_values(&[path, check, status]).inc();
    }
}
