//! The expected contents of the store, computed from the clients' logs, and compared with the actual contents.
//!
//! After each restart of the member the ledger reads all events since its last check. Each must be the next write
//! of the client that owns the key. Either that write was acknowledged, at the revision of its answer, or it is
//! the client's one unanswered write. So no acknowledged write may be missing, no write may be there twice, and
//! each revision belongs to a write. Everything that a client can see is then computed: versions, revisions, and
//! HashKV as etcd defines it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::{Event, KeyValue, event::EventType};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use metastore_tests::watch::{WatchStream, everything_from};
use tonic::Status;

use super::writers::{Change, Value, Writer, write_some, write_until};

/// How long the member may take to send the next events.
const PATIENCE: Duration = Duration::from_secs(20);

/// One version of a key.
#[derive(Clone, Debug)]
struct Version {
    key: Bytes,
    /// `None` is a tombstone.
    value: Option<Value>,
    created: i64,
    number: i64,
}

/// The writers, and the state on which they and the store agreed at the last check.
pub struct Ledger {
    writers: Vec<Writer>,
    /// The number of writes in the store that their clients did not see acknowledged.
    pub unacknowledged: usize,
    revision: i64,
    /// The range of possible compacted revisions: the last known one, and the one requested since.
    compacted: (i64, i64),
    versions: BTreeMap<(i64, i64), Version>,
    newest: BTreeMap<Bytes, (i64, i64)>,
}

impl Ledger {
    pub fn new(seed: u64) -> Ledger {
        let (versions, newest) = Default::default();
        Ledger { writers: Writer::all(seed), unacknowledged: 0, revision: 1, compacted: (-1, -1), versions, newest }
    }

    /// Lets the clients write until `enough` writes are acknowledged, and then calls `end`. Returns the errors with
    /// which the clients ended.
    pub async fn write_until(&mut self, address: &str, enough: usize, end: impl FnOnce()) -> Vec<Status> {
        let writers = std::mem::take(&mut self.writers);
        let load = write_until(address, writers, enough, end);
        self.writers = tokio::join!(load, self.compact(address)).0;
        self.refused()
    }

    /// Lets the clients write `enough` times, or until the member refuses. Returns the errors of the refused clients.
    pub async fn write_some(&mut self, address: &str, enough: usize) -> Vec<Status> {
        let writers = std::mem::take(&mut self.writers);
        let load = write_some(address, writers, enough);
        self.writers = tokio::join!(load, self.compact(address)).0;
        self.refused()
    }

    /// The errors of the refused clients.
    fn refused(&mut self) -> Vec<Status> {
        self.writers.iter_mut().filter_map(|writer| writer.ended.take()).collect()
    }

    /// Compacts up to the last check, during the writes. The compaction may not be done when the member ends.
    async fn compact(&mut self, address: &str) {
        if self.revision > self.compacted.0.max(1) {
            let request = CompactionRequest { revision: self.revision, physical: false };
            let done = Client::new(address).unary::<_, CompactionResponse>(paths::COMPACT, request).await;
            self.compacted.1 = self.revision;
            if done.is_ok() {
                self.compacted.0 = self.revision;
            }
        }
    }

    /// Compares the store with the logs, and learns whether the unanswered writes were applied. The error
    /// describes the difference.
    pub async fn check(&mut self, address: &str) -> Result<(), String> {
        let client = Client::new(address);
        let everything = Bytes::from_static(b"\0");
        let range = RangeRequest { key: everything.clone(), range_end: everything, ..RangeRequest::default() };
        let range: RangeResponse = client.unary(paths::RANGE, range).await.map_err(|status| status.to_string())?;
        let revision = range.header.unwrap_or_default().revision;
        let hash = HashKvRequest { revision };
        let hash: HashKvResponse = client.unary(paths::HASH_KV, hash).await.map_err(|status| status.to_string())?;
        if ![self.compacted.0, self.compacted.1].contains(&hash.compact_revision) {
            return Err(format!("compacted at {}, not at one of {:?}", hash.compact_revision, self.compacted));
        }
        self.compacted = (hash.compact_revision, hash.compact_revision);
        if revision < self.revision {
            return Err(format!("the store is at revision {revision}; it was at {}", self.revision));
        }
        self.read_events(&client, revision).await?;
        self.settle()?;
        self.forget_compacted();
        let expected: Vec<KeyValue> = self.newest.values().filter_map(|at| self.row(*at).1).collect();
        if range.kvs != expected {
            return Err(format!("a list of all keys differs:\n  {:.2000?}\n  {:.2000?}", range.kvs, expected));
        }
        let expected = self.hash();
        (hash.hash == expected).then_some(()).ok_or(format!("HashKV is {}, not {expected}", hash.hash))
    }

