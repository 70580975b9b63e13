//! Clients that do not read the ranges that they have requested.

use std::time::Duration;

use metastore_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, PutResponse, RangeRequest, RangeStreamResponse,
};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{EngineKind, Server, etcd, or_skip, reference_flavor};
use tokio::time::timeout;

use super::{block_on, end_of, load, put_request, subject};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A range larger than all that can be in flight on a connection.
const RANGE_KEYS: usize = 40_000;
const RANGE_VALUE_BYTES: usize = 1000;

each_engine!(a_range_stream_that_nobody_reads_holds_back_no_compaction);

fn a_range_stream_that_nobody_reads_holds_back_no_compaction(engine: EngineKind) {
    let Some(subject) = subject("slow range stream", engine) else { return };
    let member = Member::start(&subject, &[]);
    block_on(range_stream_amid_a_compaction(member.client_address()));
}

/// Where etcd is installed, the same with a real one.
#[test]
fn a_range_stream_that_nobody_reads_ends_as_in_etcd() {
    let found = etcd(&reference_flavor());
    let Some(directory) = or_skip("a range stream that nobody reads, of a real etcd", found) else { return };
    let member = Member::start(&Server::etcd(&directory), &[]);
    block_on(range_stream_amid_a_compaction(member.client_address()));
}

/// Compacts while a client has read only the beginning of a range. The compaction is done at once, and the rest
/// of the range is refused.
async fn range_stream_amid_a_compaction(address: &str) {
    let (reader, client) = (Client::new(address), Client::new(address));
    let value = "v".repeat(RANGE_VALUE_BYTES);
    let put = |number: usize| put_request(&format!("range/{number:06}"), &value);
    load(&client, RANGE_KEYS, put).await.expect("keys are written");
    let range = RangeRequest { key: "range/".into(), range_end: end_of("range/"), ..RangeRequest::default() };
    let mut stream =
        reader.open_server_stream::<_, RangeStreamResponse>(paths::RANGE_STREAM, range).await.expect("it opens");
    let first = stream.message().await.expect("a first message").expect("there are keys");
    let mut keys = first.range_response.map_or(0, |response| response.kvs.len());
    let put: PutResponse = client.unary(paths::PUT, put(0)).await.expect("a put");
    let revision = put.header.expect("a header").revision;
    let compact = CompactionRequest { revision, physical: true };
    let done = timeout(PATIENCE, client.unary::<_, CompactionResponse>(paths::COMPACT, compact)).await;
    done.expect("old versions are dropped while nobody reads").expect("it compacts");
    let refused = loop {
        match timeout(PATIENCE, stream.message()).await.expect("the stream goes on") {
            Ok(answer) => {
                keys += answer.expect("not its end").range_response.map_or(0, |response| response.kvs.len());
            }
            Err(status) => break status,
        }
    };
    let message = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!((refused.code(), refused.message()), (tonic::Code::OutOfRange, message), "after {keys} keys");
    assert!(keys < RANGE_KEYS);
}
