//! Clients that write until the member has ended, each with a log of its acknowledged writes.
//!
//! Every client has keys of its own and makes one write at a time, so it knows the state to which its next
//! write applies. Whether the last, unanswered write of a client was applied is unknown; [`super::ledger`]
//! finds out from the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use metastore_tests::random::Random;
use tokio::sync::Notify;
use tonic::Status;

/// The number of clients that write at the same time.
const WRITERS: usize = 32;
/// The number of keys of each client.
const KEYS: usize = 4;
/// The largest size of a large value; one value in [`LARGE_ONE_IN`] is large. So a round of writes fills the buffer
/// that an engine collects in memory before it writes to disk, and a few rounds fill a log.
const LARGE_BYTES: usize = 400 << 10;
const LARGE_ONE_IN: usize = 2;
/// How long a write may take before it counts as hanging: longer than the server's own timeout.
const PATIENCE: Duration = Duration::from_secs(20);

/// A value of incompressible bytes, generated from a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    seed: u64,
    length: usize,
}

impl Value {
    /// A short value.
    pub fn of(seed: u64) -> Value {
        Value { seed, length: 20 }
    }

    pub fn bytes(self) -> Bytes {
        let mut random = Random::new(self.seed);
        let mut bytes = Vec::with_capacity(self.length + 8);
        while bytes.len() < self.length {
            bytes.extend_from_slice(&random.next_u64().to_le_bytes());
        }
        bytes.truncate(self.length);
        bytes.into()
    }
}

/// The change of one key by a write: a new value, or a delete for `None`.
pub type Change = (Bytes, Option<Value>);

/// A client and its log.
pub struct Writer {
    number: usize,
    random: Random,
    /// The keys of this client that exist, by slot.
    exists: [bool; KEYS],
    /// Acknowledged writes that have not been checked in the store yet, with their revisions.
    pub acknowledged: VecDeque<(i64, Vec<Change>)>,
    /// The write that has no answer yet.
    pub open: Option<Vec<Change>>,
    /// The error of the last write, if it was not acknowledged.
    pub ended: Option<Status>,
}

impl Writer {
    pub fn all(seed: u64) -> Vec<Writer> {
        let writer = |number| Writer {
            number,
            random: Random::new(seed.wrapping_add(number as u64)),
            exists: [false; KEYS],
            acknowledged: VecDeque::new(),
            open: None,
            ended: None,
        };
        (0..WRITERS).map(writer).collect()
    }

    /// The number of the client that owns a key.
    pub fn owner(key: &[u8]) -> Option<usize> {
        std::str::from_utf8(key).ok()?.strip_prefix("writer/")?.split('/').next()?.parse().ok()
    }

    fn key(&self, slot: usize) -> Bytes {
        format!("writer/{:02}/{slot}", self.number).into()
    }

    /// Records an applied write.
    pub fn applied(&mut self, changes: &[Change]) {
        for slot in 0..KEYS {
            let key = self.key(slot);
            if let Some((_, value)) = changes.iter().find(|(changed, _)| *changed == key) {
                self.exists[slot] = value.is_some();
            }
        }
    }

    /// A put, a delete of an existing key, or several of both.
    fn next(&mut self) -> Vec<Change> {
        let count = self.random.weighted(&[(6, 1), (1, 2), (1, 3)]);
        let first = self.random.below(KEYS);
        let slots = (first..first + count).map(|slot| slot % KEYS);
        slots
            .map(|slot| {
                if self.exists[slot] && self.random.one_in(8) {
                    return (self.key(slot), None);
                }
                let large = count == 1 && self.random.one_in(LARGE_ONE_IN);
                let length = self.random.below(if large { LARGE_BYTES } else { 300 });
                (self.key(slot), Some(Value { seed: self.random.next_u64(), length }))
            })
            .collect()
    }

    /// Writes until a write is not acknowledged, or `done` returns true for the number of acknowledged writes.
    async fn write(mut self, client: Client, count: Arc<AtomicUsize>, done: impl Fn(usize) -> bool) -> Writer {
        loop {
            let changes = self.next();
            self.open = Some(changes.clone());
            match send(&client, &changes).await {
                Ok(revision) => {
                    self.open = None;
                    self.applied(&changes);
                    self.acknowledged.push_back((revision, changes));
                }
                Err(status) => {
                    self.ended = Some(status);
                    return self;
                }
            }
            if done(count.fetch_add(1, Ordering::Relaxed)) {
                return self;
            }
        }
    }
}

/// Makes one write, and returns its revision.
async fn send(client: &Client, changes: &[Change]) -> Result<i64, Status> {
    let header = async {
        match changes {
            [(key, Some(value))] => client.unary(paths::PUT, put(key, *value)).await.map(|put: PutResponse| put.header),
            [(key, None)] => {
                client.unary(paths::DELETE_RANGE, delete(key)).await.map(|delete: DeleteRangeResponse| delete.header)
            }
            changes => client.unary(paths::TXN, transaction(changes)).await.map(|txn: TxnResponse| txn.header),
        }
    };
    let answer = tokio::time::timeout(PATIENCE, header).await;
    let header = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(HANGS)))?;
    Ok(header.unwrap_or_default().revision)
}

/// The error of a write that is neither acknowledged nor refused in time.
const HANGS: &str = "the server neither acknowledged nor refused this write";

fn put(key: &Bytes, value: Value) -> PutRequest {
    PutRequest { key: key.clone(), value: value.bytes(), ..PutRequest::default() }
}

fn delete(key: &Bytes) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() }
}

fn transaction(changes: &[Change]) -> TxnRequest {
    let request = |(key, value): &Change| match value {
        Some(value) => Request::RequestPut(put(key, *value)),
        None => Request::RequestDeleteRange(delete(key)),
    };
    let success = changes.iter().map(|change| RequestOp { request: Some(request(change)) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

/// Lets all clients write until `enough` writes are acknowledged, and then calls `end` while they go on. They stop only
/// at their first write that is not acknowledged.
pub async fn write_until(address: &str, writers: Vec<Writer>, enough: usize, end: impl FnOnce()) -> Vec<Writer> {
    let (reached, count) = (Arc::new(Notify::new()), Arc::<AtomicUsize>::default());
    let client = Client::of_one_connection(address);
    let tasks: Vec<_> = writers
        .into_iter()
        .map(|writer| {
            let reached = reached.clone();
            let tell = move |acknowledged| {
                if acknowledged == enough {
                    reached.notify_one();
                }
                false
            };
            tokio::spawn(writer.write(client.clone(), count.clone(), tell))
        })
        .collect();
    reached.notified().await;
    end();
    join(tasks).await
}

/// Lets all clients write until `enough` writes are acknowledged, or until each client was refused.
pub async fn write_some(address: &str, writers: Vec<Writer>, enough: usize) -> Vec<Writer> {
    let count = Arc::<AtomicUsize>::default();
    let client = Client::of_one_connection(address);
    let done = move |acknowledged| acknowledged + WRITERS > enough;
    let tasks = writers.into_iter().map(|writer| tokio::spawn(writer.write(client.clone(), count.clone(), done)));
    join(tasks.collect()).await
}

async fn join(tasks: Vec<tokio::task::JoinHandle<Writer>>) -> Vec<Writer> {
    let mut writers = Vec::new();
    for task in tasks {
        writers.push(task.await.expect("a writer does not panic"));
    }
    writers
}
