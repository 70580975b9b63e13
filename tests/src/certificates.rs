//! Certificates for the members of a test and for their clients.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::member::Directory;

const DAY: Duration = Duration::days(1);

/// A CA, in a directory of its own with what it has signed: `ca.crt`, `NAME.crt`, `NAME.key`.
pub struct Authority {
    directory: Directory,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let directory = Directory::new("certificates");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(directory.path().join("ca.crt"), certificate.pem()).expect("the directory is writable");
        Authority { directory, issuer: Issuer::new(params, key) }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A flag with a path in the directory as its value.
    pub fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    /// Signs a certificate for servers and clients on this machine, which is valid for a day.
    pub fn sign(&self, name: &str) {
        self.sign_until(name, OffsetDateTime::now_utc() + DAY);
    }

    /// Signs a certificate that has expired.
    pub fn sign_expired(&self, name: &str) {
        self.sign_until(name, OffsetDateTime::now_utc() - DAY);
    }

    fn sign_until(&self, name: &str, end: OffsetDateTime) {
        let mut params = CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).expect("valid names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (end - 2 * DAY, end);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |name: String, text: String| fs::write(self.path(&name), text).expect("the directory is writable");
        write(format!("{name}.crt"), certificate.pem());
        write(format!("{name}.key"), key.serialize_pem());
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
