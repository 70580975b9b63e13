//! The responses of a stream, and their encoding.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{Events, PIECE_BYTES};
use metastore_proto::wire;

/// The watch id of answers that concern no single watcher: a refused creation, and the progress of a whole stream.
pub const INVALID_WATCH_ID: i64 = -1;

const HEADER: u8 = 0x0a;
const CLUSTER_ID: u8 = 0x08;
const MEMBER_ID: u8 = 0x10;
const REVISION: u8 = 0x18;
const RAFT_TERM: u8 = 0x20;
const WATCH_ID: u8 = 0x10;
const CREATED: u8 = 0x18;
const CANCELED: u8 = 0x20;
const COMPACT_REVISION: u8 = 0x28;
const CANCEL_REASON: u8 = 0x32;
const FRAGMENT: u8 = 0x38;

/// The part of a response's header that the shell knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

/// One `WatchResponse`.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The watcher, or [`INVALID_WATCH_ID`].
    pub watch_id: i64,
    /// `header.revision`; 0 in a cancellation by compaction (the shell must not fill it in).
    pub revision: i64,
    pub created: bool,
    pub canceled: bool,
    /// The revision at which a cancelled watcher may begin again, if its cursor was compacted; otherwise 0.
    pub compact_revision: i64,
    pub cancel_reason: Cow<'static, str>,
    /// More fragments of this response follow.
    pub fragment: bool,
    pub events: Option<Events>,
    /// The watcher asked for large responses in fragments.
    pub(super) may_fragment: bool,
}

impl Response {
    /// The number of bytes of the whole response.
    pub fn encoded_len(&self, header: &Header) -> usize {
        wire::field_len(self.header_len(header))
            + wire::int_len(self.watch_id as u64)
            + wire::int_len(u64::from(self.created))
            + wire::int_len(u64::from(self.canceled))
            + wire::int_len(self.compact_revision as u64)
            + if self.cancel_reason.is_empty() { 0 } else { wire::field_len(self.cancel_reason.len()) }
            + wire::int_len(u64::from(self.fragment))
            + self.events.as_ref().map_or(0, Events::encoded_len)
    }

    /// Appends the whole response. Large responses should be sent in [`Response::pieces`].
    pub fn encode(&self, header: &Header, out: &mut BytesMut) {
        out.reserve(self.encoded_len(header));
        self.put_head(header, out);
        if let Some(events) = &self.events {
            events.clone().drain_into(out, usize::MAX);
        }
    }

    /// The bytes of the response in pieces of about [`PIECE_BYTES`]; joined, they are the bytes that `encode` appends.
    pub fn pieces(self, header: &Header) -> Pieces {
        let mut head = BytesMut::new();
        self.put_head(header, &mut head);
        Pieces { head: Some(head), events: self.events }
    }

    fn header_len(&self, header: &Header) -> usize {
        wire::int_len(header.cluster_id)
            + wire::int_len(header.member_id)
            + wire::int_len(self.revision as u64)
            + wire::int_len(header.raft_term)
    }

    /// Appends all fields except the events, which have the highest number and come last.
    fn put_head(&self, header: &Header, out: &mut BytesMut) {
        wire::put_len(out, HEADER, self.header_len(header));
        wire::put_int(out, CLUSTER_ID, header.cluster_id);
        wire::put_int(out, MEMBER_ID, header.member_id);
        wire::put_int(out, REVISION, self.revision as u64);
        wire::put_int(out, RAFT_TERM, header.raft_term);
        wire::put_int(out, WATCH_ID, self.watch_id as u64);
        wire::put_int(out, CREATED, u64::from(self.created));
        wire::put_int(out, CANCELED, u64::from(self.canceled));
        wire::put_int(out, COMPACT_REVISION, self.compact_revision as u64);
        if !self.cancel_reason.is_empty() {
            wire::put_len(out, CANCEL_REASON, self.cancel_reason.len());
            out.extend_from_slice(self.cancel_reason.as_bytes());
        }
        wire::put_int(out, FRAGMENT, u64::from(self.fragment));
    }

    /// Splits off the first fragment if the response is too large and its watcher asked for fragments: at `limit`
    /// bytes, and only if there are at least two events, as in etcd.
    pub(super) fn split_fragment(&mut self, limit: usize) -> Option<Self> {
        /// The largest header, watch id and flag together: six integers with their tags, and the tag of the header.
        const HEAD_LEN: usize = 6 * 11 + 2;
        let events = self.events.as_mut().filter(|events| self.may_fragment && events.count() > 1)?;
        if events.encoded_len() + HEAD_LEN < limit {
            return None;
        }
        let front = events.split_front(limit.saturating_sub(HEAD_LEN));
        if events.count() == 0 {
            *events = front;
            return None;
        }
        let (watch_id, revision) = (self.watch_id, self.revision);
        Some(Self { watch_id, revision, fragment: true, events: Some(front), ..Self::default() })
    }
}

/// The bytes of a response, piece by piece: see [`Response::pieces`].
#[derive(Debug)]
pub struct Pieces {
    head: Option<BytesMut>,
    events: Option<Events>,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let head = self.head.take();
        let mut out = match (head, &self.events) {
            (Some(head), _) => head,
            (None, Some(events)) if events.count() > 0 => {
                BytesMut::with_capacity(PIECE_BYTES.min(events.encoded_len()))
            }
            _ => return None,
        };
        if let Some(events) = &mut self.events {
            events.drain_into(&mut out, PIECE_BYTES);
        }
        Some(out.freeze())
    }
}
