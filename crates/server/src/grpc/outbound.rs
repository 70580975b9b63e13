//! The replies of a streaming call, from the handler's task to hyper, on one thread.
//!
//! ```text
//!   handler task ── send().await ──> queue (bounded) ──> Outgoing, polled by hyper when the client has room
//!        ^                                                    │
//!        └──────────── aborted when hyper drops it ───────────┘
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::Frame as BodyFrame;
use tokio::task::AbortHandle;

use super::compression;
use super::counts::MethodCounts;
use super::encoding::Encoding;
use super::frame::{Deflater, Frame};
use super::status::{Status, ok_trailers};

/// A sender waits while this many bytes are queued for its client. One frame may exceed it (a whole watch response
/// may); the queue then holds nothing else. HTTP/2's own send buffer (400 KB a stream) comes on top.
pub const QUEUE_BYTES: usize = 256 * 1024;

/// Small frames that wait together leave as one DATA frame of up to this size.
const JOIN_BYTES: usize = 16 * 1024;

/// The client has gone; nothing sent can reach it. The handler will be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    queued_bytes: usize,
    end: Option<Status>,
    ended: bool,
    gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The handler's end.
#[derive(Debug)]
pub struct Outbound {
    queue: Rc<RefCell<Queue>>,
    counts: Arc<MethodCounts>,
    encoding: Encoding,
}

/// Ends the stream once the handler has finished. If it is dropped before that (the handler panicked), it ends the
/// stream with `Internal`, so that no client waits for ever.
#[derive(Debug)]
pub(super) struct Closer(Rc<RefCell<Queue>>);

/// hyper's end, inside [`super::body::Body`]. Dropping it aborts the handler.
#[derive(Debug)]
pub struct Outgoing {
    queue: Rc<RefCell<Queue>>,
    handler: Option<AbortHandle>,
}

pub(super) fn channel(encoding: Encoding, counts: Arc<MethodCounts>) -> (Outbound, Outgoing) {
    let queue = Rc::<RefCell<Queue>>::default();
    (Outbound { queue: queue.clone(), counts, encoding }, Outgoing { queue, handler: None })
}

impl Outbound {
    /// Queues one message, after waiting for room. Dropping the future before it is ready sends nothing.
    pub async fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        self.ready().await?;
        let length = frame.message_bytes();
        let frame = compression::encode(frame, self.encoding).await;
        self.counts.message_sent(length);
        self.push(frame.into_bytes());
        Ok(())
    }

    /// Waits until there is room. A handler that selects over several sources calls this before it takes from them.
    pub async fn ready(&mut self) -> Result<(), Gone> {
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            if queue.gone {
                return Poll::Ready(Err(Gone));
            }
            if queue.queued_bytes < QUEUE_BYTES {
                return Poll::Ready(Ok(()));
            }
            queue.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Begins a message of `length` bytes that is produced in pieces, for replies too large to hold at once. A
    /// compressed message is held until it is whole, because its length comes first.
    pub async fn begin(&mut self, length: usize) -> Result<Result<Pieces<'_>, Gone>, Status> {
        let prefix = Frame::prefix(length)?;
        if self.ready().await.is_err() {
            return Ok(Err(Gone));
        }
        self.counts.message_sent(length);
        let deflater = (self.encoding == Encoding::Gzip && length > 0).then(Deflater::new);
        if deflater.is_none() {
            self.push(prefix);
        }
        Ok(Ok(Pieces { outbound: self, missing: length, deflater }))
    }

    fn push(&mut self, bytes: Bytes) {
        let mut queue = self.queue.borrow_mut();
        queue.queued_bytes += bytes.len();
        queue.frames.push_back(bytes);
        wake(&mut queue.reader);
    }

    pub(super) fn closer(&self) -> Closer {
        Closer(self.queue.clone())
    }
}

impl Closer {
    pub(super) fn finish(self, result: Result<(), Status>) {
        let mut queue = self.0.borrow_mut();
        queue.end = result.err();
        queue.ended = true;
        wake(&mut queue.reader);
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        if !queue.ended {
            queue.end = Some(Status::internal("the handler of this stream failed"));
            queue.ended = true;
            wake(&mut queue.reader);
        }
    }
}

/// A message under way. The pieces must add up to the length that was announced.
#[derive(Debug)]
pub struct Pieces<'a> {
    outbound: &'a mut Outbound,
    missing: usize,
    deflater: Option<Deflater>,
}

impl Pieces<'_> {
    /// Queues the next piece, after waiting for room.
    ///
    /// # Panics
    /// When the pieces exceed the announced length: what follows would be read as another message.
    pub async fn push(&mut self, piece: Bytes) -> Result<(), Gone> {
        assert!(piece.len() <= self.missing, "{} bytes in a piece, {} were left", piece.len(), self.missing);
        self.outbound.ready().await?;
        self.missing -= piece.len();
        match &mut self.deflater {
            None => self.outbound.push(piece),
            Some(deflater) => deflater.push(&piece),
        }
        if let Some(whole) = self.deflater.take_if(|_| self.missing == 0) {
            self.outbound.push(whole.finish().into_bytes());
        }
        Ok(())
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> usize {
        self.missing
    }
}

