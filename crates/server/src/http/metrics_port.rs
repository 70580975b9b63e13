//! The port of `--listen-metrics-urls`: metrics and the checks of health, for those who must not reach the data.
//!
//! As in etcd, the rules for browsers (`--host-whitelist`, `--cors`) are not for this port: a kubelet and a Prometheus
//! ask by any name, and nothing here is secret from who reaches the port.

use std::rc::Rc;

use h2::RecvStream;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Site, not_found, now};
use crate::grpc::{Body, LocalFuture, Origin};
use crate::io::service::Service;

struct MetricsPort(Site);

impl Service for MetricsPort {
    fn call(&self, request: Request<Incoming>, _origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        self.0.observed(&request)
    }

    fn call_http2(&self, request: Request<RecvStream>, _origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        self.0.observed(&request)
    }
}

impl Site {
    /// The service of the metrics port.
    pub fn metrics_service(self) -> Rc<dyn Service> {
        Rc::new(MetricsPort(self))
    }

    /// Answers whoever watches this member.
    pub(super) fn observed<B>(&self, request: &Request<B>) -> LocalFuture<Response<Body>> {
        self.observation(request).unwrap_or_else(|| now(not_found()))
    }
}
