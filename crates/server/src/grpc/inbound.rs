//! The messages of a client: one for a unary call, many for a streaming one.
//!
//! A stream's frames are read as they arrive, by a task that also runs the handler, and its window opens when the
//! handler takes the messages:
//!
//! ```text
//!   HTTP/2 ── frames ──▶ Reader ──▶ Intake ──▶ Inbound::next ──▶ handler
//!      ▲                                           │
//!      └───────────── window opens ◀───────────────┘
//! ```
//!
//! So at most one window of bytes, not yet decompressed, waits for a slow handler, and its client waits. The other
//! streams of the connection go on.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::RecvStream;
use metastore_proto::Message;
use tokio::time::Instant;

use super::compression;
use super::counts::MethodCounts;
use super::encoding::Encoding;
use super::frame::{Cut, Cutter};
use super::source::Source;
use super::status::{Code, Status};

/// The window of a stream is opened in steps of this many bytes while its handler is busy.
const RELEASE_BYTES: usize = 16 * 1024;

/// A handler takes this many bytes of messages before the other tasks of its thread run.
const TURN_BYTES: usize = 64 * 1024;

/// The bytes that a message counts in a turn besides its length.
const MESSAGE_BYTES: usize = 64;

/// Reads the first message of a call. A client that has not sent it by its own `deadline` is answered DeadlineExceeded:
/// it must not hold the call open for ever. As in grpc-go, nothing after the message is read, so the client need not
/// have closed its half of the stream.
pub(super) async fn read_first(
    source: &mut Source,
    encoding: Encoding,
    max_bytes: usize,
    deadline: Option<Instant>,
) -> Result<Bytes, Status> {
    let mut cutter = Cutter::with(encoding, max_bytes);
    let none = |is_torn| Status::unknown(if is_torn { "unexpected EOF" } else { "EOF" });
    within(deadline, read_message(source, &mut cutter, max_bytes, none)).await
}

/// Reads the only message of a call whose server streams, to the end of the client's half; otherwise as [`read_first`].
pub(super) async fn read_only(
    source: &mut Source,
    encoding: Encoding,
    max_bytes: usize,
    deadline: Option<Instant>,
) -> Result<Bytes, Status> {
    let none = |is_torn| match is_torn {
        true => torn(),
        false => Status::internal("cardinality violation: received no request message from non-client-streaming RPC"),
    };
    let read = async {
        let mut cutter = Cutter::with(encoding, max_bytes);
        let message = read_message(source, &mut cutter, max_bytes, none).await?;
        match read_next(source, &mut cutter).await? {
            None if cutter.is_torn() => Err(torn()),
            None => Ok(message),
            Some(_) => {
                let text = "cardinality violation: received multiple request messages for non-client-streaming RPC";
                Err(Status::internal(text))
            }
        }
    };
    within(deadline, read).await
}

async fn within<T>(deadline: Option<Instant>, read: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let Some(deadline) = deadline else { return read.await };
    let result = tokio::time::timeout_at(deadline, read).await;
    // A message that is there at once is read even if it is too late.
    let in_time = result.ok().filter(|_| Instant::now() < deadline);
    in_time.unwrap_or_else(|| Err(Status::deadline_exceeded()))
}

/// The next message, not compressed. At the end of the client's half `none` says what is wrong, by whether a message
/// has begun.
async fn read_message(
    source: &mut Source,
    cutter: &mut Cutter,
    max_bytes: usize,
    none: impl FnOnce(bool) -> Status,
) -> Result<Bytes, Status> {
    match read_next(source, cutter).await? {
        Some(message) => compression::decode(message, max_bytes).await,
        None => Err(none(cutter.is_torn())),
    }
}

/// The next message; `None` at the end of the client's half.
async fn read_next(source: &mut Source, cutter: &mut Cutter) -> Result<Option<Cut>, Status> {
    match source {
        Source::Http2(body) => read_framed(body, cutter).await,
        Source::Local(messages) => {
            let message = poll_fn(|cx| messages.poll_next(cx)).await;
            message.map(|message| cutter.whole(message).map(Cut::Plain)).transpose()
        }
    }
}

/// The usual case is one DATA frame that holds the prefix and the whole message. It is passed on as a slice, without a
/// copy and without a second poll.
async fn read_framed(body: &mut RecvStream, cutter: &mut Cutter) -> Result<Option<Cut>, Status> {
    loop {
        if let Some(message) = cutter.cut_raw()? {
            return Ok(Some(message));
        }
        if body.is_end_stream() {
            return Ok(None);
        }
        match poll_fn(|cx| body.poll_data(cx)).await {
            Some(Ok(chunk)) => {
                release(body, chunk.len());
                cutter.push(chunk);
            }
            Some(Err(_gone)) => return Err(gone()),
            None => return Ok(None),
        }
    }
}

