//! Compares `/metrics` with a real etcd's after the same calls: families, types, labels, buckets, and the
//! families whose values changed.
//!
//! A single member gets every call that it can answer alone. A family that changed in etcd must change here. A family
//! that etcd shows must be shown with the same type, labels and buckets. In clusters of three the tests compare the
//! families that members count about each other, without comparing changes: those depend on the network.

mod counted;
mod listed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::Cluster;
use metastore_tests::grpc::Client;
use metastore_tests::lease::KeepAliveStream;
use metastore_tests::member::Member;
use metastore_tests::programs::{self, EngineKind, Server};
use metastore_tests::watch::{WatchStream, everything_from};
use metastore_tests::{cluster, paths};

use super::bad_days::observe::{comes_true, eventually, http_get};

/// Families of etcd that are missing here, by name or prefix, with the reason.
const MISSING: [(&str, &str); 9] = [
    ("go_", "Go's runtime"),
    ("etcd_server_go_version", "no Go"),
    ("etcd_grpc_proxy_", "etcd's gRPC proxy, which is another program"),
    ("etcd_debugging_store_", "the store of etcd 2"),
    ("etcd_debugging_disk_backend_commit_", "steps of bbolt's commits"),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "there is no index beside the keys"),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "a state is written as it is encoded"),
    ("etcd_network_server_stream_failures_total", "etcd never counts one: it takes every failure for the client's"),
    ("etcd_server_feature_enabled", "which gates are set is in the flags"),
];

/// Families that need not change here when they change in etcd, by name or prefix, with the cause of their changes.
const UNSTEADY: [(&str, &str); 11] = [
    ("process_", "the process and its surroundings"),
    ("os_fd_", "the process and its surroundings"),
    ("etcd_mvcc_db_total_size_in_", "pages"),
    ("etcd_mvcc_db_open_read_transactions", "the moment of the scrape"),
    ("etcd_debugging_mvcc_pending_events_total", "the moment of the scrape"),
    ("etcd_debugging_mvcc_slow_watcher_total", "the moment of the scrape"),
    ("etcd_server_proposals_pending", "the moment of the scrape"),
    ("promhttp_metric_handler_requests_in_flight", "the moment of the scrape"),
    ("etcd_server_slow_", "a busy machine"),
    ("etcd_server_heartbeat_send_failures_total", "a busy machine"),
    ("etcd_server_leader_changes_seen_total", "a busy machine"),
];

/// The number of versions of the key that is compacted.
const VERSIONS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(20);

type Page = BTreeMap<String, Family>;

#[derive(Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    buckets: BTreeSet<u64>,
    samples: usize,
    /// The sum of all samples; of a distribution only the number of its values.
    sum: f64,
}

/// The families of the page.
fn scrape(member: &Member) -> Page {
    let mut families = Page::new();
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
        family.samples += 1;
        for (label, value) in labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('=')) {
            if label == "le" {
                // Bounds are compared as numbers, because their text may differ.
                let bound = value.trim_matches('"').replace("+Inf", "inf").parse::<f64>().expect("a bound");
                family.buckets.insert(bound.to_bits());
            } else {
                family.labels.insert(label.to_owned());
            }
        }
        if matches!(end, "" | "_count") {
            family.sum += value.parse::<f64>().expect("a number");
        }
    }
    families.retain(|_, family| family.samples > 0);
    families
}

