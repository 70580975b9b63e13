//! Whether a peer takes states in MetaStore's format.
//!
//! An etcd puts whatever it is sent in the place of its database, and never starts again if that is none. So a state goes only to a
//! peer that says, in the headers of what it asks and answers, that it takes such states; one that does not is an etcd here.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use http::HeaderMap;

use super::headers;

/// Values of [`Format::known`]; 0 as long as nothing is known.
const FOREIGN: u8 = 1;
const OURS: u8 = 2;

/// What is known about one peer.
#[derive(Debug, Default)]
pub(super) struct Format {
    known: AtomicU8,
    /// The log has heard that a state is withheld.
    complained: AtomicBool,
}

impl Format {
    /// The peer has sent these headers. At one address there may be another program after a while.
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
