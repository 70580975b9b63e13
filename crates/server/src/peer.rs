//! Communication between members: etcd's peer protocol over HTTP/1.1, so that a cluster may also have members of etcd.
//!
//! ```text
//!   engine thread                          thread "peers-0"                                  another member
//!   ─────────────                          ────────────────                                  ──────────────
//!   Transport::send ──▶ queue of appends ──▶ Outgoing: body of GET /raft/stream/msgapp/..  ◀── asked for by the peer
//!                   ──▶ queue of the rest ─▶ Outgoing: body of GET /raft/stream/message/.. ◀── asked for by the peer
//!                   ──▶ pipeline ──────────▶ POST /raft, while there is no stream ──────────▶
//!   Transport::send_state ─────────────────▶ POST /raft/snapshot, read by a blocking thread ▶
//!   Sink::message ◀──────────── check ◀───── keep_reading: GET /raft/stream/.. at the peer ──▶
//! ```
//!
//! The *receiver* asks for a stream, and keeps it open; the sender writes into the answer. Appends have a stream of
//! their own, so that a heartbeat never waits behind a megabyte of entries. States have a request of their own.
//!
//! Besides consensus, members ask each other questions: which version a member runs ([`versions`]); how long a lease
//! has to live, and to promote a learner, which only the leader can answer ([`questions`]). The thread of the client
//! asks these, over the connection pool of that thread ([`pool`]). A member also asks at its own addresses, as the
//! other members know them, whether a duplicate process runs as this member ([`duplicate_process`]).
//!
//! Rules:
//! - One thread does all of this. Neither threads that serve clients nor the engine thread ever wait for a peer:
//!   [`Transport::send`] puts a message into a queue, or drops it. raft repeats lost messages; it is notified of a loss
//!   ([`Sink::unreachable`]).
//! - Messages that wait for a peer are bounded by count and bytes, for each peer and each stream: a peer that is dead
//!   or slow costs the others nothing ([`queue`]).
//! - A connection on which nothing can be written for 5 s, or from which nothing arrives for 5 s, is given up. Both
//!   sides send a link heartbeat three times as often.
//! - A message reaches the member only if a member may send it, if its sender is the member that it names, and if it is
//!   for this member ([`check`]). Lengths are believed once the bytes have arrived ([`codec`]).
//! - A new stream of a peer replaces its old one, and begins empty.
//! - A state goes only to a peer that is known to take it, never to an etcd ([`format`]).
//! - A state that was cut short never looks whole: its request breaks instead of ending.
//! - Changes are logged, not attempts, and the number of log lines is bounded ([`crate::seldom`]).
//!
//! Deliberately absent: TLS; the meaning of raft's messages, which is left to the member; retries of messages, which
//! are left to raft; compression.

/// A log line about one end of a stream, with etcd's fields.
macro_rules! log_stream {
    ($level:ident, $end:tt, $link:expr, $kind:expr, $text:tt) => {
        seldom!(
            CHANGES: $level, ($link.local, $link.id, $kind.name()),
            $end = $kind.name(), "local-member-id" = %format_args!("{:x}", $link.local),
            "remote-peer-id" = %format_args!("{:x}", $link.id), $text
        )
    };
}

pub mod check;
mod checks;
pub mod client;
pub mod codec;
pub mod duplicate_process;
mod format;
pub mod headers;
mod http_error;
pub mod leases;
mod link;
pub mod meters;
mod outgoing;
mod pipeline;
pub mod pool;
mod probe;
pub mod promote;
pub mod questions;
pub mod queue;
mod reading;
mod serve;
mod state_receive;
mod state_send;
pub mod thread;
pub mod traits;
pub mod transport;
mod urls;
pub mod versions;

pub use headers::Identity;
pub use meters::Meters;
pub use pool::Pool;
pub use serve::Further;
pub(crate) use serve::probing;
pub use traits::{Sink, StateBody, StateIntake, StateStream, StateTaker};
pub use transport::{Peer, READ_TIMEOUT, Settings, Transport};
