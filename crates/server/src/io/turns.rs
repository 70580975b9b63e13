//! A client's byte stream: its first bytes tell the protocol, and then it is read in turns.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::pings::{Frames, Traffic, farewell};

/// The first bytes of every HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of one connection that are read before other tasks of the thread run, including the handlers of these bytes.
pub(super) const TURN_BYTES: usize = 128 * 1024;

/// The smallest frame of HTTP/2 that carries data: nine bytes before it, and one of data.
pub(super) const SMALLEST_FRAME_BYTES: usize = 10;

/// When bytes arrived from the other side for the last time.
#[derive(Clone, Debug)]
pub(super) struct Heard(Rc<Cell<Instant>>);

impl Heard {
    pub(super) fn last(&self) -> Instant {
        self.0.get()
    }
}

/// A byte stream that lets other tasks run after each [`TURN_BYTES`]. Otherwise the library would read as much as the
/// kernel has, and its queues would hold messages that the handlers could already have taken.
#[derive(Debug)]
pub(super) struct Turns<S> {
    stream: S,
    /// The bytes that were read to learn the protocol, their number, and how many of them were read again.
    first: ([u8; PREFACE.len()], usize, usize),
    left: usize,
    heard: Heard,
    /// The frames of both directions; none with HTTP/1.
    followed: Option<Followed>,
}

/// The frames that were read and written.
#[derive(Debug, Default)]
struct Followed {
    traffic: Rc<Traffic>,
    read: Frames,
    written: Frames,
    /// A frame that is written in place of one of the library's, and the number of its bytes that are written.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S: AsyncRead + Unpin> Turns<S> {
    /// Waits for the first bytes; true if they begin HTTP/2.
    pub(super) async fn begin(mut stream: S) -> io::Result<(Turns<S>, bool)> {
        let (mut first, mut length) = ([0; PREFACE.len()], 0);
        while length < first.len() && first[..length] == PREFACE[..length] {
            match stream.read(&mut first[length..]).await? {
                0 => break,
                read => length += read,
            }
        }
        let heard = Heard(Rc::new(Cell::new(Instant::now())));
        let http2 = first == *PREFACE;
        let followed = http2.then(Followed::default);
        Ok((Turns { stream, first: (first, length, 0), left: TURN_BYTES, heard, followed }, http2))
    }
}

impl<S> Turns<S> {
    /// The first byte, if one has come.
    pub(super) fn first_byte(&self) -> Option<u8> {
        let (first, length, _) = &self.first;
        first[..*length].first().copied()
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// The facts seen in the frames of HTTP/2.
    pub(super) fn traffic(&self) -> Rc<Traffic> {
        self.followed.as_ref().map(|followed| followed.traffic.clone()).unwrap_or_default()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turns<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Turns { stream, first: (first, length, at), left, heard, followed } = self.get_mut();
        if at < length {
            let end = (*at + buffer.remaining()).min(*length);
            buffer.put_slice(&first[*at..end]);
            *at = end;
            return Poll::Ready(Ok(()));
        }
        if *left == 0 {
            *left = TURN_BYTES;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        if read.is_pending() {
            *left = TURN_BYTES;
        }
        ready!(read)?;
        *left = left.saturating_sub(buffer.filled().len() - before);
        heard.0.set(Instant::now());
        if let Some(Followed { traffic, read, .. }) = followed {
            read.follow(&buffer.filled()[before..], |header| traffic.received(header));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Turns<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Turns { stream, followed, .. } = self.get_mut();
        let Some(Followed { traffic, written, instead, .. }) = followed else {
            return Pin::new(stream).poll_write(cx, bytes);
        };
        let mut part = bytes;
        if traffic.ends() {
            // Frame by frame, to find the last one.
            let rest = written.rest(bytes);
            let (frame, worded) = if rest > 0 { (rest, None) } else { farewell(bytes) };
            part = &bytes[..frame];
            if let Some(worded) = worded {
                let (worded, done) = instead.get_or_insert((worded, 0));
                while *done < worded.len() {
                    *done += match ready!(Pin::new(&mut *stream).poll_write(cx, &worded[*done..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        some => some,
                    };
                }
                *instead = None;
                written.follow(part, |_| {});
                return Poll::Ready(Ok(frame));
            }
        }
        let count = ready!(Pin::new(stream).poll_write(cx, part))?;
        written.follow(&bytes[..count], |header| traffic.sends(header));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol_and_are_read_again() {
        for (bytes, http2) in [(&PREFACE[..], true), (b"GET / HTTP/1.1\r\n\r\n", false), (b"PRI * HTTP/1.1\r\n", false)]
        {
            for size in [1, 5, 100] {
                let (near, mut far) = tokio::io::duplex(size);
                let write = async {
                    far.write_all(bytes).await.unwrap();
                    far.write_all(b"more").await.unwrap();
                    far.shutdown().await.unwrap();
                };
                let read = async {
                    let (mut turns, found) = Turns::begin(near).await.unwrap();
                    let mut all = Vec::new();
                    turns.read_to_end(&mut all).await.unwrap();
                    (found, all)
                };
                let ((), (found, all)) = tokio::join!(write, read);
                assert_eq!((found, all), (http2, [bytes, b"more"].concat()));
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_always_has_more_lets_others_run() {
        let (mut turns, _) = Turns::begin(tokio::io::repeat(7)).await.unwrap();
        let mut read = 0;
        poll_fn(|cx| {
            let mut bytes = [0; 4096];
            loop {
                let mut buffer = ReadBuf::new(&mut bytes);
                if Pin::new(&mut turns).poll_read(cx, &mut buffer).is_pending() {
                    return Poll::Ready(());
                }
                read += buffer.filled().len();
                assert!(read <= TURN_BYTES + 4096, "{read} bytes in one turn");
            }
        })
        .await;
        assert!(read >= TURN_BYTES);
        turns.read_exact(&mut [0; 2 * TURN_BYTES]).await.expect("and goes on in the next turn");
    }
}
