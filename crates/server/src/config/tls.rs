//! The flags about TLS.

use std::path::PathBuf;

use super::parse::{Values, boolean};
use super::url::Url;
use super::validate::at_least;
use super::value;
use crate::tls::{PairPaths, ProtocolSettings, Settings};

/// The settings of connections of clients, and of members. Nothing is opened.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub clients: Settings,
    pub peers: Settings,
}

pub(super) fn tls(values: &Values) -> Result<Tls, String> {
    let suites = list(values, "cipher-suites");
    let protocol =
        ProtocolSettings::parse(value(values, "tls-min-version"), value(values, "tls-max-version"), &suites)?;
    let self_signed_years = at_least(values, "self-signed-cert-validity", 0, u64::MAX)?;
    let settings = |prefix: &str, crl: &str| Settings {
        server: pair(values, prefix, ""),
        client: pair(values, prefix, "client-"),
        trusted_ca_file: file(values, &format!("{prefix}trusted-ca-file")),
        client_cert_auth: is(values, &format!("{prefix}client-cert-auth")),
        crl_file: file(values, crl),
        auto: is(values, &format!("{prefix}auto-tls")),
        protocol: protocol.clone(),
        self_signed_years,
        ..Settings::default()
    };
    Ok(Tls {
        clients: Settings {
            allowed_hostnames: list(values, "client-cert-allowed-hostname"),
            ..settings("", "client-crl-file")
        },
        peers: Settings {
            allowed_common_names: list(values, "peer-cert-allowed-cn"),
            allowed_hostnames: list(values, "peer-cert-allowed-hostname"),
            skip_client_san_verification: is(values, "peer-skip-client-san-verification")
                || is(values, "experimental-peer-skip-client-san-verification"),
            ..settings("peer-", "peer-crl-file")
        },
    })
}

/// Whether a flag must be set for a URL, in the words of etcd.
pub(super) fn check_urls(tls: &Tls, clients: &[&Url], metrics: &[Url], peers: &[Url]) -> Result<(), String> {
    let lacks = |settings: &Settings| !settings.has_files() && !settings.auto;
    if let Some(url) = clients.iter().find(|url| url.scheme.is_tls()).filter(|_| lacks(&tls.clients)) {
        let text = &url.text;
        return Err(format!(
            "TLS key/cert (--cert-file, --key-file) must be provided for client url {text} with HTTPS scheme"
        ));
    }
    if let Some(url) = metrics.iter().find(|url| url.scheme.is_tls()).filter(|_| lacks(&tls.clients)) {
        let text = &url.text;
        return Err(format!(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {text}"
        ));
    }
    if let Some(url) = peers.iter().find(|url| url.scheme.is_tls()).filter(|_| lacks(&tls.peers)) {
        let address = url.text.split_once("://").map_or("", |(_, address)| address);
        return Err(format!("cannot listen on TLS for {address}: KeyFile and CertFile are not presented"));
    }
    Ok(())
}

fn pair(values: &Values, prefix: &str, side: &str) -> PairPaths {
    let path = |end: &str| file(values, &format!("{prefix}{side}{end}")).unwrap_or_default();
    PairPaths { certificate: path("cert-file"), key: path("key-file") }
}

fn file(values: &Values, flag: &str) -> Option<PathBuf> {
    Some(value(values, flag)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn is(values: &Values, flag: &str) -> bool {
    boolean(value(values, flag)) == Some(true)
}

fn list(values: &Values, flag: &str) -> Vec<String> {
    value(values, flag).split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
