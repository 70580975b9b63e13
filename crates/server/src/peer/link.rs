//! One other member: the messages that wait for it, its URLs, and whether it is connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metastore_proto::Message as _;
use metastore_proto::raftpb::{Message, MessageType};
use parking_lot::Mutex;

use super::check::Unfit;
use super::meters::PeerMeters;
use super::queue::{Bounds, Pushed, Queue, Reader};
use super::traits::Sink;
use super::urls::Urls;

/// Bounds of the queue of one stream: as many messages as in etcd, and bytes for a follower that stalls for a second.
const STREAM_BOUNDS: Bounds = Bounds { count: 4096, bytes: 64 << 20 };

/// Bounds of the queue of messages to be posted while there is no stream. A member that has just started posts until
/// its peers have dialled it, a tenth of a second later, and under load it acknowledges hundreds of appends meanwhile.
/// The 64 messages of etcd leave no room for a proposal between them, and its client waits for a timeout.
const PIPELINE_BOUNDS: Bounds = STREAM_BOUNDS;

/// raft is notified at most this often that messages to a peer are lost: the first notice suffices.
const UNREACHABLE_INTERVAL: Duration = Duration::from_millis(10);

/// The two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    Appends,
    Messages,
}

impl StreamKind {
    /// As etcd's log lines call it.
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::Appends => "stream MsgApp v2",
            StreamKind::Messages => "stream Message",
        }
    }

    /// The path, up to the id of the member that asks.
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::Appends => "/raft/stream/msgapp/",
            StreamKind::Messages => "/raft/stream/message/",
        }
    }
}

/// Another member, as the threads share it.
pub struct Link {
    pub local: u64,
    pub id: u64,
    pub urls: Urls,
    pub meters: PeerMeters,
    pub pipeline: Queue,
    /// The reader of `pipeline`. That queue is open from the beginning.
    pub posting: Reader,
    /// Held while a state is being sent: one at a time.
    sending_state: AtomicBool,
    appends: Queue,
    messages: Queue,
    sink: Arc<dyn Sink>,
    active: Mutex<Option<Instant>>,
    /// When raft was last notified that messages were lost.
    reported: Mutex<Option<Instant>>,
}

impl Link {
    pub fn new(local: u64, id: u64, urls: &[String], meters: PeerMeters, sink: Arc<dyn Sink>) -> Link {
        let pipeline = Queue::new(PIPELINE_BOUNDS);
        let (posting, _) = pipeline.open();
        let link = Link {
            local,
            id,
            urls: Urls::default(),
            meters,
            pipeline,
            posting,
            sending_state: AtomicBool::new(false),
            appends: Queue::new(STREAM_BOUNDS),
            messages: Queue::new(STREAM_BOUNDS),
            sink,
            active: Mutex::default(),
            reported: Mutex::default(),
        };
        link.urls.set(id, urls);
        link
    }

    /// The queue of one of the streams.
    pub fn queue(&self, kind: StreamKind) -> &Queue {
        match kind {
            StreamKind::Appends => &self.appends,
            StreamKind::Messages => &self.messages,
        }
    }

    /// Queues a message on the way that etcd would choose. Appends have a stream of their own, so that heartbeats never
    /// wait behind them. Without room or reader, the message is dropped, and raft is notified.
    pub fn send(&self, message: Message) {
        let kind = message.r#type();
        let bytes = message.encoded_len();
        let (way, queue) = self.pick(kind);
        let pushed = match queue.push(message, bytes) {
            // The stream ended a moment ago.
            Pushed::Closed(message) if way != PIPELINE => self.pipeline.push(*message, bytes),
            pushed => pushed,
        };
        if pushed != Pushed::Taken {
            self.lost(1);
            self.complain(way, kind);
        }
    }

    fn pick(&self, kind: MessageType) -> (&'static str, &Queue) {
        if kind == MessageType::MsgApp && self.appends.is_open() {
            return ("streamMsgAppV2", &self.appends);
        }
        if self.messages.is_open() {
            return ("streamMsg", &self.messages);
        }
        (PIPELINE, &self.pipeline)
    }

    /// Messages for this peer were dropped.
    pub fn lost(&self, messages: usize) {
        if messages == 0 {
            return;
        }
        self.meters.sent_failures.inc_by(messages as u64);
        if due(&mut self.reported.lock(), UNREACHABLE_INTERVAL) {
            self.sink.unreachable(self.id);
        }
    }

