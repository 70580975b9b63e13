//! The proofs and reads for which members of the simulated cluster wait on behalf of clients.

use metastore_replica::Renewing;

use crate::clients::Asked;

/// The work of a member once a linearizable read is confirmed.
pub enum Reading {
    Range,
    Renewal(Box<Proving>),
}

/// A renewal that waits for its proof. The answer goes to the client through the member that forwarded the renewal.
pub struct Proving {
    pub lease: i64,
    pub renewing: Renewing,
    pub asked: Asked,
}

/// A checkpoint that a leader has proposed.
pub struct Noted {
    pub lease: i64,
    pub by: usize,
    pub term: u64,
}
