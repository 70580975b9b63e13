//! The beginning of a connection: in plain text, or with a TLS handshake.

use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::sync::watch;

use super::lingering::Lingering;
use super::socket::Socket;
use crate::grpc::Origin;
use crate::tls::{self, Acceptor};

/// The connections that a listener takes.
#[derive(Clone, Debug)]
pub enum Security {
    Plain,
    Tls(Arc<Acceptor>),
    /// Both; the first byte of a connection tells.
    Both(Arc<Acceptor>),
}

impl Security {
    /// The byte stream of HTTP, and where it comes from; `None` if the connection is refused, or the member stops. The
    /// other side of a refused connection gets the time `linger` to read why.
    pub(super) async fn enter(
        self,
        socket: Socket,
        linger: Duration,
        mut stopping: watch::Receiver<bool>,
    ) -> Option<(Socket, Origin)> {
        let acceptor = match self {
            Security::Plain => return Some(plain(socket)),
            Security::Tls(acceptor) => acceptor,
            Security::Both(acceptor) => {
                let first = tokio::select! {
                    first = first_byte(&socket) => first?,
                    _ = stopping.wait_for(|stopping| *stopping) => return None,
                };
                if !tls::begins_with(first) {
                    return Some(plain(socket));
                }
                acceptor
            }
        };
        let remote = socket.peer_addr();
        // A connection in plain text does not pay for the memory of a handshake.
        let handshake = Box::pin(acceptor.accept(socket, remote));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        };
        match accepted {
            Ok((stream, common_name)) => Some((
                Socket::Tls(Box::new(stream)),
                Origin { remote, encrypted: true, common_name, ..Origin::default() },
            )),
            Err(refused) => {
                if let Some(socket) = refused {
                    _ = Lingering::new(socket, linger).shutdown().await;
                }
                None
            }
        }
    }
}

fn plain(socket: Socket) -> (Socket, Origin) {
    let origin = Origin { remote: socket.peer_addr(), ..Origin::default() };
    (socket, origin)
}

/// Waits for the first byte, and leaves it to be read.
async fn first_byte(socket: &Socket) -> Option<u8> {
    let mut byte = [0];
    let read = match socket {
        Socket::Tcp(stream) => stream.peek(&mut byte).await,
        Socket::Unix(stream) => {
            let look = || Ok(recv(stream, &mut byte, RecvFlags::PEEK)?.0);
            stream.async_io(Interest::READABLE, look).await
        }
        Socket::Tls(_) => return None,
    };
    (read.ok()? == 1).then_some(byte[0])
}
