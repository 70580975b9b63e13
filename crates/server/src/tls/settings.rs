//! The flags about TLS, before any file is opened.

use std::path::PathBuf;

use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use super::suites;

/// The settings of one kind of connections: of clients, or of members.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub server: PairPaths,
    /// Shown to other servers; if it is not given, [`Settings::server`] is.
    pub client: PairPaths,
    pub trusted_ca_file: Option<PathBuf>,
    pub client_cert_auth: bool,
    pub crl_file: Option<PathBuf>,
    pub allowed_common_names: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    /// Whether a pair that signs itself is made at the start, if no pair is given.
    pub auto: bool,
    /// Whether the addresses in the certificate of a client are not compared with its own address.
    pub skip_client_san_verification: bool,
    pub protocol: ProtocolSettings,
    /// The time for which a certificate is made.
    pub self_signed_years: u64,
}

impl Settings {
    /// Whether a pair is named, wholly or in part.
    pub fn has_files(&self) -> bool {
        !self.server.is_empty()
    }

    /// Whether this server asks its clients for a certificate. As in etcd, a CA alone is a reason to.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }

    /// The pair of the server.
    pub(super) fn server_pair(&self) -> Result<&PairPaths, String> {
        let PairPaths { certificate, key } = &self.server;
        if certificate.as_os_str().is_empty() || key.as_os_str().is_empty() {
            let (key, certificate) = (key.display(), certificate.display());
            return Err(format!("KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]"));
        }
        Ok(&self.server)
    }

    /// The pair that is shown to other servers.
    pub(super) fn client_pair(&self) -> Result<&PairPaths, String> {
        let PairPaths { certificate, key } = &self.client;
        match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => self.server_pair(),
            (false, false) => Ok(&self.client),
            // The bracket is etcd's.
            _ => Err(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
                key.display(),
                certificate.display()
            )),
        }
    }
}

/// The files of a certificate and its key; a path that was not given is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairPaths {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl PairPaths {
    pub fn is_empty(&self) -> bool {
        self.certificate.as_os_str().is_empty() && self.key.as_os_str().is_empty()
    }
}

/// Versions and cipher suites; both are the same for clients and members.
#[derive(Clone, Debug)]
pub struct ProtocolSettings {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
}

impl Default for ProtocolSettings {
    fn default() -> Self {
        Self { versions: vec![&version::TLS13, &version::TLS12], suites: suites::all() }
    }
}

impl ProtocolSettings {
    /// Reads the values of `--tls-min-version`, `--tls-max-version` and `--cipher-suites`. An empty value is not set.
    pub fn parse(min: &str, max: &str, suites: &[String]) -> Result<ProtocolSettings, String> {
        let (least, most) = (number(min)?.unwrap_or(2), number(max)?.unwrap_or(3));
        if least > most {
            return Err(format!("min version (TLS1.{least}) is greater than max version (TLS1.{most})"));
        }
        if least == 3 && !suites.is_empty() {
            return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
        }
        let versions: Vec<_> = [(3, &version::TLS13), (2, &version::TLS12)]
            .into_iter()
            .filter(|(number, _)| (least..=most).contains(number))
            .map(|(_, version)| version)
            .collect();
        let suites = suites::choose(suites)?;
        if !suites.iter().any(|suite| versions.iter().any(|version| suite.version().version == version.version)) {
            return Err(format!("--cipher-suites names no suite of a version up to TLS1.{most}"));
        }
        Ok(ProtocolSettings { versions, suites })
    }
}

/// The minor version.
fn number(text: &str) -> Result<Option<u8>, String> {
    match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(2)),
        "TLS1.3" => Ok(Some(3)),
        _ => Err(format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(min: &str, max: &str, suites: &[&str]) -> Result<ProtocolSettings, String> {
        let suites: Vec<_> = suites.iter().map(ToString::to_string).collect();
        ProtocolSettings::parse(min, max, &suites)
    }

    #[test]
    fn versions() {
        let versions = |min, max| parse(min, max, &[]).map(|settings| settings.versions.len());
        assert_eq!(versions("TLS1.2", ""), Ok(2));
        assert_eq!((versions("TLS1.3", ""), versions("TLS1.2", "TLS1.2"), versions("", "")), (Ok(1), Ok(1), Ok(2)));
        let error = versions("TLS1.3", "TLS1.2").unwrap_err();
        assert_eq!(error, "min version (TLS1.3) is greater than max version (TLS1.2)");
        for (min, max) in [("TLS1.1", ""), ("", "TLS1.1")] {
            let error = versions(min, max).unwrap_err();
            assert_eq!(error, "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)");
        }
    }

    #[test]
    fn suites_are_those_of_the_older_version() {
        let error = parse("TLS1.3", "", &["TLS_AES_128_GCM_SHA256"]).unwrap_err();
        assert_eq!(error, "cipher suites cannot be configured when only TLS1.3 is enabled");
        assert!(parse("", "TLS1.2", &["TLS_AES_128_GCM_SHA256"]).unwrap_err().starts_with("--cipher-suites names no"));
        assert!(parse("", "", &["TLS_AES_128_GCM_SHA256"]).is_ok());
    }

    #[test]
    fn half_a_pair_is_refused_with_the_texts_of_etcd() {
        let half = PairPaths { certificate: "a.crt".into(), key: PathBuf::new() };
        let whole = PairPaths { certificate: "b.crt".into(), key: "b.key".into() };
        let settings = Settings { server: half.clone(), ..Settings::default() };
        assert_eq!(
            settings.server_pair().unwrap_err(),
            "KeyFile and CertFile must both be present[key: , cert: a.crt]"
        );
        let settings = Settings { server: whole.clone(), client: half, ..Settings::default() };
        let error = settings.client_pair().unwrap_err();
        assert_eq!(error, "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: a.crt]");
        let settings = Settings { server: whole.clone(), ..Settings::default() };
        assert_eq!(settings.client_pair(), Ok(&whole));
    }
}
