//! A member that is started with a storage engine other than the one that wrote its state.

use std::process::{Command, Output};

use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};

use super::observe::tree;
use super::refusals::{expect_refusal, put_some};
use super::{block_on, load, put_request, subject};

/// The number of keys that are written before the conversions.
const KEYS: usize = 20_000;
const LEASE: i64 = 4711;

each_engine!(the_other_engine_is_refused, a_conversion_there_and_back_keeps_everything);

fn the_other_engine_is_refused(engine: EngineKind) {
    let Some(own) = subject("other engine", engine) else { return };
    let mut member = Member::start(&own, &[]);
    put_some(&member);
    member.terminate();
    let data = member.data_directory();
    let before = tree(&data);
    let other = engine.other();
    let command = format!("metastore convert --data-dir {} --engine {}", data.display(), other.name());
    let mut stranger = member_on(&subject("other engine", other).expect("it was just there"), &member);
    expect_refusal(&mut stranger, &[&command, &format!("written by engine \\\"{}\\\"", engine.name())]);
    assert_eq!(tree(&data), before, "changed below {}", data.display());
    member.restart();
    put_some(&member);
}

fn a_conversion_there_and_back_keeps_everything(engine: EngineKind) {
    let Some(own) = subject("conversion", engine) else { return };
    let mut member = Member::start(&own, &[]);
    let expected = block_on(async {
        let client = Client::new(member.client_address());
        load(&client, KEYS, |number| put_request(&format!("key/{}", number % (KEYS / 2)), &number.to_string()))
            .await
            .expect("keys are put");
        let grant = LeaseGrantRequest { id: LEASE, ttl: 5000 };
        let _: LeaseGrantResponse = client.unary(paths::LEASE_GRANT, grant).await.expect("a lease is granted");
        let leased = PutRequest { lease: LEASE, ..put_request("leased", "v") };
        let _: PutResponse = client.unary(paths::PUT, leased).await.expect("a Put is answered");
        let compact = CompactionRequest { revision: 100, physical: true };
        let _: CompactionResponse = client.unary(paths::COMPACT, compact).await.expect("it is compacted");
        state(&client).await
    });
    member.terminate();
    for to in [engine.other(), engine] {
        let output = convert(&own, &member, to);
        assert!(output.status.success(), "{output:?}");
        let server = subject("conversion", to).expect("it was just there");
        let mut converted = member_on(&server, &member);
        converted.restart();
        let found = block_on(async { state(&Client::new(converted.client_address())).await });
        assert_eq!(found, expected, "after the conversion to {}", to.name());
        converted.terminate();
    }
    member.restart();
    put_some(&member);
}

/// The state that a conversion must keep, without Hash, which includes the index and term of the log.
async fn state(client: &Client) -> (HashKvResponse, LeaseTimeToLiveResponse) {
    let mut kv: HashKvResponse = client.unary(paths::HASH_KV, HashKvRequest::default()).await.expect("it is answered");
    let request = LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let mut lease: LeaseTimeToLiveResponse =
        client.unary(paths::LEASE_TIME_TO_LIVE, request).await.expect("it is answered");
    // Each start has a term of its own, and restarts the lease's time.
    for header in [&mut kv.header, &mut lease.header] {
        header.as_mut().expect("an answer has a header").raft_term = 0;
    }
    lease.ttl = 0;
    (kv, lease)
}

/// A member on the directory of another, stopped member.
pub fn member_on(server: &Server, stopped: &Member) -> Member {
    Member::new(server, &["--data-dir", &stopped.data_directory().to_string_lossy()])
}

pub fn convert(server: &Server, stopped: &Member, to: EngineKind) -> Output {
    let mut command = Command::new(&server.binary);
    command.args(["convert", "--data-dir"]).arg(stopped.data_directory()).args(["--engine", to.name()]);
    command.output().expect("the binary runs")
}

#[test]
fn a_running_member_is_not_converted() {
    let Some(server) = subject("conversion of a running member", EngineKind::Memory) else { return };
    let member = Member::start(&server, &[]);
    put_some(&member);
    let output = convert(&server, &member, EngineKind::RocksDb);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("another process uses this directory"), "{stderr}");
    put_some(&member);
}

#[test]
fn a_binary_without_rocksdb_says_how_to_build_it_in() {
    let found = std::env::var_os("METASTORE_WITHOUT_ROCKSDB").ok_or("METASTORE_WITHOUT_ROCKSDB names no binary");
    let found = found.map_err(String::from);
    let Some(binary) = programs::or_skip("binary without RocksDB", found) else { return };
    let binary = std::path::PathBuf::from(binary);
    let mut member =
        Member::new(&Server { flags: vec!["--engine=rocksdb".into()], ..Server::process(binary.clone()) }, &[]);
    expect_refusal(&mut member, &["--engine=rocksdb", "built without RocksDB", "cargo build", "--no-default-features"]);
    assert!(!member.data_directory().exists(), "a directory was made");
    let with_memory = Member::start(&Server::process(binary), &[]);
    put_some(&with_memory);
}
