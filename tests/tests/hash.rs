//! Hash goes over everything that is stored, so it shows whether anything at all is stored otherwise than in etcd.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::{Engine, Server};
use metastore_tests::{paths, programs};
use tonic::Status;

/// Both take the same ids and store the same addresses. Nobody connects to these.
const SAME_IDENTITY: [&str; 4] = [
    "--name=default",
    "--initial-advertise-peer-urls=http://127.0.0.1:1",
    "--initial-cluster=default=http://127.0.0.1:1",
    "--advertise-client-urls=http://127.0.0.1:2",
];

/// What a cluster's log begins with: its member, its leader's first entry, the member's name and URLs, the cluster's version.
const FOUNDING_ENTRIES: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(30);

each_engine!(everything_stored_hashes_as_in_etcd);

fn everything_stored_hashes_as_in_etcd(engine: Engine) {
    if programs::reference_flavor() != "newest" {
        println!("hash: skipped, because etcd 3.5 keeps members and cluster version elsewhere");
        return;
    }
    let found = programs::subject(engine).and_then(|subject| Ok((subject, programs::etcd("newest")?)));
    let Some((subject, etcd)) = programs::or_skip("hash", found) else { return };
    let [subject, reference] = [subject, Server::etcd(&etcd)].map(|server| {
        let member = Member::start(&server, &SAME_IDENTITY);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async { hashes(Client::new(member.client_address())).await }).expect("the server answers")
    });
    assert_eq!(subject, reference, "left is the subject, right is etcd");
}

/// The hash of a new member, with keys and a lease, and after a compaction.
async fn hashes(client: Client) -> Result<Vec<u32>, Status> {
    // etcd is ready before the version of its cluster is stored.
    let deadline = Instant::now() + PATIENCE;
    let status = async || client.unary::<_, StatusResponse>(paths::STATUS, StatusRequest {}).await;
    while status().await?.raft_applied_index < FOUNDING_ENTRIES {
        assert!(Instant::now() < deadline, "the member does not become known to its cluster");
    }
    let mut hashes = vec![hash(&client).await?];
    let grant = LeaseGrantRequest { id: 4711, ttl: 5000 };
    client.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, grant).await?;
    for (key, lease) in [("a", 0), ("b", 4711), ("a", 4711), ("c", 0)] {
        let put = PutRequest { key: key.into(), value: "value".into(), lease, ..PutRequest::default() };
        client.unary::<_, PutResponse>(paths::PUT, put).await?;
    }
    let delete = DeleteRangeRequest { key: "c".into(), ..DeleteRangeRequest::default() };
    client.unary::<_, DeleteRangeResponse>(paths::DELETE_RANGE, delete).await?;
    hashes.push(hash(&client).await?);
    let compact = CompactionRequest { revision: 5, physical: true };
    client.unary::<_, CompactionResponse>(paths::COMPACT, compact).await?;
    hashes.push(hash(&client).await?);
    Ok(hashes)
}

async fn hash(client: &Client) -> Result<u32, Status> {
    Ok(client.unary::<_, HashResponse>(paths::HASH, HashRequest {}).await?.hash)
}
