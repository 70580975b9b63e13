//! Counters of what commands did: after each step of a fixed workload, every member shows what an etcd shows.

use super::*;

/// The counters that are compared; of distributions, how many values they have.
const COUNTED: [&str; 8] = [
    "etcd_mvcc_put_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total",
];
/// By member.
type Counts = Vec<[i64; COUNTED.len()]>;

const APPLIED: &str = "etcd_server_proposals_applied_total";

#[derive(Clone)]
enum Step {
    Put(PutRequest),
    Range(RangeRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    /// Waits until the lease is gone.
    Expire(i64),
}

impl Step {
    /// Refusals are part of the workload.
    async fn run(self, client: &Client) {
        let _: Result<(), _> = match self {
            Step::Put(request) => client.unary(paths::PUT, request).await,
            Step::Range(request) => client.unary(paths::RANGE, request).await,
            Step::Delete(request) => client.unary(paths::DELETE_RANGE, request).await,
            Step::Txn(request) => client.unary(paths::TXN, request).await,
            Step::Grant(request) => client.unary(paths::LEASE_GRANT, request).await,
            Step::Revoke(request) => client.unary(paths::LEASE_REVOKE, request).await,
            Step::Expire(id) => {
                let request = LeaseTimeToLiveRequest { id, keys: false };
                let ended = |answer: LeaseTimeToLiveResponse| answer.ttl < 0;
                while !client.unary(paths::LEASE_TIME_TO_LIVE, request).await.is_ok_and(ended) {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        };
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str) -> PutRequest {
    cluster::put_request(key, "value")
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() }
}

/// Holds if the key exists.
fn exists(key: &str) -> Compare {
    let (result, target) = (compare::CompareResult::Greater as i32, compare::CompareTarget::Version as i32);
    Compare { key: key.to_owned().into(), result, target, ..Compare::default() }
}

fn txn(compare: Vec<Compare>, success: Vec<Request>) -> TxnRequest {
    let failure = vec![op(Request::RequestRange(range("a"))), op(Request::RequestDeleteRange(delete("none")))];
    TxnRequest { compare, success: success.into_iter().map(op).collect(), failure }
}

fn steps() -> Vec<(&'static str, Step)> {
    let looks_back = || PutRequest { prev_kv: true, ..put("a") };
    let keeps = |key| PutRequest { ignore_value: true, value: Vec::new().into(), ..put(key) };
    let leased = |key, lease| PutRequest { lease, ..put(key) };
    let writes = |compare, success| Step::Txn(txn(compare, success));
    let reads = |compare, count| {
        let success = (0..count).map(|_| op(Request::RequestRange(range("a")))).collect();
        Step::Txn(TxnRequest { compare, success, ..TxnRequest::default() })
    };
    let (put_op, range_op) = (|key| Request::RequestPut(put(key)), |key| Request::RequestRange(range(key)));
    let nested = txn(vec![exists("a"), exists("none")], vec![put_op("n")]);
    let several = DeleteRangeRequest { range_end: "c".into(), prev_kv: true, ..delete("a") };
    vec![
        ("a put", Step::Put(put("a"))),
        ("a put with the previous row", Step::Put(looks_back())),
        ("a put that keeps the value", Step::Put(keeps("a"))),
        ("a put that keeps the value of no key", Step::Put(keeps("none"))),
        ("a put with no such lease", Step::Put(leased("a", 99))),
        ("a range", Step::Range(range("a"))),
        ("a serializable range", Step::Range(RangeRequest { serializable: true, ..range("a") })),
        ("a range at a revision to come", Step::Range(RangeRequest { revision: 1 << 40, ..range("a") })),
        ("a transaction of one put", writes(vec![], vec![put_op("b")])),
        ("a transaction of two puts", writes(vec![], vec![put_op("b"), put_op("c")])),
        ("a transaction of a range and a put", writes(vec![], vec![range_op("a"), put_op("b")])),
        ("a transaction of ranges and a put", writes(vec![], vec![range_op("a"), range_op("b"), put_op("b")])),
        ("a put if a key exists", writes(vec![exists("a")], vec![put_op("b")])),
        ("a put if two keys exist", writes(vec![exists("a"), exists("b")], vec![put_op("b")])),
        ("the other branch", writes(vec![exists("none"), exists("a")], vec![put_op("b")])),
        ("a put with the previous row", writes(vec![exists("a")], vec![Request::RequestPut(looks_back())])),
        ("a refused transaction", writes(vec![exists("a")], vec![put_op("b"), Request::RequestPut(keeps("none"))])),
        ("a transaction in another", writes(vec![exists("a")], vec![Request::RequestTxn(nested), put_op("b")])),
        ("a transaction that reads once", reads(vec![], 1)),
        ("a transaction that reads twice", reads(vec![], 2)),
        ("a comparison before a read", reads(vec![exists("a")], 1)),
        ("a comparison that ends all", reads(vec![exists("none"), exists("a")], 1)),
        ("a delete", Step::Delete(delete("n"))),
        ("a delete of no key", Step::Delete(delete("none"))),
        ("a delete of several keys", Step::Delete(several)),
        ("a lease", Step::Grant(LeaseGrantRequest { ttl: 600, id: 5 })),
        ("the same lease", Step::Grant(LeaseGrantRequest { ttl: 600, id: 5 })),
        ("a key of the lease", Step::Put(leased("l1", 5))),
        ("another key of the lease", Step::Put(leased("l2", 5))),
        ("a revocation", Step::Revoke(LeaseRevokeRequest { id: 5 })),
        ("the same revocation", Step::Revoke(LeaseRevokeRequest { id: 5 })),
        ("a short lease", Step::Grant(LeaseGrantRequest { ttl: 1, id: 6 })),
        ("a key of the short lease", Step::Put(leased("l3", 6))),
        ("the end of the short lease", Step::Expire(6)),
    ]
}

/// The values of [`COUNTED`] that members show.
fn counted(members: &[&Member]) -> Counts {
    let shown = |member: &&Member| {
        let page = scrape(member);
        COUNTED.map(|name| page.get(name).map_or(0, |family| family.sum as i64))
    };
    members.iter().map(shown).collect()
}

fn counted_since(members: &[&Member], before: &Counts) -> Counts {
    let mut after = counted(members);
    after.iter_mut().flatten().zip(before.iter().flatten()).for_each(|(after, before)| *after -= before);
    after
}

/// Waits until all members have applied the same entries.
fn wait_until_applied(members: &[&Member]) {
    let applied = |member: &&Member| scrape(member)[APPLIED].sum as i64;
    eventually("members with the same entries", || {
        let all: Vec<_> = members.iter().map(applied).collect();
        all.iter().all(|one| *one == all[0])
    });
}

/// Sends all steps to the first of the members; after each, calls `look` with its name and what the members counted
/// since the first.
fn walk(members: &[&Member], mut look: impl FnMut(&'static str, &dyn Fn() -> Counts)) {
    wait_until_applied(members);
    let before = counted(members);
    cluster::block_on(async {
        let client = Client::new(members[0].client_address());
        for (name, step) in steps() {
            step.run(&client).await;
            wait_until_applied(members);
            look(name, &|| counted_since(members, &before));
        }
    });
}

/// Compares after each step. A count may be seen a moment later than what it counts.
fn compare(expected: &[&Member], members: &[&Member]) {
    let mut counts = Vec::new();
    walk(expected, |_, counted| counts.push(counted()));
    let mut counts = counts.into_iter();
    walk(members, |name, counted| {
        let (expected, mut shown) = (counts.next().expect("as many steps"), Vec::new());
        let equal = comes_true(|| {
            shown = counted();
            shown == expected
        });
        assert!(equal, "after {name}, {COUNTED:?}: {shown:?}, and in etcd {expected:?}");
    });
}

each_engine!(
    a_member_counts_what_commands_did_as_etcd_does,
    every_member_counts_what_the_leader_is_asked_for_as_etcd_does,
    every_member_counts_what_a_follower_is_asked_for_as_etcd_does,
);

fn a_member_counts_what_commands_did_as_etcd_does(engine: EngineKind) {
    let Some([subject, etcd]) = servers(engine) else { return };
    let mut members = [subject, etcd].map(|server| Member::start(&server, &[]));
    let [subject, etcd] = &members;
    [subject, etcd].iter().for_each(|member| wait_until_it_agrees(member));
    compare(&[etcd], &[subject]);
    for member in &mut members {
        member.stop();
        member.restart();
        wait_until_it_agrees(member);
        // A question about the member's health is a range.
        let mut again = counted(&[&*member]).remove(0);
        again[2] = 0;
        assert_eq!(again, [0; COUNTED.len()], "{COUNTED:?}: what was done before the start is not counted again");
    }
}

fn wait_until_it_agrees(member: &Member) {
    eventually("a cluster that has agreed on its version", || scrape(member).contains_key("etcd_cluster_version"));
}

/// All members, the one that is asked first.
fn members(cluster: &Cluster, asked: usize) -> Vec<&Member> {
    let others = cluster.running().into_iter().filter(|node| *node != asked);
    std::iter::once(asked).chain(others).map(|node| cluster.member(node)).collect()
}

/// The requests of clients come to one member, and all apply them.
fn counts_on_every_member(engine: EngineKind, asked: fn(&Cluster) -> usize) {
    let Some(servers) = servers(engine) else { return };
    let [subject, etcd] = servers.map(|server| Cluster::start(&[server.clone(), server.clone(), server], &[]));
    let (subject, etcd) = (members(&subject, asked(&subject)), members(&etcd, asked(&etcd)));
    subject.iter().chain(&etcd).for_each(|member| wait_until_it_agrees(member));
    compare(&etcd, &subject);
}

fn every_member_counts_what_the_leader_is_asked_for_as_etcd_does(engine: EngineKind) {
    counts_on_every_member(engine, Cluster::leader);
}

fn every_member_counts_what_a_follower_is_asked_for_as_etcd_does(engine: EngineKind) {
    counts_on_every_member(engine, |cluster| cluster.followers()[0]);
}
