//! One connection of a client that speaks HTTP/2: what arrives becomes requests, and their answers frames again.
//!
//! This stands on the `h2` crate, not on hyper, because hyper opens the flow-control window again for whatever a body
//! has handed over. A stream of small messages then has two bad ends: nobody reads them, and the library ends the
//! connection for the frames that it has to keep; or somebody reads them all, and nothing bounds what waits. Here
//! frames are read as they arrive, and the window opens when the handler takes the messages ([`crate::grpc::inbound`]).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, SendStream};
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::serve::{Protocol, Service};
use super::turns::{Heard, SMALLEST_FRAME_BYTES, TURN_BYTES};
use crate::grpc::status::ok_trailers;
use crate::grpc::{Body, LocalFuture};

/// Flow-control window of one stream: a value of 1.5 MiB arrives without waiting for the window to be opened again. A
/// stream whose handler is behind holds as many bytes of requests.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Flow-control window of one connection: the requests that streams with busy handlers hold together.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// All headers of one request, as in etcd. While a client sends them, a connection holds at most twice as much: what
/// was decoded, and what waits to be. A request that was read keeps none of them.
const HEADER_LIST_BYTES: u32 = 16 * 1024 * 1024;

/// Streams that a client opened and reset before we looked at them. The library's default of 20 would end the
/// connection of a well-behaved client that cancels a few dozen watches at once; without any bound, rapid resets are an
/// attack. As many streams are remembered that were answered before their client had finished its half.
const RESET_STREAMS: usize = 2048;

/// What the library counts for a frame of data beside its bytes, until somebody takes it.
const FRAME_OVERHEAD_BYTES: usize = 256;

/// Frames of data may arrive in one turn before any handler runs. The library ends a connection whose frames exceed
/// this many bytes of overhead: never because of one turn, even if each frame holds a single byte.
const FRAMES_BUDGET_BYTES: usize = TURN_BYTES / SMALLEST_FRAME_BYTES * FRAME_OVERHEAD_BYTES * 2;

/// Bytes of an answer that the library holds for one stream before a sender must wait.
const SEND_BUFFER_BYTES: usize = 400 * 1024;

/// The settings of [`Protocol`] and of this file, for all connections of a worker.
pub(super) fn builder(protocol: Protocol) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(protocol.max_concurrent_streams)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .data_frame_budget(FRAMES_BUDGET_BYTES);
    builder
}

/// Serves until the client leaves, or does not answer a ping in time. Once `stopping`, no new request is taken
/// (GOAWAY), and open ones are finished.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    heard: Heard,
    builder: &Builder,
    protocol: Protocol,
    service: &Rc<dyn Service>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), h2::Error> {
    let mut stop = std::pin::pin!(async move { _ = stopping.wait_for(|stopping| *stopping).await });
    let mut connection: Connection<S, Bytes> = builder.handshake(socket).await?;
    let pings = connection.ping_pong().expect("taken once");
    let mut silent = std::pin::pin!(silence(pings, heard, protocol));
    let mut stopped = false;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    tokio::task::spawn_local(exchange(service.call_http2(request), respond));
                }
                None => return Ok(()),
            },
            () = &mut stop, if !stopped => {
                stopped = true;
                connection.graceful_shutdown();
            }
            () = &mut silent => {
                tracing::debug!(timeout = ?protocol.ping_timeout, "a client did not answer a ping");
                return Ok(());
            }
        }
    }
}

/// Returns once a connection is given up: nothing was heard from the client for the interval, and no answer to a ping
/// within the timeout.
async fn silence(mut pings: PingPong, heard: Heard, protocol: Protocol) {
    let Some(interval) = protocol.ping_interval else { return std::future::pending().await };
    loop {
        let due = heard.last() + interval;
        if Instant::now() < due {
            sleep_until(due).await;
            continue;
        }
        if !answers(&mut pings, protocol.ping_timeout).await {
            return;
        }
    }
}

/// Whether the client answers a ping in time. A connection that is ending counts: it ends by itself.
async fn answers(pings: &mut PingPong, patience: Duration) -> bool {
    if pings.send_ping(Ping::opaque()).is_err() {
        return std::future::pending().await;
    }
    match timeout(patience, poll_fn(|cx| pings.poll_pong(cx))).await {
        Ok(Ok(_)) => true,
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => false,
    }
}

/// Answers one request. If the client goes away, everything that works on the answer is dropped.
async fn exchange(mut answer: LocalFuture<Response<Body>>, mut respond: SendResponse<Bytes>) {
    let response = poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => respond.poll_reset(cx).map(|_gone| None),
    });
    let Some(response) = response.await else { return };
    let (mut head, mut body) = response.into_parts();
    let ends = body.is_end_stream();
    if let (false, Some(length)) = (ends, body.size_hint().exact()) {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    // Sending fails only when the stream has ended meanwhile, and then nobody waits for more.
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), ends) else { return };
    match body {
        _ if ends => {}
        // The usual answer leaves at once; the library keeps what the client has no room for.
        Body::Reply(message) => {
            _ = stream.send_data(message, false).and_then(|()| stream.send_trailers(ok_trailers()));
        }
        _ => _ = send(&mut stream, &mut body).await,
    }
}

/// The client has reset the stream, or is gone.
struct Gone;

/// Sends a body as fast as the client takes it.
async fn send(stream: &mut SendStream<Bytes>, body: &mut Body) -> Result<(), Gone> {
    loop {
        let frame = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(Gone)),
            Poll::Pending => Pin::new(&mut *body).poll_frame(cx).map(Ok),
        });
        let Some(Ok(frame)) = frame.await? else {
            return stream.send_data(Bytes::new(), true).map_err(|_| Gone);
        };
        match frame.into_data() {
            Ok(data) => {
                room(stream).await?;
                let ends = body.is_end_stream();
                stream.send_data(data, ends).map_err(|_| Gone)?;
                if ends {
                    return Ok(());
                }
            }
            Err(frame) => {
                stream.reserve_capacity(0);
                let trailers = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers).map_err(|_| Gone);
            }
        }
    }
}

/// Waits until the client and the send buffer have room. Room is reserved for one byte only: what a stream reserves and
/// does not use is missing to the others of its connection.
async fn room(stream: &mut SendStream<Bytes>) -> Result<(), Gone> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(_)) => {}
            _ => return Err(Gone),
        }
    }
    Ok(())
}
