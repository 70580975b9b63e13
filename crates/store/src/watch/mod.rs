//! Watch: every change, in order, to everyone who asked for it.
//!
//! The problem: one writer makes revisions; many thousand watchers want some of them, each from its own revision on, each
//! read at the speed of its client. A watcher must get every matching event exactly once and in order, and a slow one
//! must cost the others nothing.
//!
//! ```text
//!   engine thread ── Arc<RevisionEvents> ──▶ bounded mailbox of each I/O thread
//!                                                  │ publish (or lost, if the mailbox ran over)
//!                                            ┌─────▼─────┐
//!        create, cancel, progress ─────────▶ │    Hub    │ ◀── catch_up ── HistorySource
//!                                            └─────┬─────┘
//!                                  a queue per stream, take ──▶ socket
//! ```
//!
//! A watcher is a cursor: `next`, the smallest revision it may still want. The hub has a `tail`, the newest revision that
//! was published to it. A watcher is **synced** when it has all it wants up to `tail`; then the next published revision
//! is delivered to it live. Otherwise it is **unsynced**: its cursor stays where it is, and it reads history until the
//! cursor is beyond both `tail` and what the store had when history was read. There is no third way to miss or to
//! repeat a revision: a published revision below a watcher's cursor is skipped, one above `tail + 1` shows that something
//! between was lost, and turns every watcher into a reader of history.
//!
//! Rules
//! - A revision is never split over two responses, except into fragments for a watcher that asked for them.
//! - Watchers with the same range and the same wishes form a group; the events of a revision are encoded once per group and
//!   shared. Publishing costs one lookup per changed key and one queue entry per delivery, however many watchers there are.
//! - All watchers whose cursors lie in the same piece of history are served by one pass over it. Passes begin by turns at
//!   the cursor that is farthest behind (so that cursors merge) and at the one that is closest to the head (so that a
//!   watcher that stumbled does not wait for one that sleeps).
//! - History is only read for watchers whose stream has room.
//! - Nothing here reads a clock: progress intervals are counted in the milliseconds that `tick` is given.
//!
//! Bounds ([`Limits`] holds those that vary)
//! - a stream's queue: [`QUEUE_RESPONSES`] plus one per watcher, and [`QUEUE_BYTES`] plus one response; at the bound its
//!   watchers become unsynced and keep only their cursor. Answers to requests are queued regardless: the shell reads no
//!   further request while [`Hub::accepts_requests`] says no.
//! - one step of [`Hub::catch_up`]: [`CHUNK_ROWS`] rows or [`CHUNK_BYTES`], and [`CHUNK_WATCHERS`] watchers.
//! - one revision may be larger than a chunk (a range delete of a million keys). Its rows are gathered over several steps,
//!   one such revision per hub at a time, and shared by all that want it; it is encoded in pieces of [`PIECE_BYTES`] while
//!   it is sent. So the bound is the largest revision, not the largest revision times watchers.
//! - encoded events are kept only up to [`ENCODE_ONCE_BYTES`] a response; larger ones share the stored rows.
//!
//! Deliberately absent: locks, threads, sockets, permissions (the shell checks them and calls [`Hub::refuse`]), and any
//! cache of history: the store has it.

mod catch_up;
mod events;
mod hub;
mod intervals;
mod live;
mod matcher;
mod progress;
mod queue;
mod response;
mod source;

#[cfg(test)]
mod tests;

pub use events::Events;
pub use hub::{Counts, Hub, StreamId, WatchSpec};
pub use queue::Limits;
pub use response::{Header, INVALID_WATCH_ID, Pieces, Response};
pub use source::{Change, HistorySource, RevisionEvents};

/// Responses that wait in a stream's queue, as in etcd; each watcher of the stream adds one.
pub const QUEUE_RESPONSES: usize = 128;

/// Bytes of events that wait in a stream's queue; the response that crosses the line is still taken.
pub const QUEUE_BYTES: usize = 4 << 20;

/// Rows of history that one step of catching up reads, and so the revisions in one response (1,000, as in etcd).
pub const CHUNK_ROWS: usize = 1000;

/// Bytes of history, and of previous values, after which a step of catching up reads no more.
pub const CHUNK_BYTES: usize = 4 << 20;

/// Watchers that one step of catching up serves.
pub const CHUNK_WATCHERS: usize = 4096;

/// Events up to this size are encoded once and shared; larger ones are encoded from the shared rows while they are sent.
pub const ENCODE_ONCE_BYTES: usize = 64 << 10;

/// A piece of a large response grows to this size before it is handed out; the event that crosses the line still fits.
pub const PIECE_BYTES: usize = 64 << 10;

/// What etcd adds to the largest request when it decides whether a response must be fragmented.
pub const FRAGMENT_OVERHEAD_BYTES: usize = 512 << 10;

/// How often a quiet watcher hears of progress unless configured otherwise (etcd's
/// `--watch-progress-notify-interval`).
pub const PROGRESS_INTERVAL_MS: u64 = 10 * 60 * 1000;

/// The shortest progress interval; a smaller one is raised to it, as in etcd.
pub const MIN_PROGRESS_INTERVAL_MS: u64 = 100;
