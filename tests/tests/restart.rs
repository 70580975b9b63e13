//! The data that a member has acknowledged before it died are there after its restart.
//!
//! kill -9 proves that no data are kept in the process alone; but the page cache survives it. Other tests prove from
//! outside that an answer waits for the disk: `strace` shows the order of the system calls, and makes a sync fail; and
//! a power cut hits a disk that loses unsynced data.

mod disk_full;
mod kill_loop;
mod ledger;
mod polite_stop;
mod power_cut;
mod sync;
mod traced;
mod writers;

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::KeyValue;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::{EngineKind, Server};
use metastore_tests::{paths, programs};
use tonic::Status;

const LEASE: i64 = 7777;

/// The state that must survive.
#[derive(Debug, PartialEq)]
struct State {
    revision: i64,
    kvs: Vec<KeyValue>,
    old_kvs: Vec<KeyValue>,
    hash: u32,
    compact_revision: i64,
    leases: Vec<i64>,
    granted_ttl: i64,
    lease_keys: Vec<Bytes>,
}

each_engine!(a_restart_brings_everything_back_as_etcd_does);

fn a_restart_brings_everything_back_as_etcd_does(engine: EngineKind) {
    let etcd = programs::etcd(&programs::reference_flavor());
    let found = programs::subject(engine).and_then(|subject| Ok((subject, etcd?)));
    let Some((subject, etcd)) = programs::or_skip("restart", found) else { return };
    let [subject, reference] = [subject, Server::etcd(&etcd)].map(|server| {
        let mut member = Member::start(&server, &[]);
        run(async |client| fill(&client, "first").await, &member);
        let before = run(async |client| state(&client).await, &member);
        member.kill();
        member.restart();
        assert_eq!(run(async |client| state(&client).await, &member), before, "after kill -9 of {server:?}");

        // The store accepts writes again, and an orderly stop keeps them as well.
        run(async |client| fill(&client, "second").await, &member);
        let before = run(async |client| state(&client).await, &member);
        member.terminate();
        member.restart();
        assert_eq!(run(async |client| state(&client).await, &member), before, "after SIGTERM to {server:?}");
        before
    });
    assert_eq!(subject, reference, "left is the subject, right is etcd");
}

/// Runs `work` on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(work)
}

/// The number in an environment variable, otherwise `default`.
fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Runs a client's work against the member. Panics if the server answers with an error.
fn run<T>(work: impl AsyncFnOnce(Client) -> Result<T, Status>, member: &Member) -> T {
    block_on(async { work(Client::new(member.client_address())).await }).expect("the server answers")
}

/// Puts, a lease with keys, deletes, transactions and a compaction. `round` makes keys differ between calls.
async fn fill(client: &Client, round: &str) -> Result<(), Status> {
    let grant = LeaseGrantRequest { ttl: 5000, id: LEASE };
    match client.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, grant).await {
        Err(status) if round == "first" => return Err(status),
        _ => {}
    }
    for number in 0..40 {
        let lease = if number % 5 == 0 { LEASE } else { 0 };
        let put = PutRequest { lease, ..put_request(&format!("{round}/{}", number % 15), &format!("value {number}")) };
        let _: PutResponse = client.unary(paths::PUT, put).await?;
    }
    let delete = DeleteRangeRequest {
        key: format!("{round}/1").into(),
        range_end: format!("{round}/12").into(),
        prev_kv: false,
    };
    let deleted: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await?;
    let _: TxnResponse = client.unary(paths::TXN, transaction(round)).await?;
    let revision = deleted.header.unwrap_or_default().revision - 5;
    let compact = CompactionRequest { revision, physical: true };
    let _: CompactionResponse = client.unary(paths::COMPACT, compact).await?;
    let _: PutResponse = client.unary(paths::PUT, put_request("last", round)).await?;
    Ok(())
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..PutRequest::default() }
}

fn transaction(round: &str) -> TxnRequest {
    let put = |key: String| RequestOp { request: Some(Request::RequestPut(put_request(&key, "by txn"))) };
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: format!("{round}/0").into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Compare::default()
        }],
        success: vec![put(format!("{round}/txn/1")), put(format!("{round}/txn/2"))],
        failure: Vec::new(),
    }
}

async fn state(client: &Client) -> Result<State, Status> {
    let everything = Bytes::from_static(b"\0");
    let range = RangeRequest { key: everything.clone(), range_end: everything, ..RangeRequest::default() };
    let now: RangeResponse = client.unary(paths::RANGE, range.clone()).await?;
    let revision = now.header.unwrap_or_default().revision;
    let old: RangeResponse = client.unary(paths::RANGE, RangeRequest { revision: revision - 2, ..range }).await?;
    let hash: HashKvResponse = client.unary(paths::HASH_KV, HashKvRequest { revision: 0 }).await?;
    let leases: LeaseLeasesResponse = client.unary(paths::LEASE_LEASES, LeaseLeasesRequest {}).await?;
    let lease = LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let mut lease: LeaseTimeToLiveResponse = client.unary(paths::LEASE_TIME_TO_LIVE, lease).await?;
    lease.keys.sort(); // their order is unspecified
    Ok(State {
        revision,
        kvs: now.kvs,
        old_kvs: old.kvs,
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        leases: leases.leases.iter().map(|lease| lease.id).collect(),
        granted_ttl: lease.granted_ttl,
        lease_keys: lease.keys,
    })
}