/// Makes one of each call that a member answers alone. Returns the open watch.
async fn use_everything(address: &str) -> WatchStream {
    let client = Client::new(address);
    let put = |key: &str| cluster::put_request(key, "value");
    let range = || RangeRequest { key: "a".into(), ..RangeRequest::default() };
    let mut watch = WatchStream::open(&client, everything_from(0)).await.expect("a watch opens");
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
        let answer = watch.next(PATIENCE).await.expect("the stream lives").expect("an answer");
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
    let _: MemberListResponse =
        client.unary(paths::MEMBER_LIST, MemberListRequest::default()).await.expect("the members");
    let _: StatusResponse = client.unary(paths::STATUS, StatusRequest {}).await.expect("a status");
    let _: DefragmentResponse = client.unary(paths::DEFRAGMENT, DefragmentRequest {}).await.expect("a defragmentation");
    assert!(http_get(address, "/health").contains(r#""health":"true""#));
    assert!(http_get(address, "/livez").ends_with("ok\n") && http_get(address, "/readyz").ends_with("ok\n"));
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: 7, alarm: AlarmType::Nospace as i32 };
    let _: AlarmResponse = client.unary(paths::ALARM, alarm).await.expect("an alarm");
    assert!(http_get(address, "/health").contains(r#""health":"false""#));
    watch
}

/// The families whose samples changed.
fn moved(before: &Page, after: &Page) -> BTreeSet<String> {
    let sum = |page: &Page, name: &String| page.get(name).map(|family| family.sum);
    after.keys().filter(|name| sum(before, name) != sum(after, name)).cloned().collect()
}

/// The page after the calls, and the families that changed. Waits until all expected families have changed.
fn after_everything(server: &Server, expected: &BTreeSet<String>) -> (Page, BTreeSet<String>) {
    let member = Member::start(server, &["--metrics=extensive"]);
    let (mut before, mut after, mut still) = (Page::new(), Page::new(), BTreeSet::new());
    eventually("a cluster that has agreed on its version", || {
        before = scrape(&member);
        before.contains_key("etcd_cluster_version")
    });
    cluster::block_on(async {
        let _watch = use_everything(member.client_address()).await;
        let all_moved = comes_true(|| {
            after = scrape(&member);
            still = expected - &moved(&before, &after);
            still.is_empty()
        });
        assert!(all_moved, "these move in etcd: {still:?}");
    });
    let moved = moved(&before, &after);
    (after, moved)
}

/// The families of etcd that are missing on a page, or shown in another way.
fn differences(shown: &Page, expected: &Page) -> Vec<String> {
    let missing = |name: &str| is_listed(name, &MISSING);
    let mut wrong = Vec::new();
    for (name, family) in expected.iter().filter(|(name, _)| !missing(name)) {
        let look = |family: &Family| (family.kind.clone(), family.labels.clone(), family.buckets.clone());
        match shown.get(name).map(look) {
            None => wrong.push(format!("{name} is missing")),
            Some(ours) if ours != look(family) => wrong.push(format!("{name}: {ours:?}, and in etcd {family:?}")),
            Some(_) => {}
        }
    }
    wrong.extend(shown.keys().filter(|name| missing(name)).map(|name| format!("{name} is no longer missing")));
    wrong
}

fn is_listed(name: &str, list: &[(&str, &str)]) -> bool {
    list.iter().any(|(start, _)| name.starts_with(start))
}

/// The server under test with an engine, and etcd.
fn servers(engine: EngineKind) -> Option<[Server; 2]> {
    programs::beside_etcd("metrics", engine, &programs::reference_flavor())
}

each_engine!(a_member_shows_what_etcd_shows);

fn a_member_shows_what_etcd_shows(engine: EngineKind) {
    let Some([subject, etcd]) = servers(engine) else { return };
    let (expected, mut moves) = after_everything(&etcd, &BTreeSet::new());
    moves.retain(|name| !is_listed(name, &MISSING) && !is_listed(name, &UNSTEADY));
    assert!(moves.len() > 40, "{moves:?}");
    let (shown, _) = after_everything(&subject, &moves);
    assert_eq!(differences(&shown, &expected), [""; 0]);
    let compacted = |page: &Page| page["etcd_debugging_mvcc_db_compaction_keys_total"].sum;
    assert_eq!(compacted(&shown), compacted(&expected));
}

/// The families that the leader of three members shows after one member was lost.
fn after_a_loss(server: &Server) -> Page {
    let mut cluster = Cluster::start(&[server.clone(), server.clone(), server.clone()], &[]);
    let (leader, lost) = (cluster.leader(), cluster.followers()[0]);
    cluster.kill(lost);
    let mut page = Page::new();
    let counted = ["etcd_network_disconnected_peers_total", "etcd_network_peer_sent_failures_total"];
    eventually("a leader that counts what it loses", || {
        page = scrape(cluster.member(leader));
        counted.iter().all(|name| page.get(*name).is_some_and(|family| family.sum > 0.0))
    });
    page.retain(|name, _| name.starts_with("etcd_network_"));
    page
}

#[test]
fn members_show_of_each_other_what_etcds_show() {
    let Some(servers) = servers(EngineKind::Memory) else { return };
    let [shown, expected] = servers.each_ref().map(after_a_loss);
    assert!(expected.len() > 7, "{expected:?}");
    assert_eq!(differences(&shown, &expected), [""; 0]);
}
