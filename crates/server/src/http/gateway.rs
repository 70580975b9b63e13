//! The JSON gateway: the methods of gRPC for clients that speak HTTP and JSON, as etcd's grpc-gateway serves them.
//!
//! ```text
//!   POST /v3/kv/put {"key":..} ── routes ──> method        headers ── metadata ──> token, deadline
//!   body ── payload, scan ──> JSON values ── read ──> message ──▶ router, in process
//!   answer <── answer <── JSON <──────────── write <── reply  ◀──
//!                 ^────── stream: one line for each reply
//! ```
//!
//! JSON becomes an encoded message and back in one pass each, by the descriptors of `crates/proto` ([`schema`]). The
//! texts of errors are those of the Go libraries through which a request to etcd goes.
//!
//! Rules:
//! - There is no rule about data, users or limits here: the call is an ordinary call of the router.
//! - A body is read value by value; a value has a bound ([`payload`]).
//! - Nothing is kept for a client that is gone: dropping the answer ends the call.
//! - Long messages are converted on the pool.
//!
//! Deliberately absent: WebSockets, query parameters, and redirections of paths that are not clean.

mod answer;
mod metadata;
mod number;
mod payload;
mod read;
mod routes;
mod scan;
mod schema;
mod stream;
mod write;

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response};
use tokio::task::JoinError;

pub use payload::Payload;
use payload::Values;
use routes::{Route, Shape};
use schema::Schema;

use super::now;
use crate::grpc::{Body, Code, LocalFuture, Origin, Router, Status, local};

/// Longer messages are converted on the pool: this many bytes take some tens of microseconds.
const INLINE_BYTES: usize = 64 * 1024;

/// The gateway of one worker.
pub struct Gateway {
    router: Rc<Router>,
    routes: HashMap<&'static str, Route>,
}

impl Gateway {
    pub fn new(router: Rc<Router>) -> Gateway {
        Gateway { routes: routes::table(&router), router }
    }

    /// Answers a request whose path [`takes`] accepts.
    pub fn call(&self, request: Request<Payload>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        let route = name(request.uri().path()).and_then(|name| self.routes.get(name)).copied();
        let Some(route) = route else { return now(answer::failed(&Status::not_found("Not Found"))) };
        if !is_post(&request) {
            return now(answer::failed(&Status::unimplemented("Method Not Allowed")));
        }
        let (head, payload) = request.into_parts();
        let metadata = match metadata::metadata(&head.headers) {
            Ok(metadata) => metadata,
            Err(status) => return now(answer::failed(&status)),
        };
        let values = Values::new(payload, self.router.max_receive_bytes());
        let (router, origin) = (self.router.clone(), origin.clone());
        Box::pin(async move {
            if route.shape != Shape::Unary {
                return stream::call(&router, route, metadata, values, &origin).await;
            }
            match unary(&router, route, metadata, values, &origin).await {
                Ok(json) => answer::ok(Body::Plain(json)),
                Err(status) => answer::failed(&status),
            }
        })
    }
}

/// Whether a path belongs to the gateway.
pub fn takes(path: &str) -> bool {
    name(path).is_some()
}

/// The name of a route in a path. `v3beta` is the name that the interface had at first.
fn name(path: &str) -> Option<&str> {
    path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))
}

/// The answer to a client whose certificate names a user. The gateway would ignore the name, as in etcd.
pub fn refuse_common_name() -> Response<Body> {
    answer::common_name()
}

/// As in grpc-gateway, a form may say in a header which method is meant.
fn is_post<B>(request: &Request<B>) -> bool {
    let is_form = |headers: &HeaderMap| {
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/x-www-form-urlencoded")
    };
    let other = request.headers().get("x-http-method-override").filter(|_| is_form(request.headers()));
    request.method() == Method::POST && other.is_none_or(|other| other.as_bytes().eq_ignore_ascii_case(b"POST"))
}

async fn unary(
    router: &Router,
    route: Route,
    metadata: HeaderMap,
    mut values: Values,
    origin: &Rc<Origin>,
) -> Result<Bytes, Status> {
    // No body stands for an empty message, and what follows the first value is not looked at.
    let request = match values.next().await? {
        Some(value) => read_request(route, value).await?,
        None => Bytes::new(),
    };
    drop(values);
    let reply = local::unary(router, route.method, metadata, request, origin).await?;
    if reply.len() <= INLINE_BYTES {
        return write_reply(route, &reply, b"", b"");
    }
    let json = tokio::task::spawn_blocking(move || write_reply(route, &reply, b"", b""));
    json.await.unwrap_or_else(|error| Err(no_pool(&error)))
}

/// Encodes a request from a value.
async fn read_request(route: Route, value: Bytes) -> Result<Bytes, Status> {
    let is_short = value.len() <= INLINE_BYTES;
    let read = move || read::message(Schema::get(), route.request, &value);
    let message = if is_short { Ok(read()) } else { tokio::task::spawn_blocking(read).await };
    let message = message.map_err(|error| no_pool(&error))?;
    message.map(Bytes::from).map_err(Status::invalid_argument)
}

/// Writes a reply as JSON between two texts.
fn write_reply(route: Route, reply: &[u8], before: &[u8], after: &[u8]) -> Result<Bytes, Status> {
    let mut json = Vec::with_capacity(2 * reply.len() + 256);
    json.extend_from_slice(before);
    let written = write::message(Schema::get(), route.response, reply, &mut json);
    written.map_err(|_| Status::internal(format!("the reply of {} cannot be read", route.method)))?;
    json.extend_from_slice(after);
    Ok(json.into())
}

/// The pool takes no work only while the process ends.
fn no_pool(error: &JoinError) -> Status {
    Status::new(Code::Unavailable, format!("converting the message failed: {error}"))
}
