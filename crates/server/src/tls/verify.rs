//! Which certificates of the other side are good: those that a trusted CA has signed, for this purpose, for a name that
//! the flags allow.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::certificate::Certificate;
use super::settings::Settings;

/// The owners that the flags allow; nothing: all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    common_names: Vec<String>,
    hostnames: Vec<String>,
}

/// A certificate whose owner is not allowed, in the words of etcd.
#[derive(Debug, thiserror::Error)]
#[error("client certificate authentication failed")]
pub(super) struct NotAllowed;

impl Allowed {
    pub fn new(settings: &Settings) -> Result<Allowed, String> {
        let (common_names, hostnames) = (settings.allowed_common_names.clone(), settings.allowed_hostnames.clone());
        if !common_names.is_empty() && !hostnames.is_empty() {
            return Err(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={common_names:?}, hostnames={hostnames:?})"
            ));
        }
        Ok(Allowed { common_names, hostnames })
    }

    fn check(&self, der: &CertificateDer<'_>) -> Result<(), Error> {
        let not_allowed = || Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotAllowed))));
        if !self.common_names.is_empty() {
            let name = Certificate::parse(der).ok_or(CertificateError::BadEncoding)?.common_name;
            return self.common_names.contains(&name).then_some(()).ok_or_else(not_allowed);
        }
        if self.hostnames.is_empty() {
            return Ok(());
        }
        let certificate = ParsedCertificate::try_from(der)?;
        let names = self.hostnames.iter().filter_map(|name| ServerName::try_from(name.as_str()).ok());
        let mut good = names.map(|name| verify_server_name(&certificate, &name));
        good.any(|good| good.is_ok()).then_some(()).ok_or_else(not_allowed)
    }
}

/// Checks the certificates of clients.
#[derive(Debug)]
pub(super) struct Clients {
    signed: Arc<dyn ClientCertVerifier>,
    allowed: Allowed,
}

impl Clients {
    pub fn new(roots: RootCertStore, provider: Arc<CryptoProvider>, allowed: Allowed) -> Result<Arc<Clients>, String> {
        let signed = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Arc::new(Clients { signed: signed.map_err(|error| error.to_string())?, allowed }))
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.signed.verify_client_cert(leaf, chain, now)?;
        self.allowed.check(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Checks the certificates of servers that this member connects to.
#[derive(Debug)]
pub(super) struct Servers {
    /// `None`: any certificate is good, if the server has its key. So members with certificates that they have made
    /// themselves find each other, as in etcd.
    signed: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    allowed: Allowed,
}

impl Servers {
    pub fn new(
        roots: Option<RootCertStore>,
        provider: Arc<CryptoProvider>,
        allowed: Allowed,
    ) -> Result<Arc<Servers>, String> {
        let verifier = |roots| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let signed = roots.map(verifier).transpose().map_err(|error| error.to_string())?;
        Ok(Arc::new(Servers { signed, provider, allowed }))
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(signed) = &self.signed {
            signed.verify_server_cert(leaf, chain, name, ocsp, now)?;
        }
        self.allowed.check(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
