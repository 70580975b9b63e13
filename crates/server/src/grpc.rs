//! gRPC on HTTP/2, written here: framing, status, metadata, streams.
//!
//! The problem: a small request must cost a few microseconds of CPU, and errors must carry etcd's exact codes and
//! texts. A general framework gives neither (`docs/decisions/0001-grpc-front.md`). A server needs little of gRPC:
//!
//! ```text
//!   h2 ── Request<RecvStream> ──> Router ── path ──> handler(Call, message) ──> Frame or Status
//!                                   │                                             │
//!                                   └── Cutter: prefix, limit, bytes, gzip        └──> Body: DATA, trailers
//! ```
//!
//! A unary handler is a function from [`Call`] and a message to a future of [`Frame`] or [`Status`]; a streaming one
//! also gets an [`Outbound`], and an [`Inbound`] if the client streams.
//!
//! The requests of a call come from HTTP/2 or from this process ([`source`], [`local`]); handlers see no difference.
//!
//! Rules:
//! - A router and its handlers live on one I/O thread; futures need not be `Send`.
//! - The length of a message is checked by its prefix, before its bytes are kept.
//! - When the client goes away, the handler's future is dropped; whatever it holds must clean up on drop.
//! - Every queue has a bound: [`outbound::QUEUE_BYTES`] per stream, one message per request, and one window of HTTP/2
//!   for a client that streams.
//!
//! Deliberately absent: compression other than gzip, client streaming without server streaming (no such
//! method exists here), reflection, interceptors.

pub mod body;
pub mod call;
mod compression;
pub mod counts;
mod encoding;
pub mod frame;
pub mod health;
pub mod inbound;
pub mod local;
mod origin;
pub mod outbound;
pub mod router;
pub mod source;
pub mod status;

pub use body::Body;
pub use call::Call;
pub use counts::Ledger;
pub use frame::Frame;
pub use inbound::Inbound;
pub use origin::{Door, Origin};
pub use outbound::{Gone, Outbound};
pub use router::{LocalFuture, Router};
pub use status::{Code, Status};
