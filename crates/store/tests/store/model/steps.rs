//! Random commands with few keys, few leases and few revisions, so that commands affect each other.

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::TargetUnion;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use metastore_store::lease::MAX_TTL_S;
use proptest::prelude::*;
use proptest::sample::select;

/// A step that is run on both the store and its model.
#[derive(Clone, Debug)]
pub enum Step {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64, bool),
    Grant(i64, i64),
    Revoke(i64),
    Range(RangeRequest),
    /// A transaction of ranges only, which does not go through the log.
    ReadTxn(TxnRequest),
    HashKv(i64),
    /// Computes the hash of the compaction in progress.
    Hash,
    /// Drops the job for that hash.
    DropHash,
    /// Runs this many steps of dropping old versions.
    DropVersions(usize),
    /// Pins a revision, so that no version that it needs is dropped.
    Pin(i64),
    Unpin,
    Restart,
    Snapshot,
}

/// Keys that are prefixes and neighbours of each other, with the smallest and the greatest byte values.
const KEYS: [&[u8]; 8] = [b"a", b"a\0", b"ab", b"b", b"c", b"\0", b"\xff", b"\xff\xff"];
const ENDS: [&[u8]; 7] = [b"", b"", b"\0", b"b", b"c", b"a", b"\xff\xff"];
const VALUES: [&[u8]; 4] = [b"", b"1", b"2", b"22"];

/// The largest number of commands in one run.
pub const MOST_STEPS: usize = 60;
/// Requested revisions are between -1 and this one.
const GREATEST_REVISION: i64 = 40;

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..MOST_STEPS)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => put().prop_map(Step::Put),
        5 => delete().prop_map(Step::Delete),
        8 => txn().prop_map(Step::Txn),
        3 => (revision(), any::<bool>()).prop_map(|(revision, physical)| Step::Compact(revision, physical)),
        3 => (lease(), select(vec![-1, 0, 60, MAX_TTL_S, MAX_TTL_S + 1]))
            .prop_map(|(id, ttl_s)| Step::Grant(id, ttl_s)),
        2 => lease().prop_map(Step::Revoke),
        8 => range().prop_map(Step::Range),
        3 => read_txn().prop_map(Step::ReadTxn),
        3 => revision().prop_map(Step::HashKv),
        3 => Just(Step::Hash),
        1 => Just(Step::DropHash),
        4 => (1..4usize).prop_map(Step::DropVersions),
        1 => revision().prop_map(Step::Pin),
        1 => Just(Step::Unpin),
        1 => Just(Step::Restart),
        1 => Just(Step::Snapshot),
    ]
}

fn bytes(of: &'static [&'static [u8]]) -> impl Strategy<Value = Bytes> {
    select(of).prop_map(Bytes::from_static)
}

/// 0, which often means none or the current revision, or a small number.
fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![1 => Just(0), 2 => -1..GREATEST_REVISION]
}

fn lease() -> impl Strategy<Value = i64> {
    select(vec![0, 1, 2, 3, -4])
}

fn seldom() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.15)
}

fn put() -> impl Strategy<Value = PutRequest> {
    let lease = prop_oneof![2 => Just(0), 1 => lease()];
    (bytes(&KEYS), bytes(&VALUES), lease, any::<bool>(), seldom(), seldom()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            // The API refuses a value or a lease that is given but must be ignored.
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (bytes(&KEYS), bytes(&ENDS), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn bound() -> impl Strategy<Value = i64> {
    prop_oneof![5 => Just(0), 1 => 1..GREATEST_REVISION]
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let limit = select(vec![0, 0, 1, 2, 3, -1, i64::MAX]);
    let kind = (0..3i32, 0..5i32, seldom(), seldom());
    (bytes(&KEYS), bytes(&ENDS), limit, revision(), kind, [bound(), bound(), bound(), bound()]).prop_map(
        |(key, range_end, limit, revision, (sort_order, sort_target, keys_only, count_only), bounds)| RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let number = || -1..6i64;
    let union = prop_oneof![
        number().prop_map(TargetUnion::Version),
        revision().prop_map(TargetUnion::CreateRevision),
        revision().prop_map(TargetUnion::ModRevision),
        bytes(&VALUES).prop_map(TargetUnion::Value),
        lease().prop_map(TargetUnion::Lease),
    ];
    // Mostly the kind of value that belongs to the target, sometimes another kind or none.
    let target = prop_oneof![4 => Just(None), 1 => (0..5i32).prop_map(Some)];
    let union = prop_oneof![9 => union.prop_map(Some), 1 => Just(None)];
    (0..4i32, target, bytes(&KEYS), bytes(&ENDS), union).prop_map(|(result, target, key, range_end, target_union)| {
        let fitting = match target_union {
            Some(TargetUnion::Version(_)) | None => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
        };
        Compare { result, target: target.unwrap_or(fitting), key, range_end, target_union }
    })
}

fn operation(request: impl Strategy<Value = Request>) -> impl Strategy<Value = RequestOp> {
    request.prop_map(|request| RequestOp { request: Some(request) })
}

/// Transactions, nested up to three levels deep. Unlike transactions from the API, they may write a key twice.
fn txn() -> impl Strategy<Value = TxnRequest> {
    let simple = || {
        operation(prop_oneof![
            2 => range().prop_map(Request::RequestRange),
            3 => put().prop_map(Request::RequestPut),
            2 => delete().prop_map(Request::RequestDeleteRange),
        ])
        .boxed()
    };
    let nested = simple().prop_recursive(3, 12, 3, move |inner| {
        let txn = transaction(inner).prop_map(Request::RequestTxn);
        prop_oneof![3 => simple(), 2 => operation(txn)]
    });
    transaction(nested)
}

fn transaction(operation: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    let branch = || prop::collection::vec(operation.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), branch(), branch()).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

fn read_txn() -> impl Strategy<Value = TxnRequest> {
    transaction(operation(range().prop_map(Request::RequestRange)).boxed())
}
