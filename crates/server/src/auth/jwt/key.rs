//! The keys of tokens: read from files, used to sign and to verify.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaEncoding, RsaKeyPair,
    VerificationAlgorithm,
};
use aws_lc_rs::{error, hmac};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::JwtError;
use super::der::{self, Private, Public};

/// The sizes of RSA keys that the library takes, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The methods of signing, by the names that `sign-method` and the header of a token use.
#[rustfmt::skip]
const METHODS: &[(&str, Method)] = &[
    ("RS256", Method::Rsa(&signature::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256)),
    ("RS384", Method::Rsa(&signature::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384)),
    ("RS512", Method::Rsa(&signature::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512)),
    ("PS256", Method::Rsa(&signature::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256)),
    ("PS384", Method::Rsa(&signature::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384)),
    ("PS512", Method::Rsa(&signature::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512)),
    ("ES256", Method::Ec(der::P256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING, &signature::ECDSA_P256_SHA256_FIXED)),
    ("ES384", Method::Ec(der::P384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING, &signature::ECDSA_P384_SHA384_FIXED)),
    ("ES512", Method::Ec(der::P521, &signature::ECDSA_P521_SHA512_FIXED_SIGNING, &signature::ECDSA_P521_SHA512_FIXED)),
    ("EdDSA", Method::Ed25519),
    ("HS256", Method::Hmac(hmac::HMAC_SHA256)),
    ("HS384", Method::Hmac(hmac::HMAC_SHA384)),
    ("HS512", Method::Hmac(hmac::HMAC_SHA512)),
];

/// A method in name only, which etcd refuses, too.
const NO_METHOD: &str = "none";

#[derive(Clone, Copy)]
enum Method {
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ec(&'static [u8], &'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed25519,
    Hmac(hmac::Algorithm),
}

/// A key for one method.
pub(super) struct Key {
    /// As the header of a token names the method.
    pub(super) method: &'static str,
    kind: Kind,
}

enum Kind {
    Hmac(Box<hmac::Key>),
    Pair { public: ParsedPublicKey, private: Option<Pair> },
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key file: its name, and its content.
pub(super) type File<'a> = (&'a str, &'a [u8]);

/// Knows the methods by name.
pub(super) fn check_method(name: &str) -> Result<(), JwtError> {
    method(name).map(drop)
}

fn method(name: &str) -> Result<(&'static str, Method), JwtError> {
    if name == NO_METHOD {
        return Err(JwtError::NoMethod);
    }
    METHODS.iter().find(|(known, _)| *known == name).copied().ok_or(JwtError::UnknownMethod)
}

impl Key {
    /// Reads the keys of a method. Files that are empty count as not given, as in etcd.
    pub(super) fn read(name: &str, public: Option<File>, private: Option<File>) -> Result<Key, JwtError> {
        let (name, method) = method(name)?;
        let private = private.filter(|(_, content)| !content.is_empty());
        let public = public.filter(|(_, content)| !content.is_empty());
        let kind = match (method, private) {
            (Method::Hmac(algorithm), Some((_, secret))) => Kind::Hmac(Box::new(hmac::Key::new(algorithm, secret))),
            (Method::Hmac(_), None) => return Err(JwtError::MissingKey),
            _ => read_pair(name, method, public, private)?,
        };
        Ok(Key { method: name, kind })
    }

    /// The signature of a text. `None` if this key can only verify.
    pub(super) fn sign(&self, text: &[u8]) -> Option<Result<Vec<u8>, error::Unspecified>> {
        let random = SystemRandom::new();
        let pair = match &self.kind {
            Kind::Hmac(key) => return Some(Ok(hmac::sign(key, text).as_ref().to_vec())),
            Kind::Pair { private, .. } => private.as_ref()?,
        };
        Some(match pair {
            Pair::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, text, &mut signature).map(|()| signature)
            }
            Pair::Ec(key) => key.sign(&random, text).map(|signature| signature.as_ref().to_vec()),
            Pair::Ed25519(key) => Ok(key.sign(text).as_ref().to_vec()),
        })
    }

    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Hmac(key) => hmac::verify(key, text, signature).is_ok(),
            Kind::Pair { public, .. } => public.verify_sig(text, signature).is_ok(),
        }
    }
}

