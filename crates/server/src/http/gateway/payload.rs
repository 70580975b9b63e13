//! The JSON values in the body of a request, one after the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::Body as _;
use hyper::body::Incoming;

use super::scan::Scanner;
use crate::grpc::{Code, Status};

/// A value may be so many times as long as the longest message. Base64 takes a third more than the bytes; the rest is
/// room for names, numbers and spaces.
const ROOM: usize = 2;

/// A value may always be this long, however short messages must be.
const LEAST_BYTES: usize = 64 * 1024;

/// The body of a request, over either protocol.
#[derive(Debug)]
pub enum Payload {
    Http1(Incoming),
    Http2(RecvStream),
}

impl Payload {
    /// The next bytes; `None` at the end. The error means that the client is gone.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        match self {
            Payload::Http1(body) => loop {
                let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else { return Poll::Ready(None) };
                // Trailers say nothing here.
                match frame.map(http_body::Frame::into_data) {
                    Ok(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                    Ok(Err(_trailers)) => {}
                    Err(_) => return Poll::Ready(Some(Err(Gone))),
                }
            },
            Payload::Http2(body) => {
                let Some(chunk) = ready!(body.poll_data(cx)) else { return Poll::Ready(None) };
                let Ok(chunk) = chunk else { return Poll::Ready(Some(Err(Gone))) };
                // Fails only on a stream that has ended, which takes nothing any more.
                _ = body.flow_control().release_capacity(chunk.len());
                Poll::Ready(Some(Ok(chunk)))
            }
        }
    }
}

struct Gone;

/// The values of a body. It holds one value at most, and what arrived together with its end.
#[derive(Debug)]
pub struct Values {
    payload: Payload,
    held: BytesMut,
    scanner: Scanner,
    max_bytes: usize,
    ended: bool,
}

impl Values {
    /// `max_message_bytes` bounds the message that a value becomes.
    pub fn new(payload: Payload, max_message_bytes: usize) -> Values {
        let max_bytes = max_message_bytes.saturating_mul(ROOM).saturating_add(LEAST_BYTES);
        Values { payload, held: BytesMut::new(), scanner: Scanner::default(), max_bytes, ended: false }
    }

    /// The next value; `None` at the end of the body.
    ///
    /// # Errors
    /// `InvalidArgument` with Go's text for what is no JSON, `ResourceExhausted` for a value that is too long,
    /// `Canceled` if the client is gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(value) = self.cut()? {
                return Poll::Ready(Ok(Some(value)));
            }
            if self.ended {
                return Poll::Ready(self.last());
            }
            if self.held.len() > self.max_bytes {
                let text =
                    format!("the request is longer than {} bytes of JSON, which no message takes", self.max_bytes);
                return Poll::Ready(Err(Status::resource_exhausted(text)));
            }
            match ready!(self.payload.poll_chunk(cx)) {
                Some(Ok(chunk)) => self.held.extend_from_slice(&chunk),
                Some(Err(Gone)) => return Poll::Ready(Err(Status::new(Code::Canceled, "context canceled"))),
                None => self.ended = true,
            }
        }
    }

    /// The next value, if all of it is here.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        if self.scanner.is_new() {
            let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            let spaces = self.held.iter().take_while(|byte| space(byte)).count();
            _ = self.held.split_to(spaces);
        }
        let end = self.scanner.scan(&self.held).map_err(Status::invalid_argument)?;
        Ok(end.map(|end| self.take(end)))
    }

    /// The value that ends with the body.
    fn last(&mut self) -> Result<Option<Bytes>, Status> {
        match self.held.len() {
            0 => Ok(None),
            all if self.scanner.is_whole() => Ok(Some(self.take(all))),
            _ => Err(Status::invalid_argument("unexpected EOF")),
        }
    }

    fn take(&mut self, end: usize) -> Bytes {
        self.scanner = Scanner::default();
        self.held.split_to(end).freeze()
    }
}
