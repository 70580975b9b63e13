//! The parts of certificates and of lists of revoked ones that are compared and logged.
//!
//! The library checks a certificate, but does not show its subject and its addresses. This reads them afterwards.

use std::collections::HashSet;
use std::net::IpAddr;

use super::der::{
    BMP_STRING, BOOLEAN, Der, INTEGER, OBJECT, OCTETS, SEQUENCE, SET, TIME, UTC_TIME, magnitude, seconds,
};

/// Content of object identifiers: the common name of a subject, and the extension with alternative names.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Tags of fields that are numbered: the version and the extensions of a certificate; a DNS name, and an address.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// A certificate's statements about its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Without leading zeros.
    pub serial: Vec<u8>,
    /// Empty if there is none; the last one if there are several, as in Go.
    pub common_name: String,
    pub ip_addresses: Vec<IpAddr>,
    pub dns_names: Vec<String>,
    /// Seconds since 1970.
    pub not_after: u64,
}

impl Certificate {
    /// `None` if it is malformed.
    pub fn parse(der: &[u8]) -> Option<Certificate> {
        let mut body = Der(der).inside(SEQUENCE)?.inside(SEQUENCE)?;
        _ = body.optional(VERSION);
        let serial = magnitude(body.optional(INTEGER)?).to_vec();
        let _algorithm = body.inside(SEQUENCE)?;
        let _issuer = body.inside(SEQUENCE)?;
        let mut validity = body.inside(SEQUENCE)?;
        let _not_before = validity.any()?;
        let (tag, not_after) = validity.any()?;
        let common_name = common_name(body.inside(SEQUENCE)?)?;
        let _key = body.inside(SEQUENCE)?;
        let mut certificate = Certificate {
            serial,
            common_name,
            not_after: seconds(tag, not_after)?,
            ip_addresses: Vec::new(),
            dns_names: Vec::new(),
        };
        while let Some((tag, value)) = body.any() {
            if tag == EXTENSIONS {
                certificate.read_extensions(Der(value).inside(SEQUENCE)?)?;
            }
        }
        Some(certificate)
    }

    fn read_extensions(&mut self, mut extensions: Der<'_>) -> Option<()> {
        while !extensions.is_empty() {
            let mut extension = extensions.inside(SEQUENCE)?;
            let name = extension.optional(OBJECT)?;
            _ = extension.optional(BOOLEAN);
            if name == ALTERNATIVE_NAMES {
                let mut names = Der(extension.optional(OCTETS)?).inside(SEQUENCE)?;
                while let Some((tag, value)) = names.any() {
                    match tag {
                        DNS_NAME => self.dns_names.push(String::from_utf8_lossy(value).into_owned()),
                        IP_ADDRESS => self.ip_addresses.push(address(value)?),
                        _ => {}
                    }
                }
            }
        }
        Some(())
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn common_name(mut subject: Der<'_>) -> Option<String> {
    let mut name = String::new();
    while !subject.is_empty() {
        let mut set = subject.inside(SET)?;
        while !set.is_empty() {
            let mut attribute = set.inside(SEQUENCE)?;
            let object = attribute.optional(OBJECT)?;
            let (tag, value) = attribute.any()?;
            if object == COMMON_NAME {
                name = text(tag, value);
            }
        }
    }
    Some(name)
}

fn text(tag: u8, value: &[u8]) -> String {
    if tag != BMP_STRING {
        return String::from_utf8_lossy(value).into_owned();
    }
    let units: Vec<_> = value.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
    String::from_utf16_lossy(&units)
}

/// The serial numbers of revoked certificates, whatever CA has revoked them, as etcd compares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked(HashSet<Vec<u8>>);

impl Revoked {
    /// Reads a list in DER, of version 2. Errors have the texts of Go.
    pub fn parse(der: &[u8]) -> Result<Revoked, String> {
        let malformed = "x509: malformed crl";
        let mut body = Der(der).inside(SEQUENCE).and_then(|mut list| list.inside(SEQUENCE)).ok_or(malformed)?;
        if body.optional(INTEGER) != Some(&[1]) {
            return Err("x509: unsupported crl version".into());
        }
        let mut serials = || -> Option<HashSet<Vec<u8>>> {
            let _algorithm = body.inside(SEQUENCE)?;
            let _issuer = body.inside(SEQUENCE)?;
            let _this_update = body.any()?;
            if matches!(body.tag(), Some(UTC_TIME | TIME)) {
                let _next_update = body.any()?;
            }
            let mut serials = HashSet::new();
            let Some(mut entries) = body.inside(SEQUENCE) else { return Some(serials) };
            while !entries.is_empty() {
                serials.insert(magnitude(entries.inside(SEQUENCE)?.optional(INTEGER)?).to_vec());
            }
            Some(serials)
        };
        serials().map(Revoked).ok_or_else(|| malformed.to_owned())
    }

    /// Refuses a chain with a revoked certificate, in the words of etcd.
    pub fn check<'a>(&self, chain: impl IntoIterator<Item = &'a [u8]>) -> Result<(), String> {
        for der in chain {
            let serial = Certificate::parse(der).ok_or("x509: malformed certificate")?.serial;
            if self.0.contains(&serial) {
                let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(format!("transport: certificate serial {serial} revoked"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};

    use super::*;

    fn certificate() -> Vec<u8> {
        let names = ["a.example", "10.0.0.1", "::1"].map(String::from);
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "etcd");
        params.distinguished_name.push(DnType::CommonName, "älice");
        params.serial_number = Some(SerialNumber::from(0x1234));
        params.not_after = time::OffsetDateTime::from_unix_timestamp(4_000_000_000).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_its_owner() {
        let certificate = Certificate::parse(&certificate()).unwrap();
        let expected = Certificate {
            serial: vec![0x12, 0x34],
            common_name: "älice".into(),
            ip_addresses: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            dns_names: vec!["a.example".into()],
            not_after: 4_000_000_000,
        };
        assert_eq!(certificate, expected);
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let whole = certificate();
        for length in 0..whole.len() {
            assert_eq!(Certificate::parse(&whole[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn the_last_common_name_counts_in_any_encoding() {
        let name = |tag, text: &[u8]| {
            let attribute = [&[0x06, 0x03, 0x55, 0x04, 0x03, tag, text.len() as u8][..], text].concat();
            let attribute = [&[SEQUENCE, attribute.len() as u8][..], &attribute].concat();
            [&[SET, attribute.len() as u8][..], &attribute].concat()
        };
        let subject = [name(0x0c, b"first"), name(BMP_STRING, b"\x00a\x00\xe4")].concat();
        assert_eq!(common_name(Der(&subject)).as_deref(), Some("aä"));
        assert_eq!(common_name(Der(&[])).as_deref(), Some(""));
    }

    #[test]
    fn lists_of_other_versions_and_what_is_no_list_are_named_as_in_go() {
        let first_version = [SEQUENCE, 4, SEQUENCE, 2, SEQUENCE, 0];
        assert_eq!(Revoked::parse(&first_version), Err("x509: unsupported crl version".into()));
        for bytes in [&b""[..], b"-----BEGIN X509 CRL-----", &[SEQUENCE, 5, SEQUENCE, 3, INTEGER, 1, 1]] {
            assert_eq!(Revoked::parse(bytes), Err("x509: malformed crl".into()));
        }
    }
}
