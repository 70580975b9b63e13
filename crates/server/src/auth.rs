//! The identity of clients: passwords, tokens and certificates; and what each method asks of its caller.
//!
//! ```text
//!   Authenticate ─▶ passwords ─▶ the log ─▶ applied by each member ─▶ simple_tokens
//!   a call ─▶ Authenticator::identify: token, or certificate ─▶ Caller ─▶ methods: what does the method ask for?
//! ```
//!
//! This is the only place where a token becomes a user. What a user may do is decided in `store`, by the same functions
//! before a command is proposed, when it is applied, and when a read is answered.
//!
//! Deliberately absent: rules about users and permissions (`store`), the handshake that verifies a certificate.

pub mod jwt;
pub mod methods;
pub mod passwords;
mod simple_tokens;

use bytes::Bytes;
use metastore_store::Auth;
use metastore_store::command::Caller;
use tokio::time::{Duration, Instant};

use crate::grpc::Call;
use passwords::Passwords;
use simple_tokens::SimpleTokens;

/// Settings of the identification of clients; etcd's flags have the same names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub bcrypt_cost: u32,
    pub token_ttl: Duration,
    /// Whether the common name of a client's certificate names a user.
    pub client_cert_auth: bool,
}

impl Default for Settings {
    /// etcd's defaults.
    fn default() -> Self {
        Self { bcrypt_cost: 10, token_ttl: Duration::from_secs(300), client_cert_auth: false }
    }
}

/// Finds out the users behind calls. All threads share one.
pub struct Authenticator {
    pub passwords: Passwords,
    tokens: SimpleTokens,
    client_cert_auth: bool,
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
    pub fn new(settings: Settings) -> Self {
        let Settings { bcrypt_cost, token_ttl, client_cert_auth } = settings;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { passwords: Passwords::new(bcrypt_cost, cores), tokens: SimpleTokens::new(token_ttl), client_cert_auth }
    }

    /// The caller behind a call, at a member that has applied the log up to `applied`. As in etcd, a token comes before
    /// a certificate.
    pub fn identify(&self, call: &Call, auth: &Auth, applied: u64) -> Identity {
        if let Some(token) = &call.token {
            return match self.tokens.user(token, Instant::now()) {
                Some(user) => Identity::User(Caller { user, auth_revision: auth.revision() }),
                None if simple_tokens::index(token).is_some_and(|index| index > applied) => Identity::Ahead,
                None => Identity::Invalid,
            };
        }
        let name = call.origin.as_ref().and_then(|origin| origin.common_name.as_ref());
        match name.filter(|name| self.client_cert_auth && !name.is_empty()) {
            Some(name) => {
                let user = Bytes::copy_from_slice(name.as_bytes());
                Identity::User(Caller { user, auth_revision: auth.revision() })
            }
            None => Identity::Nobody,
        }
    }

    /// The random part of a new token.
    pub fn new_token(&self) -> String {
        simple_tokens::random()
    }

    /// A login was applied: the token is the user's from now on.
    pub fn logged_in(&self, user: &str, token: &str) {
        self.tokens.add(token, user, Instant::now());
    }

    /// The user was deleted, or has another password.
    pub fn logged_out(&self, user: &str) {
        self.tokens.remove_of(user);
    }

    /// Authentication was disabled, or another state has replaced that of the logins.
    pub fn all_logged_out(&self) {
        self.tokens.remove_all();
    }
}
