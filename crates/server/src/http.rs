//! Plain HTTP on the ports of gRPC and of the peers: health, version, metrics.
//!
//! The facts about the member come through [`MemberView`], which the member implements. This room knows only paths,
//! methods, and the exact bodies that probes and tools compare.
//!
//! The JSON gateway is a room of its own ([`gateway`]).
//!
//! Deliberately absent: the requests of members to each other.

mod browsers;
mod checks;
mod gateway;
mod health;
mod metrics_port;
mod peer;
mod query;
mod vars;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use metastore_store::Member;

use crate::grpc::{Door, Origin};
use browsers::Allowed;
pub use browsers::Browsers;
use gateway::{Gateway, Payload};
pub use vars::RaftStatus;

use crate::grpc::router::{is_grpc, not_grpc};
use crate::grpc::{Body, LocalFuture, Router};
use crate::io::service::Service;
use crate::metrics::{Metrics, Readings};

/// The member, as the HTTP paths and a worker that stops see it.
pub trait MemberView {
    /// The numbers for `/metrics`. Takes as long as the storage engine takes to report its own.
    fn readings(&self) -> LocalFuture<Readings>;

    /// Alarms that are raised anywhere in the cluster, by name: `NOSPACE`, `CORRUPT`.
    fn alarms(&self) -> Vec<&'static str>;

    fn has_leader(&self) -> bool;

    fn is_learner(&self) -> bool;

    fn raft_status(&self) -> RaftStatus;

    /// Whether authentication is enabled.
    fn auth_enabled(&self) -> bool;

    /// Whether requests of this worker wait for an answer of the engine thread. All of them get one, or a timeout.
    fn awaits_answers(&self) -> bool;

    /// `X.Y.0`, once the cluster has agreed on it.
    fn cluster_version(&self) -> Option<String>;

    fn cluster_id(&self) -> u64;

    /// The members, sorted by id.
    fn members(&self) -> Vec<Member>;

    /// Reads one key and drops it, to learn whether this member can read. The error is the one that a client would get.
    fn try_read(&self, serializable: bool) -> LocalFuture<Result<(), String>>;
}

/// The client port of a worker: gRPC, its methods as JSON, and the client paths.
struct ClientPort {
    site: Site,
    router: Rc<Router>,
    gateway: Option<Gateway>,
}

impl ClientPort {
    fn plain(&self, request: Request<Payload>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        let Some(gateway) = self.gateway.as_ref().filter(|_| gateway::takes(request.uri().path())) else {
            return self.site.client(&request, origin);
        };
        if origin.common_name.is_some() && self.site.view.auth_enabled() {
            return now(gateway::refuse_common_name());
        }
        let (judged, method) = (self.site.browsers.judge(&request, origin), request.method().clone());
        guard(judged, &method, || gateway.call(request, origin))
    }
}

impl Service for ClientPort {
    fn call(&self, request: Request<Incoming>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        self.plain(request.map(Payload::Http1), origin)
    }

    fn call_http2(&self, request: Request<RecvStream>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        if origin.door == Door::Http {
            return self.site.client(&request, origin);
        }
        if is_grpc(request.headers()) {
            return self.router.call(request, origin);
        }
        if origin.door == Door::Grpc || self.router.serves(request.uri().path()) {
            return now(not_grpc(request.headers()));
        }
        self.plain(request.map(Payload::Http2), origin)
    }

    fn awaits_answers(&self) -> bool {
        self.site.view.awaits_answers()
    }
}

/// The HTTP paths of one worker.
#[derive(Clone)]
pub struct Site {
    pub view: Rc<dyn MemberView>,
    pub metrics: Arc<Metrics>,
    /// The etcd version that is reported.
    pub version: String,
    /// Which browsers may ask, and by which names.
    pub browsers: Arc<Browsers>,
    /// Whether the methods of gRPC are served as JSON, too.
    pub gateway: bool,
}

