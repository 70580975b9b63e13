//! One connection: HTTP/1 or HTTP/2, depending on how the other side begins.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::http2;
use super::protocol::Protocol;
use super::service::Service;
use super::turns::Turns;
use crate::grpc::{Body, LocalFuture};
use crate::grpc::{Door, Origin};
use crate::tls;

/// How long a client may take to begin, and with HTTP/1 to send the headers of each request, as in etcd. An idle
/// connection of HTTP/1 is closed after this time, too, which etcd does not do.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5 * 60);

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
        http1.timer(TokioTimer::new()).keep_alive(true).header_read_timeout(REQUEST_PATIENCE);
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
            begun = timeout(REQUEST_PATIENCE, Turns::begin(socket)) => match begun {
                Ok(begun) => begun,
                Err(_silent) => return,
            },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let result: Result<(), Box<dyn Error>> = match begun {
            Ok((stream, false)) if stream.first_byte().is_some_and(tls::begins_with) => {
                seldom!(
                    CHANGES: warn, origin.remote.map(|remote| remote.ip()),
                    "remote-addr" = origin.remote.map(|remote| remote.to_string()),
                    error = "a TLS handshake, and this URL is for plain text", "rejected connection on client endpoint"
                );
                return;
            }
            // As in etcd: without gRPC, HTTP/2 is a matter of TLS.
            Ok((_, true)) if origin.door.is_http_only() && !origin.encrypted => return,
            // A port of gRPC takes everything for HTTP/2, and ends the connection if it is not.
            Ok((stream, http2)) if http2 || origin.door == Door::Grpc => {
                let followed = (stream.heard(), stream.traffic());
                let served = http2::serve(stream, followed, &self.http2, self.protocol, (&service, &origin), stopping);
                served.await.map_err(Into::into)
            }
            Ok((stream, _)) => {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    use super::*;

    fn hello(_: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(std::future::ready(Response::new(Body::Plain(Bytes::from_static(b"hello")))))
    }

    /// The time after which a connection is closed on which these texts were sent, each a second after the other, and
    /// what was received on it.
    async fn closed_after(texts: impl IntoIterator<Item = &str>) -> (Duration, String) {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (_stop, stopping) = watch::channel(false);
        let begin = Instant::now();
        let connections = Connections::new(Protocol::default());
        let serve = async {
            connections.serve_client(near, Rc::new(hello), Rc::default(), stopping).await;
            begin.elapsed()
        };
        let talk = async {
            let mut received = Vec::new();
            for text in texts {
                // Fails once the other side has closed.
                _ = far.write_all(text.as_bytes()).await;
                sleep(Duration::from_secs(1)).await;
            }
            _ = far.read_to_end(&mut received).await;
            String::from_utf8(received).unwrap()
        };
        tokio::join!(serve, talk)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_completes_its_headers_is_cut_off() {
        let patience = REQUEST_PATIENCE..REQUEST_PATIENCE + Duration::from_secs(5);
        let (silent, _) = closed_after([]).await;
        assert!(patience.contains(&silent), "{silent:?}");
        let (preface, _) = closed_after(["PRI * HT"]).await;
        assert!(patience.contains(&preface), "{preface:?}");
        let dribble = std::iter::once("GET / HTTP/1.1\r\n").chain(std::iter::repeat_n("a: b\r\n", 1000));
        let (slow, received) = closed_after(dribble).await;
        assert!(patience.contains(&slow) && !received.contains("hello"), "{slow:?} {received}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_of_http1_stays_for_a_while() {
        let first = std::iter::once("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let pause = std::iter::repeat_n("", 250);
        let second = std::iter::once("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let (closed, received) = closed_after(first.chain(pause).chain(second)).await;
        assert_eq!(received.matches("hello").count(), 2, "{received}");
        assert!(closed < Duration::from_secs(251) + REQUEST_PATIENCE + Duration::from_secs(5), "{closed:?}");
    }
}
