//! The peer port: its requests, and their senders.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;

use super::check::{Way, check};
use super::codec::MAX_POST_BYTES;
use super::codec::measure::Measured;
use super::codec::source::{Broken, Source};
use super::headers::Sender;
use super::http_answer::HttpError;
use super::link::StreamKind;
use super::outgoing::Outgoing;
use super::state_receive::Senders;
use super::transport::TransportState;
use super::{names, probe, state_send};
use crate::grpc::{Body, LocalFuture};
use crate::io::lobby::Pass;
use crate::logging::timestamp;

/// Link heartbeats that are sent in the time for which the other side waits for one.
const HEARTBEATS_PER_TIMEOUT: u32 = 3;

/// The most bytes of all posts of members that are being read and decoded: as many as the largest post may have. A
/// connection costs nothing, and each could otherwise hold as much.
const POSTED_BYTES: u64 = MAX_POST_BYTES;

/// The same for posts of senders that this member does not know. A member that joined while this one was away sends
/// appends of a megabyte, or an append of a single entry that is larger.
const STRANGERS_POSTED_BYTES: u64 = 32 << 20;

/// Answers the paths of the peer port that are not the transport's: `/version`, `/members`, leases, promotion, hashes.
/// `None`: not found.
pub type Further = Rc<dyn Fn(Request<Incoming>) -> Option<LocalFuture<Response<Body>>>>;

/// The peer port on its thread.
#[derive(Clone)]
pub(super) struct Front {
    pub shared: Arc<TransportState>,
    pub further: Further,
    pub senders: Senders,
    /// Bytes of the posts that are being read: of members, and of unknown senders.
    pub posted: Posted,
    /// True once the member stops: then no stream begins.
    pub stopping: watch::Receiver<bool>,
}

impl Front {
    pub fn call(&self, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        let front = self.clone();
        if let (true, Some(pass)) = (self.is_from_member(request.headers()), request.extensions().get::<Pass>()) {
            pass.admit();
        }
        match request.uri().path() {
            probe::PATH => now(front.answer_probe()),
            "/raft" => Box::pin(async move { front.answer("POST", front.take_message(request).await) }),
            state_send::PATH => Box::pin(async move { front.answer("POST", front.take_state(request).await) }),
            path if path.starts_with("/raft/stream/") => now(front.answer("GET", front.open_stream(&request))),
            _ => (self.further)(request).unwrap_or_else(|| now(plain(StatusCode::NOT_FOUND, "404 page not found"))),
        }
    }

    /// Whether the sender names itself as a member of this cluster that this one knows.
    fn is_from_member(&self, headers: &HeaderMap) -> bool {
        self.shared.settings.identity.same_cluster(headers).is_some_and(|id| self.shared.peer(id).is_some())
    }

    fn answer_probe(&self) -> Response<Body> {
        let mut response = probing();
        self.shared.settings.identity.introduce(names::process(), response.headers_mut());
        response
    }

