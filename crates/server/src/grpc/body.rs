//! The one response body of the server, for gRPC and for plain HTTP.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame as BodyFrame, SizeHint};

use super::outbound::Outgoing;
use super::status::ok_trailers;

/// The source from which hyper reads a response.
#[derive(Debug)]
pub enum Body {
    /// Nothing more: the headers said it all (a gRPC error without a message), or the rest has been read.
    Done,
    /// A plain HTTP answer.
    Plain(Bytes),
    /// A unary reply, framed.
    Reply(Bytes),
    /// The trailers of a reply that went well.
    Trailers,
    /// The replies of a streaming call.
    Stream(Outgoing),
    /// A plain HTTP answer that goes on until one side ends it.
    Endless(Box<dyn Pieces>),
}

/// A body whose bytes are produced while it is sent. Dropped when the connection ends.
pub trait Pieces: std::fmt::Debug {
    /// The next bytes; `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        if let Body::Stream(outgoing) = body {
            let Poll::Ready(frame) = outgoing.poll_next(cx) else { return Poll::Pending };
            return Poll::Ready(frame.map(Ok));
        }
        if let Body::Endless(pieces) = body {
            let Poll::Ready(piece) = pieces.poll_piece(cx) else { return Poll::Pending };
            return Poll::Ready(piece.and_then(data));
        }
        Poll::Ready(match std::mem::replace(body, Body::Done) {
            Body::Plain(bytes) => data(bytes),
            Body::Reply(bytes) => {
                *body = Body::Trailers;
                data(bytes)
            }
            Body::Trailers => Some(Ok(BodyFrame::trailers(ok_trailers()))),
            Body::Done | Body::Stream(_) | Body::Endless(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Done => SizeHint::with_exact(0),
            Body::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // No exact size for gRPC: hyper would send it as content-length.
            Body::Reply(_) | Body::Trailers | Body::Stream(_) | Body::Endless(_) => SizeHint::default(),
        }
    }
}

fn data(bytes: Bytes) -> Option<Result<BodyFrame<Bytes>, Infallible>> {
    Some(Ok(BodyFrame::data(bytes)))
}
