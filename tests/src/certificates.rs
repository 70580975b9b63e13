//! Certificates for the members of a test and for their clients.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::member::Directory;

const DAY: Duration = Duration::days(1);

/// A CA, in a directory of its own with what it has signed: `ca.crt`, `NAME.crt`, `NAME.key`.
pub struct Authority {
    directory: Directory,
    issuer: Issuer<'static, KeyPair>,
    next_serial: AtomicU64,
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
        Authority { directory, issuer: Issuer::new(params, key), next_serial: AtomicU64::new(1) }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A flag with a path in the directory as its value.
    pub fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    /// Signs a certificate for servers and clients on this machine, valid for a day. Returns its serial number.
    pub fn sign(&self, name: &str) -> u64 {
        self.sign_until(name, Some(name), OffsetDateTime::now_utc() + DAY)
    }

    /// Signs a certificate that has expired.
    pub fn sign_expired(&self, name: &str) {
        self.sign_until(name, Some(name), OffsetDateTime::now_utc() - DAY);
    }

    /// Signs a certificate without a common name.
    pub fn sign_nameless(&self, file: &str) {
        self.sign_until(file, None, OffsetDateTime::now_utc() + DAY);
    }

    fn sign_until(&self, file: &str, common_name: Option<&str>, end: OffsetDateTime) -> u64 {
        let mut params = CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).expect("valid names");
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (end - 2 * DAY, end);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |name: String, text: String| fs::write(self.path(&name), text).expect("the directory is writable");
        write(format!("{file}.crt"), certificate.pem());
        write(format!("{file}.key"), key.serialize_pem());
        serial
    }

    /// Writes the list of revoked certificates, `crl`: those with these serial numbers.
    pub fn revoke(&self, serials: &[u64]) {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        // A connection may read the list at any moment, so it is replaced as a whole.
        fs::write(self.path("crl.new"), list.der()).expect("the directory is writable");
        fs::rename(self.path("crl.new"), self.path("crl")).expect("the directory is writable");
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
