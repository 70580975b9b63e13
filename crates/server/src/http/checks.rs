//! `/livez` and `/readyz`, for the probes of a kubelet: all checks of a path, or one by its name behind the path.
//!
//! A live member must not be restarted: it reads its own state, whatever the other members do. A ready member serves
//! everything: it also reads with a quorum, has a vote, and knows of no corrupt state.

use std::fmt::Write;

use http::{Method, Request, Response, StatusCode};

use super::{Site, method_not_allowed, not_found, now, query, refusing};
use crate::grpc::{Body, LocalFuture};

/// A question about this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

use Check::{DataCorruption, LinearizableRead, NonLearner, SerializableRead};

/// The paths, and their checks. etcd answers them in no order.
const PATHS: [(&str, &[Check]); 2] =
    [("livez", &[SerializableRead]), ("readyz", &[DataCorruption, SerializableRead, LinearizableRead, NonLearner])];

impl Check {
    fn name(self) -> &'static str {
        match self {
            DataCorruption => "data_corruption",
            SerializableRead => "serializable_read",
            LinearizableRead => "linearizable_read",
            NonLearner => "non_learner",
        }
    }

    /// The error is etcd's text of what is wrong.
    async fn run(self, site: &Site) -> Result<(), String> {
        let view = &site.view;
        match self {
            DataCorruption if view.alarms().contains(&"CORRUPT") => Err("alarm activated: CORRUPT".to_owned()),
            NonLearner if view.is_learner() => Err("not supported for learner".to_owned()),
            DataCorruption | NonLearner => Ok(()),
            SerializableRead => view.try_read(true).await,
            LinearizableRead => view.try_read(false).await,
        }
    }
}

/// The answer, if the request is for one of these paths. `?exclude=NAME` (repeatable) leaves out a check, and
/// `?verbose` lists the checks even if all succeed. As in etcd, a check that was asked for by its name is not left out,
/// and the name of no check excludes nothing.
pub(super) fn answer<B>(site: &Site, request: &Request<B>) -> Option<LocalFuture<Response<Body>>> {
    let path = request.uri().path().strip_prefix('/')?;
    let (kind, name) = path.split_once('/').map_or((path, None), |(kind, name)| (kind, Some(name)));
    let (kind, all) = PATHS.into_iter().find(|(known, _)| *known == kind)?;
    let excluded = |check: &Check| query::values(request, "exclude").any(|name| name == check.name());
    let checks: Vec<Check> = match name {
        None => all.iter().copied().filter(|check| !excluded(check)).collect(),
        Some(name) => all.iter().copied().filter(|check| check.name() == name).collect(),
    };
    if name.is_some() && checks.is_empty() {
        return Some(now(not_found()));
    }
    if request.method() != Method::GET {
        return Some(now(method_not_allowed()));
    }
    let (site, verbose) = (site.clone(), query::has(request, "verbose"));
    Some(Box::pin(async move { run(&site, kind, &checks, verbose).await }))
}

async fn run(site: &Site, kind: &'static str, checks: &[Check], verbose: bool) -> Response<Body> {
    let (mut list, mut healthy) = (String::new(), true);
    for check in checks {
        let (name, result) = (check.name(), check.run(site).await);
        site.metrics.checks.record(kind, name, result.is_ok());
        healthy &= result.is_ok();
        // Writing to a text does not fail.
        _ = match result {
            Ok(()) => writeln!(list, "[+]{name} ok"),
            Err(error) => writeln!(list, "[-]{name} failed: {error}"),
        };
    }
    if !healthy {
        seldom!(warn, kind, path = format!("/{kind}"), reason = list, "status-code" = 503, "Health check error");
        return refusing(StatusCode::SERVICE_UNAVAILABLE, format!("{list}\n"));
    }
    refusing(StatusCode::OK, if verbose { format!("{list}ok\n") } else { "ok\n".to_owned() })
}
