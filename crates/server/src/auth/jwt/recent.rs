//! The tokens that were verified lately.
//!
//! To verify a signature takes as long as half a small request. A client sends the same token with each request, so
//! the claims of a verified token are kept, by its whole text. There are two generations: once the younger one is full,
//! the older one is dropped, and a token that is used again moves into the younger one. So tokens in use stay, and
//! nobody has to look for those that ended.

use std::collections::HashMap;
use std::fmt;

/// The most tokens of one generation. With two generations of the longest tokens, 16 MiB are held.
pub(super) const TOKENS: usize = 2048;

/// A longer token is verified at each use: it belongs to a user with a name of a kilobyte or more, or to an RSA key
/// beyond all usual sizes.
pub(super) const TOKEN_BYTES: usize = 4096;

/// The claims of a token with a valid signature.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    pub(super) user: String,
    pub(super) revision: u64,
    /// The token is valid before this second...
    pub(super) before: Option<i64>,
    /// ...and not before this one.
    pub(super) not_before: Option<i64>,
}

impl Claims {
    /// User and revision, if the token is valid in this second.
    pub(super) fn at(&self, now: i64) -> Option<(String, u64)> {
        let valid = self.before.is_none_or(|end| now < end) && self.not_before.is_none_or(|begin| now >= begin);
        valid.then(|| (self.user.clone(), self.revision))
    }
}

/// Claims of verified tokens, by token.
#[derive(Default)]
pub(super) struct Recent {
    young: HashMap<Box<str>, Claims>,
    old: HashMap<Box<str>, Claims>,
}

impl Recent {
    pub(super) fn get(&mut self, token: &str) -> Option<&Claims> {
        if !self.young.contains_key(token)
            && let Some((token, claims)) = self.old.remove_entry(token)
        {
            self.keep(token, claims);
        }
        self.young.get(token)
    }

    pub(super) fn insert(&mut self, token: &str, claims: Claims) {
        if token.len() <= TOKEN_BYTES {
            self.keep(token.into(), claims);
        }
    }

    fn keep(&mut self, token: Box<str>, claims: Claims) {
        if self.young.len() >= TOKENS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, claims);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// Tokens are secrets.
impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("tokens", &(self.young.len() + self.old.len())).finish()
    }
}
