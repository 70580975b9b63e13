//! One connection of a client that speaks HTTP/2: its frames become requests, and their answers become frames.
//!
//! This uses the `h2` crate and not hyper, because hyper opens the flow-control window again for all data that a body
//! has handed over. A stream of small messages then ends badly in one of two ways. If its frames are not read, the
//! library ends the connection because it has to keep them. If they are all read, nothing bounds the messages that
//! wait. Here frames are read as they arrive, and the window opens when the handler takes messages
//! ([`crate::grpc::inbound`]).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, SendStream};
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::pings::{Calls, Strikes, Traffic};
use super::protocol::Protocol;
use super::service::Service;
use super::turns::{Heard, SMALLEST_FRAME_BYTES, TURN_BYTES};
use crate::grpc::Origin;
use crate::grpc::status::ok_trailers;
use crate::grpc::{Body, LocalFuture};

/// Flow-control window of one stream: a value of 1.5 MiB arrives without waiting for the window to be opened again. A
/// stream whose handler is behind holds at most as many bytes of requests.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Flow-control window of one connection: at most this many bytes of requests are held by all streams with busy
/// handlers together.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The most bytes that all headers of one request take, as in etcd. While a client sends them, a connection holds at
/// most twice as much: headers that were decoded, and others that wait for it. A request that was read keeps none.
const HEADER_LIST_BYTES: u32 = 16 * 1024 * 1024;

/// At most this many streams wait that a client opened and reset before they were handled. The library's default of 20
/// would end the connection of a well-behaved client that cancels a few dozen watches at once. Without a bound, rapid
/// resets are an attack. The same number of streams is remembered that were answered before the client closed its half.
const RESET_STREAMS: usize = 2048;

/// The bytes that the library counts for a DATA frame besides its content, until the frame is taken.
const FRAME_OVERHEAD_BYTES: usize = 256;

/// The library ends a connection whose frames exceed this many bytes of overhead. All DATA frames of one turn may
/// arrive before any handler runs. They stay below this bound, even if each frame holds a single byte.
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

/// Serves until the client leaves, does not answer a ping in time, or pings too often. Once `stopping`, no new request
/// is taken (GOAWAY), and open ones are finished.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    (heard, traffic): (Heard, Rc<Traffic>),
    builder: &Builder,
    protocol: Protocol,
    (service, origin): (&Rc<dyn Service>, &Rc<Origin>),
    mut stopping: watch::Receiver<bool>,
) -> Result<(), h2::Error> {
    let mut stop = std::pin::pin!(async move { _ = stopping.wait_for(|stopping| *stopping).await });
    let mut connection: Connection<S, Bytes> = builder.handshake(socket).await?;
    let pings = connection.ping_pong().expect("taken once");
    let mut silent = std::pin::pin!(silence(pings, heard, protocol));
    let (calls, mut strikes) = (Calls::default(), Strikes::new(protocol.ping_min_time));
    let mut stopped = false;
    loop {
        // Polled whenever the connection is, and after it. It needs no waker of its own.
        let too_many_pings = poll_fn(|_| match strikes.exceeded(&traffic, &calls, Instant::now()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    tokio::task::spawn_local(exchange(service.call_http2(request, origin), respond, calls.open()));
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
            () = too_many_pings, if !traffic.ends() => {
                let remote = origin.remote.map(|remote| remote.to_string());
                seldom!(
                    warn, origin.remote.map(|remote| remote.ip()),
                    "remote-addr" = remote, "min-time" = ?protocol.ping_min_time,
                    "a client pings too often and is disconnected; --grpc-keepalive-min-time allows more"
                );
                traffic.end();
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
        }
    }
}

/// Returns once a connection is given up: nothing was received from the client for the interval, and no answer to a
/// ping within the timeout.
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

/// Whether the client answers a ping in time. Never returns for a connection that is ending, which ends by itself.
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
async fn exchange(mut answer: LocalFuture<Response<Body>>, mut respond: SendResponse<Bytes>, _open: Calls) {
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
    // Sending fails only if the stream has ended, and then no client waits for more.
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), ends) else { return };
    match body {
        _ if ends => {}
        // The usual answer is sent at once; the library keeps the part for which the client has no room.
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

/// Waits until the client and the send buffer have room. Room is reserved for one byte only: room that a stream
/// reserves and does not use is missing to the other streams of its connection.
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
