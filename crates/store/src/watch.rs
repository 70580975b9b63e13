//! Watch: every change, in order, to every watcher that asked for it.
//!
//! The problem: one writer makes revisions. Many thousand watchers want some of them, each from its own revision on,
//! each at the speed of its client. A watcher must get every matching event exactly once and in order, and a slow
//! watcher must not slow down the others.
//!
//! ```text
//!   engine thread ── Arc<RevisionEvents> ──▶ bounded mailbox of each I/O thread
//!                                                  │ publish (or lost, if the mailbox overflowed)
//!                                            ┌─────▼─────┐
//!        create, cancel, progress ─────────▶ │    Hub    │ ◀── catch_up ── HistorySource
//!                                            └─────┬─────┘
//!                                  a queue per stream, take ──▶ socket
//! ```
//!
//! A watcher is a cursor: `next`, the smallest revision that it may still want. The hub has a `tail`, the newest
//! revision that was published to it. A watcher is **synced** if it has got everything up to `tail`; then the next
//! published revision is delivered to it live. Otherwise it is **unsynced**: its cursor stays where it is, and it reads
//! history until the cursor is after both `tail` and the store's current revision at the time of the read. There is no
//! other way to miss or to repeat a revision. A published revision below a watcher's cursor is skipped. A published
//! revision above `tail + 1` shows that revisions in between were lost, and turns every watcher to history.
//!
//! Rules
//! - A revision is never split over two responses, except into fragments for a watcher that asked for them.
//! - Watchers with the same range and the same wishes form a group; the events of a revision are encoded once per group
//!   and shared. Publishing costs one look-up per changed key and one queue entry per delivery, however many watchers
//!   there are.
//! - One pass over a piece of history serves all watchers whose cursors are in it. Passes begin alternately at the
//!   cursor that is farthest behind (so that cursors merge) and at the cursor that is closest to the head (so that a
//!   watcher that is only a little behind does not wait for one that is far behind).
//! - History is read only for watchers whose stream has room.
//! - Nothing here reads a clock: progress intervals are counted in the milliseconds that `tick` is given.
//!
//! Bounds ([`Limits`] holds the ones that vary)
//! - The queue of a stream: [`QUEUE_RESPONSES`] plus one per watcher, and [`QUEUE_BYTES`] plus one response. At the
//!   bound its watchers become unsynced and keep only their cursor. Answers to requests are queued without this bound;
//!   instead, the shell (the server code that drives the hub) reads no further request while [`Hub::accepts_requests`]
//!   is false.
//! - One step of [`Hub::catch_up`]: [`CHUNK_ROWS`] rows or [`CHUNK_BYTES`], and [`CHUNK_WATCHERS`] watchers.
//! - One revision may be larger than a chunk (a range delete of a million keys). Its rows are gathered over several
//!   steps, one such revision per hub at a time, and are shared by all watchers that want it. It is encoded in pieces
//!   of [`PIECE_BYTES`] while it is sent. So the memory is bounded by the largest revision, not by the largest revision
//!   times the number of watchers.
//! - Encoded events are kept only up to [`ENCODE_ONCE_BYTES`] per response; larger responses share the stored rows.
//!
//! Deliberately absent: locks, threads, sockets, permissions (the shell checks them and calls [`Hub::refuse`]), and a
//! cache of history, because the store has it.

mod catch_up;
mod events;
mod hub;
mod intervals;
mod live;
mod matcher;
mod places;
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

/// The number of responses in a stream's queue, as in etcd; each watcher of the stream adds one.
pub const QUEUE_RESPONSES: usize = 128;

/// Bytes of events in a stream's queue; a response that crosses this limit is still queued.
pub const QUEUE_BYTES: usize = 4 << 20;

/// Rows of history that one catch-up step reads, which also bounds the revisions in one response (1,000, as in etcd).
pub const CHUNK_ROWS: usize = 1000;

/// Bytes of history, and of previous values, after which a catch-up step reads no more.
pub const CHUNK_BYTES: usize = 4 << 20;

/// The number of watchers that one catch-up step serves.
pub const CHUNK_WATCHERS: usize = 4096;

/// Events up to this size are encoded once and shared; larger ones are encoded from shared rows while they are sent.
pub const ENCODE_ONCE_BYTES: usize = 64 << 10;

/// A piece of a large response grows to this size before it is returned; the event that crosses it is included.
pub const PIECE_BYTES: usize = 64 << 10;

/// The bytes that etcd adds to the largest request size when it decides whether a response must be fragmented.
pub const FRAGMENT_OVERHEAD_BYTES: usize = 512 << 10;

/// The default interval of progress notifications to a quiet watcher (etcd's `--watch-progress-notify-interval`).
pub const PROGRESS_INTERVAL_MS: u64 = 10 * 60 * 1000;

/// The shortest progress interval; a smaller setting is raised to it, as in etcd.
pub const MIN_PROGRESS_INTERVAL_MS: u64 = 100;