fn read_pair(name: &str, method: Method, public: Option<File>, private: Option<File>) -> Result<Kind, JwtError> {
    let file_name = public.or(private).map_or("", |(file, _)| file);
    let given = public.map(|file| read_public(name, method, file)).transpose()?;
    let pair = private.map(|file| read_private(name, method, file, given.as_deref())).transpose()?;
    let public = match (&pair, given) {
        (None, None) => return Err(JwtError::MissingKey),
        (None, Some(given)) => given,
        (Some(pair), given) => {
            let own = pair.public();
            if let (Some(given), Some((file, _))) = (given, public)
                && given != own
            {
                return Err(JwtError::Mismatch(file.to_owned()));
            }
            own.to_vec()
        }
    };
    let algorithm: &'static dyn VerificationAlgorithm = match method {
        Method::Rsa(_, algorithm) | Method::Ec(_, _, algorithm) => algorithm,
        Method::Ed25519 => &signature::ED25519,
        Method::Hmac(_) => unreachable!("has no pair"),
    };
    let public = ParsedPublicKey::new(algorithm, public).map_err(|why| rejected(file_name, &why))?;
    Ok(Kind::Pair { public, private: pair })
}

/// The key of a public key file, or of a certificate, in the form that the library reads.
fn read_public(name: &str, method: Method, (file, content): File) -> Result<Vec<u8>, JwtError> {
    let block = der::first_block(content).ok_or_else(|| not_pem(file))?;
    let wrong =
        || JwtError::Key { file: file.to_owned(), why: format!("key is not a valid {} public key", kind(name)) };
    let Public { algorithm, curve, key } = der::public(&block).ok_or_else(wrong)?;
    match method {
        Method::Rsa(..) if algorithm == der::RSA => {
            fits(file, der::modulus_bits(key).ok_or_else(wrong)?)?;
        }
        Method::Ec(own, ..) if algorithm == der::EC && curve == Some(own) => {}
        Method::Ec(..) if algorithm == der::EC => return Err(other_curve(name, file)),
        Method::Ed25519 if algorithm == der::ED25519 => {}
        _ => return Err(wrong()),
    }
    Ok(key.to_vec())
}

/// The key of a private key file. A key of an elliptic curve may lack the public key, which then is `given`.
fn read_private(name: &str, method: Method, (file, content): File, given: Option<&[u8]>) -> Result<Pair, JwtError> {
    let block = der::first_block(content).ok_or_else(|| not_pem(file))?;
    let invalid = |why: String| JwtError::Key { file: file.to_owned(), why };
    let wrong = || invalid(format!("key is not a valid {} private key", kind(name)));
    let rejected = |why: error::KeyRejected| rejected(file, &why);
    match (method, der::private(&block).ok_or_else(wrong)?) {
        (Method::Rsa(encoding, _), Private::Rsa(key)) => {
            let bits = der::private_modulus_bits(key).ok_or_else(wrong)?;
            fits(file, bits)?;
            Ok(Pair::Rsa(RsaKeyPair::from_der(key).map_err(rejected)?, encoding))
        }
        (Method::Ec(own, ..), Private::Ec { curve, .. }) if curve != Some(own) => Err(other_curve(name, file)),
        (Method::Ec(_, algorithm, _), Private::Ec { private, public, .. }) => {
            let public =
                public.or(given).ok_or_else(|| invalid("the file lacks the public key; set pub-key".into()))?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public);
            Ok(Pair::Ec(pair.map_err(rejected)?))
        }
        (Method::Ed25519, Private::Ed25519(seed)) => {
            Ok(Pair::Ed25519(Ed25519KeyPair::from_seed_unchecked(seed).map_err(rejected)?))
        }
        _ => Err(wrong()),
    }
}

impl Pair {
    fn public(&self) -> &[u8] {
        match self {
            Pair::Rsa(key, _) => key.public_key().as_ref(),
            Pair::Ec(key) => key.public_key().as_ref(),
            Pair::Ed25519(key) => key.public_key().as_ref(),
        }
    }
}

fn not_pem(file: &str) -> JwtError {
    JwtError::Key { file: file.to_owned(), why: "invalid key: Key must be a PEM encoded PKCS1 or PKCS8 key".into() }
}

fn rejected(file: &str, why: &error::KeyRejected) -> JwtError {
    JwtError::Key { file: file.to_owned(), why: format!("key was rejected: {why}") }
}

fn other_curve(name: &str, file: &str) -> JwtError {
    JwtError::Key { file: file.to_owned(), why: format!("key is invalid: its curve is not that of {name}") }
}

fn fits(file: &str, bits: usize) -> Result<(), JwtError> {
    if RSA_BITS.contains(&bits) {
        return Ok(());
    }
    let why = format!("RSA keys of {bits} bits are not supported; use {} to {}", RSA_BITS.start(), RSA_BITS.end());
    Err(JwtError::Key { file: file.to_owned(), why })
}

/// The kind of key that a method needs, as etcd's errors call it.
fn kind(name: &str) -> &'static str {
    match name.as_bytes()[0] {
        b'R' | b'P' => "RSA",
        _ if name == "EdDSA" => "Ed25519",
        _ => "ECDSA",
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Base64 as in tokens.
pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}
