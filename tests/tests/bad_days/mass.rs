//! One command that changes very many keys, while other clients put one key at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::event::EventType;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;
use metastore_tests::watch::WatchStream;

use super::observe::{eventually, forget_peak, memory_kib};
use super::{block_on, end_of, load, put_request, subject, watch_prefix};

const LEASE: i64 = 4711;
const LEASED_KEYS: usize = 100_000;
/// The number of keys of the large DeleteRange; with the variable `SOAK` it is [`SOAK_KEYS`].
const DELETED_KEYS: usize = 200_000;
const SOAK_KEYS: usize = 1_000_000;
const WRITERS: usize = 8;
/// The limit for the 99th percentile of the writers' latency.
const P99_LIMIT: Duration = Duration::from_secs(1);
/// The memory that one deleted key may take. Its tombstone and index entry stay; its share of the command's result, of
/// the events and of the message to the watcher is temporary.
const KEY_BYTES: u64 = 600;
/// The same with RocksDB: one batch makes the deletes visible together, and RocksDB collects them in three orders
/// before it writes them to disk.
const KEY_BYTES_ROCKSDB: u64 = 1200;
/// The memory that may come on top, for the writers' own keys and the log.
const BASE_KIB: u64 = 64 * 1024;
/// How long the large command and its events may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of puts that are answered before the large command, and again after it. It is large enough that one or
/// two stalls of each writer do not determine the percentile, however slow the machine is.
const QUIET_PUTS: usize = 250 * WRITERS;

/// Clients that put one key at a time. Each checks that its key is unchanged since its last put.
struct Writers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, Duration)>>,
    count: Arc<AtomicUsize>,
}

impl Writers {
    fn start(address: &str) -> Writers {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        // A thread of their own: the time that other clients need for decoding must not count as latency of the server.
        let thread = {
            let (address, stop, count) = (address.to_string(), stop.clone(), Arc::clone(&count));
            std::thread::spawn(move || {
                block_on(async {
                    let writers: Vec<_> = (0..WRITERS)
                        .map(|number| tokio::spawn(write(address.clone(), number, stop.clone(), count.clone())))
                        .collect();
                    let mut all = Vec::new();
                    for writer in writers {
                        all.extend(writer.await.expect("a writer does not panic"));
                    }
                    all
                })
            })
        };
        Writers { stop, thread, count }
    }

    /// Waits until `puts` more puts are answered.
    fn wait_for(&self, puts: usize) {
        let wanted = self.count.load(Ordering::Relaxed) + puts;
        eventually("the writers go on", || self.count.load(Ordering::Relaxed) >= wanted);
    }

    fn stop(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writers do not panic")
    }
}

async fn write(
    address: String,
    number: usize,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Vec<(Instant, Duration)> {
    let client = Client::new(&address);
    let key = format!("writer/{number}");
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let before = took.len();
        let put = PutRequest { prev_kv: true, ..put_request(&key, &(before + 1).to_string()) };
        let began = Instant::now();
        let answer: PutResponse = client.unary(paths::PUT, put).await.expect("a Put is answered");
        took.push((began, began.elapsed()));
        count.fetch_add(1, Ordering::Relaxed);
        match answer.prev_kv {
            None => assert_eq!(before, 0, "{key} is gone"),
            Some(kv) => assert_eq!((kv.value, kv.version), (Bytes::from(before.to_string()), before as i64), "{key}"),
        }
    }
    took
}

/// Judges the latencies of the puts that were in flight at some time between `from` and `to`: 99th
/// percentile and longest.
fn judge(name: &str, puts: &[(Instant, Duration)], from: Instant, to: Instant) {
    let during = puts.iter().filter(|(began, took)| *began < to && *began + *took > from);
    let mut during: Vec<Duration> = during.map(|(_, took)| *took).collect();
    during.sort();
    assert!(!during.is_empty(), "nobody wrote during {name}");
    let p99 = during[during.len() * 99 / 100];
    let longest = during[during.len() - 1];
    println!("{name}: took {:?}; {} puts meanwhile, p99 {p99:?}, longest {longest:?}", to - from, during.len());
    assert!(p99 < P99_LIMIT, "{name}: p99 {p99:?}");
}

