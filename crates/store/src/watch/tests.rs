//! Tests of the hub through its public methods, against a store that is a plain list.

mod catching_up;
mod model;
mod requests;
mod wire_format;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use metastore_engine::{Result, Revision, Row, Version};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::WatchResponse;
use metastore_proto::mvccpb::{Event, KeyValue};

use super::{Change, Header, HistorySource, Hub, Limits, Response, RevisionEvents, StreamId, WatchSpec};

/// One operation of a test's transaction.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

/// The store may return fewer rows than requested.
const MOST_ROWS_OF_A_READ: usize = 7;

/// A store that keeps every version in a list.
#[derive(Default)]
pub(super) struct NaiveStore {
    state: Mutex<State>,
}

struct State {
    versions: Vec<Version>,
    live: BTreeMap<Vec<u8>, KeyValue>,
    revision: i64,
    compacted: i64,
    /// A compaction at this revision happens directly after the next read of history.
    compact_after_read: Option<i64>,
}

impl Default for State {
    fn default() -> Self {
        Self { versions: Vec::new(), live: BTreeMap::new(), revision: 1, compacted: 0, compact_after_read: None }
    }
}

fn row(kv: &KeyValue) -> Row {
    kv.encode_to_vec().into()
}

impl NaiveStore {
    /// Applies operations as one revision; `None` if they change nothing.
    pub(super) fn apply(&self, ops: &[Op]) -> Option<Arc<RevisionEvents>> {
        let state = &mut *self.state.lock().unwrap();
        let main = state.revision + 1;
        let mut changes = Vec::new();
        for op in ops {
            let key = match op {
                Op::Put(key, _) | Op::Delete(key) => key.clone(),
            };
            let before = state.live.remove(&key);
            let (tombstone, kv) = match op {
                Op::Put(_, value) => (false, put_of(&key, value, before.as_ref(), main)),
                Op::Delete(_) if before.is_none() => continue,
                Op::Delete(_) => (true, KeyValue { key: key.clone().into(), ..KeyValue::default() }),
            };
            let revision = Revision::new(main, changes.len() as i64);
            let version = Version { revision, tombstone, row: row(&kv) };
            if !tombstone {
                state.live.insert(key, kv);
            }
            state.versions.push(version.clone());
            changes.push(Change { version, previous: before.as_ref().map(row) });
        }
        if changes.is_empty() {
            return None;
        }
        state.revision = main;
        Some(Arc::new(RevisionEvents { revision: main, changes }))
    }

    pub(super) fn put(&self, key: &str, value: &str) -> Arc<RevisionEvents> {
        self.apply(&[Op::Put(key.into(), value.into())]).expect("a put changes something")
    }

    pub(super) fn delete(&self, key: &str) -> Arc<RevisionEvents> {
        self.apply(&[Op::Delete(key.into())]).expect("the key is there")
    }

    /// Drops the versions that a compaction at `at` may drop, by the engine's rule.
    pub(super) fn compact(&self, at: i64) {
        self.state.lock().unwrap().compact(at);
    }

    /// Compacts after the next read of history: between two reads of one step.
    pub(super) fn compact_after_read(&self, at: i64) {
        self.state.lock().unwrap().compact_after_read = Some(at);
    }
}

impl State {
    fn compact(&mut self, at: i64) {
        let state = self;
        state.compacted = state.compacted.max(at);
        let mut newest = BTreeMap::new();
        for (i, version) in state.versions.iter().enumerate() {
            if version.revision.main <= at {
                newest.insert(crate::mvcc::row::key_of(&version.row).to_vec(), i);
            }
        }
        let keep = |i: usize, version: &Version| {
            let main = version.revision.main;
            let is_newest = newest.get(crate::mvcc::row::key_of(&version.row)) == Some(&i);
            main > at || (is_newest && (!version.tombstone || main == at))
        };
        let kept = state.versions.iter().enumerate().filter(|(i, version)| keep(*i, version));
        state.versions = kept.map(|(_, version)| version.clone()).collect();
    }
}

fn put_of(key: &[u8], value: &[u8], before: Option<&KeyValue>, main: i64) -> KeyValue {
    KeyValue {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
        create_revision: before.map_or(main, |kv| kv.create_revision),
        mod_revision: main,
        version: before.map_or(0, |kv| kv.version) + 1,
        lease: 0,
    }
}

