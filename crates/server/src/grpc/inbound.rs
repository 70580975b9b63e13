//! The messages of a client: one for a unary call, many for a streaming one.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use metastore_proto::Message;
use tokio::time::Instant;

use super::counts::MethodCounts;
use super::frame::Cutter;
use super::status::{Code, Status};

/// Reads the only message of a unary call, to the end of the stream. A client that has not sent it all by its own
/// `deadline` gets DeadlineExceeded: it must not hold the call open for ever.
pub(super) async fn read_one(body: Incoming, max_bytes: usize, deadline: Option<Instant>) -> Result<Bytes, Status> {
    let Some(deadline) = deadline else { return read_whole(body, max_bytes).await };
    let read = tokio::time::timeout_at(deadline, read_whole(body, max_bytes)).await;
    read.unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded()))
}

/// The usual case is one DATA frame that holds the prefix and the whole message and ends the stream: it is handed on
/// as a slice, without a copy and without a second poll.
async fn read_whole(mut body: Incoming, max_bytes: usize) -> Result<Bytes, Status> {
    let mut cutter = Cutter::new(max_bytes);
    let mut message = None;
    loop {
        if body.is_end_stream() {
            break;
        }
        let Some(chunk) = poll_fn(|cx| poll_data(&mut body, cx)).await? else { break };
        cutter.push(chunk);
        if message.is_none() {
            message = cutter.cut_next()?;
        }
        if message.is_some() && !cutter.is_empty() {
            return Err(Status::internal("grpc: more than one message in the request of a unary call"));
        }
    }
    message.ok_or_else(|| Status::internal("unexpected EOF"))
}

/// Decodes the message of a unary call, or of a call whose server alone streams.
pub(super) fn decode_request<T: Message + Default>(message: Bytes) -> Result<T, Status> {
    T::decode(message).map_err(|error| Status::internal(format!("grpc: error unmarshalling request: {error}")))
}

/// The next DATA of a request; trailers are passed over.
fn poll_data(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => return Poll::Ready(Ok(None)),
            Some(Err(_gone)) => return Poll::Ready(Err(Status::new(Code::Canceled, "context canceled"))),
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    return Poll::Ready(Ok(Some(chunk)));
                }
            }
        }
    }
}

/// The messages of a client that streams.
#[derive(Debug)]
pub struct Inbound<T> {
    body: Incoming,
    cutter: Cutter,
    counts: Arc<MethodCounts>,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Inbound<T> {
    pub(super) fn new(body: Incoming, max_bytes: usize, counts: Arc<MethodCounts>) -> Inbound<T> {
        Inbound { body, cutter: Cutter::new(max_bytes), counts, message: PhantomData }
    }

    /// The next message; `None` when the client has said all it will. Safe to drop and call again: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Inbound::next`] for handlers that poll several sources.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        loop {
            if let Some(message) = self.cutter.cut_next()? {
                self.counts.message_received(message.len());
                let decoded = T::decode(message).map_err(|error| {
                    Status::internal(format!("grpc: failed to unmarshal the received message: {error}"))
                });
                return Poll::Ready(decoded.map(Some));
            }
            match ready!(poll_data(&mut self.body, cx))? {
                Some(chunk) => self.cutter.push(chunk),
                None if self.cutter.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Status::internal("unexpected EOF"))),
            }
        }
    }
}
