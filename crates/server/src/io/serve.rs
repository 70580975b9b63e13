//! One connection: HTTP/1 or HTTP/2, whichever the client begins with.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::grpc::{Body, LocalFuture};

/// Flow-control window of one stream: a value of 1.5 MiB arrives without waiting for the window to be opened again.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Flow-control window of one connection: what a client can make us hold unread on it.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// All headers of one request. Tokens are a few KB at most.
const HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Streams that a client opened and reset before we looked at them. The library's default of 20 would end the connection
/// of a well-behaved client that cancels a few dozen watches at once; without any bound, rapid resets are an attack.
const RESET_STREAMS: usize = 2048;

/// What answers requests, on one worker.
pub trait Service {
    fn call(&self, request: Request<Incoming>) -> LocalFuture<Response<Body>>;

    /// Whether some request waits for an answer that is sure to come, and soon: a worker that stops waits for it, too.
    fn awaits_answers(&self) -> bool {
        false
    }
}

impl<F: Fn(Request<Incoming>) -> LocalFuture<Response<Body>>> Service for F {
    fn call(&self, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        self(request)
    }
}

/// Settings of every connection.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Requests that one connection may have open; a client waits beyond that.
    pub max_concurrent_streams: u32,
    /// A connection without traffic is probed after this long (`None`: never), and given up without an answer after
    /// `ping_timeout`.
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
}

impl Default for Protocol {
    /// etcd's defaults.
    fn default() -> Self {
        Protocol {
            max_concurrent_streams: u32::MAX,
            ping_interval: Some(Duration::from_secs(2 * 60 * 60)),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// Spawns hyper's futures on the thread they were made on.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnThisThread;

impl<F> hyper::rt::Executor<F> for OnThisThread
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

pub(super) type Builder = auto::Builder<OnThisThread>;

/// The settings of [`Protocol`] and of this file, for all connections of a worker.
pub(super) fn builder(protocol: Protocol) -> Builder {
    let mut builder = Builder::new(OnThisThread);
    builder.http1().timer(TokioTimer::new()).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(protocol.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .keep_alive_interval(protocol.ping_interval)
        .keep_alive_timeout(protocol.ping_timeout);
    builder
}

/// Serves until the client leaves. Once `stopping`, no new request is taken (HTTP/2: GOAWAY), open ones are finished.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    socket: S,
    builder: Rc<Builder>,
    service: Rc<dyn Service>,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = builder.serve_connection(TokioIo::new(socket), Hyper(service));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = stopping.wait_for(|stopping| *stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "connection ended");
    }
}

struct Hyper(Rc<dyn Service>);

impl hyper::service::Service<Request<Incoming>> for Hyper {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        Answer(self.0.call(request))
    }
}

struct Answer(LocalFuture<Response<Body>>);

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}