impl HistorySource for NaiveStore {
    fn current_revision(&self) -> i64 {
        self.state.lock().unwrap().revision
    }

    fn compact_revision(&self) -> i64 {
        self.state.lock().unwrap().compacted
    }

    fn history(&self, from: Revision, to: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        let state = &mut *self.state.lock().unwrap();
        let begin = state.versions.partition_point(|version| version.revision < from);
        let mut wanted = state.versions[begin..].iter().filter(|version| version.revision.main <= to);
        rows.extend(wanted.by_ref().take(limit.min(MOST_ROWS_OF_A_READ)).cloned());
        let next = wanted.next().map(|version| version.revision);
        if let Some(at) = state.compact_after_read.take() {
            state.compact(at);
        }
        Ok(next)
    }

    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Row>> {
        let state = self.state.lock().unwrap();
        if main < state.compacted {
            return Ok(None);
        }
        let of_key =
            |version: &&Version| crate::mvcc::row::key_of(&version.row) == key && version.revision.main <= main;
        let newest = state.versions.iter().rev().find(of_key);
        Ok(newest.filter(|version| !version.tombstone).map(|version| version.row.clone()))
    }
}

pub(super) const HEADER: Header = Header { cluster_id: u64::MAX, member_id: 7, raft_term: 3 };

/// The response as a client decodes it; also checks that all ways to encode it agree.
pub(super) fn decode(response: Response) -> WatchResponse {
    let mut whole = BytesMut::new();
    response.encode(&HEADER, &mut whole);
    assert_eq!(whole.len(), response.encoded_len(&HEADER), "length of {response:?}");
    let pieces: Vec<_> = response.pieces(&HEADER).collect();
    assert_eq!(pieces.concat(), whole, "pieces are the whole");
    let decoded = WatchResponse::decode(&whole[..]).expect("a client can decode it");
    assert_eq!(decoded.encode_to_vec(), whole, "canonical encoding");
    decoded
}

/// A hub, its store, and one stream.
pub(super) struct Fixture {
    pub(super) store: Arc<NaiveStore>,
    pub(super) hub: Hub,
    pub(super) stream: StreamId,
}

impl Fixture {
    pub(super) fn new(limits: Limits) -> Self {
        let store = Arc::new(NaiveStore::default());
        let mut hub = Hub::new(store.clone(), limits);
        let stream = hub.open_stream(0);
        Self { store, hub, stream }
    }

    /// Writes a key, and publishes the revision to the hub.
    pub(super) fn put(&mut self, key: &str, value: &str) {
        let events = self.store.put(key, value);
        self.hub.publish(&events);
    }

    pub(super) fn delete(&mut self, key: &str) {
        let events = self.store.delete(key);
        self.hub.publish(&events);
    }

    pub(super) fn create(&mut self, spec: WatchSpec<'_>) {
        self.hub.create(self.stream, &spec);
    }

    /// Catches up as far as possible without taking any response.
    pub(super) fn catch_up(&mut self) {
        while self.hub.catch_up().unwrap() {}
    }

    /// Takes all responses in the stream's queue.
    pub(super) fn take(&mut self) -> Vec<WatchResponse> {
        std::iter::from_fn(|| self.hub.take(self.stream)).map(decode).collect()
    }

    /// Takes responses and catches up until nothing more comes.
    pub(super) fn drain(&mut self) -> Vec<WatchResponse> {
        let mut taken = Vec::new();
        loop {
            self.catch_up();
            let more = self.take();
            if more.is_empty() {
                return taken;
            }
            taken.extend(more);
        }
    }
}

pub(super) fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().expect("every response has a header").revision
}

/// Events as short text: `put k=v@rev` or `del k@rev`, followed by ` prev=v` if there is a previous value.
pub(super) fn text(events: &[Event]) -> Vec<String> {
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |event: &Event| {
        let kv = event.kv.as_ref().expect("every event has a key");
        let key = string(&kv.key);
        let what = match event.r#type {
            0 => format!("put {key}={}@{}", string(&kv.value), kv.mod_revision),
            _ => format!("del {key}@{}", kv.mod_revision),
        };
        match &event.prev_kv {
            Some(previous) => format!("{what} prev={}", string(&previous.value)),
            None => what,
        }
    };
    events.iter().map(one).collect()
}
