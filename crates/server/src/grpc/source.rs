//! The sources of the requests of a call: a client of HTTP/2, or this process.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use tokio::sync::mpsc;

/// The requests of a call.
#[derive(Debug)]
pub enum Source {
    /// Frames, in which messages are cut out.
    Http2(RecvStream),
    /// Whole messages that this process hands over. They are never compressed.
    Local(Messages),
}

/// Encoded messages, without prefix.
#[derive(Debug)]
pub enum Messages {
    /// The only one; `None` once it was taken.
    One(Option<Bytes>),
    /// As many as the other end sends until it is dropped.
    Many(mpsc::Receiver<Bytes>),
}

impl Messages {
    /// The next message; `None` after the last one.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self {
            Messages::One(message) => Poll::Ready(message.take()),
            Messages::Many(queue) => queue.poll_recv(cx),
        }
    }
}

impl From<RecvStream> for Source {
    fn from(stream: RecvStream) -> Source {
        Source::Http2(stream)
    }
}
