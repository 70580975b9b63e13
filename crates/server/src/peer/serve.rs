//! The peer port: who asks, and for what.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use metastore_proto::Message as _;
use metastore_proto::raftpb::Message;
use tokio::sync::watch;

use super::check::{Way, check};
use super::codec::MAX_FRAME_BYTES;
use super::codec::source::{Broken, Source};
use super::headers::{Refusal, Sender};
use super::link::Kind;
use super::outgoing::Outgoing;
use super::state_receive::Senders;
use super::transport::Shared;
use super::{probe, state_send, twin};
use crate::grpc::{Body, LocalFuture};
use crate::logging::timestamp;

/// Link heartbeats that go out in the time for which the other side waits for one.
const HEARTBEATS_PER_TIMEOUT: u32 = 3;

/// What all posts that are being read hold together: as much as the largest one may have. A connection costs nothing, and
/// each could otherwise hold so much.
const POSTED_BYTES: u64 = MAX_FRAME_BYTES;

/// The paths of the peer port that are not the transport's: `/version`, `/members`, leases, promotion, hashes. `None`: not
/// found.
pub type Further = Rc<dyn Fn(Request<Incoming>) -> Option<LocalFuture<Response<Body>>>>;

/// The peer port on its thread.
#[derive(Clone)]
pub(super) struct Front {
    pub shared: Arc<Shared>,
    pub further: Further,
    pub senders: Senders,
    /// Bytes of the posts that are being read.
    pub posted: Rc<Cell<u64>>,
    /// True once the member stops: then no stream begins.
    pub stopping: watch::Receiver<bool>,
}

impl Front {
    pub fn call(&self, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        let front = self.clone();
        match request.uri().path() {
            probe::PATH => now(front.answer_probe()),
            "/raft" => Box::pin(async move { front.answer("POST", front.take_message(request).await) }),
            state_send::PATH => Box::pin(async move { front.answer("POST", front.take_state(request).await) }),
            path if path.starts_with("/raft/stream/") => now(front.answer("GET", front.open_stream(&request))),
            _ => (self.further)(request).unwrap_or_else(|| now(plain(StatusCode::NOT_FOUND, "404 page not found"))),
        }
    }

    fn answer_probe(&self) -> Response<Body> {
        let mut response = probing();
        self.shared.settings.identity.introduce(twin::process(), response.headers_mut());
        response
    }

