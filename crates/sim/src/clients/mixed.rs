//! A client that does everything, on few keys, so that clients meet.

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use metastore_proto::mvccpb::KeyValue;

use super::{Behaviour, Wish, value};
use crate::history::{Request, Response};
use crate::random::Random;

const KEYS: u64 = 6;
/// A compaction leaves so many of the newest revisions, at most.
const KEPT_REVISIONS: u64 = 60;

#[derive(Default)]
pub struct Mixed {
    /// What it believes to be there.
    believes: BTreeMap<Bytes, KeyValue>,
}

fn key(random: &mut Random) -> Bytes {
    format!("k{}", random.below(KEYS)).into()
}

/// One key, or some neighbours, or all.
fn range(random: &mut Random) -> (Bytes, Bytes) {
    let key = key(random);
    let end: &[u8] = match random.below(6) {
        0 => b"k4",
        1 => b"l",
        2 => b"\0",
        _ => b"",
    };
    (key, Bytes::from_static(end))
}

impl Behaviour for Mixed {
    fn wish(&mut self, id: u64, random: &mut Random, told: i64) -> Wish {
        Wish::Do(match random.below(100) {
            0..28 => Request::Put(put(id, random)),
            28..36 => Request::DeleteRange(delete(random)),
            36..58 => Request::Txn(self.txn(id, random)),
            58..98 => Request::Range(read(random, told)),
            _ => {
                let revision = (told - random.below(KEPT_REVISIONS) as i64).max(1);
                Request::Compact(CompactionRequest { revision, physical: random.permille(300) })
            }
        })
    }

    fn told(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::Range(request), Response::Range(response)) if request.revision == 0 => {
                self.believes.remove(&request.key);
                self.believes.extend(response.kvs.iter().map(|kv| (kv.key.clone(), kv.clone())));
            }
            _ => {}
        }
    }
}

fn put(id: u64, random: &mut Random) -> PutRequest {
    let (key, value, prev_kv) = (key(random), value(id, random), random.permille(300));
    PutRequest { key, value, prev_kv, ..PutRequest::default() }
}

fn delete(random: &mut Random) -> DeleteRangeRequest {
    let (key, range_end) = range(random);
    DeleteRangeRequest { key, range_end, prev_kv: random.permille(300) }
}

fn read(random: &mut Random, told: i64) -> RangeRequest {
    let (key, range_end) = range(random);
    let past = random.permille(120);
    RangeRequest {
        key,
        range_end,
        revision: if past { (told - random.below(30) as i64).max(1) } else { 0 },
        limit: if random.permille(150) { 2 } else { 0 },
        serializable: random.permille(250),
        count_only: random.permille(50),
        keys_only: random.permille(50),
        ..RangeRequest::default()
    }
}

impl Mixed {
    fn txn(&self, id: u64, random: &mut Random) -> TxnRequest {
        let compare = (0..random.between(1, 2)).map(|_| self.compare(random)).collect();
        // Keys that one branch writes differ: etcd refuses others.
        let first = random.below(KEYS);
        let branch = |count, random: &mut Random| {
            (0..count).map(|nth| op(id, format!("k{}", (first + nth) % KEYS).into(), random)).collect()
        };
        let (success, failure) = (random.between(1, 3), random.below(3));
        TxnRequest { compare, success: branch(success, random), failure: branch(failure, random) }
    }

    /// Something that holds if the client's belief is true, most of the time.
    fn compare(&self, random: &mut Random) -> Compare {
        let key = key(random);
        let absent = KeyValue::default();
        let known = self.believes.get(&key).unwrap_or(&absent);
        let (target, union) = match random.below(4) {
            0 if known.mod_revision > 0 => (CompareTarget::Value, TargetUnion::Value(known.value.clone())),
            1 => (CompareTarget::Version, TargetUnion::Version(known.version)),
            2 => (CompareTarget::Create, TargetUnion::CreateRevision(known.create_revision)),
            _ => (CompareTarget::Mod, TargetUnion::ModRevision(known.mod_revision)),
        };
        let result = match random.below(8) {
            0 => CompareResult::Greater,
            1 => CompareResult::NotEqual,
            2 => CompareResult::Less,
            _ => CompareResult::Equal,
        };
        let (result, target) = (result as i32, target as i32);
        Compare { key, result, target, target_union: Some(union), ..Compare::default() }
    }
}

fn op(id: u64, key: Bytes, random: &mut Random) -> RequestOp {
    let request = match random.below(8) {
        0 | 1 => Op::RequestRange(RangeRequest { key, ..RangeRequest::default() }),
        2 => Op::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
        3 => {
            let put = PutRequest { key, value: value(id, random), ..PutRequest::default() };
            let success = vec![RequestOp { request: Some(Op::RequestPut(put)) }];
            Op::RequestTxn(TxnRequest { success, ..TxnRequest::default() })
        }
        _ => Op::RequestPut(PutRequest { key, value: value(id, random), ..PutRequest::default() }),
    };
    RequestOp { request: Some(request) }
}
