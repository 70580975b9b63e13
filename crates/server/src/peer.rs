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
//! Besides consensus, members ask each other questions over HTTP: with [`client`], or over the connection pool of a
//! thread that serves clients ([`pool`]). This room carries them; [`crate::questions`] and [`crate::leader`] ask and
//! answer.
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
//! - A peer is asked for the form of states that it takes before one is sent ([`Form`]).
//! - A state that was cut short never looks whole: its request breaks instead of ending.
//! - Changes are logged, not attempts, and the number of log lines is bounded ([`crate::seldom`]).
//!
//! Deliberately absent: the meaning of raft's messages, which is left to the member; retries of messages, which
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
pub mod client;
pub mod codec;
pub mod headers;
mod http_answer;
mod link;
pub mod meters;
pub mod names;
mod outgoing;
mod pipeline;
pub mod pool;
pub mod probe;
pub mod queue;
mod reading;
mod serve;
mod state_receive;
mod state_send;
pub mod thread;
pub mod traits;
pub mod transport;
mod urls;

pub use headers::Identity;
pub use http_answer::{HttpError, answer_with};
pub use meters::Meters;
pub use pool::Pool;
pub use serve::Further;
pub(crate) use serve::probing;
pub use traits::{Form, Sink, StateBody, StateIntake, StateStream, StateTaker};
pub use transport::{Peer, READ_TIMEOUT, Settings, Transport};
