//! Tokens that carry what they claim: `--auth-token=jwt,...`.
//!
//! ```text
//!   eyJhbGciOi...  .  eyJleHAiOj...  .  TNZFnBJ7...         each part in base64
//!   {"alg","typ"}     {"exp","revision","username"}         signature of the text before it
//! ```
//!
//! A member that has a private key signs a token for a client that has logged in; every member that has the public key
//! verifies it, without asking another one. Tokens are as etcd's, byte for byte, except for the signature: members of
//! both programs accept the tokens of each other.
//!
//! Rules:
//! - The method of signing is that of `sign-method`, whatever a token says.
//! - The signature is verified before the claims are read.
//! - As in etcd, `exp` and `nbf` are checked if they are there, to the second, without leeway; `iss`, `aud` and other
//!   claims are not looked at.
//! - A verified token is remembered, because its signature does not become wrong again. Its times are compared with the
//!   clock at each use.
//!
//! The revision in a token is that of users and roles at the time of the login. Whether it is still valid is not
//! decided here.
//!
//! Deliberately absent: a clock, key sets, the renewal of keys.

mod der;
mod key;
mod recent;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::config::parse::duration;
use key::{Key, decode, encode};
use recent::{Claims, Recent};

/// The lifetime of a token, unless `ttl` says otherwise, as in etcd.
const DEFAULT_TTL: Duration = Duration::from_secs(5 * 60);

/// A longer token is not looked at. It has room for a user name of some 40 KiB.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

const OPTIONS: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];

/// The signer and verifier of tokens.
#[derive(Debug)]
pub struct Jwt {
    key: Key,
    ttl: Duration,
    /// The first part of every token that is signed here.
    header: String,
    recent: Mutex<Recent>,
}

/// The options cannot be used, or a token cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    #[error("invalid token option: {0:?} is not one name=value")]
    Option(String),
    #[error("invalid token option: {0} is given twice")]
    Duplicate(String),
    #[error("time: {why} {ttl:?}")]
    Ttl { why: &'static str, ttl: String },
    #[error("open {file}: {error}")]
    File { file: String, error: String },
    #[error("auth: invalid auth signature method")]
    UnknownMethod,
    #[error("unsupported signing method: none")]
    NoMethod,
    #[error("auth: missing key data")]
    MissingKey,
    #[error("auth: public and private keys don't match: {0}")]
    Mismatch(String),
    #[error("{why}: {file}")]
    Key { file: String, why: String },
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    #[error("a token could not be signed")]
    Signing,
}

impl JwtError {
    /// Whether etcd reports this error in a line of its own (`problem loading JWT options`), and ends with
    /// `auth: invalid auth options`.
    pub fn is_of_options(&self) -> bool {
        matches!(
            self,
            Self::Option(_) | Self::Duplicate(_) | Self::Ttl { .. } | Self::File { .. } | Self::UnknownMethod
        )
    }
}