/// Runs `command` while writers and a watcher of `prefix` are active, and expects `keys` deletes in one revision.
fn amid_writers<F: Future<Output = i64>>(
    name: &str,
    (member, engine): (&Member, EngineKind),
    prefix: &str,
    keys: usize,
    command: impl FnOnce(Client) -> F,
) {
    let address = member.client_address();
    forget_peak(member.pid());
    let (before, _) = memory_kib(member.pid());
    let writers = Writers::start(address);
    writers.wait_for(QUIET_PUTS);
    let from = block_on(async {
        let mut watch = WatchStream::open(&Client::new(address), watch_prefix(prefix)).await.expect("a watch opens");
        watch.next(PATIENCE).await.expect("the stream lives").expect("created");
        let from = Instant::now();
        let revision = command(Client::new(address)).await;
        let answered = Instant::now();
        let events = watch.next(PATIENCE).await.expect("the stream lives").expect("the deletes arrive").events;
        assert_eq!(events.len(), keys, "{name}: in one answer");
        let right = |event: &metastore_proto::mvccpb::Event| {
            let kv = event.kv.as_ref().expect("an event has a key");
            event.r#type == EventType::Delete as i32
                && kv.mod_revision == revision
                && kv.key.starts_with(prefix.as_bytes())
        };
        assert!(events.iter().all(right), "{name}: every event is a delete at revision {revision}");
        let range = RangeRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: end_of(prefix),
            count_only: true,
            ..RangeRequest::default()
        };
        let left: RangeResponse = Client::new(address).unary(paths::RANGE, range).await.expect("Range is answered");
        assert_eq!(left.count, 0, "{name}");
        println!("{name}: answered after {:?}, seen by the watcher after {:?}", answered - from, from.elapsed());
        from
    });
    // Until normal operation is back: with fewer than a hundred puts per writer, one stall would
    // determine the percentile.
    writers.wait_for(QUIET_PUTS);
    judge(name, &writers.stop(), from, Instant::now());
    let (_, peak) = memory_kib(member.pid());
    let key_bytes = if engine == EngineKind::RocksDb { KEY_BYTES_ROCKSDB } else { KEY_BYTES };
    let allowed = before + BASE_KIB + keys as u64 * key_bytes / 1024;
    println!("{name}: {before} KiB before, at most {peak} KiB, {allowed} allowed");
    assert!(peak < allowed, "{name}: {peak} KiB, {before} before");
}

each_engine!(a_lease_with_100_000_keys_is_revoked_amid_writers, a_million_keys_are_deleted_amid_writers);

fn a_lease_with_100_000_keys_is_revoked_amid_writers(engine: EngineKind) {
    let Some(subject) = subject("large lease", engine) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        let grant = LeaseGrantRequest { ttl: 5000, id: LEASE };
        let _: LeaseGrantResponse = client.unary(paths::LEASE_GRANT, grant).await.expect("a lease is granted");
        let put = |number| PutRequest { lease: LEASE, ..put_request(&format!("leased/{number:07}"), "value") };
        load(&client, LEASED_KEYS, put).await.expect("keys are put");
    });
    amid_writers("revoke of 100,000 keys", (&member, engine), "leased/", LEASED_KEYS, async |client| {
        let revoke = LeaseRevokeRequest { id: LEASE };
        let answer: LeaseRevokeResponse = client.unary(paths::LEASE_REVOKE, revoke).await.expect("it is revoked");
        answer.header.expect("a header").revision
    });
}

fn a_million_keys_are_deleted_amid_writers(engine: EngineKind) {
    let Some(subject) = subject("large DeleteRange", engine) else { return };
    let keys = if std::env::var_os("SOAK").is_some() { SOAK_KEYS } else { DELETED_KEYS };
    let member = Member::start(&subject, &[]);
    let began = Instant::now();
    block_on(async {
        let client = Client::new(member.client_address());
        load(&client, keys, |number| put_request(&format!("many/{number:07}"), "value")).await.expect("keys are put");
    });
    println!("DeleteRange: {keys} keys loaded in {:?}", began.elapsed());
    amid_writers(&format!("DeleteRange of {keys} keys"), (&member, engine), "many/", keys, async |client| {
        let delete = DeleteRangeRequest { key: "many/".into(), range_end: end_of("many/"), prev_kv: false };
        let answer: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await.expect("they are deleted");
        assert_eq!(answer.deleted, keys as i64);
        answer.header.expect("a header").revision
    });
}
