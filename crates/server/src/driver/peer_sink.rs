//! The peer sink of the engine thread: messages and events from the transport.
//!
//! Messages of other members do not share the bounds of client requests: a member that is flooded with requests must
//! still receive its leader's heartbeats. They have their own bounds. Messages beyond these are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use metastore_proto::raftpb;

use super::event::Event;
use crate::io::inbox::Inbox;
use crate::peer::Sink;

/// At most this many messages of other members wait for the engine thread.
const MESSAGES: usize = 16 << 10;
/// At most this many bytes of such messages wait. An append has one megabyte, and a leader sends up to 512 of them to a
/// follower before it waits.
const MESSAGE_BYTES: usize = 128 << 20;

/// The peer sink of the engine thread.
pub struct PeerSink {
    inbox: Inbox<Event>,
    room: Arc<Room>,
    /// The removal is passed on once: the other members report it with every attempt to reach them.
    removed: AtomicBool,
}

/// The messages that are under way to the engine thread.
#[derive(Default)]
struct Room {
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

impl PeerSink {
    pub fn new(inbox: Inbox<Event>) -> Self {
        Self { inbox, room: Arc::default(), removed: AtomicBool::new(false) }
    }

    fn place(&self, message: raftpb::Message, bytes: usize) -> Option<PeerMessage> {
        let room = &self.room;
        // Another thread may take the last place at the same time: the bound is exceeded by one message per thread.
        let (messages, under_way) = (room.messages.load(Ordering::Relaxed), room.bytes.load(Ordering::Relaxed));
        if messages >= MESSAGES || (messages > 0 && under_way + bytes > MESSAGE_BYTES) {
            return None;
        }
        room.messages.fetch_add(1, Ordering::Relaxed);
        room.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(PeerMessage { message: Box::new(message), bytes, room: room.clone() })
    }
}

impl Sink for PeerSink {
    fn message(&self, message: raftpb::Message, bytes: usize) -> bool {
        self.place(message, bytes).is_some_and(|heard| self.inbox.push_control(Event::Message(heard)))
    }

    fn unreachable(&self, id: u64) {
        self.inbox.push_control(Event::Unreachable(id));
    }

    fn snapshot_sent(&self, to: u64, arrived: bool) {
        self.inbox.push_control(Event::StateSent { to, arrived });
    }

    fn removed(&self) {
        if !self.removed.swap(true, Ordering::Relaxed) {
            self.inbox.push_control(Event::Removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::inbox::Bounds;

    #[test]
    fn messages_have_bounds_of_their_own_and_taking_them_makes_room() {
        let inbox = Inbox::new(Bounds { count: 1, bytes: 1 });
        let sink = PeerSink::new(inbox.clone());
        assert!(sink.message(raftpb::Message::default(), MESSAGE_BYTES + 1), "a large one alone");
        assert!(!sink.message(raftpb::Message::default(), 1));
        let mut events = Vec::new();
        inbox.drain(&mut events, Duration::ZERO);
        events.clear();
        (0..MESSAGES).for_each(|_| assert!(sink.message(raftpb::Message::default(), 1)));
        assert!(!sink.message(raftpb::Message::default(), 0));
        inbox.drain(&mut events, Duration::ZERO);
        assert_eq!(events.len(), MESSAGES);
        events.clear();
        assert!(sink.message(raftpb::Message::default(), 1));
    }
}
