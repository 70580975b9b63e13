//! Streaming calls: each request is a value in the body, and each reply a line of JSON.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::task::JoinHandle;

use super::payload::Values;
use super::routes::{Route, Shape};
use super::{INLINE_BYTES, answer, no_pool, read_request, write_reply};
use crate::grpc::body::Pieces;
use crate::grpc::local::{self, Replies, Requests};
use crate::grpc::{Body, Code, LocalFuture, Origin, Router, Status};

/// A streaming call under way. Dropping it ends the handler, and the reading of requests.
struct Stream {
    route: Route,
    replies: Replies,
    /// Hands the requests over as they arrive. It tells whether the client is gone in the end.
    pump: Option<LocalFuture<bool>>,
    /// A long reply that becomes a line on the pool.
    converting: Option<JoinHandle<Result<Bytes, Status>>>,
    /// The line that was awaited before the headers were sent.
    first: Option<Bytes>,
    ended: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("method", &self.route.method).finish_non_exhaustive()
    }
}

/// Answers a streaming call. As in etcd, no header is sent before the first reply, which decides over the status.
pub async fn call(
    router: &Router,
    route: Route,
    metadata: HeaderMap,
    values: Values,
    origin: &Rc<Origin>,
) -> Response<Body> {
    let mut stream = match begin(router, route, metadata, values, origin).await {
        Ok(stream) => stream,
        Err(failed) => return *failed,
    };
    match poll_fn(|cx| stream.poll_line(cx)).await {
        Some(Ok(line)) => {
            stream.first = Some(line);
            answer::ok(Body::Endless(Box::new(stream)))
        }
        Some(Err(status)) => answer::failed_stream(&status),
        None => {
            stream.ended = true;
            Response::new(Body::Endless(Box::new(stream)))
        }
    }
}

/// Reads the first request, and calls the method. An etcd answers nothing if the first request of a client that streams
/// is not valid: the client waits for ever. Here it is told.
async fn begin(
    router: &Router,
    route: Route,
    metadata: HeaderMap,
    mut values: Values,
    origin: &Rc<Origin>,
) -> Result<Stream, Box<Response<Body>>> {
    let failed_stream = |status| Box::new(answer::failed_stream(&status));
    let first = next(route, &mut values).await;
    let (replies, pump) = if route.shape == Shape::ServerStream {
        let request = first.map_err(|status| Box::new(answer::failed(&status)))?.unwrap_or_default();
        let call = local::server_stream(router, route.method, metadata, request, origin);
        (call.await.map_err(failed_stream)?, None)
    } else {
        let first = first.map_err(failed_stream)?;
        let call = local::bidi(router, route.method, metadata, origin);
        let (requests, replies) = call.await.map_err(failed_stream)?;
        let pump = first.map(|first| -> LocalFuture<bool> { Box::pin(pump(route, first, values, requests)) });
        (replies, pump)
    };
    Ok(Stream { route, replies, pump, converting: None, first: None, ended: false })
}

async fn next(route: Route, values: &mut Values) -> Result<Option<Bytes>, Status> {
    match values.next().await? {
        Some(value) => read_request(route, value).await.map(Some),
        None => Ok(None),
    }
}

/// Hands the requests of a body over, and tells whether the client is gone in the end. As in etcd, the first request
/// that is not valid ends them, and the call goes on.
async fn pump(route: Route, first: Bytes, mut values: Values, requests: Requests) -> bool {
    let mut request = first;
    while requests.send(request).await.is_ok() {
        match next(route, &mut values).await {
            Ok(Some(next)) => request = next,
            Ok(None) => return false,
            Err(status) => return status.code == Code::Canceled,
        }
    }
    false
}

impl Stream {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(pump) = &mut self.pump
            && let Poll::Ready(is_gone) = pump.as_mut().poll(cx)
        {
            self.pump = None;
            // Nothing else tells while there is nothing to send.
            if is_gone {
                return Poll::Ready(None);
            }
        }
        loop {
            if let Some(converting) = &mut self.converting {
                let line = ready!(Pin::new(converting).poll(cx));
                self.converting = None;
                return Poll::Ready(Some(line.unwrap_or_else(|error| Err(no_pool(&error)))));
            }
            let route = self.route;
            match ready!(self.replies.poll_next(cx)) {
                Some(Ok(reply)) if reply.len() > INLINE_BYTES => {
                    self.converting = Some(tokio::task::spawn_blocking(move || line(route, &reply)));
                }
                reply => return Poll::Ready(reply.map(|reply| line(route, &reply?))),
            }
        }
    }
}

impl Pieces for Stream {
    /// One line at a time: there are clients that take a chunk of HTTP for a whole JSON value.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let line = ready!(self.poll_line(cx));
        self.ended = !matches!(line, Some(Ok(_)));
        Poll::Ready(line.map(|line| line.unwrap_or_else(|status| answer::error_line(&status))))
    }
}

fn line(route: Route, reply: &[u8]) -> Result<Bytes, Status> {
    write_reply(route, reply, b"{\"result\":", b"}\n")
}