    /// Every answer says who answers; one to the wrong method, which would be right.
    fn answer(&self, method: &'static str, result: Result<Response<Body>, Refusal>) -> Response<Body> {
        let mut response = result.unwrap_or_else(|Refusal { status, text }| plain(status, &text));
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
        }
        self.shared.settings.identity.sign(response.headers_mut());
        response
    }

    fn admit(&self, request: &Request<Incoming>, method: &Method) -> Result<Sender, Refusal> {
        if request.method() != method {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
        }
        self.shared.settings.identity.admit(request.headers())
    }

    /// A post from somebody: where it can be answered is remembered, unless it was removed.
    fn admit_post(&self, request: &Request<Incoming>) -> Result<Sender, Refusal> {
        let sender = self.admit(request, &Method::POST)?;
        let Some(id) = sender.id else { return Ok(sender) };
        if self.shared.is_removed(id) {
            tracing::warn!("from" = %format_args!("{id:x}"), "rejected Raft message from removed member");
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cannot process message from removed member"));
        }
        self.shared.remember(id, &sender);
        Ok(sender)
    }

    async fn take_message(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let sender = self.admit_post(&request)?;
        let mut post = Post { held: 0, posted: self.posted.clone() };
        let bytes = post.read(request.into_body(), &self.shared).await;
        let bad = |what: &'static str, error: &dyn std::fmt::Display| {
            tracing::warn!(error = %error, what, "failed to read Raft message");
            self.failed(&sender);
            Refusal::new(StatusCode::BAD_REQUEST, what)
        };
        let bytes = bytes.map_err(|error| bad("error reading raft message", &error))?;
        let length = bytes.len();
        let message = Message::decode(bytes).map_err(|error| bad("error unmarshalling raft message", &error))?;
        let from = sender.id.unwrap_or(message.from());
        if self.shared.is_removed(message.from()) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cannot process message from removed member"));
        }
        let link = self.shared.link(from);
        if let Err(unfit) = check(&message, Way::Post, from, self.shared.settings.identity.id) {
            match &link {
                Some(link) => link.unfit(&unfit),
                None => self.shared.meters.stranger_failed(),
            }
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, unfit.to_string()));
        }
        if let Some(link) = &link {
            link.meters.received_bytes.inc_by(length as u64);
        }
        if !self.shared.sink.message(message, length) {
            match link {
                Some(link) => link.refused(),
                None => self.shared.meters.stranger_failed(),
            }
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message"));
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn take_state(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let sender = self.admit_post(&request)?;
        let received = self.senders.receive(&self.shared, &sender, request.into_body()).await;
        received?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn failed(&self, sender: &Sender) {
        match sender.id.and_then(|id| self.shared.link(id)) {
            Some(link) => link.meters.received_failures.inc(),
            None => self.shared.meters.stranger_failed(),
        }
    }

    fn open_stream(&self, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let sender = self.admit(request, &Method::GET)?;
        let path = request.uri().path();
        let kinds = [Kind::Appends, Kind::Messages].into_iter();
        let found = kinds.filter_map(|kind| Some((kind, path.strip_prefix(kind.path())?))).next();
        let (kind, from) = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "invalid path"))?;
        let from = u64::from_str_radix(from, 16).map_err(|_| Refusal::new(StatusCode::NOT_FOUND, "invalid from"))?;
        let id = format_args!("{from:x}");
        if self.shared.is_removed(from) {
            tracing::warn!("remote-peer-id-from" = %id, "rejected stream from remote peer because it was removed");
            return Err(Refusal::new(StatusCode::GONE, "removed member"));
        }
        let Some(link) = self.shared.peer(from) else {
            // Somebody else's cluster of the same id, or a member that joined and whom the log here does not tell of yet.
            self.shared.remember(from, &sender);
            tracing::debug!("remote-peer-id-from" = %id, "failed to find remote peer in cluster");
            return Err(Refusal::new(StatusCode::NOT_FOUND, "error sender not found"));
        };
        if !self.shared.settings.identity.is_meant(request.headers()) {
            tracing::warn!("remote-peer-id-from" = %id, "ignored streaming request; ID mismatch");
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
        }
        if *self.stopping.borrow() {
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the member is stopping"));
        }
        let heartbeat = self.shared.settings.read_timeout / HEARTBEATS_PER_TIMEOUT;
        Ok(Response::new(Body::Endless(Box::new(Outgoing::attach(link, kind, heartbeat)))))
    }
}

/// A posted message while it is read.
struct Post {
    held: u64,
    posted: Rc<Cell<u64>>,
}

impl Post {
    async fn read(&mut self, body: Incoming, shared: &Shared) -> Result<Bytes, Broken> {
        let mut source = Source::new(body, shared.settings.read_timeout);
        let mut bytes = Vec::new();
        while let Some(piece) = source.piece().await? {
            let posted = self.posted.get() + piece.len() as u64;
            if posted > POSTED_BYTES {
                return Err(Broken::TooLarge { bytes: posted, limit: POSTED_BYTES });
            }
            self.posted.set(posted);
            self.held += piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.posted.set(self.posted.get() - self.held);
    }
}

/// What probes compare.
pub(crate) fn probing() -> Response<Body> {
    let now = timestamp(SystemTime::now());
    let mut response = Response::new(Body::Plain(format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n").into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn now(response: Response<Body>) -> LocalFuture<Response<Body>> {
    Box::pin(std::future::ready(response))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Done);
    *response.status_mut() = status;
    response
}

/// An error as Go's `http.Error` writes it, with the newline that etcd takes off again.
fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Plain(format!("{text}\n").into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
