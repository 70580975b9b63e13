//! `/health`, for load balancers and kubelets.

use http::{Method, Request, Response, StatusCode};

use super::{Site, method_not_allowed, now, query, refusing, text};
use crate::grpc::{Body, LocalFuture};

/// Healthy means: no alarm except the excluded ones, a leader, and a read that works. `?serializable=true` requires
/// only a read of local state, and `?exclude=NOSPACE` (repeatable) ignores an alarm.
pub(super) fn health<B>(site: &Site, request: &Request<B>) -> LocalFuture<Response<Body>> {
    if request.method() != Method::GET {
        return now(method_not_allowed());
    }
    let values = |key: &'static str| query::values(request, key);
    let metrics = site.metrics.clone();
    let answer = move |reason: &str| {
        if reason.is_empty() {
            metrics.health_successes.inc()
        } else {
            metrics.health_failures.inc()
        }
        answer(reason)
    };
    let serializable = values("serializable").next() == Some("true");
    if let Some(alarm) = site.view.alarms().into_iter().find(|alarm| !values("exclude").any(|name| name == *alarm)) {
        return now(answer(&format!("ALARM {alarm}")));
    }
    if !serializable && !site.view.has_leader() {
        return now(answer("RAFT NO LEADER"));
    }
    let read = site.view.try_read(serializable);
    Box::pin(async move {
        match read.await {
            Ok(()) => answer(""),
            Err(error) => answer(&format!("RANGE ERROR:{error}")),
        }
    })
}

/// Healthy if `reason` is empty. Some probes compare the body byte for byte: the order of its keys is etcd's.
fn answer(reason: &str) -> Response<Body> {
    let reason_text = serde_json::Value::from(reason);
    let body = |healthy: bool| format!("{{\"health\":\"{healthy}\",\"reason\":{reason_text}}}");
    if reason.is_empty() {
        return text(StatusCode::OK, "text/plain; charset=utf-8", body(true));
    }
    seldom!(warn, (), reason, "status-code" = 503, "/health error");
    refusing(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", body(false)))
}
