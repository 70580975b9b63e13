//! Key files: PEM, and the few structures of DER (X.690) in which they hold keys.
//!
//! The structures are those of PKCS #1 (RFC 8017), PKCS #8 (RFC 5958), SEC 1 (RFC 5915), and of public keys and
//! certificates (RFC 5280). Of a certificate only the public key is read, as in etcd: nothing is checked.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
pub(super) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
pub(super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
pub(super) const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
pub(super) const P521: &[u8] = &[0x2b, 0x81, 4, 0, 0x23];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// Tags of optional fields.
const FIELD_0: u8 = 0xa0;
const FIELD_1: u8 = 0xa1;

/// The content of the first PEM block of a file. As in etcd, its label is not looked at.
pub(super) fn first_block(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = str::from_utf8(file).ok()?;
    let after_label = text.split_once("-----BEGIN ")?.1.split_once("-----")?.1;
    let base64: Zeroizing<String> =
        Zeroizing::new(after_label.split_once("-----END ")?.0.split_ascii_whitespace().collect());
    BASE64_STANDARD.decode(base64.as_bytes()).ok().map(Zeroizing::new)
}

/// A public key: the object identifier of its algorithm, that of its curve, and the key as the algorithm defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Public<'a> {
    pub(super) algorithm: &'a [u8],
    pub(super) curve: Option<&'a [u8]>,
    pub(super) key: &'a [u8],
}

/// The key of a public key file, which may also be a certificate.
pub(super) fn public(der: &[u8]) -> Option<Public<'_>> {
    public_key_info(der).or_else(|| certificate(der)).or_else(|| {
        let mut fields = whole(der, SEQUENCE)?;
        fields.take(INTEGER)?;
        fields.take(INTEGER)?;
        fields.is_empty().then_some(Public { algorithm: RSA, curve: None, key: der })
    })
}

/// `SEQUENCE { SEQUENCE { algorithm, parameters }, BIT STRING key }`.
fn public_key_info(der: &[u8]) -> Option<Public<'_>> {
    let mut fields = whole(der, SEQUENCE)?;
    let mut identifier = Reader(fields.take(SEQUENCE)?);
    let algorithm = identifier.take(OBJECT_IDENTIFIER)?;
    let key = bits(fields.take(BIT_STRING)?)?;
    Some(Public { algorithm, curve: identifier.take(OBJECT_IDENTIFIER), key })
}

/// `SEQUENCE { SEQUENCE { [0] version, serial, signature, issuer, validity, subject, public key, ... }, ... }`.
fn certificate(der: &[u8]) -> Option<Public<'_>> {
    let mut fields = Reader(whole(der, SEQUENCE)?.take(SEQUENCE)?);
    fields.take(FIELD_0);
    fields.take(INTEGER)?;
    for _ in ["signature", "issuer", "validity", "subject"] {
        fields.take(SEQUENCE)?;
    }
    public_key_info(fields.element()?)
}

/// A private key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Private<'a> {
    /// In the form of PKCS #1.
    Rsa(&'a [u8]),
    /// Files may lack the name of the curve, and the public key.
    Ec {
        curve: Option<&'a [u8]>,
        private: &'a [u8],
        public: Option<&'a [u8]>,
    },
    Ed25519(&'a [u8]),
}

/// The key of a private key file, in the form of PKCS #8, PKCS #1 or SEC 1.
pub(super) fn private(der: &[u8]) -> Option<Private<'_>> {
    let mut fields = whole(der, SEQUENCE)?;
    fields.take(INTEGER)?;
    if let Some(identifier) = fields.take(SEQUENCE) {
        let mut identifier = Reader(identifier);
        let algorithm = identifier.take(OBJECT_IDENTIFIER)?;
        let key = fields.take(OCTET_STRING)?;
        return match algorithm {
            RSA => Some(Private::Rsa(key)),
            EC => sec1(key, identifier.take(OBJECT_IDENTIFIER)),
            ED25519 => Some(Private::Ed25519(whole(key, OCTET_STRING)?.0)),
            _ => None,
        };
    }
    match fields.take(INTEGER) {
        Some(_) => fields.take(INTEGER).map(|_| Private::Rsa(der)),
        None => sec1(der, None),
    }
}

