//! One connection: HTTP/1 or HTTP/2, depending on how the other side begins.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::http2;
use super::protocol::Protocol;
use super::service::Service;
use super::turns::Turns;
use crate::grpc::Origin;
use crate::grpc::{Body, LocalFuture};
use crate::tls;

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

/// How connections are served, with the settings of one worker.
pub(super) struct Connections {
    protocol: Protocol,
    http1: http1::Builder,
    http2: h2::server::Builder,
    peers: auto::Builder<OnThisThread>,
}

impl Connections {
    pub(super) fn new(protocol: Protocol) -> Connections {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).keep_alive(true);
        let mut peers = auto::Builder::new(OnThisThread);
        peers.http1().timer(TokioTimer::new()).keep_alive(true);
        peers.http2().timer(TokioTimer::new()).max_concurrent_streams(protocol.max_concurrent_streams);
        Connections { protocol, http1, http2: http2::builder(protocol), peers }
    }

    /// Serves until the client leaves. Once `stopping`, no new request is taken, open ones are finished.
    pub(super) async fn serve_client<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        &self,
        socket: S,
        service: Rc<dyn Service>,
        origin: Rc<Origin>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let begun = tokio::select! {
            begun = Turns::begin(socket) => begun,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let result: Result<(), Box<dyn Error>> = match begun {
            Ok((stream, true)) => {
                let heard = stream.heard();
                let served = http2::serve(stream, heard, &self.http2, self.protocol, (&service, &origin), stopping);
                served.await.map_err(Into::into)
            }
            Ok((stream, false)) if stream.first_byte().is_some_and(tls::begins_with) => {
                seldom!(
                    CHANGES: warn, origin.remote.map(|remote| remote.ip()),
                    "remote-addr" = origin.remote.map(|remote| remote.to_string()),
                    error = "a TLS handshake, and this URL is for plain text", "rejected connection on client endpoint"
                );
                return;
            }
            Ok((stream, false)) => {
                let connection = self.http1.serve_connection(TokioIo::new(stream), Hyper(service, origin));
                let shut = |connection: Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
                until_stopped(connection, shut, stopping).await.map_err(Into::into)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            tracing::debug!(error = %error, "connection ended");
        }
    }

    /// The same for a peer, which speaks HTTP/1; hyper accepts HTTP/2, too.
    pub(super) async fn serve_peer<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        &self,
        socket: S,
        service: Rc<dyn Service>,
        origin: Rc<Origin>,
        stopping: watch::Receiver<bool>,
    ) {
        let remote = origin.remote;
        let connection = self.peers.serve_connection(TokioIo::new(socket), Hyper(service, origin));
        let shut = |connection: Pin<&mut auto::Connection<'_, _, _, _>>| connection.graceful_shutdown();
        if let Err(error) = until_stopped(connection, shut, stopping).await {
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                seldom!(
                    CHANGES: warn, remote.map(|remote| remote.ip()),
                    "remote-addr" = remote.map(|remote| remote.to_string()), error = %error,
                    "rejected connection on peer endpoint"
                );
            }
            tracing::debug!(error = %error, "connection ended");
        }
    }
}

/// Drives a connection to its end, and shuts it down once `stopping`.
async fn until_stopped<C: Future>(
    connection: C,
    shut: impl FnOnce(Pin<&mut C>),
    mut stopping: watch::Receiver<bool>,
) -> C::Output {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        _ = stopping.wait_for(|stopping| *stopping) => {
            shut(connection.as_mut());
            connection.await
        }
    }
}

struct Hyper(Rc<dyn Service>, Rc<Origin>);

impl hyper::service::Service<Request<Incoming>> for Hyper {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        Answer(self.0.call(request, &self.1))
    }
}

struct Answer(LocalFuture<Response<Body>>);

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}
