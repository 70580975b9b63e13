//! The other end of a connection, as the requests on it see it.

use std::net::SocketAddr;

/// The other end of a connection. All requests of the connection share one.
#[derive(Debug, Default)]
pub struct Origin {
    /// The address of a TCP connection; `None` on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// Whether the connection is encrypted with TLS.
    pub encrypted: bool,
    /// The common name of the client's certificate, if the connection has one that was verified.
    pub common_name: Option<String>,
}
