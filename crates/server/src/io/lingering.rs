//! A byte stream whose last bytes reach the other side.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that are read at a time only to be dropped.
const SCRATCH_BYTES: usize = 8 << 10;

/// A connection that, once it is shut down, drops what still arrives until the other side closes it, too, or `limit`
/// has passed.
///
/// A socket that is closed with unread bytes resets the connection, and the reset overtakes the bytes that were sent
/// last. These may be an answer, or the GOAWAY frame, which tells a client which of its requests were not handled, so
/// that it may safely send them elsewhere. RFC 9112, section 9.6, asks for the same in HTTP/1.
#[derive(Debug)]
pub struct Lingering<S> {
    stream: S,
    limit: Duration,
    /// Runs once this side has shut down.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub fn new(stream: S, limit: Duration) -> Lingering<S> {
        Lingering { stream, limit, timer: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Lingering { stream, limit, timer } = self.get_mut();
        let timer = match timer {
            Some(timer) => timer,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                timer.insert(Box::pin(tokio::time::sleep(*limit)))
            }
        };
        while timer.as_mut().poll(cx).is_pending() {
            let mut scratch = [MaybeUninit::uninit(); SCRATCH_BYTES];
            let mut buffer = ReadBuf::uninit(&mut scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(1);
    const LAST_WORDS: &[u8] = b"go away";
    /// More than is read at once.
    const UNREAD: &[u8] = &[7; 3 * SCRATCH_BYTES];

    #[tokio::test]
    async fn the_last_words_are_heard_although_not_all_was_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0;
        far.write_all(UNREAD).await.unwrap();
        // The bytes have arrived, and are not read.
        near.readable().await.unwrap();
        let served = tokio::spawn(async move {
            let mut near = Lingering::new(near, Duration::from_secs(60));
            near.write_all(LAST_WORDS).await.unwrap();
            near.shutdown().await.unwrap();
        });
        far.write_all(UNREAD).await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, LAST_WORDS);
        assert!(!served.is_finished(), "the other side is still there");
        drop(far);
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_is_given_up() {
        let (near, mut far) = tokio::io::duplex(UNREAD.len());
        let mut near = Lingering::new(near, LIMIT);
        far.write_all(UNREAD).await.unwrap();
        let before = Instant::now();
        near.shutdown().await.unwrap();
        assert_eq!(before.elapsed().as_secs(), LIMIT.as_secs());
    }
}
