//! Simple tokens: random letters, a dot, and the index of the entry before that of the login (etcd:
//! `server/auth/simple_token.go`).
//!
//! Each member learns of a login when it applies it, so a token is valid on all members. Tokens live in memory only: a
//! member that restarts knows only those whose logins it applies again from its log, as in etcd; the other clients log
//! in again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::time::{Duration, Instant};

/// Letters of a token before the dot.
const LETTERS: usize = 16;
/// At most this many tokens are known. At this number, the quarter of them that would expire first is forgotten, and
/// the clients that hold them log in again.
const MOST: usize = 1 << 20;
/// Expired tokens are removed at most this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The tokens of the users that are logged in.
pub struct SimpleTokens {
    ttl: Duration,
    began: Instant,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<Box<[u8]>, Token>,
    next_sweep_ms: u64,
}

struct Token {
    user: Bytes,
    /// The token is valid before this time, in milliseconds after `began`. Each use moves it.
    ends_ms: AtomicU64,
}

impl SimpleTokens {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, began: Instant::now(), known: RwLock::default() }
    }

    /// The user of a token, which is valid for its whole time again.
    pub fn user(&self, token: &[u8], now: Instant) -> Option<Bytes> {
        let known = self.known.read();
        let Token { user, ends_ms } = known.tokens.get(token)?;
        let now_ms = self.ms(now);
        if ends_ms.load(Ordering::Relaxed) <= now_ms {
            return None;
        }
        ends_ms.store(now_ms + self.ttl.as_millis() as u64, Ordering::Relaxed);
        Some(user.clone())
    }

    pub fn add(&self, token: &str, user: &str, now: Instant) {
        let now_ms = self.ms(now);
        let mut known = self.known.write();
        known.sweep(now_ms);
        known.make_room(MOST);
        let ends_ms = AtomicU64::new(now_ms + self.ttl.as_millis() as u64);
        known.tokens.insert(token.as_bytes().into(), Token { user: Bytes::copy_from_slice(user.as_bytes()), ends_ms });
    }

    pub fn remove_of(&self, user: &str) {
        self.known.write().tokens.retain(|_, token| token.user != user.as_bytes());
    }

    pub fn remove_all(&self) {
        self.known.write().tokens.clear();
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }
}

impl Known {
    fn sweep(&mut self, now_ms: u64) {
        if now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now_ms + SWEEP_INTERVAL.as_millis() as u64;
            self.tokens.retain(|_, token| *token.ends_ms.get_mut() > now_ms);
        }
    }

    fn make_room(&mut self, most: usize) {
        if self.tokens.len() < most {
            return;
        }
        let mut ends: Vec<u64> = self.tokens.values().map(|token| token.ends_ms.load(Ordering::Relaxed)).collect();
        let quarter = ends.len() / 4;
        let (_, &mut until, _) = ends.select_nth_unstable(quarter);
        self.tokens.retain(|_, token| *token.ends_ms.get_mut() > until);
    }
}

/// The index of the entry before that of a login; `None` if the bytes have not the form of a token.
pub fn index(token: &[u8]) -> Option<u64> {
    let (letters, index) = std::str::from_utf8(token).ok()?.split_once('.')?;
    (letters.len() == LETTERS).then(|| index.parse().ok()).flatten()
}

/// The random part of a new token.
pub fn random() -> String {
    const ALPHABET: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let (system, mut token) = (SystemRandom::new(), String::with_capacity(LETTERS));
    while token.len() < LETTERS {
        let mut bytes = [0; LETTERS];
        system.fill(&mut bytes).expect("the system has random numbers");
        // The bytes that are left out would make the first letters more frequent.
        let even = bytes.iter().filter(|&&byte| usize::from(byte) < 4 * ALPHABET.len());
        let letters = even.map(|&byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        token.extend(letters.take(LETTERS - token.len()));
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_is_valid_for_its_time_after_its_last_use() {
        let (tokens, now) = (SimpleTokens::new(10 * SECOND), Instant::now());
        tokens.add("a.1", "alice", now);
        assert_eq!(tokens.user(b"a.1", now + 9 * SECOND).as_deref(), Some(&b"alice"[..]));
        assert_eq!(tokens.user(b"a.1", now + 18 * SECOND).as_deref(), Some(&b"alice"[..]));
        assert_eq!(tokens.user(b"a.1", now + 28 * SECOND), None);
        assert_eq!(tokens.user(b"a.2", now), None);
        tokens.add("b.2", "bob", now + 28 * SECOND);
        assert_eq!(tokens.known.read().tokens.len(), 1, "the expired one was removed");
    }

    #[test]
    fn the_tokens_of_one_user_end_together() {
        let (tokens, now) = (SimpleTokens::new(SECOND), Instant::now());
        for (token, user) in [("a.1", "alice"), ("a.2", "alice"), ("b.3", "bob")] {
            tokens.add(token, user, now);
        }
        tokens.remove_of("alice");
        assert_eq!([&b"a.1"[..], b"a.2", b"b.3"].map(|token| tokens.user(token, now).is_some()), [false, false, true]);
        tokens.remove_all();
        assert_eq!(tokens.user(b"b.3", now), None);
    }

    #[test]
    fn tokens_have_a_bound_and_those_that_end_first_go_first() {
        let (tokens, now) = (SimpleTokens::new(100 * SECOND), Instant::now());
        (0..8).for_each(|age| tokens.add(&format!("t.{age}"), "alice", now + age * SECOND / 10));
        tokens.known.write().make_room(9);
        assert_eq!(tokens.known.read().tokens.len(), 8);
        tokens.known.write().make_room(8);
        let left: Vec<bool> = (0..8).map(|age| tokens.user(format!("t.{age}").as_bytes(), now).is_some()).collect();
        assert_eq!(left, [false, false, false, true, true, true, true, true]);
    }

    #[test]
    fn the_index_is_behind_the_letters() {
        let token = format!("{}.17", random());
        assert_eq!(index(token.as_bytes()), Some(17));
        for other in ["a.17", "abcdefghijklmnop", "abcdefghijklmnop.x", "abcdefghijklmnop.1.2", ""] {
            assert_eq!(index(other.as_bytes()), None, "{other:?}");
        }
        assert_ne!(random(), random());
    }
}
