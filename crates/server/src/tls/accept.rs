//! The side that accepts connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::Acceptor as Hello;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;

use super::certificate::Certificate;
use super::files::{Pair, Revocations};
use super::settings::Settings;
use super::verify::{Allowed, Clients};
use super::words::{EXPIRED, words};
use super::{Endpoint, Stream, provider, roots, san};

/// The time from the first byte to the end of a handshake. etcd waits without an end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tickets that a client gets, by which it may resume its session later: one, as in Go.
const TICKETS: usize = 1;

/// Accepts TLS on the ports of one kind.
#[derive(Debug)]
pub struct Acceptor {
    endpoint: Endpoint,
    config: Arc<ServerConfig>,
    pair: Arc<Pair>,
    revocations: Option<Revocations>,
    /// Whether the address of a client is compared with those in its certificate.
    checks_address: bool,
    /// Whether the common name of a client is the name of a user.
    names_users: bool,
}

/// A connection, and the name of the user at its other end.
pub type Accepted<S> = (Stream<S>, Option<String>);

/// A connection that is refused.
#[derive(Debug)]
pub(super) struct Refused<S> {
    pub error: String,
    socket: Option<S>,
}

/// The facts about a client whose handshake does not end well.
#[derive(Debug, Default)]
pub(super) struct Known {
    server_name: String,
    certificate: Option<Certificate>,
}

impl Acceptor {
    /// Opens the files. The errors have the texts of etcd.
    pub fn new(settings: &Settings, endpoint: Endpoint) -> Result<Acceptor, String> {
        let pair = Pair::open(settings.server_pair()?)?;
        if !settings.client.is_empty() {
            Pair::open(settings.client_pair()?)?;
        }
        let allowed = Allowed::new(settings)?;
        let provider = provider(settings);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&settings.protocol.versions)
            .map_err(|error| error.to_string())?;
        let builder = match settings.asks_for_certificates() {
            true => builder.with_client_cert_verifier(Clients::new(roots(settings)?, provider, allowed)?),
            false => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(pair.clone());
        config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        config.send_tls13_tickets = TICKETS;
        config.alpn_protocols = match endpoint {
            Endpoint::Client => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Endpoint::Peer => vec![b"http/1.1".to_vec()],
        };
        Ok(Acceptor {
            endpoint,
            config: Arc::new(config),
            pair,
            revocations: settings.crl_file.as_deref().map(Revocations::open),
            checks_address: endpoint == Endpoint::Peer && !settings.skip_client_san_verification,
            names_users: settings.client_cert_auth,
        })
    }

    /// Makes a TLS connection of a byte stream. Returns it with the common name of the client, if clients are users.
    ///
    /// # Errors
    /// The connection is refused, which is logged. The byte stream comes back, unless the client was silent: its last
    /// bytes may be an alert that the client has still to read.
    pub async fn accept<S>(&self, socket: S, remote: Option<SocketAddr>) -> Result<Accepted<S>, Option<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut known = Known::default();
        self.within_time(socket, remote, &mut known).await.map_err(|Refused { error, socket }| {
            self.log(remote, &known, &error);
            socket
        })
    }

    pub(super) async fn within_time<S>(
        &self,
        socket: S,
        remote: Option<SocketAddr>,
        known: &mut Known,
    ) -> Result<Accepted<S>, Refused<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(socket, remote, known));
        let late = |_elapsed| {
            let error = format!("tls: handshake was not finished within {HANDSHAKE_TIMEOUT:?}");
            Err(Refused { error, socket: None })
        };
        handshake.await.unwrap_or_else(late)
    }

    async fn handshake<S>(
        &self,
        socket: S,
        remote: Option<SocketAddr>,
        known: &mut Known,
    ) -> Result<Accepted<S>, Refused<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut hello = LazyConfigAcceptor::new(Hello::default(), socket);
        let hello = match (&mut hello).await {
            Ok(hello) => hello,
            Err(error) => return Err(Refused { error: words(&error), socket: hello.take_io() }),
        };
        known.server_name = hello.client_hello().server_name().unwrap_or_default().to_owned();
        self.pair.refresh().await;
        let accept = hello.into_stream(self.config.clone()).into_fallible();
        let stream = accept.await.map_err(|(error, socket)| Refused { error: words(&error), socket: Some(socket) })?;
        match self.check(stream.get_ref().1, remote, known).await {
            Ok(user) => Ok((stream.into(), user)),
            Err(error) => Err(Refused { error, socket: Some(stream.into_inner().0) }),
        }
    }

    /// The checks that come after the handshake. Returns the name of the user.
    async fn check(
        &self,
        connection: &ServerConnection,
        remote: Option<SocketAddr>,
        known: &mut Known,
    ) -> Result<Option<String>, String> {
        let Some(chain @ [leaf, ..]) = connection.peer_certificates() else { return Ok(None) };
        let certificate = Certificate::parse(leaf).ok_or("x509: malformed certificate")?;
        let certificate = &*known.certificate.insert(certificate);
        // The library has checked the certificate when the session began.
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) && certificate.not_after < now() {
            return Err(format!("tls: failed to verify certificate: x509: {EXPIRED}"));
        }
        if let (true, Some(remote)) = (self.checks_address, remote) {
            san::check(certificate, remote.ip()).await?;
        }
        if let Some(revocations) = &self.revocations {
            revocations.check(chain).await?;
        }
        Ok(self.names_users.then(|| certificate.common_name.clone()))
    }

    /// Logs a refused connection as etcd does, a few times a minute for each address and reason.
    fn log(&self, remote: Option<SocketAddr>, known: &Known, error: &str) {
        let host = remote.map(|remote| remote.ip().to_canonical());
        let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
        let (addresses, names) = known.certificate.as_ref().map(lists).unzip();
        match self.endpoint {
            Endpoint::Client => seldom!(
                CHANGES: warn, (host, error),
                "remote-addr" = remote, "server-name" = known.server_name, "ip-addresses" = addresses,
                "dns-names" = names, error, "rejected connection on client endpoint"
            ),
            Endpoint::Peer => seldom!(
                CHANGES: warn, (host, error),
                "remote-addr" = remote, "server-name" = known.server_name, "ip-addresses" = addresses,
                "dns-names" = names, error, "rejected connection on peer endpoint"
            ),
        }
    }
}

/// The addresses and the names, as they are logged.
fn lists(certificate: &Certificate) -> (String, String) {
    let addresses: Vec<_> = certificate.ip_addresses.iter().map(IpAddr::to_string).collect();
    (format!("{addresses:?}"), format!("{:?}", certificate.dns_names))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
