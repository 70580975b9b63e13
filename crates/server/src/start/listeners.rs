//! The listeners of a member, and the TLS of their connections.

use std::sync::Arc;

use super::{Doors, StartError};
use crate::config::{Config, Url};
use crate::io::accept::{Door, Entrance};
use crate::io::listen::{Address, Listener, SocketOptions};
use crate::io::security::Security;
use crate::tls::{self, Acceptor, Connector, Endpoint};

/// The listening sockets, by the service behind them.
pub(super) struct Listeners {
    pub clients: Doors,
    pub metrics: Doors,
    pub peers: Doors,
}

/// Binds all listeners, opens the files of TLS, and puts the two together.
pub(super) fn listen(config: &Config) -> Result<(Listeners, Connector), StartError> {
    let options = SocketOptions { reuse_port: config.reuse_port };
    let clients = if config.listen_client_http_urls.is_empty() { Door::Client } else { Door::Grpc };
    let urls = [
        (&config.listen_client_urls, clients),
        (&config.listen_client_http_urls, Door::Http),
        (&config.listen_metrics_urls, Door::Metrics),
        (&config.listen_peer_urls, Door::Peer),
    ];
    let urls = urls.into_iter().flat_map(|(urls, door)| urls.iter().map(move |url| (url, door)));
    let mut bound: Vec<(Address, Listener, Door, Taken)> = Vec::new();
    for (url, door) in urls {
        let address = url.bind_address().map_err(StartError::Settings)?;
        let taken = Taken { plain: !url.scheme.is_tls(), tls: url.scheme.is_tls() };
        // As in etcd, one port for clients may take both, and a URL that is named twice counts once.
        let both = !matches!(door, Door::Metrics | Door::Peer);
        let shared = bound
            .iter_mut()
            .find(|(other, _, of, before)| (other, *of) == (&address, door) && (both || *before == taken));
        match shared {
            Some((.., before)) => *before = Taken { plain: before.plain | taken.plain, tls: before.tls | taken.tls },
            None => bound.push((address.clone(), Listener::bind(&address, options)?, door, taken)),
        }
    }
    let (clients, peers, connector) = open_tls(config).map_err(StartError::Settings)?;
    let enter = |(_, listener, door, taken): (Address, Listener, Door, Taken)| {
        let acceptor = if door == Door::Peer { &peers } else { &clients };
        let acceptor = || acceptor.clone().expect("there is one for each kind of URLs with TLS");
        let security = match taken {
            Taken { tls: false, .. } => Security::Plain,
            Taken { plain: false, tls: true } => Security::Tls(acceptor()),
            Taken { plain: true, tls: true } => Security::Both(acceptor()),
        };
        (listener, Entrance { door, security })
    };
    let (mut listeners, bound) = (Listeners { clients: vec![], metrics: vec![], peers: vec![] }, bound.into_iter());
    for (listener, entrance) in bound.map(enter) {
        let doors = match entrance.door {
            Door::Client | Door::Grpc | Door::Http => &mut listeners.clients,
            Door::Metrics => &mut listeners.metrics,
            Door::Peer => &mut listeners.peers,
        };
        doors.push((listener, entrance));
    }
    Ok((listeners, connector))
}

/// The connections that a listener takes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Taken {
    plain: bool,
    tls: bool,
}

type Acceptors = (Option<Arc<Acceptor>>, Option<Arc<Acceptor>>, Connector);

/// Opens the files of TLS, or makes those that this member makes itself.
fn open_tls(config: &Config) -> Result<Acceptors, String> {
    let accept = |kind: &str, mut settings: tls::Settings, endpoint, urls: &[&Url], metrics: &[Url]| {
        for url in urls.iter().filter(|url| !url.scheme.is_tls()) {
            if settings.has_files() {
                tracing::warn!(
                    url = %url.text,
                    "scheme is http or unix while key and cert files are present; ignoring key and cert files"
                );
            }
            if settings.client_cert_auth {
                tracing::warn!(
                    url = %url.text,
                    "scheme is http or unix while client cert auth is enabled; ignoring client cert auth for this URL"
                );
            }
        }
        if settings.auto && settings.has_files() {
            tracing::warn!("ignoring {kind} auto TLS since certs given");
        }
        let hosts: Vec<_> = urls.iter().map(|url| url.server_name().to_owned()).collect();
        settings.complete(&config.data_dir.join("fixtures").join(kind), &hosts)?;
        let encrypted = urls.iter().copied().chain(metrics).any(|url| url.scheme.is_tls());
        let acceptor = encrypted.then(|| Acceptor::new(&settings, endpoint).map(Arc::new)).transpose()?;
        if encrypted {
            tracing::info!(
                "cert-file" = %settings.server.certificate.display(), "key-file" = %settings.server.key.display(),
                "trusted-ca-file" = settings.trusted_ca_file.as_ref().map(|path| path.display().to_string()),
                "client-cert-auth" = settings.client_cert_auth,
                "crl-file" = settings.crl_file.as_ref().map(|path| path.display().to_string()),
                "starting with {kind} TLS"
            );
        }
        Ok::<_, String>((acceptor, settings))
    };
    let urls: Vec<&Url> = config.listen_client_urls.iter().chain(&config.listen_client_http_urls).collect();
    let tls = config.tls.clients.clone();
    let (clients, _) = accept("client", tls, Endpoint::Client, &urls, &config.listen_metrics_urls)?;
    let urls: Vec<&Url> = config.listen_peer_urls.iter().collect();
    let (peers, settings) = accept("peer", config.tls.peers.clone(), Endpoint::Peer, &urls, &[])?;
    Ok((clients, peers, Connector::new(&settings)?))
}