    /// Every answer identifies this member; an answer to a wrong method also names the right one.
    fn answer(&self, method: &'static str, result: Result<Response<Body>, HttpError>) -> Response<Body> {
        let mut response = result.unwrap_or_else(|HttpError { status, text }| plain(status, &text));
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
        }
        self.shared.settings.identity.sign(response.headers_mut());
        response
    }

    fn admit(&self, request: &Request<Incoming>, method: &Method) -> Result<Sender, HttpError> {
        if request.method() != method {
            return Err(HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
        }
        self.shared.settings.identity.admit(request.headers())
    }

    /// Admits a post, and remembers the URLs of its sender. A removed member is refused.
    fn admit_post(&self, request: &Request<Incoming>) -> Result<Sender, HttpError> {
        let sender = self.admit(request, &Method::POST)?;
        let Some(id) = sender.id else { return Ok(sender) };
        if self.shared.is_removed(id) {
            seldom!(warn, id, "from" = %format_args!("{id:x}"), "rejected Raft message from removed member");
            return Err(HttpError::new(StatusCode::FORBIDDEN, "cannot process message from removed member"));
        }
        self.shared.remember(id, &sender);
        Ok(sender)
    }

    async fn take_message(&self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let sender = self.admit_post(&request)?;
        let known = sender.id.is_some_and(|id| self.shared.peer(id).is_some());
        let length = request.body().size_hint().exact();
        let length = length.ok_or_else(|| HttpError::new(StatusCode::LENGTH_REQUIRED, "Length Required"))?;
        let mut post = Post::begin(&self.posted, known, length).inspect_err(|_| self.failed(&sender))?;
        let bytes = post.read(request.into_body(), &self.shared).await;
        let bad = |what: &'static str, error: &dyn std::fmt::Display| {
            seldom!(warn, (sender.id, what), error = %error, what, "failed to read Raft message");
            self.failed(&sender);
            HttpError::new(StatusCode::BAD_REQUEST, what)
        };
        let bytes = bytes.map_err(|error| bad("error reading raft message", &error))?;
        let length = bytes.len();
        let malformed = |error| bad("error unmarshalling raft message", &error);
        let measured = Measured::new(bytes).map_err(malformed)?;
        let taken = length + measured.extra_bytes;
        post.reserve(measured.extra_bytes as u64).inspect_err(|_| self.failed(&sender))?;
        let message = measured.decode(post).await.map_err(malformed)?;
        let from = sender.id.unwrap_or(message.from());
        if self.shared.is_removed(message.from()) {
            return Err(HttpError::new(StatusCode::FORBIDDEN, "cannot process message from removed member"));
        }
        let link = self.shared.link(from);
        if let Err(unfit) = check(&message, Way::Post, from, self.shared.settings.identity.id) {
            match &link {
                Some(link) => link.unfit(&unfit),
                None => self.shared.meters.stranger_failed(),
            }
            return Err(HttpError::new(StatusCode::PRECONDITION_FAILED, unfit.to_string()));
        }
        if let Some(link) = &link {
            link.meters.received_bytes.inc_by(length as u64);
        }
        if !self.shared.sink.message(message, taken) {
            match link {
                Some(link) => link.refused(),
                None => self.shared.meters.stranger_failed(),
            }
            return Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message"));
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn take_state(&self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let sender = self.admit_post(&request)?;
        let pass = request.extensions().get::<Pass>().cloned();
        self.senders.receive(&self.shared, &sender, pass, request.into_body()).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn failed(&self, sender: &Sender) {
        match sender.id.and_then(|id| self.shared.link(id)) {
            Some(link) => link.meters.received_failures.inc(),
            None => self.shared.meters.stranger_failed(),
        }
    }

    fn open_stream(&self, request: &Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let sender = self.admit(request, &Method::GET)?;
        let path = request.uri().path();
        let kinds = [StreamKind::Appends, StreamKind::Messages].into_iter();
        let found = kinds.filter_map(|kind| Some((kind, path.strip_prefix(kind.path())?))).next();
        let (kind, from) = found.ok_or_else(|| HttpError::new(StatusCode::NOT_FOUND, "invalid path"))?;
        let from = u64::from_str_radix(from, 16).map_err(|_| HttpError::new(StatusCode::NOT_FOUND, "invalid from"))?;
        let id = format_args!("{from:x}");
        if self.shared.is_removed(from) {
            seldom!(warn, from, "remote-peer-id-from" = %id, "rejected stream from remote peer because it was removed");
            return Err(HttpError::new(StatusCode::GONE, "removed member"));
        }
        let Some(link) = self.shared.peer(from) else {
            // The sender belongs to another cluster with the same id, or it has joined and is not in the log here yet.
            self.shared.remember(from, &sender);
            tracing::debug!("remote-peer-id-from" = %id, "failed to find remote peer in cluster");
            return Err(HttpError::new(StatusCode::NOT_FOUND, "error sender not found"));
        };
        if !self.shared.settings.identity.is_meant(request.headers()) {
            seldom!(warn, from, "remote-peer-id-from" = %id, "ignored streaming request; ID mismatch");
            return Err(HttpError::new(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
        }
        if *self.stopping.borrow() {
            return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "the member is stopping"));
        }
        let heartbeat = self.shared.settings.read_timeout / HEARTBEATS_PER_TIMEOUT;
        Ok(Response::new(Body::Endless(Box::new(Outgoing::attach(link, kind, heartbeat)))))
    }
}

/// Bytes of posts that are being read, as their headers announce them, and of what decoding makes of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Posted {
    members: Arc<AtomicU64>,
    strangers: Arc<AtomicU64>,
}

/// A posted message until it is decoded, and its share of the bytes.
struct Post {
    length: u64,
    reserved: u64,
    limit: u64,
    posted: Arc<AtomicU64>,
}

impl Post {
    /// Reserves `length` bytes before any of them is read.
    fn begin(posted: &Posted, known: bool, length: u64) -> Result<Post, HttpError> {
        let (posted, limit) = match known {
            true => (&posted.members, POSTED_BYTES),
            false => (&posted.strangers, STRANGERS_POSTED_BYTES),
        };
        if length > limit {
            let text = format!("a message of {length} bytes exceeds the limit of {limit}");
            return Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let mut post = Post { length, reserved: 0, limit, posted: posted.clone() };
        post.reserve(length)?;
        Ok(post)
    }

    /// Reserves bytes beyond those that are reserved already. Only the thread of the peers reserves.
    fn reserve(&mut self, bytes: u64) -> Result<(), HttpError> {
        if self.posted.load(Ordering::Relaxed) + bytes > self.limit {
            let text = "too many messages are being read; try again when they have ended";
            return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        self.posted.fetch_add(bytes, Ordering::Relaxed);
        self.reserved += bytes;
        Ok(())
    }

    /// The message in memory of its own, which is no larger than the message.
    async fn read(&self, body: Incoming, shared: &TransportState) -> Result<Bytes, Broken> {
        Source::new(body, shared.settings.read_timeout).bytes(self.length, self.length).await
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.posted.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

/// The answer to a probe.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_count_with_what_decoding_makes_of_them() {
        let posted = Posted::default();
        let status = |result: Result<(), HttpError>| result.map_err(|refusal| refusal.status.as_u16());
        let mut post = Post::begin(&posted, false, 1000).unwrap();
        assert_eq!(status(post.reserve(STRANGERS_POSTED_BYTES - 1000)), Ok(()));
        assert_eq!(status(post.reserve(1)), Err(503));
        assert_eq!(status(Post::begin(&posted, false, 1).map(drop)), Err(503));
        assert_eq!(status(Post::begin(&posted, true, 1).map(drop)), Ok(()), "members have their own");
        drop(post);
        assert_eq!(status(Post::begin(&posted, false, STRANGERS_POSTED_BYTES).map(drop)), Ok(()));
    }
}
