//! Sockets and threads: how bytes come in, and how answers find their way back.
//!
//! ```text
//!             accept ──deal──> worker 0   worker 1   ...      one thread, one current-thread runtime each
//!                                │  ^       │  ^
//!                register a slot │  │       │  │ one wake per batch
//!                                v  │       v  │
//!                              Slots │     Slots │
//!                                │   Mailbox │   Mailbox
//!                                v  │       v  │
//!                               Inbox ──────────> engine thread (drains everything, answers in batches)
//! ```
//!
//! A request is an entry in a queue, not a task on another thread. The engine is woken only when it sleeps; a worker is
//! woken once per batch of answers, not once per answer. A remote wake-up costs 1-5 us, as much as all the rest of a
//! request, so this shape makes most of the difference to the obvious design.
//!
//! Rules:
//! - The state of a connection stays on its worker; only plain data crosses threads.
//! - An [`inbox`] is bounded by count and bytes, and refuses events beyond that; a [`mailbox`] holds at most one answer
//!   per registered slot.
//! - A [`slots`] entry is freed when its future is dropped: a client that went away leaves nothing behind.
//! - A client's connection is read in turns of bounded length ([`turns`]), so that handlers run before more is read.
//! - No blocking call on a worker.
//! - Whether a connection is encrypted matters at its beginning only ([`security`]).
//!
//! Deliberately absent: work stealing (connections are dealt out round-robin).

pub mod accept;
mod http2;
pub mod inbox;
pub mod lingering;
pub mod listen;
pub mod lobby;
pub mod mailbox;
mod pings;
pub mod protocol;
pub mod security;
mod serve;
pub mod service;
pub mod slots;
pub mod socket;
pub mod timed;
mod turns;
pub mod workers;