/// Lets the client send `bytes` more.
fn release(body: &mut RecvStream, bytes: usize) {
    // Fails only on a stream that has ended, which takes nothing any more.
    _ = body.flow_control().release_capacity(bytes);
}

fn gone() -> Status {
    Status::new(Code::Canceled, "context canceled")
}

fn torn() -> Status {
    Status::internal("unexpected EOF")
}

/// Decodes the message of a unary call.
pub(super) fn decode_request<T: Message + Default>(message: Bytes) -> Result<T, Status> {
    T::decode(message).map_err(|error| Status::internal(format!("grpc: error unmarshalling request: {error}")))
}

/// Decodes a message of a streaming call.
pub(super) fn decode_streamed<T: Message + Default>(message: Bytes) -> Result<T, Status> {
    let text = |error| format!("grpc: failed to unmarshal the received message: {error}");
    T::decode(message).map_err(|error| Status::internal(text(error)))
}

/// The requests of a stream that have arrived and were not taken.
#[derive(Debug)]
struct Intake {
    source: Source,
    cutter: Cutter,
    /// Bytes that were received and are not yet released to the flow-control window.
    unreleased: usize,
    /// How the client's half ended.
    end: Option<Result<(), Status>>,
    /// The waker of a handler that waits for more.
    taker: Option<Waker>,
    /// Bytes that the handler took in this turn.
    turn_bytes: usize,
}

