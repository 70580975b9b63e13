//! The identity of clients: passwords, tokens and certificates; and what each method asks of its caller.
//!
//! ```text
//!   Authenticate ─▶ passwords ─▶ the log ─▶ applied by each member ─▶ simple_tokens
//!   a call ─▶ Authenticator::identify: token, or certificate ─▶ Caller ─▶ methods: what does the method ask for?
//! ```
//!
//! This is the only place where a token becomes a user. The permissions of a user are judged in `store`, by the same
//! functions before a command is proposed, when it is applied, and when a read is answered.
//!
//! Deliberately absent: rules about users and permissions (`store`), the handshake that verifies a certificate.

pub mod jwt;
pub mod methods;
pub mod passwords;
mod simple_tokens;

use std::time::SystemTime;

use bytes::Bytes;
use metastore_store::Auth;
use metastore_store::command::Caller;
use tokio::time::Instant;

use crate::config::AuthSettings;
use crate::grpc::Call;
use jwt::{Jwt, JwtError};
use passwords::Passwords;
use simple_tokens::SimpleTokens;

/// Finds out the users behind calls. All threads share one.
pub struct Authenticator {
    pub passwords: Passwords,
    tokens: Tokens,
    client_cert_auth: bool,
}

enum Tokens {
    Simple(SimpleTokens),
    Signed(Box<Jwt>),
}

/// The identity of a caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity {
    /// The client has shown neither a token nor a certificate.
    Nobody,
    User(Caller),
    /// The token is of a login that this member may not have applied yet.
    Ahead,
    /// The token is of no login, or has expired.
    Invalid,
}

impl Authenticator {
    /// # Errors
    /// If the options of tokens, or the files that they name, cannot be used.
    pub fn new(settings: &AuthSettings) -> Result<Self, JwtError> {
        let AuthSettings { jwt, bcrypt_cost, token_ttl, client_cert_auth } = settings;
        let tokens = match jwt {
            None => Tokens::Simple(SimpleTokens::new(*token_ttl)),
            Some(options) => Tokens::Signed(Box::new(Jwt::new(options)?)),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let passwords = Passwords::new(*bcrypt_cost, cores);
        Ok(Self { passwords, tokens, client_cert_auth: *client_cert_auth })
    }

    /// The caller behind a call, at a member that has applied the log up to `applied`. As in etcd, a token comes before
    /// a certificate.
    pub fn identify(&self, call: &Call, auth: &Auth, applied: u64) -> Identity {
        if let Some(token) = &call.token {
            return match &self.tokens {
                Tokens::Simple(tokens) => match tokens.user(token, Instant::now()) {
                    Some(user) => Identity::User(Caller { user, auth_revision: auth.revision() }),
                    None if simple_tokens::index(token).is_some_and(|before| before >= applied) => Identity::Ahead,
                    None => Identity::Invalid,
                },
                Tokens::Signed(jwt) => {
                    let claims = str::from_utf8(token).ok().and_then(|token| jwt.verify(token, SystemTime::now()));
                    let caller = |(user, auth_revision): (String, _)| Caller { user: user.into(), auth_revision };
                    claims.map_or(Identity::Invalid, |claims| Identity::User(caller(claims)))
                }
            };
        }
        let name = call.origin.as_ref().and_then(|origin| origin.common_name.as_ref());
        match name.filter(|_| self.client_cert_auth) {
            Some(name) => {
                let user = Bytes::copy_from_slice(name.as_bytes());
                Identity::User(Caller { user, auth_revision: auth.revision() })
            }
            None => Identity::Nobody,
        }
    }

    /// The random part of a new simple token; empty if tokens are signed.
    pub fn new_token(&self) -> String {
        if let Tokens::Simple(_) = self.tokens { simple_tokens::random() } else { String::new() }
    }

    /// The token of a login that was applied: `simple`, unless tokens are signed.
    ///
    /// # Errors
    /// If the token cannot be signed.
    pub fn token(&self, user: &str, simple: String, auth_revision: u64) -> Result<String, JwtError> {
        match &self.tokens {
            Tokens::Simple(_) => Ok(simple),
            Tokens::Signed(jwt) => jwt.sign(user, auth_revision, SystemTime::now()),
        }
    }

    /// A login was applied: the token is the user's from now on.
    pub fn logged_in(&self, user: &str, token: &str) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.add(token, user, Instant::now());
        }
    }

    /// The user was deleted, or has another password. A signed token is then of an older auth revision.
    pub fn logged_out(&self, user: &str) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.remove_of(user);
        }
    }

    /// Authentication was disabled, or another state has replaced that of the logins.
    pub fn all_logged_out(&self) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.remove_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_login_that_is_not_applied_yet_is_ahead() {
        let authenticator = Authenticator::new(&AuthSettings::default()).unwrap();
        // The login is entry 8.
        let call = Call::with_metadata("token", "abcdefghijklmnop.7");
        let identity = |applied| authenticator.identify(&call, &Auth::default(), applied);
        assert_eq!([7, 8].map(identity), [Identity::Ahead, Identity::Invalid]);
    }
}
