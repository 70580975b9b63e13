//! Certificates that a member makes for itself: `--auto-tls` and `--peer-auto-tls`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::settings::{PairPaths, Settings};

const DAYS_OF_A_YEAR: i64 = 365;
/// More than any certificate is valid: a certificate cannot name a later year.
const MAX_YEARS: u64 = 1000;

/// Names a pair in `directory`, and makes it unless an earlier start has. `hosts` are the names and addresses of the
/// server.
pub(super) fn use_own(settings: &mut Settings, directory: &Path, hosts: &[String]) -> Result<(), String> {
    if settings.self_signed_years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".into());
    }
    let pair = PairPaths { certificate: directory.join("cert.pem"), key: directory.join("key.pem") };
    if !(pair.certificate.exists() && pair.key.exists()) {
        let (certificate, key) = make(settings.self_signed_years, hosts).map_err(|error| error.to_string())?;
        let failed = |error: io::Error| format!("cannot write a certificate in {}: {error}", directory.display());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        write(&pair.certificate, 0o644, &certificate).map_err(failed)?;
        write(&pair.key, 0o600, &key).map_err(failed)?;
        tracing::warn!(
            "cert-file" = %pair.certificate.display(), "key-file" = %pair.key.display(),
            years = settings.self_signed_years, "automatically generate certificates"
        );
    }
    (settings.server, settings.client) = (pair.clone(), pair);
    Ok(())
}

fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A certificate that is its own CA, as etcd makes it, and its key.
fn make(years: u64, hosts: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    params.not_before = OffsetDateTime::now_utc();
    params.not_after = params.not_before + Duration::days(DAYS_OF_A_YEAR * years.min(MAX_YEARS) as i64);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}