    /// Assigns all events up to `revision` to the writers that made them.
    async fn read_events(&mut self, client: &Client, revision: i64) -> Result<(), String> {
        let first = self.revision + 1;
        if first > revision {
            return Ok(());
        }
        let mut watch = WatchStream::open(client, everything_from(first)).await.map_err(|status| status.to_string())?;
        while self.revision < revision {
            let answer = watch.next(PATIENCE).await.map_err(|status| status.to_string())?;
            let answer = answer.ok_or(format!("no events after {} within {PATIENCE:?}", self.revision))?;
            if answer.canceled {
                return Err(format!("the watch from {first} on was canceled: {answer:?}"));
            }
            for events in answer.events.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
                self.take(events)?;
            }
        }
        Ok(())
    }

    /// Checks one revision: it must be the next write of some client.
    fn take(&mut self, events: &[Event]) -> Result<(), String> {
        let revision = revision_of(&events[0]);
        if revision != self.revision + 1 {
            return Err(format!("revision {} is followed by {revision}", self.revision));
        }
        let owner = events[0].kv.as_ref().and_then(|kv| Writer::owner(&kv.key));
        let writer = owner.and_then(|number| self.writers.get_mut(number));
        let writer = writer.ok_or_else(|| format!("nobody wrote {:?}", events[0]))?;
        let changes = match writer.acknowledged.pop_front() {
            Some((told, _)) if told != revision => {
                return Err(format!("a write that was acknowledged at revision {told} is at {revision}"));
            }
            Some((_, changes)) => changes,
            None => {
                let changes = writer.open.take().ok_or(format!("nobody made the write at revision {revision}"))?;
                writer.applied(&changes);
                self.unacknowledged += 1;
                changes
            }
        };
        self.revision = revision;
        for (sub, change) in changes.iter().enumerate() {
            self.apply((revision, sub as i64), change);
            let expected = self.row((revision, sub as i64)).1;
            let shown = events.get(sub).map(|event| (event.r#type, event.kv.as_ref()));
            let same = match (shown, &expected) {
                (Some((kind, kv)), Some(expected)) => kind == EventType::Put as i32 && kv == Some(expected),
                (Some((kind, Some(kv))), None) => kind == EventType::Delete as i32 && kv.key == change.0,
                _ => false,
            };
            if !same || events.len() != changes.len() {
                return Err(format!(
                    "revision {revision} is\n  {shown:.2000?}, not\n  {expected:.2000?} of {changes:?}"
                ));
            }
        }
        Ok(())
    }

    fn apply(&mut self, at: (i64, i64), (key, value): &Change) {
        let before = self.newest.get(key).map(|at| &self.versions[at]).filter(|version| version.value.is_some());
        let (created, number) = before.map_or((at.0, 0), |version| (version.created, version.number));
        let version = Version { key: key.clone(), value: *value, created, number: number + 1 };
        self.versions.insert(at, version);
        self.newest.insert(key.clone(), at);
    }

    /// No acknowledged write may be left over. The remaining unanswered writes were not applied.
    fn settle(&mut self) -> Result<(), String> {
        for writer in &mut self.writers {
            if let Some((told, changes)) = writer.acknowledged.front() {
                let lost = writer.acknowledged.len();
                return Err(format!("{lost} acknowledged writes of one client are lost, from {told} on: {changes:?}"));
            }
            writer.open = None;
        }
        Ok(())
    }

    /// Forgets versions that no longer appear in any answer.
    fn forget_compacted(&mut self) {
        let (compacted, newest) = (self.compacted.0, &self.newest);
        self.versions.retain(|at, version| at.0 > compacted || newest[&version.key] == *at);
    }

    /// The row of a version as etcd stores it; `None` for a deleted one.
    fn row(&self, at: (i64, i64)) -> (Vec<u8>, Option<KeyValue>) {
        let Version { key, value, created, number } = self.versions[&at].clone();
        let Some(value) = value else {
            return (KeyValue { key, ..KeyValue::default() }.encode_to_vec(), None);
        };
        let (create_revision, mod_revision, version) = (created, at.0, number);
        let row = KeyValue { key, create_revision, mod_revision, version, value: value.bytes(), lease: 0 };
        (row.encode_to_vec(), Some(row))
    }

    /// HashKV at the current revision, as etcd's `mvcc/hash.go` computes it. At and below the compacted revision only
    /// the newest version of a live key counts.
    fn hash(&self) -> u32 {
        let mut hash = crc32c::crc32c(b"key");
        for (at, version) in &self.versions {
            if at.0 <= self.compacted.0 && version.value.is_none() {
                continue;
            }
            let mut key = [&at.0.to_be_bytes()[..], b"_", &at.1.to_be_bytes()].concat();
            key.extend(version.value.is_none().then_some(b't'));
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &self.row(*at).0);
        }
        hash
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, revision: i64, version: i64, seed: u64) -> Event {
        let value = Value::of(seed).bytes();
        let kv = KeyValue {
            key: key.to_string().into(),
            create_revision: revision + 1 - version,
            mod_revision: revision,
            version,
            value,
            lease: 0,
        };
        Event { kv: Some(kv), ..Event::default() }
    }

    /// A ledger whose first client has two acknowledged writes, at revisions 2 and 3, and an open one.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(1);
        let change = |seed| vec![("writer/00/0".into(), Some(Value::of(seed)))];
        ledger.writers[0].acknowledged.extend([(2, change(1)), (3, change(2))]);
        ledger.writers[0].open = Some(change(3));
        ledger
    }

    fn judge(events: &[Event]) -> Result<(), String> {
        let mut ledger = ledger();
        events.iter().try_for_each(|event| ledger.take(std::slice::from_ref(event)))?;
        ledger.settle()
    }

    #[test]
    fn good_histories_are_accepted() {
        let [first, second] = [put("writer/00/0", 2, 1, 1), put("writer/00/0", 3, 2, 2)];
        assert_eq!(judge(&[first.clone(), second.clone()]), Ok(()));
        assert_eq!(judge(&[first, second, put("writer/00/0", 4, 3, 3)]), Ok(()));
    }

    #[test]
    fn bad_histories_are_rejected() {
        let [first, second, open] =
            [put("writer/00/0", 2, 1, 1), put("writer/00/0", 3, 2, 2), put("writer/00/0", 4, 3, 3)];
        let histories = [
            ("an acknowledged write is lost", vec![first.clone()]),
            ("one before another is lost", vec![put("writer/00/0", 2, 1, 2)]),
            ("a revision is skipped", vec![put("writer/00/0", 3, 1, 1)]),
            ("a write is applied twice", vec![first.clone(), put("writer/00/0", 3, 2, 1)]),
            ("the open one is applied twice", vec![first.clone(), second.clone(), open, put("writer/00/0", 5, 4, 3)]),
            ("a value is another's", vec![first.clone(), put("writer/00/0", 3, 2, 9)]),
            ("a version is wrong", vec![first.clone(), put("writer/00/0", 3, 3, 2)]),
            ("a key is another's", vec![first.clone(), put("writer/01/0", 3, 1, 2)]),
            ("a write is a delete", vec![first, Event { r#type: EventType::Delete as i32, ..second }]),
        ];
        for (name, history) in histories {
            assert!(judge(&history).is_err(), "accepted: {name}");
        }
    }
}
