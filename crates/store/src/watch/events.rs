//! Events of responses: encoded once if they are small, encoded from the shared rows during sending if they are large.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use metastore_engine::Version;

use super::{Change, ENCODE_ONCE_BYTES};
use metastore_proto::wire;

/// Tag of `WatchResponse.events` (field 11, length-delimited).
const EVENT: u8 = 0x5a;
/// Tags inside `Event` and of `KeyValue.mod_revision`.
const TYPE: u8 = 0x08;
const KV: u8 = 0x12;
const PREV_KV: u8 = 0x1a;
const MOD_REVISION: u8 = 0x18;
const DELETE: u64 = 1;

/// The events of a response: a part of a list that many responses share.
#[derive(Clone, Debug)]
pub struct Events {
    shared: Arc<EventForm>,
    /// The bounds of the part: byte positions in `Encoded`, indexes in `Rows`.
    from: usize,
    to: usize,
    count: usize,
    encoded_len: usize,
}

#[derive(Debug)]
enum EventForm {
    Encoded(Bytes),
    Rows(Vec<Change>),
}

impl Events {
    /// Events for `changes`, in this order.
    pub(super) fn new(changes: Vec<Change>) -> Self {
        let count = changes.len();
        let encoded_len = changes.iter().map(field_len).sum();
        if encoded_len > ENCODE_ONCE_BYTES {
            return Self { shared: Arc::new(EventForm::Rows(changes)), from: 0, to: count, count, encoded_len };
        }
        let mut out = BytesMut::with_capacity(encoded_len);
        changes.iter().for_each(|change| put(&mut out, change));
        Self { shared: Arc::new(EventForm::Encoded(out.freeze())), from: 0, to: encoded_len, count, encoded_len }
    }

    /// The number of events; never zero in a queued response.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The number of bytes that the events take in a `WatchResponse`, tags included.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// Splits off the first events: as many as fit into `max_len` bytes, but at least one.
    pub(super) fn split_front(&mut self, max_len: usize) -> Self {
        let mut front = Self { count: 0, encoded_len: 0, to: self.from, ..self.clone() };
        while front.count < self.count {
            let (len, step) = self.event_at(front.to);
            if front.count > 0 && front.encoded_len + len >= max_len {
                break;
            }
            front.count += 1;
            front.encoded_len += len;
            front.to += step;
        }
        self.from = front.to;
        self.count -= front.count;
        self.encoded_len -= front.encoded_len;
        front
    }

    /// Moves events from the front to `out` until `out` holds `limit` bytes. The last event may exceed the limit.
    pub(super) fn drain_into(&mut self, out: &mut BytesMut, limit: usize) {
        match &*self.shared {
            EventForm::Encoded(bytes) => {
                out.extend_from_slice(&bytes[self.from..self.to]);
                (self.from, self.count, self.encoded_len) = (self.to, 0, 0);
            }
            EventForm::Rows(changes) => {
                for change in &changes[self.from..self.to] {
                    if out.len() >= limit {
                        return;
                    }
                    put(out, change);
                    self.from += 1;
                    self.count -= 1;
                    self.encoded_len -= field_len(change);
                }
            }
        }
    }

    /// The number of bytes of the event at a position, and the distance to the next position.
    fn event_at(&self, position: usize) -> (usize, usize) {
        match &*self.shared {
            EventForm::Encoded(bytes) => {
                let (len, at) = wire::read_varint(&bytes[position + 1..]).expect("events are encoded here");
                let len = 1 + at + len as usize;
                (len, len)
            }
            EventForm::Rows(changes) => (field_len(&changes[position]), 1),
        }
    }
}

/// The number of bytes of the key's new state in an event. The row of a tombstone holds only the key; the event adds
/// the revision.
fn kv_len(version: &Version) -> usize {
    version.row.len() + if version.tombstone { wire::int_len(version.revision.main as u64) } else { 0 }
}

fn event_len(change: &Change) -> usize {
    let kind = if change.version.tombstone { wire::int_len(DELETE) } else { 0 };
    let previous = change.previous.as_ref().map_or(0, |row| wire::field_len(row.len()));
    kind + wire::field_len(kv_len(&change.version)) + previous
}

fn field_len(change: &Change) -> usize {
    wire::field_len(event_len(change))
}

/// Appends an event as an element of field 11: fields in order of their numbers, defaults omitted.
fn put(out: &mut BytesMut, change: &Change) {
    let Change { version, previous } = change;
    wire::put_len(out, EVENT, event_len(change));
    if version.tombstone {
        wire::put_int(out, TYPE, DELETE);
    }
    wire::put_len(out, KV, kv_len(version));
    out.extend_from_slice(&version.row);
    if version.tombstone {
        wire::put_int(out, MOD_REVISION, version.revision.main as u64);
    }
    if let Some(row) = previous {
        wire::put_len(out, PREV_KV, row.len());
        out.extend_from_slice(row);
    }
}

#[cfg(test)]
impl Events {
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}
