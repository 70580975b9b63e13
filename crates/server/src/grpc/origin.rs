//! The other end of a connection, and the door by which it came, as its requests see them.

use std::net::SocketAddr;

/// The kind of the listener by which a connection came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Door {
    /// gRPC and HTTP for clients.
    #[default]
    Client,
    /// gRPC for clients, and nothing else.
    Grpc,
    /// HTTP for clients, without gRPC.
    Http,
    /// Metrics and the checks of health.
    Metrics,
    Peer,
}

impl Door {
    /// Whether HTTP is served here, and no gRPC.
    pub fn is_http_only(self) -> bool {
        matches!(self, Door::Http | Door::Metrics)
    }
}

/// The other end of a connection. All requests of the connection share one.
#[derive(Debug, Default)]
pub struct Origin {
    pub door: Door,
    /// The address of a TCP connection; `None` on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// Whether the connection is encrypted with TLS.
    pub encrypted: bool,
    /// The common name of the client's certificate, if the connection has one that was verified.
    pub common_name: Option<String>,
}
