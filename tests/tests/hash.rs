//! Hash covers all stored data, so it shows any difference from the data that etcd stores. Members of etcd compare
//! HashKV and the hashes of compactions among each other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::member::{FOUNDING_ENTRIES, Member, SAME_IDENTITY};
use metastore_tests::programs::{EngineKind, Server};
use metastore_tests::random::Random;
use metastore_tests::{paths, programs};
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(30);
/// Few keys, so that at times none is alive.
const KEYS: [&str; 2] = ["a", "b"];
const STEPS: usize = 400;
const SEED: u64 = 54;

each_engine!(everything_stored_hashes_as_in_etcd, compactions_and_revisions_hash_as_in_etcd);

fn everything_stored_hashes_as_in_etcd(engine: EngineKind) {
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

/// Regression: if no key was alive and a compaction was at the revision of a delete, the hash of that
/// compaction differed from etcd's.
fn compactions_and_revisions_hash_as_in_etcd(engine: EngineKind) {
    if programs::reference_flavor() != "newest" {
        println!("hash: skipped, because etcd 3.5 drops the tombstone at the compacted revision");
        return;
    }
    let found = programs::subject(engine).and_then(|subject| Ok((subject, programs::etcd("newest")?)));
    let Some((subject, etcd)) = programs::or_skip("hash", found) else { return };
    let members = [subject, Server::etcd(&etcd)].map(|server| Member::start(&server, &[]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let clients = members.each_ref().map(|member| Client::new(member.client_address()));
        let (mut random, mut history, mut compacted) = (Random::new(SEED), Vec::new(), 0);
        for _ in 0..STEPS {
            let step = next_step(&mut random, history.last().map_or(1, |(_, (revision, _))| *revision), compacted);
            let [subject, reference] = [take(&clients[0], step).await, take(&clients[1], step).await];
            assert_eq!(subject, reference, "{step:?} after {history:?}: left is the subject, right is etcd");
            if let (Step::Compact(at), true) = (step, reference.1.starts_with("Ok")) {
                compacted = at;
            }
            if let Step::Hash(at) = step {
                let [subject, reference] = members.each_ref().map(|member| hash_for_peers(&member.peer_url(), at));
                assert_eq!(subject, reference, "for peers at {at} after {history:?}");
            }
            history.push((step, reference));
        }
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(&'static str),
    Delete(&'static str),
    Compact(i64),
    Hash(i64),
}

fn next_step(random: &mut Random, revision: i64, compacted: i64) -> Step {
    let key = random.any(&KEYS);
    match random.below(8) {
        0..2 => Step::Put(key),
        2..5 => Step::Delete(key),
        5 => Step::Compact(random.between((revision - 3).max(1), revision)),
        _ => Step::Hash(random.between((compacted - 1).max(0), revision + 1)),
    }
}

/// Executes a step. Returns the revision after it, and its answer.
async fn take(client: &Client, step: Step) -> (i64, String) {
    match step {
        Step::Put(key) => {
            let put = PutRequest { key: key.into(), value: "value".into(), ..PutRequest::default() };
            let put: PutResponse = client.unary(paths::PUT, put).await.expect("a put");
            (put.header.unwrap_or_default().revision, "Ok".into())
        }
        Step::Delete(key) => {
            let delete = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
            let deleted: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await.expect("a delete");
            (deleted.header.unwrap_or_default().revision, format!("Ok {}", deleted.deleted))
        }
        Step::Compact(revision) => {
            let request = CompactionRequest { revision, physical: true };
            let done: Result<CompactionResponse, _> = client.unary(paths::COMPACT, request).await;
            (current(client).await, format!("{:?}", done.map(|_| ()).map_err(|status| status.message().to_owned())))
        }
        Step::Hash(revision) => {
            let hash: Result<HashKvResponse, _> = client.unary(paths::HASH_KV, HashKvRequest { revision }).await;
            let hash = hash.map(|hash| (hash.hash, hash.compact_revision, hash.hash_revision));
            (current(client).await, format!("{:?}", hash.map_err(|status| status.message().to_owned())))
        }
    }
}

async fn current(client: &Client) -> i64 {
    let read = RangeRequest { key: "a".into(), ..RangeRequest::default() };
    let read: RangeResponse = client.unary(paths::RANGE, read).await.expect("a read");
    read.header.unwrap_or_default().revision
}

/// The status line and the body of the answer that another member would get.
fn hash_for_peers(peer_url: &str, revision: i64) -> (String, String) {
    let address = peer_url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("the peer port is open");
    let body = if revision == 0 { "{}".to_owned() } else { format!("{{\"revision\":{revision}}}") };
    let head = format!("GET /members/hashkv HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("the peer reads");
    // Not to the end of the stream: etcd closes it up to 5 s later.
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).expect("the peer answers") > 2 {
        head.push(std::mem::take(&mut line).trim_end().to_lowercase());
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.expect("an answer with a length")];
    reader.read_exact(&mut body).expect("the whole answer");
    (head.swap_remove(0), String::from_utf8_lossy(&body).into_owned())
}