impl Intake {
    /// Takes the frames that have arrived.
    fn fill(&mut self, cx: &mut Context<'_>) {
        // Messages of this process are taken from their queue by the handler itself.
        let Source::Http2(body) = &mut self.source else { return };
        let mut news = false;
        while self.end.is_none() {
            match body.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(chunk))) => {
                    self.unreleased += chunk.len();
                    self.cutter.push(chunk);
                }
                Poll::Ready(Some(Err(_gone))) => self.end = Some(Err(gone())),
                Poll::Ready(None) => self.end = Some(Ok(())),
            }
            news = true;
        }
        // A handler of the same task runs next anyway.
        if news && let Some(taker) = self.taker.take_if(|taker| !taker.will_wake(cx.waker())) {
            taker.wake();
        }
    }

    fn release(&mut self, bytes: usize) {
        if bytes > 0
            && let Source::Http2(body) = &mut self.source
        {
            self.unreleased -= bytes;
            release(body, bytes);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Source::Local(messages) = &mut self.source {
            let message = ready!(messages.poll_next(cx));
            let message = message.map(|message| self.cutter.whole(message)).transpose()?;
            self.turn_bytes += message.as_ref().map_or(0, |message| message.len() + MESSAGE_BYTES);
            return Poll::Ready(Ok(message));
        }
        if let Some(message) = self.cutter.cut_next()? {
            self.turn_bytes += message.len() + MESSAGE_BYTES;
            let taken = self.unreleased.saturating_sub(self.cutter.len());
            if taken >= RELEASE_BYTES {
                self.release(taken);
            }
            return Poll::Ready(Ok(Some(message)));
        }
        match &self.end {
            Some(Ok(())) if self.cutter.is_torn() => Poll::Ready(Err(torn())),
            Some(end) => Poll::Ready(end.clone().map(|()| None)),
            None => {
                // All bytes, including the beginning of a message that is larger than the window.
                self.release(self.unreleased);
                self.turn_bytes = 0;
                self.taker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The messages of a client that streams.
#[derive(Debug)]
pub struct Inbound<T> {
    intake: Rc<RefCell<Intake>>,
    counts: Arc<MethodCounts>,
    message: PhantomData<fn() -> T>,
}

/// Reads the frames of a stream as they arrive.
#[derive(Debug)]
pub(super) struct Reader(Rc<RefCell<Intake>>);

pub(super) fn channel<T>(
    source: Source,
    encoding: Encoding,
    max_bytes: usize,
    counts: Arc<MethodCounts>,
) -> (Inbound<T>, Reader) {
    let cutter = Cutter::with(encoding, max_bytes);
    let intake = Intake { source, cutter, unreleased: 0, end: None, taker: None, turn_bytes: 0 };
    let intake = Rc::new(RefCell::new(intake));
    (Inbound { intake: intake.clone(), counts, message: PhantomData }, Reader(intake))
}

impl Reader {
    /// To be polled beside the handler, and before it.
    pub(super) async fn read(self) -> Infallible {
        poll_fn(|cx| {
            self.0.borrow_mut().fill(cx);
            Poll::Pending
        })
        .await
    }
}

impl<T: Message + Default> Inbound<T> {
    /// The next message; `None` when the client has closed its half. Safe to drop and call again: no message is lost.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Inbound::next`] for handlers that poll several sources.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        let next = self.intake.borrow_mut().poll_next(cx)?;
        next.map(|message| {
            let Some(message) = message else { return Ok(None) };
            self.counts.message_received(message.len());
            decode_streamed(message).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::counts::{GrpcType, Ledger};
    use super::super::frame::{Frame, PREFIX_BYTES};
    use super::*;

    /// Larger than everything that the tests send at once.
    const WINDOW_BYTES: usize = 1 << 20;

    /// A stream whose client has sent `bytes` and closed its half. All of them have arrived; none was taken.
    async fn arrived(bytes: Vec<u8>) -> Inbound<()> {
        let (near, far) = tokio::io::duplex(WINDOW_BYTES);
        tokio::spawn(async move {
            let (client, connection) = h2::client::handshake(near).await.unwrap();
            tokio::spawn(connection);
            let request = Request::post("http://test/").body(()).unwrap();
            let (_response, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
            body.send_data(bytes.into(), true).unwrap();
            std::future::pending::<()>().await;
        });
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(WINDOW_BYTES as u32).initial_connection_window_size(WINDOW_BYTES as u32);
        let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move {
            let _open = respond;
            while connection.accept().await.is_some() {}
        });
        let counts = Ledger::default().open("a.B", "C", GrpcType::BidiStream);
        let (inbound, reader) = channel(request.into_body().into(), Encoding::Identity, WINDOW_BYTES, counts);
        while inbound.intake.borrow().end.is_none() {
            poll_fn(|cx| {
                reader.0.borrow_mut().fill(cx);
                Poll::Ready(())
            })
            .await;
            tokio::task::yield_now().await;
        }
        inbound
    }

    /// `count` messages of so many bytes.
    fn messages(count: usize, bytes: usize) -> Vec<u8> {
        Frame::write(bytes, |buffer| buffer.resize(buffer.len() + bytes, 0)).unwrap().into_bytes().repeat(count)
    }

    /// The numbers of messages that are taken in each turn, to the end of the stream.
    async fn turns(intake: &Rc<RefCell<Intake>>) -> Vec<usize> {
        let mut turns = vec![0];
        let mut take = |cx: &mut Context<'_>| loop {
            match intake.borrow_mut().poll_next(cx).map(Result::unwrap) {
                Poll::Ready(Some(_)) => *turns.last_mut().unwrap() += 1,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    turns.push(0);
                    return Poll::Pending;
                }
            }
        };
        poll_fn(&mut take).await;
        turns
    }

    /// Messages that wait would otherwise hold up all other tasks of the thread.
    #[tokio::test]
    async fn a_handler_takes_a_bounded_number_of_bytes_and_messages_in_a_turn() {
        let large = turns(&arrived(messages(200, 1024)).await.intake).await;
        let most = TURN_BYTES.div_ceil(1024 + MESSAGE_BYTES);
        assert_eq!((large[0], large.len(), large.iter().sum()), (most, 200usize.div_ceil(most), 200));
        let empty = turns(&arrived(messages(2500, 0)).await.intake).await;
        assert_eq!(empty, [1024, 1024, 452]);
    }

    #[tokio::test]
    async fn the_window_opens_in_steps_by_what_the_handler_has_taken() {
        let inbound = arrived(messages(40, 1000)).await;
        let mut intake = inbound.intake.borrow_mut();
        let held = |intake: &mut Intake| match &mut intake.source {
            Source::Http2(body) => body.flow_control().used_capacity(),
            Source::Local(_) => unreachable!("the stream of a client"),
        };
        assert_eq!(held(&mut intake), 40 * (1000 + PREFIX_BYTES));
        let mut context = Context::from_waker(Waker::noop());
        for taken in 1..=40 {
            assert!(matches!(intake.poll_next(&mut context), Poll::Ready(Ok(Some(_)))));
            let waiting = (40 - taken) * (1000 + PREFIX_BYTES);
            assert!((waiting..waiting + RELEASE_BYTES).contains(&held(&mut intake)), "{taken} of 40");
        }
    }
}
