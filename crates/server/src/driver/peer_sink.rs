//! The peer sink of the engine thread: messages and events from the transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metastore_proto::raftpb;

use super::event::Event;
use super::peer_message::{PeerMessage, Room};
use crate::io::inbox::Inbox;
use crate::peer::Sink;

/// The peer sink of the engine thread.
pub struct PeerSink {
    inbox: Inbox<Event>,
    room: Arc<Room>,
    /// The removal is passed on once: the other members report it with every attempt to reach them.
    removed: AtomicBool,
}

impl PeerSink {
    pub fn new(inbox: Inbox<Event>) -> Self {
        Self { inbox, room: Arc::default(), removed: AtomicBool::new(false) }
    }
}

impl Sink for PeerSink {
    fn message(&self, message: raftpb::Message, bytes: usize) -> bool {
        PeerMessage::place(&self.room, message, bytes)
            .is_some_and(|heard| self.inbox.push_control(Event::Message(heard)))
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

    use super::super::peer_message::{MESSAGE_BYTES, MESSAGES};
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
