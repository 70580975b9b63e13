//! The side that connects: a member to another one.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::files::Pair;
use super::settings::Settings;
use super::verify::{Allowed, Servers};
use super::words::words;
use super::{Stream, provider, roots};

/// Connects to other members with TLS. Clones share one configuration.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// Made when it is needed for the first time, unless the flags name files: the CAs of the system are many.
    ready: OnceLock<Result<Ready, String>>,
}

struct Ready {
    config: Arc<ClientConfig>,
    pair: Option<Arc<Pair>>,
}

impl Default for Connector {
    /// Without a certificate of its own, for servers whose certificates the CAs of the system have signed.
    fn default() -> Self {
        Connector(Arc::new(Inner { settings: Settings::default(), ready: OnceLock::new() }))
    }
}

impl Connector {
    /// Opens the files that the flags name. The errors have the texts of etcd.
    pub fn new(settings: &Settings) -> Result<Connector, String> {
        let connector = Connector(Arc::new(Inner { settings: settings.clone(), ready: OnceLock::new() }));
        if settings.has_files() {
            connector.ready()?;
        }
        Ok(connector)
    }

    fn ready(&self) -> Result<&Ready, String> {
        self.0.ready.get_or_init(|| Ready::new(&self.0.settings)).as_ref().map_err(Clone::clone)
    }

    /// Makes a TLS connection of a byte stream to `host`, whose certificate must name it.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S, host: &str) -> io::Result<Stream<S>> {
        let Ready { config, pair } = self.ready().map_err(io::Error::other)?;
        if let Some(pair) = pair {
            pair.refresh().await;
        }
        // The zone of an IPv6 address is no part of its name.
        let host = host.split_once('%').map_or(host, |(address, _)| address);
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| io::Error::other(format!("{host}: {error}")))?;
        let connected = TlsConnector::from(config.clone()).connect(name, socket).await;
        connected.map(Into::into).map_err(|error| io::Error::new(error.kind(), words(&error)))
    }
}

impl Ready {
    fn new(settings: &Settings) -> Result<Ready, String> {
        let provider = provider(settings);
        let pair = settings.has_files().then(|| Pair::open(settings.client_pair()?)).transpose()?;
        let roots = if settings.signs_itself() { None } else { Some(roots(settings)?) };
        let servers = Servers::new(roots, provider.clone(), Allowed::new(settings)?)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&settings.protocol.versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(servers);
        let config = match &pair {
            Some(pair) => builder.with_client_cert_resolver(pair.clone()),
            None => builder.with_no_client_auth(),
        };
        Ok(Ready { config: Arc::new(config), pair })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Connector").field(&self.0.settings).finish()
    }
}