/// `SEQUENCE { 1, OCTET STRING private, [0] curve, [1] BIT STRING public }`.
fn sec1<'a>(der: &'a [u8], curve: Option<&'a [u8]>) -> Option<Private<'a>> {
    let mut fields = whole(der, SEQUENCE)?;
    fields.take(INTEGER)?;
    let private = fields.take(OCTET_STRING)?;
    let named = fields.take(FIELD_0).and_then(|field| Reader(field).take(OBJECT_IDENTIFIER));
    let public = fields.take(FIELD_1).and_then(|field| bits(Reader(field).take(BIT_STRING)?));
    Some(Private::Ec { curve: curve.or(named), private, public })
}

/// The number of bits of the modulus of an RSA public key in the form of PKCS #1.
pub(super) fn modulus_bits(key: &[u8]) -> Option<usize> {
    whole(key, SEQUENCE)?.take(INTEGER).and_then(integer_bits)
}

/// The same for a private key.
pub(super) fn private_modulus_bits(key: &[u8]) -> Option<usize> {
    let mut fields = whole(key, SEQUENCE)?;
    fields.take(INTEGER)?;
    fields.take(INTEGER).and_then(integer_bits)
}

fn integer_bits(integer: &[u8]) -> Option<usize> {
    let first = integer.iter().position(|byte| *byte != 0)?;
    Some((integer.len() - first) * 8 - integer[first].leading_zeros() as usize)
}

/// The content of a bit string of whole bytes.
fn bits(content: &[u8]) -> Option<&[u8]> {
    content.strip_prefix(&[0])
}

/// The fields of an element that takes all of `der`.
fn whole(der: &[u8], tag: u8) -> Option<Reader<'_>> {
    let mut reader = Reader(der);
    let content = reader.take(tag)?;
    reader.is_empty().then_some(Reader(content))
}

/// The elements that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of the next element, if it has this tag. Otherwise, nothing is read.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let header = self.header().filter(|header| header.tag == tag)?;
        let element = self.advance(header.before + header.content);
        Some(&element[header.before..])
    }

    /// The next element, whole.
    fn element(&mut self) -> Option<&'a [u8]> {
        let header = self.header()?;
        Some(self.advance(header.before + header.content))
    }

    fn advance(&mut self, bytes: usize) -> &'a [u8] {
        let (element, rest) = self.0.split_at(bytes);
        self.0 = rest;
        element
    }

    /// The header of the next element, if the element is complete.
    fn header(&self) -> Option<Header> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (before, content) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81 | 0x82 => {
                let bytes = usize::from(first - 0x80);
                (2 + bytes, rest.get(..bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            }
            // No key is longer than 64 KiB.
            _ => return None,
        };
        (self.0.len() - before >= content).then_some(Header { tag, before, content })
    }
}

/// The tag of an element, the bytes before its content, and those of its content.
struct Header {
    tag: u8,
    before: usize,
    content: usize,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FILES, file};
    use super::*;

    #[test]
    fn no_cut_and_no_flipped_byte_of_a_key_file_is_a_panic() {
        for (name, _) in FILES.iter().filter(|(name, _)| *name != "hs.key") {
            let der = first_block(file(name).as_bytes()).unwrap();
            assert!(public(&der).is_some() != private(&der).is_some(), "{name} is one of both");
            for cut in 0..der.len() {
                assert!(public(&der[..cut]).is_none() && private(&der[..cut]).is_none(), "{name} cut at {cut}");
                for byte in [0, 0x30, 0x80, 0x82, 0xff] {
                    let mut damaged = der.to_vec();
                    damaged[cut] = byte;
                    _ = (public(&damaged), private(&damaged).is_some(), modulus_bits(&damaged));
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_no_pem_has_no_block() {
        for text in ["", "-----BEGIN X", "-----BEGIN X-----\nAAAA", "-----BEGIN X-----\nA?AA\n-----END X-----\n"] {
            assert_eq!(first_block(text.as_bytes()), None, "{text}");
        }
        assert_eq!(first_block(b"x\n-----BEGIN X-----\r\nAA\r\nAA\r\n-----END X-----"), Some(vec![0; 3].into()));
    }
}
