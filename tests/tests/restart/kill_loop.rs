//! kill -9 under load, again and again, with the clients' own log of what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::Engine;
use metastore_tests::{paths, programs};
use tokio::sync::Notify;
use tonic::Status;

use super::put_request;

/// Clients that write at the same time, each to a key of its own.
const WRITERS: usize = 32;
/// Writes that are acknowledged before each kill.
const WRITES_PER_ROUND: i64 = 1500;
/// Kills; `KILLS` asks for more.
const DEFAULT_KILLS: usize = 5;

/// One client's log. Each write to its key carries the next number, and a write is only made when the fate of the one
/// before is known or the member was killed; so version and value must agree, and lie between the two.
#[derive(Default)]
struct Log {
    acknowledged: AtomicI64,
    attempted: AtomicI64,
}

each_engine!(nothing_acknowledged_is_lost_by_kill_9);

fn nothing_acknowledged_is_lost_by_kill_9(engine: Engine) {
    let Some(subject) = programs::or_skip("kill loop", programs::subject(engine)) else { return };
    let kills = std::env::var("KILLS").map_or(DEFAULT_KILLS, |text| text.parse().expect("KILLS is a number"));
    let logs: Arc<[Log; WRITERS]> = Arc::new(std::array::from_fn(|_| Log::default()));
    let mut member = Member::start(&subject, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    for round in 0..kills {
        let address = member.client_address().to_string();
        runtime.block_on(load_until_killed(&address, &logs, || member.kill()));
        member.restart();
        let state = runtime.block_on(read(&address)).expect("the restarted server answers");
        check(round, &logs, &state);
    }
}

/// Writes from all clients until enough is acknowledged, then kills the member in the middle of it.
async fn load_until_killed(address: &str, logs: &Arc<[Log; WRITERS]>, kill: impl FnOnce()) {
    let enough = Arc::new(Notify::new());
    let total = Arc::new(AtomicI64::new(0));
    let client = Client::new(address);
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (client, logs, enough, total) = (client.clone(), logs.clone(), enough.clone(), total.clone());
            tokio::spawn(async move {
                while write(&client, number, &logs[number]).await.is_ok() {
                    if total.fetch_add(1, Ordering::Relaxed) == WRITES_PER_ROUND {
                        enough.notify_one();
                    }
                }
            })
        })
        .collect();
    enough.notified().await;
    kill();
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
}

async fn write(client: &Client, number: usize, log: &Log) -> Result<(), Status> {
    let next = log.attempted.load(Ordering::Relaxed) + 1;
    log.attempted.store(next, Ordering::Relaxed);
    let _: PutResponse = client.unary(paths::PUT, put_request(&key(number), &next.to_string())).await?;
    log.acknowledged.store(next, Ordering::Relaxed);
    Ok(())
}

fn key(number: usize) -> String {
    format!("writer/{number:02}")
}

async fn read(address: &str) -> Result<RangeResponse, Status> {
    let (key, range_end) = (Bytes::from_static(b"writer/"), Bytes::from_static(b"writer0"));
    Client::new(address).unary(paths::RANGE, RangeRequest { key, range_end, ..RangeRequest::default() }).await
}

/// Compares the store with the logs, and takes the fate of the last writes from it.
fn check(round: usize, logs: &[Log; WRITERS], state: &RangeResponse) {
    let mut versions = 0;
    for (number, log) in logs.iter().enumerate() {
        let (acknowledged, attempted) =
            (log.acknowledged.load(Ordering::Relaxed), log.attempted.load(Ordering::Relaxed));
        let kv = state.kvs.iter().find(|kv| kv.key == key(number));
        let value: i64 = kv.map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().expect("values are numbers"));
        let version = kv.map_or(0, |kv| kv.version);
        assert!(
            (acknowledged..=attempted).contains(&value),
            "kill {round}: {} is {value}; {acknowledged} was acknowledged and {attempted} attempted",
            key(number),
        );
        // A write that was lost is made again under its own number, so every value was written exactly once.
        assert_eq!(version, value, "kill {round}: {} was applied {version} times for {value} writes", key(number));
        log.acknowledged.store(value, Ordering::Relaxed);
        log.attempted.store(value, Ordering::Relaxed);
        versions += version;
    }
    let revision = state.header.unwrap_or_default().revision;
    assert_eq!(revision, 1 + versions, "kill {round}: every write takes one revision, and nothing else does");
}