impl Outgoing {
    /// Sets the task that is aborted with this body.
    pub(super) fn set_handler(&mut self, handler: AbortHandle) {
        self.handler = Some(handler);
    }

    /// The next part to send: data as long as there is some, then the trailers, then nothing.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<BodyFrame<Bytes>>> {
        let mut queue = self.queue.borrow_mut();
        if let Some(bytes) = take_joined(&mut queue.frames) {
            queue.queued_bytes -= bytes.len();
            if queue.queued_bytes < QUEUE_BYTES {
                wake(&mut queue.writer);
            }
            return Poll::Ready(Some(BodyFrame::data(bytes)));
        }
        if queue.gone {
            return Poll::Ready(None);
        }
        if queue.ended {
            queue.gone = true;
            let headers = queue.end.take().map_or_else(ok_trailers, |status| status.trailers());
            return Poll::Ready(Some(BodyFrame::trailers(headers)));
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            handler.abort();
        }
        let mut queue = self.queue.borrow_mut();
        queue.gone = true;
        queue.frames.clear();
        wake(&mut queue.writer);
    }
}

fn take_joined(frames: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = frames.pop_front()?;
    match frames.front() {
        Some(second) if first.len() + second.len() <= JOIN_BYTES => {}
        _ => return Some(first),
    }
    let mut joined = BytesMut::with_capacity(JOIN_BYTES);
    joined.extend_from_slice(&first);
    while let Some(next) = frames.front().filter(|next| joined.len() + next.len() <= JOIN_BYTES) {
        joined.extend_from_slice(next);
        frames.pop_front();
    }
    Some(joined.freeze())
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::counts::{GrpcType, Ledger};

    fn channel() -> (Outbound, Outgoing) {
        super::channel(Encoding::Identity, Ledger::default().open("a.B", "C", GrpcType::ServerStream))
    }

    fn frame(length: usize) -> Frame {
        Frame::write(length, |buffer| buffer.resize(buffer.len() + length, b'x')).unwrap()
    }

    async fn next(outgoing: &mut Outgoing) -> Option<BodyFrame<Bytes>> {
        poll_fn(|cx| outgoing.poll_next(cx)).await
    }

    #[tokio::test]
    async fn small_frames_leave_together_and_the_status_last() {
        let (mut outbound, mut outgoing) = channel();
        for _ in 0..3 {
            outbound.send(frame(95)).await.unwrap();
        }
        outbound.closer().finish(Err(Status::unknown("enough")));
        assert_eq!(next(&mut outgoing).await.unwrap().into_data().unwrap().len(), 300);
        let trailers = next(&mut outgoing).await.unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"2".parse().unwrap(), &"enough".parse().unwrap())
        );
        assert!(next(&mut outgoing).await.is_none());
    }

    #[tokio::test]
    async fn a_full_queue_holds_the_sender_until_the_client_reads() {
        let (mut outbound, mut outgoing) = channel();
        outbound.send(frame(QUEUE_BYTES)).await.unwrap();
        let mut second = Box::pin(outbound.send(frame(1)));
        assert!(poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        next(&mut outgoing).await.unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn pieces_form_one_message() {
        let (mut outbound, mut outgoing) = channel();
        let mut pieces = outbound.begin(6).await.unwrap().unwrap();
        pieces.push(Bytes::from_static(b"abc")).await.unwrap();
        pieces.push(Bytes::from_static(b"def")).await.unwrap();
        assert_eq!(pieces.missing(), 0);
        let data = next(&mut outgoing).await.unwrap().into_data().unwrap();
        assert_eq!(&data[..], b"\0\0\0\0\x06abcdef");
    }

    #[tokio::test]
    async fn pieces_are_compressed_as_one_message() {
        let counts = Ledger::default().open("a.B", "C", GrpcType::ServerStream);
        let (mut outbound, mut outgoing) = super::channel(Encoding::Gzip, counts.clone());
        let mut pieces = outbound.begin(6).await.unwrap().unwrap();
        pieces.push(Bytes::from_static(b"abc")).await.unwrap();
        pieces.push(Bytes::from_static(b"def")).await.unwrap();
        outbound.send(frame(0)).await.unwrap();
        let data = next(&mut outgoing).await.unwrap().into_data().unwrap();
        let length = data.len() - 5;
        assert_eq!((data[0], &data[length..]), (1, &[0; 5][..]), "an empty message is sent as it is");
        assert_eq!(crate::grpc::encoding::inflate(&data[5..length], 6).unwrap(), &b"abcdef"[..]);
        assert_eq!((counts.sent.get(), counts.sent_bytes.get()), (2, 6));
    }

    #[tokio::test]
    async fn the_sender_learns_that_the_client_is_gone() {
        let (mut outbound, outgoing) = channel();
        outbound.send(frame(QUEUE_BYTES)).await.unwrap();
        let mut waiting = Box::pin(outbound.send(frame(1)));
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        drop(outgoing);
        assert_eq!(waiting.await, Err(Gone));
    }
}
