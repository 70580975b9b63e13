//! Listening sockets: bound to an address, and listening.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An address that could not be opened, in the words of Go's net package, which operators look for.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen tcp {0}: bind: {1}")]
    Tcp(SocketAddr, #[source] io::Error),
    #[error("listen unix {path}: bind: {source}", path = .0.display(), source = .1)]
    Unix(PathBuf, #[source] io::Error),
}

/// A listening socket that no runtime knows yet.
#[derive(Debug)]
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Options of a listening TCP socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    /// Let other processes bind the same port: SO_REUSEPORT.
    pub reuse_port: bool,
}

impl Listener {
    /// Binds and listens. A socket file that an earlier process left behind is replaced.
    pub fn bind(address: &Address, options: SocketOptions) -> Result<Listener, ListenError> {
        match address {
            Address::Tcp(address) => {
                bind_tcp(*address, options).map(Listener::Tcp).map_err(|error| ListenError::Tcp(*address, error))
            }
            Address::Unix(path) => {
                bind_unix(path).map(Listener::Unix).map_err(|error| ListenError::Unix(path.clone(), error))
            }
        }
    }

    /// The port that was bound; `None` on a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Hands the socket to the runtime of the calling thread.
    pub(super) fn register(self) -> io::Result<Registered> {
        Ok(match self {
            Listener::Tcp(listener) => Registered::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener) => Registered::Unix(UnixListener::from_std(listener)?),
        })
    }
}

/// A listening socket of this thread's runtime.
#[derive(Debug)]
pub(super) enum Registered {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// SO_REUSEADDR lets a restarted member take its port while old connections linger in TIME_WAIT. It does not allow two
/// listeners on one port.
fn bind_tcp(address: SocketAddr, options: SocketOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &PathBuf) -> io::Result<std::os::unix::net::UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let first = Listener::bind(&any, SocketOptions::default()).unwrap();
        let taken = first.local_addr().unwrap();
        let error = Listener::bind(&Address::Tcp(taken), SocketOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("listen tcp {taken}: bind: Address already in use")), "{error}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("metastore-listen-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("m1");
        drop(Listener::bind(&Address::Unix(path.clone()), SocketOptions::default()).unwrap());
        Listener::bind(&Address::Unix(path.clone()), SocketOptions::default()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        let error = Listener::bind(&Address::Unix(path.clone()), SocketOptions::default()).unwrap_err();
        assert!(error.to_string().contains("m1: bind: "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_dir_all(&directory).unwrap();
    }
}
