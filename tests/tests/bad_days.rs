//! Bad input and faults: the behaviour of the server when its environment or its clients misbehave.
//!
//! ```text
//!   before it serves   refusals (directories, ports), damage (of the state on disk), engines (changed), flags
//!   while it serves    sizes, descriptors, gone (clients that leave), mass (a million keys at once), slow (watchers),
//!                      unread (ranges), clock (a jump of an hour), lease, streams (half closed, or full at once)
//!   when it ends       stop
//! ```
//!
//! All of it is observed from outside: answers, the log, exit codes, /metrics, and /proc.

mod clock;
mod damage;
mod descriptors;
pub mod engines;
mod flags;
mod gone;
mod lease;
mod mass;
pub mod observe;
mod raw;
mod refusals;
mod sizes;
mod slow;
mod stop;
mod streams;
mod unread;

use bytes::Bytes;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest};
use metastore_tests::grpc::Client;
use metastore_tests::programs::{EngineKind, Server};
use metastore_tests::{paths, programs};
use tonic::Status;

/// The number of operations in one transaction: the server's default limit.
const OPS_PER_TXN: usize = 128;
/// The number of transactions in flight.
const TXNS_IN_FLIGHT: usize = 16;

/// The server under test; None if the test `name` is to be skipped.
fn subject(name: &str, engine: EngineKind) -> Option<Server> {
    programs::or_skip(name, programs::subject(engine))
}

/// Runs `work` on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(work)
}

fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..PutRequest::default() }
}

/// A watcher of all keys that begin with `prefix`.
fn watch_prefix(prefix: &str) -> WatchCreateRequest {
    let key = Bytes::copy_from_slice(prefix.as_bytes());
    WatchCreateRequest { key, range_end: end_of(prefix), ..WatchCreateRequest::default() }
}

/// The first key after all that begin with `prefix`, which ends in an ASCII character.
fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end.into()
}

/// Makes the puts 0 to `count`, many at a time.
pub async fn load(client: &Client, count: usize, put: impl Fn(usize) -> PutRequest) -> Result<(), Status> {
    let mut flying = tokio::task::JoinSet::new();
    for first in (0..count).step_by(OPS_PER_TXN) {
        let puts = (first..count.min(first + OPS_PER_TXN))
            .map(|number| RequestOp { request: Some(Request::RequestPut(put(number))) });
        let txn = TxnRequest { success: puts.collect(), ..TxnRequest::default() };
        let client = client.clone();
        flying.spawn(async move { client.unary::<_, TxnResponse>(paths::TXN, txn).await });
        if flying.len() == TXNS_IN_FLIGHT {
            flying.join_next().await.expect("some fly").expect("a load does not panic")?;
        }
    }
    while let Some(done) = flying.join_next().await {
        done.expect("a load does not panic")?;
    }
    Ok(())
}