impl Site {
    /// The service of the client port of a worker. The peer port is [`Site::peer`].
    pub fn service(self, router: Rc<Router>) -> Rc<dyn Service> {
        let gateway = self.gateway.then(|| Gateway::new(router.clone()));
        Rc::new(ClientPort { site: self, router, gateway })
    }

    /// Answers a client, if its request may be answered.
    fn client<B>(&self, request: &Request<B>, origin: &Origin) -> LocalFuture<Response<Body>> {
        guard(self.browsers.judge(request, origin), request.method(), || self.page(request))
    }

    fn page<B>(&self, request: &Request<B>) -> LocalFuture<Response<Body>> {
        match request.uri().path() {
            "/version" => now(self.show_version(request)),
            "/debug/vars" => now(vars::vars(self, request)),
            "/debug/pprof" => now(no_profiles()),
            path if path.starts_with("/debug/pprof/") => now(no_profiles()),
            _ => self.observation(request).unwrap_or_else(|| now(not_found())),
        }
    }

    /// The answer on the paths that the metrics port has, too.
    fn observation<B>(&self, request: &Request<B>) -> Option<LocalFuture<Response<Body>>> {
        match request.uri().path() {
            "/health" => Some(health::health(self, request)),
            "/metrics" => Some(self.show_metrics()),
            _ => checks::answer(self, request),
        }
    }

    fn show_metrics(&self) -> LocalFuture<Response<Body>> {
        let (readings, metrics) = (self.view.readings(), self.metrics.clone());
        Box::pin(async move {
            let page = metrics.scrape(readings).await;
            text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
        })
    }

    /// The storage version follows the cluster's: there is one schema.
    fn show_version<B>(&self, request: &Request<B>) -> Response<Body> {
        if request.method() != Method::GET {
            return method_not_allowed();
        }
        let agreed = self.view.cluster_version();
        let cluster = agreed.as_deref().unwrap_or("not_decided");
        let storage = agreed.as_deref().unwrap_or("unknown");
        json(StatusCode::OK, &Versions { etcdserver: &self.version, etcdcluster: cluster, storage })
    }
}

/// Gives the answer of `page` to a request that was judged ([`Browsers`]), and says which origin may read it.
fn guard(
    judged: Result<Option<Allowed>, Box<Response<Body>>>,
    method: &Method,
    page: impl FnOnce() -> LocalFuture<Response<Body>>,
) -> LocalFuture<Response<Body>> {
    let allowed = match judged {
        Ok(allowed) => allowed,
        Err(refused) => return now(*refused),
    };
    let answer = if method == Method::OPTIONS { now(empty()) } else { page() };
    match allowed {
        None => answer,
        Some(allowed) => Box::pin(async move { allowed.tell(answer.await) }),
    }
}

/// The body of `/version`, in etcd's order.
#[derive(serde::Serialize)]
struct Versions<'a> {
    etcdserver: &'a str,
    etcdcluster: &'a str,
    storage: &'a str,
}

fn now(response: Response<Body>) -> LocalFuture<Response<Body>> {
    Box::pin(std::future::ready(response))
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Plain(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    text(status, "application/json", serde_json::to_vec(value).expect("plain structures become JSON"))
}

fn empty() -> Response<Body> {
    Response::new(Body::Plain(Bytes::new()))
}

/// A plain text of which a browser must not guess another type, as Go's `http.Error` sends it.
fn refusing(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = text(status, "text/plain; charset=utf-8", body);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Body and type of Go's `http.NotFound`.
fn not_found() -> Response<Body> {
    refusing(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// With any flag: what `--enable-pprof` asks for is of Go's runtime.
fn no_profiles() -> Response<Body> {
    refusing(StatusCode::NOT_FOUND, "404 page not found: this server has no profiles of Go; use perf on its process\n")
}

fn method_not_allowed() -> Response<Body> {
    let mut response = refusing(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

#[cfg(test)]
mod tests;