impl Jwt {
    /// Reads the options after `jwt,`, and the key files that they name. An unknown option is warned about.
    pub fn new(options: &str) -> Result<Jwt, JwtError> {
        let options = split(options)?;
        let option = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
        let ttl = option("ttl").map_or(Ok(DEFAULT_TTL), ttl)?;
        let load = |name: &str| option(name).map(|file| Ok((file, load(file)?))).transpose();
        let (public, private) = (load("pub-key")?, load("priv-key")?);
        let method = option("sign-method").unwrap_or_default();
        key::check_method(method)?;
        let unknown: Vec<&str> = options.keys().copied().filter(|name| !OPTIONS.contains(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(keys = unknown.join(","), "unknown JWT options");
        }
        let key = Key::read(method, public.as_ref().map(borrow), private.as_ref().map(borrow))?;
        let header = encode(format!(r#"{{"alg":"{}","typ":"JWT"}}"#, key.method).as_bytes());
        Ok(Jwt { key, ttl, header, recent: Mutex::default() })
    }

    /// A token for a user who has logged in, with the revision of users and roles at that time. To sign with an RSA key
    /// takes about a millisecond.
    pub fn sign(&self, user: &str, auth_revision: u64, now: SystemTime) -> Result<String, JwtError> {
        let exp = seconds(now + self.ttl);
        let claims = format!(r#"{{"exp":{exp},"revision":{auth_revision},"username":{}}}"#, Value::from(user));
        let mut token = format!("{}.{}", self.header, encode(claims.as_bytes()));
        let signature = self.key.sign(token.as_bytes()).ok_or(JwtError::VerifyOnly)?.map_err(|_| JwtError::Signing)?;
        token.push('.');
        token.push_str(&encode(&signature));
        Ok(token)
    }

    /// The user and the revision of a token that is valid now.
    pub fn verify(&self, token: &str, now: SystemTime) -> Option<(String, u64)> {
        let now = seconds(now);
        if let Some(claims) = self.recent.lock().get(token) {
            return claims.at(now);
        }
        match self.read(token) {
            Ok(claims) => {
                let valid = claims.at(now);
                if valid.is_some() {
                    self.recent.lock().insert(token, claims);
                } else {
                    seldom!(warn, (), error = "token is expired or not valid yet", "failed to parse a JWT token");
                }
                valid
            }
            Err(error) => {
                seldom!(warn, (), error, "failed to parse a JWT token");
                None
            }
        }
    }

    /// The claims of a token with a valid signature.
    fn read(&self, token: &str) -> Result<Claims, &'static str> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err("token is too long");
        }
        let (text, signature) = token.rsplit_once('.').ok_or("token has no signature")?;
        let (header, claims) = text.split_once('.').ok_or("token has no claims")?;
        let signature = decode(signature).ok_or("signature is not base64")?;
        let header = object(header).ok_or("header is not an object")?;
        if header.get("alg").and_then(Value::as_str) != Some(self.key.method) {
            return Err("invalid signing method");
        }
        if !self.key.verifies(text.as_bytes(), &signature) {
            return Err("signature is invalid");
        }
        let claims = object(claims).ok_or("claims are not an object")?;
        // As in etcd, a time of 0 is no time, and parts of a second do not count.
        let time = |name: &str| match claims.get(name).map(Value::as_f64) {
            None => Ok(None),
            Some(Some(seconds)) => Ok(Some(seconds as i64).filter(|_| seconds != 0.0)),
            Some(None) => Err("a time is not a number"),
        };
        Ok(Claims {
            user: claims.get("username").and_then(Value::as_str).ok_or("username is not a text")?.to_owned(),
            revision: claims.get("revision").and_then(Value::as_f64).ok_or("revision is not a number")? as u64,
            before: time("exp")?,
            not_before: time("nbf")?,
        })
    }
}

/// The options by name.
fn split(options: &str) -> Result<BTreeMap<&str, &str>, JwtError> {
    let mut found = BTreeMap::new();
    for option in options.split(',').filter(|_| !options.is_empty()) {
        let Some((name, value)) = option.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            return Err(JwtError::Option(option.to_owned()));
        };
        if found.insert(name, value).is_some() {
            return Err(JwtError::Duplicate(name.to_owned()));
        }
    }
    Ok(found)
}

fn ttl(text: &str) -> Result<Duration, JwtError> {
    let bare = text.parse::<f64>().is_ok();
    let why = if bare { "missing unit in duration" } else { "invalid duration" };
    duration(text).ok_or_else(|| JwtError::Ttl { why, ttl: text.to_owned() })
}

/// The content of a key file. The error is worded as Go words it.
fn load(file: &str) -> Result<Zeroizing<Vec<u8>>, JwtError> {
    let worded = |error: io::Error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        JwtError::File { file: file.to_owned(), error: text.to_ascii_lowercase() }
    };
    std::fs::read(file).map(Zeroizing::new).map_err(worded)
}

fn borrow<'a>((file, content): &'a (&str, Zeroizing<Vec<u8>>)) -> key::File<'a> {
    (file, content)
}

/// The JSON object in a part of a token.
fn object(part: &str) -> Option<serde_json::Map<String, Value>> {
    serde_json::from_slice(&decode(part)?).ok()
}

/// Seconds since 1970. A clock before that is a broken one.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests;
