//! Messages of other members on their way to the engine thread.
//!
//! They do not share the bounds of client requests: a member that is flooded with requests must still receive its
//! leader's heartbeats. They have their own bounds. Messages beyond these are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metastore_proto::raftpb;

/// At most this many messages of other members wait for the engine thread.
pub(super) const MESSAGES: usize = 16 << 10;
/// At most this many bytes of such messages wait. An append has one megabyte, and a leader sends up to 512 of them to a
/// follower before it waits.
pub(super) const MESSAGE_BYTES: usize = 128 << 20;

/// The messages that are under way to the engine thread.
#[derive(Default)]
pub(super) struct Room {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// A message on its way; its place is free again once it is taken.
pub struct PeerMessage {
    message: Box<raftpb::Message>,
    bytes: usize,
    room: Arc<Room>,
}

impl PeerMessage {
    /// A message of `bytes` bytes; `None` if there is no room for it.
    pub(super) fn place(room: &Arc<Room>, message: raftpb::Message, bytes: usize) -> Option<Self> {
        // Another thread may take the last place at the same time: the bound is exceeded by one message per thread.
        let (messages, under_way) = (room.messages.load(Ordering::Relaxed), room.bytes.load(Ordering::Relaxed));
        if messages >= MESSAGES || (messages > 0 && under_way + bytes > MESSAGE_BYTES) {
            return None;
        }
        room.messages.fetch_add(1, Ordering::Relaxed);
        room.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Self { message: Box::new(message), bytes, room: room.clone() })
    }

    pub fn take(mut self) -> raftpb::Message {
        std::mem::take(&mut *self.message)
    }
}

impl Drop for PeerMessage {
    fn drop(&mut self) {
        self.room.messages.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
