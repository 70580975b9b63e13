//! What members tell each other: etcd's peer protocol over HTTP/1.1, so that members of etcd can be among the others.
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
//! Who *receives* asks for a stream, and keeps it open; who sends writes into the answer. Appends have a stream of their
//! own, so that a heartbeat never waits behind a megabyte of entries, and states a request of their own.
//!
//! Beside consensus, members ask each other questions: which version one runs ([`versions`]); how long a lease lives, and
//! to promote a learner, which the leader alone knows ([`questions`]). Who asks does so on the thread of its client, over
//! connections of that thread ([`kept`]). And a member asks itself, at the addresses under which the others know it, to find out
//! whether it is the only one that runs as itself ([`twin`]).
//!
//! Rules:
//! - One thread does all of it; threads that serve clients never wait for a peer, nor the engine thread: [`Transport::send`]
//!   puts a message into a queue, or drops it. raft sends again what was lost; it is told ([`Sink::unreachable`]).
//! - What waits for a peer is bounded by count and bytes, peer by peer and stream by stream: one that is dead or slow
//!   costs the others nothing ([`queue`]).
//! - A connection on which nothing can be written for 5 s, or from which nothing came for 5 s, is given up. Both sides
//!   send a link heartbeat three times as often.
//! - A message reaches the member only if a member may send it, from whom it says, to this one ([`check`]). Lengths are
//!   believed when the bytes are there ([`codec`]).
//! - A new stream of a peer takes the place of its old one, and begins empty.
//! - A state goes only to a peer that is known to take it, never to an etcd ([`format`]).
//! - A state that was cut short never looks whole: its request breaks instead of ending.
//! - The log hears of changes, not of attempts, and of nothing without bound ([`crate::seldom`]).
//!
//! Deliberately absent: TLS; raft's meaning, which is the member's; retries of messages, which are raft's; compression.

/// A line about one end of a stream, in etcd's fields.
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
mod format;
pub mod headers;
pub mod kept;
pub mod leases;
mod link;
pub mod meters;
mod outgoing;
mod pipeline;
mod probe;
pub mod promote;
pub mod questions;
pub mod queue;
mod reading;
pub mod seam;
mod serve;
mod state_receive;
mod state_send;
pub mod thread;
pub mod transport;
pub mod twin;
mod urls;
pub mod versions;

pub use headers::Identity;
pub use kept::Kept;
pub use meters::Meters;
pub use seam::{Sink, StateBody, StateIntake, StateStream, StateTaker};
pub use serve::Further;
pub(crate) use serve::probing;
pub use transport::{Peer, READ_TIMEOUT, Settings, Transport};
