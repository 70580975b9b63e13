//! The bytes on the two streams between members, as etcd lays them out.
//!
//! ```text
//! message stream   u64 length | Message                                        everything but appends
//! msgapp stream    0                                                           link heartbeat
//!                  1 | u64 count | (u64 length | Entry)* | u64 commit          entries that continue what came before
//!                  2 | u64 length | Message                                    any other append
//! ```
//!
//! Numbers are big-endian. A frame of kind 1 has neither term nor index: both sides remember them from the frames
//! before. So [`msgapp::Encoder`] and [`msgapp::Decoder`] must stay in step, with each other and with etcd's.
//!
//! Rules:
//! - A length is not believed before the bytes have arrived: memory grows with the bytes that arrived, never with the
//!   announced length.
//! - A message is measured before it is decoded: memory stays in proportion to what a member sends. See [`measure`].
//! - The bytes of a message are its own. A slice of a read buffer in the log would hold the whole buffer in memory.

pub mod measure;
pub mod message;
pub mod msgapp;
pub mod source;
#[cfg(test)]
mod tests;

use metastore_proto::raftpb::{self, MessageType};

use crate::config::MAX_REQUEST_BYTES;

/// The longest frame that is taken, as in etcd.
pub const MAX_FRAME_BYTES: u64 = 512 << 20;

/// The longest posted message: one entry of the longest request. While it is read it takes up to twice as much memory,
/// because a buffer is copied when it grows.
pub const MAX_POST_BYTES: u64 = MAX_FRAME_BYTES / 2;
/// Bytes that a message takes besides the one entry that it carries; in fact far fewer.
const OVERHEAD_BYTES: u64 = 1 << 20;
const _: () = assert!(MAX_REQUEST_BYTES + OVERHEAD_BYTES <= MAX_POST_BYTES, "a message with the longest request");

/// One frame of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The other side is alive. Not passed to raft, which would forget its leader.
    Heartbeat,
    /// A message, and the bytes that it took on the wire.
    Message(Box<raftpb::Message>, usize),
}

/// The message that is sent on the message stream while there is no other. raft never sends a message from and to
/// member 0.
pub fn link_heartbeat() -> raftpb::Message {
    raftpb::Message { r#type: Some(MessageType::MsgHeartbeat as i32), ..Default::default() }
}

/// Whether this is a [`link_heartbeat`].
pub fn is_link_heartbeat(message: &raftpb::Message) -> bool {
    message.r#type() == MessageType::MsgHeartbeat && message.from() == 0 && message.to() == 0
}
