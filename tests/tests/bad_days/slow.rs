//! Watchers that do not read their answers.

use std::time::Duration;

use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{WatchRequest, WatchResponse};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::observe::memory_kib;
use super::{OPS_PER_TXN, block_on, load, put_request, subject, watch_prefix};

const EVENTS: usize = 200_000;
/// The number of keys that the events change.
const KEYS: usize = 1000;
const WATCHERS: usize = 4;
/// The memory that the four watchers may take while they do not read, and while they catch up: windows
/// and pieces of history.
const ALLOWED_KIB: u64 = 48 * 1024;
/// The same with RocksDB. Its peak of unflushed data in memory differs by some 50 MiB from run to run, depending on the
/// moments at which its threads flush.
const ALLOWED_KIB_ROCKSDB: u64 = ALLOWED_KIB + 80 * 1024;
/// The length of a value. The state with all events takes several times the memory of a new process, and events encoded
/// for four watchers would take four times that.
const VALUE_BYTES: usize = 500;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A watcher whose answers stay on the connection until the test reads them.
struct Lazy {
    answers: Streaming<WatchResponse>,
    _requests: UnboundedSender<WatchRequest>,
}

impl Lazy {
    async fn open(address: &str) -> Lazy {
        let (requests, outgoing) = unbounded_channel();
        let create = RequestUnion::CreateRequest(watch_prefix("slow/"));
        requests.send(WatchRequest { request_union: Some(create) }).expect("the receiver is alive");
        // A connection of its own: its unread answers must not block others.
        let client = Client::new(address);
        let incoming = client.bidirectional(paths::WATCH, UnboundedReceiverStream::new(outgoing)).await;
        let mut lazy = Lazy { answers: incoming.expect("a watch opens"), _requests: requests };
        assert!(lazy.next().await.created);
        lazy
    }

    async fn next(&mut self) -> WatchResponse {
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("an answer in time");
        answer.expect("the stream lives").expect("the stream goes on")
    }

    /// Reads all events, and expects each one once and in order: the values count up.
    async fn read_all(&mut self) {
        let (mut next, mut revision) = (0, 0);
        while next < EVENTS {
            for event in self.next().await.events {
                let kv = event.kv.expect("an event has a key");
                let number: usize = std::str::from_utf8(&kv.value).expect("digits").parse().expect("digits");
                let expected = (key(next), next);
                assert_eq!((String::from_utf8_lossy(&kv.key).into_owned(), number), expected);
                assert!(kv.mod_revision >= revision, "{} after {revision}", kv.mod_revision);
                revision = kv.mod_revision;
                next += 1;
            }
        }
    }
}

each_engine!(a_watcher_that_never_reads_costs_little_and_misses_nothing);

/// Compares the peak of the server's memory with the events alone to the peak with watchers that do not read them
/// while they are written.
fn a_watcher_that_never_reads_costs_little_and_misses_nothing(engine: EngineKind) {
    let Some(subject) = subject("slow watcher", engine) else { return };
    let peak = [0, WATCHERS].map(|watchers| {
        // A small block cache, because its memory is not the subject here.
        let cache = (engine == EngineKind::RocksDb).then_some("--rocksdb-block-cache-bytes=8388608");
        let member = Member::start(&subject, cache.as_slice());
        block_on(async {
            let mut lazy = Vec::new();
            for _ in 0..watchers {
                lazy.push(Lazy::open(member.client_address()).await);
            }
            write(&Client::new(member.client_address())).await;
            for watcher in &mut lazy {
                watcher.read_all().await;
            }
        });
        memory_kib(member.pid()).1
    });
    println!(
        "slow watcher: {EVENTS} events take {} KiB at most, with {WATCHERS} that do not read {} KiB",
        peak[0], peak[1]
    );
    // If the events were kept in encoded form for each watcher, they would take four times their size: 400 MiB.
    let allowed = if engine == EngineKind::RocksDb { ALLOWED_KIB_ROCKSDB } else { ALLOWED_KIB };
    assert!(peak[1] < peak[0] + allowed, "{peak:?} KiB");
}

/// Writes all events, in the order of their numbers: one transaction after the other.
async fn write(client: &Client) {
    for first in (0..EVENTS).step_by(OPS_PER_TXN) {
        let put = |number: usize| put_request(&key(first + number), &format!("{:0VALUE_BYTES$}", first + number));
        load(client, OPS_PER_TXN.min(EVENTS - first), put).await.expect("events are written");
    }
}

fn key(number: usize) -> String {
    format!("slow/{:04}", number % KEYS)
}
