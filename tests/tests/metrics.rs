//! `/metrics` beside a real etcd's, after the same calls: families, types, labels, buckets, and what moves.

use std::collections::{BTreeMap, BTreeSet};

use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::lease::KeepAliveStream;
use metastore_tests::member::Member;
use metastore_tests::programs::{self, Engine, Server};
use metastore_tests::watch::{WatchStream, everything_from};
use metastore_tests::{cluster, paths};

use super::bad_days::observe::{eventually, http_get};

/// Families of etcd's that are missing, by name or how their names begin, and why.
const MISSING: [(&str, &str); 11] = [
    ("go_", "Go's runtime"),
    ("etcd_server_go_version", "no Go"),
    ("etcd_grpc_proxy_", "etcd's gRPC proxy, which is another program"),
    ("etcd_debugging_store_", "the store of etcd 2"),
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "a step of bbolt's commits"),
    ("etcd_debugging_disk_backend_commit_spill_duration_seconds", "a step of bbolt's commits"),
    ("etcd_debugging_disk_backend_commit_write_duration_seconds", "a step of bbolt's commits"),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "there is no index beside the keys"),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "a state is written as it is encoded"),
    ("etcd_debugging_auth_revision", "authentication is not available yet"),
    ("etcd_server_feature_enabled", "no feature gate can be set yet"),
];

/// Families that move with the process and its surroundings, whatever it is asked.
const UNSTEADY: [&str; 2] = ["process_", "os_fd_"];
/// Families that lag, or move by pages: they are compared, but need not move.
const SETTLED: [&str; 2] = ["etcd_debugging_mvcc_keys_total", "etcd_mvcc_db_total_size_in_"];

/// Versions of the key that is compacted.
const VERSIONS: usize = 5;

#[derive(Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    buckets: BTreeSet<u64>,
    /// All samples, but of distributions only how many values they have.
    sum: f64,
}

/// The page by family.
fn scrape(member: &Member) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    for line in http_get(member.client_address(), "/metrics").lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
            continue;
        }
        let Some((sample, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else { continue };
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let ends = ["_bucket", "_sum", "_count", ""];
        let found = ends
            .iter()
            .find_map(|end| Some((name.strip_suffix(end)?, *end)).filter(|(name, _)| families.contains_key(*name)));
        let Some((name, end)) = found else { continue };
        let family = families.get_mut(name).expect("it was just found");
        for (label, value) in labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('=')) {
            match label {
                // Bounds are compared as numbers: there are many ways to write them.
                "le" => {
                    _ = family.buckets.insert(
                        value.trim_matches('"').replace("+Inf", "inf").parse::<f64>().expect("a bound").to_bits(),
                    )
                }
                label => _ = family.labels.insert(label.to_owned()),
            }
        }
        if matches!(end, "" | "_count") {
            family.sum += value.parse::<f64>().expect("a number");
        }
    }
    families
}

