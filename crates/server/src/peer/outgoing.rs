//! The serving side of a stream: a response body that never ends by itself.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metastore_proto::raftpb::Message;
use tokio::time::{Interval, MissedTickBehavior};

use super::codec::{link_heartbeat, message, msgapp};
use super::link::{Link, StreamKind};
use super::queue::Reader;
use crate::grpc::body::Pieces;

/// Bytes that are encoded at a time: enough to fill a socket. A larger message goes alone.
const BATCH_BYTES: usize = 256 << 10;

/// The body of one stream. It lives as long as its connection, or until another stream replaces it.
pub struct Outgoing {
    link: Arc<Link>,
    kind: StreamKind,
    reader: Reader,
    encoder: msgapp::Encoder,
    heartbeat: Interval,
    batch: Vec<Message>,
}

impl Outgoing {
    /// Replaces the stream of this kind, if there is one. A link heartbeat is sent every `heartbeat`.
    pub fn attach(link: Arc<Link>, kind: StreamKind, heartbeat: Duration) -> Outgoing {
        let (reader, replaced) = link.queue(kind).open();
        if let Some(unread) = replaced {
            link.lost(unread);
            log_stream!(warn, "stream-writer-type", link, kind, "closed TCP streaming connection with remote peer");
        }
        link.activate();
        log_stream!(info, "stream-writer-type", link, kind, "established TCP streaming connection with remote peer");
        let mut heartbeat = tokio::time::interval(heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        Outgoing { link, kind, reader, encoder: msgapp::Encoder::default(), heartbeat, batch: Vec::new() }
    }

    fn encode(&mut self, messages: &[Message]) -> Bytes {
        let mut out = BytesMut::new();
        for message in messages {
            match self.kind {
                StreamKind::Appends => self.encoder.encode(message, &mut out),
                StreamKind::Messages => message::encode(message, &mut out),
            }
        }
        self.link.meters.sent_bytes.inc_by(out.len() as u64);
        out.freeze()
    }
}

impl Pieces for Outgoing {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut batch = std::mem::take(&mut self.batch);
        let polled = self.link.queue(self.kind).poll_take(self.reader, &mut batch, BATCH_BYTES, cx);
        let piece = match polled {
            Poll::Ready(true) => Poll::Ready(Some(self.encode(&batch))),
            Poll::Ready(false) => Poll::Ready(None),
            Poll::Pending => match self.heartbeat.poll_tick(cx) {
                Poll::Ready(_) => Poll::Ready(Some(self.encode(&[link_heartbeat()]))),
                Poll::Pending => Poll::Pending,
            },
        };
        batch.clear();
        self.batch = batch;
        piece
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let queue = self.link.queue(self.kind);
        let finished = !queue.is_open();
        // If another stream has replaced this one, nothing is lost, and nothing is logged.
        let Some(unread) = queue.close(self.reader) else { return };
        if finished {
            log_stream!(
                info,
                "stream-writer-type",
                self.link,
                self.kind,
                "stopped TCP streaming connection with remote peer"
            );
            return;
        }
        self.link.lost(unread);
        self.link.deactivate("write", self.kind.name(), &"the connection is gone");
        log_stream!(warn, "stream-writer-type", self.link, self.kind, "lost TCP streaming connection with remote peer");
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({:?} to {:x})", self.kind, self.link.id)
    }
}