    fn complain(&self, way: &str, kind: MessageType) {
        seldom!(
            warn, (self.local, self.id),
            "message-type" = kind.as_str_name(), "local-member-id" = %format_args!("{:x}", self.local),
            "remote-peer-id" = %format_args!("{:x}", self.id), "remote-peer-name" = way,
            "remote-peer-active" = self.active_since().is_some(),
            "dropped internal Raft message since sending buffer is full"
        );
    }

    /// The member had no room for a message of this peer.
    pub fn refused(&self) {
        self.meters.received_failures.inc();
        seldom!(
            warn, (self.local, self.id),
            "local-member-id" = %format_args!("{:x}", self.local), "from" = %format_args!("{:x}", self.id),
            "remote-peer-active" = self.active_since().is_some(),
            "dropped internal Raft message since receiving buffer is full (overloaded network)"
        );
    }

    /// The peer sent a message that no member should send. It was dropped.
    pub fn unfit(&self, unfit: &Unfit) {
        self.meters.received_failures.inc();
        seldom!(
            warn, (self.local, self.id),
            "local-member-id" = %format_args!("{:x}", self.local), "from" = %format_args!("{:x}", self.id),
            error = %unfit, "dropped a message that no member should send"
        );
    }

    /// Data reached the peer, or arrived from it.
    pub fn activate(&self) {
        let mut active = self.active.lock();
        if active.is_none() {
            *active = Some(Instant::now());
            self.meters.active.set(1);
            seldom!(
                CHANGES: info, (self.local, self.id),
                "peer-id" = %format_args!("{:x}", self.id), "peer became active"
            );
        }
    }

    /// Something failed: "failed to `action` on `source`".
    pub fn deactivate(&self, action: &str, source: &str, error: &dyn std::fmt::Display) {
        let mut active = self.active.lock();
        let text = format!("failed to {action} {:x} on {source} ({error})", self.id);
        let id = format_args!("{:x}", self.id);
        if active.take().is_none() {
            tracing::debug!("peer-id" = %id, error = text, "peer deactivated again");
            return;
        }
        self.meters.active.set(0);
        self.meters.disconnected.inc();
        seldom!(
            CHANGES: warn, (self.local, self.id),
            "peer-id" = %id, error = text, "peer became inactive (message send to peer failed)"
        );
    }

    /// Since when the peer has been connected; `None` if it is not.
    pub fn active_since(&self) -> Option<Instant> {
        *self.active.lock()
    }

    /// Takes no more messages. Queued messages are still sent, where there is a stream.
    pub fn finish(&self) {
        for queue in [&self.appends, &self.messages, &self.pipeline] {
            queue.finish();
        }
    }

    /// Takes the right to send a state, until [`Link::state_sent`].
    pub fn begin_state(&self) -> bool {
        !self.sending_state.swap(true, Ordering::AcqRel)
    }

    pub fn state_sent(&self, ok: bool) {
        self.sending_state.store(false, Ordering::Release);
        self.sink.snapshot_sent(self.id, ok);
    }
}

const PIPELINE: &str = "pipeline";

/// Whether `interval` has passed since `last`, which then becomes the current time.
fn due(last: &mut Option<Instant>, interval: Duration) -> bool {
    let now = Instant::now();
    let due = last.is_none_or(|last| now >= last + interval);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::super::meters::Meters;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts the notices of lost messages.
    #[derive(Default)]
    struct Raft(AtomicUsize);

    impl Sink for Raft {
        fn message(&self, _: Message, _: usize) -> bool {
            unreachable!("nothing is received")
        }
        fn unreachable(&self, _: u64) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn snapshot_sent(&self, _: u64, _: bool) {}
        fn removed(&self) {}
    }

    /// The acknowledgements of a second of load, while the peer has not dialled yet.
    #[test]
    fn a_proposal_has_room_among_many_acknowledgements_before_there_is_a_stream() {
        let raft = Arc::new(Raft::default());
        let link = Link::new(1, 2, &[], Meters::new(1).peer(2), raft.clone());
        let of = |kind: MessageType| Message { r#type: Some(kind.into()), ..Message::default() };
        for _ in 0..1000 {
            link.send(of(MessageType::MsgAppResp));
        }
        link.send(of(MessageType::MsgProp));
        assert_eq!(raft.0.load(Ordering::Relaxed), 0);
    }
}