/// One of each call that a member answers alone.
async fn use_everything(address: &str) {
    let client = Client::new(address);
    let put = |key: &str| cluster::put_request(key, "value");
    let range = || RangeRequest { key: "a".into(), ..RangeRequest::default() };
    let mut watch = WatchStream::open(&client, everything_from(0)).await.expect("a watch opens");
    // More than one version for the compaction to drop: it writes a row of its own.
    for _ in 0..VERSIONS {
        let _: PutResponse = client.unary(paths::PUT, put("a")).await.expect("a put");
    }
    let _: RangeResponse = client.unary(paths::RANGE, range()).await.expect("a range");
    let success = vec![RequestOp { request: Some(Request::RequestPut(put("b"))) }];
    let txn = TxnRequest { success, ..TxnRequest::default() };
    let _: TxnResponse = client.unary(paths::TXN, txn).await.expect("a transaction");
    let reads = vec![RequestOp { request: Some(Request::RequestRange(range())) }];
    let txn = TxnRequest { success: reads, ..TxnRequest::default() };
    let _: TxnResponse = client.unary(paths::TXN, txn).await.expect("a transaction that reads");
    let delete = DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() };
    let deleted: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await.expect("a delete");
    let mut events = 0;
    while events < VERSIONS + 2 {
        let answer =
            watch.next(std::time::Duration::from_secs(20)).await.expect("the stream lives").expect("an answer");
        events += answer.events.len();
    }
    let grant = LeaseGrantRequest { ttl: 60, id: 7 };
    let _: LeaseGrantResponse = client.unary(paths::LEASE_GRANT, grant).await.expect("a lease");
    KeepAliveStream::open(&client, 7).await.expect("a renewal");
    let _: LeaseRevokeResponse =
        client.unary(paths::LEASE_REVOKE, LeaseRevokeRequest { id: 7 }).await.expect("a revocation");
    let revision = deleted.header.unwrap_or_default().revision;
    let compaction = CompactionRequest { revision, physical: true };
    let _: CompactionResponse = client.unary(paths::COMPACT, compaction).await.expect("a compaction");
    let _: HashResponse = client.unary(paths::HASH, HashRequest {}).await.expect("a hash");
    let _: HashKvResponse = client.unary(paths::HASH_KV, HashKvRequest { revision: 0 }).await.expect("a hash");
    let _: AlarmResponse = client.unary(paths::ALARM, AlarmRequest::default()).await.expect("the alarms");
    let _: MemberListResponse =
        client.unary(paths::MEMBER_LIST, MemberListRequest::default()).await.expect("the members");
    let _: StatusResponse = client.unary(paths::STATUS, StatusRequest {}).await.expect("a status");
    let _: DefragmentResponse = client.unary(paths::DEFRAGMENT, DefragmentRequest {}).await.expect("a defragmentation");
}

/// The page before and behind the calls.
fn before_and_after(server: &Server, moves: &[String]) -> [BTreeMap<String, Family>; 2] {
    let member = Member::start(server, &["--metrics=extensive"]);
    let before = scrape(&member);
    cluster::block_on(use_everything(member.client_address()));
    assert!(http_get(member.client_address(), "/health").contains("true"));
    let mut after = scrape(&member);
    let behind = |after: &BTreeMap<String, Family>| {
        moves
            .iter()
            .filter(|name| before.get(*name).map(|family| family.sum) == after.get(*name).map(|family| family.sum))
            .cloned()
            .collect::<Vec<_>>()
    };
    eventually(&format!("all that moves in etcd; {:?} does not yet", behind(&after)), || {
        after = scrape(&member);
        behind(&after).is_empty()
    });
    [before, after]
}

fn each_engine_shows_what_etcd_shows(engine: Engine) {
    let Some(subject) = programs::or_skip("metrics", programs::subject(engine)) else { return };
    let Some(etcd) = programs::or_skip("metrics", programs::etcd(&programs::reference_flavor())) else { return };
    let begins = |name: &str, list: &[&str]| list.iter().any(|start| name.starts_with(start));
    let missing: Vec<&str> = MISSING.iter().map(|(name, _)| *name).collect();
    let [before, expected] = before_and_after(&Server::etcd(&etcd), &[]);
    let moved = |name: &String| before.get(name).map(|family| family.sum) != Some(expected[name].sum);
    let exempt = [&missing[..], &UNSTEADY, &SETTLED].concat();
    let moves: Vec<String> = expected.keys().filter(|name| moved(name) && !begins(name, &exempt)).cloned().collect();
    assert!(moves.len() > 30, "{moves:?}");
    let [_, shown] = before_and_after(&subject, &moves);
    let mut wrong = Vec::new();
    for (name, family) in expected.iter().filter(|(name, _)| !begins(name, &missing)) {
        match shown.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(ours)
                if (&ours.kind, &ours.labels, &ours.buckets) != (&family.kind, &family.labels, &family.buckets) =>
            {
                wrong.push(format!("{name}: {ours:?}, and in etcd {family:?}"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let there: Vec<&&str> = missing.iter().filter(|name| shown.keys().any(|shown| shown.starts_with(**name))).collect();
    assert!(there.is_empty(), "no longer missing: {there:?}");
}

#[test]
fn memory_shows_what_etcd_shows() {
    each_engine_shows_what_etcd_shows(Engine::Memory);
}

#[test]
fn rocksdb_shows_what_etcd_shows() {
    each_engine_shows_what_etcd_shows(Engine::RocksDb);
}
