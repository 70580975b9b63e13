//! Whether a peer takes states in MetaStore's format.
//!
//! Only MetaStore can start from such a state; an etcd could not. So a state goes only to a peer that says, in the
//! headers of its requests and answers, that it takes such states. A peer that does not counts as an etcd.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use http::HeaderMap;

use super::headers;

/// Values of [`Format::known`]; 0 as long as nothing is known.
const FOREIGN: u8 = 1;
const OURS: u8 = 2;

/// The known format of one peer.
#[derive(Debug, Default)]
pub(super) struct Format {
    known: AtomicU8,
    /// It was logged that a state is withheld.
    complained: AtomicBool,
}

impl Format {
    /// The peer has sent these headers. Another program may run at the same address later.
    pub fn hear(&self, headers: &HeaderMap) {
        let ours = headers::takes_states(headers);
        self.known.store(if ours { OURS } else { FOREIGN }, Ordering::Relaxed);
        if ours {
            self.complained.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the peer is known to take states.
    pub fn is_ours(&self) -> bool {
        self.known.load(Ordering::Relaxed) == OURS
    }

    /// Whether the peer is known to take none.
    pub fn is_foreign(&self) -> bool {
        self.known.load(Ordering::Relaxed) == FOREIGN
    }

    /// Whether this is the first complaint since the peer was known to take states.
    pub fn complain(&self) -> bool {
        !self.complained.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(format: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-server-version", "3.7.0".parse().expect("a value"));
        format.map(|format| headers.insert("x-metastore-state", format.parse().expect("a value")));
        headers
    }

    #[test]
    fn a_peer_takes_states_as_long_as_it_names_their_format() {
        let format = Format::default();
        let known = || (format.is_ours(), format.is_foreign());
        assert_eq!(known(), (false, false), "nothing was heard");
        for (named, expected) in [(None, (false, true)), (Some("1"), (true, false)), (Some("2"), (false, true))] {
            format.hear(&headers(named));
            assert_eq!(known(), expected, "{named:?}");
        }
    }

    #[test]
    fn a_complaint_comes_first_once_until_the_peer_takes_states() {
        let format = Format::default();
        let complain_twice = || [format.complain(), format.complain()];
        assert_eq!(complain_twice(), [true, false]);
        format.hear(&headers(None));
        assert!(!format.complain(), "it is the same etcd");
        format.hear(&headers(Some("1")));
        assert_eq!(complain_twice(), [true, false]);
    }
}
