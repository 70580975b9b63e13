//! A client that sends every kind of request on few keys, so that clients touch the same keys.

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

/// The number of newest revisions that a compaction keeps, at most.
const KEPT_REVISIONS: u64 = 60;

pub struct Mixed {
    /// The number of keys.
    keys: u64,
    /// The keys as this client last read them.
    believes: BTreeMap<Bytes, KeyValue>,
}

fn key(keys: u64, random: &mut Random) -> Bytes {
    format!("k{}", random.below(keys)).into()
}

/// One key, or some neighbours, or all.
fn range(keys: u64, random: &mut Random) -> (Bytes, Bytes) {
    let start = key(keys, random);
    let end = match random.below(8) {
        0 => Bytes::from_static(b"k4"),
        1 => Bytes::from_static(b"l"),
        2 => Bytes::from_static(b"\0"),
        3 => key(keys, random),
        _ => Bytes::new(),
    };
    // Some ranges begin at the first key.
    if !end.is_empty() && random.permille(300) { (Bytes::from_static(b"k"), end) } else { (start, end) }
}

impl Behaviour for Mixed {
    fn wish(&mut self, id: u64, random: &mut Random, told: i64) -> Wish {
        Wish::Do(match random.below(100) {
            0..30 => Request::Put(put(self.keys, id, random)),
            30..36 => Request::DeleteRange(delete(self.keys, random)),
            36..58 => Request::Txn(self.txn(id, random, told)),
            58..98 => Request::Range(read(self.keys, random, told)),
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

fn put(keys: u64, id: u64, random: &mut Random) -> PutRequest {
    let (key, value, prev_kv) = (key(keys, random), value(id, random), random.permille(300));
    PutRequest { key, value, prev_kv, ..PutRequest::default() }
}

fn delete(keys: u64, random: &mut Random) -> DeleteRangeRequest {
    let (key, range_end) = range(keys, random);
    DeleteRangeRequest { key, range_end, prev_kv: random.permille(300) }
}

fn read(keys: u64, random: &mut Random, told: i64) -> RangeRequest {
    let (key, range_end) = range(keys, random);
    let past = random.permille(120);
    let bounds = random.permille(60);
    RangeRequest {
        key,
        range_end,
        revision: if past { (told - random.below(30) as i64).max(1) } else { 0 },
        limit: if random.permille(150) { random.between(1, keys) as i64 } else { 0 },
        sort_order: if random.permille(100) { random.below(3) as i32 } else { 0 },
        sort_target: if random.permille(100) { random.below(5) as i32 } else { 0 },
        min_mod_revision: if bounds { (told - random.below(20) as i64).max(0) } else { 0 },
        max_create_revision: if bounds && random.permille(300) { told } else { 0 },
        serializable: random.permille(250),
        count_only: random.permille(50),
        keys_only: random.permille(50),
        ..RangeRequest::default()
    }
}

impl Mixed {
    pub fn new(keys: u64) -> Self {
        Self { keys, believes: BTreeMap::new() }
    }

    fn txn(&self, id: u64, random: &mut Random, told: i64) -> TxnRequest {
        let compare = (0..random.between(1, 2)).map(|_| self.compare(random)).collect();
        // One branch writes each key at most once: etcd refuses duplicate keys.
        let first = random.below(self.keys);
        let branch = |count, random: &mut Random| match random.permille(100) {
            true => self.ranges(random, told),
            false => (0..count).map(|nth| op(id, format!("k{}", (first + nth) % self.keys).into(), random)).collect(),
        };
        let (success, failure) = (random.between(1, 3), random.below(3));
        TxnRequest { compare, success: branch(success, random), failure: branch(failure, random) }
    }

    /// A branch that reads, deletes a range, and reads again.
    fn ranges(&self, random: &mut Random, told: i64) -> Vec<RequestOp> {
        let ops = [
            Op::RequestRange(read(self.keys, random, told)),
            Op::RequestDeleteRange(delete(self.keys, random)),
            Op::RequestRange(read(self.keys, random, told)),
        ];
        ops.map(|op| RequestOp { request: Some(op) }).into()
    }

    /// A comparison that mostly holds if the client's knowledge is current.
    fn compare(&self, random: &mut Random) -> Compare {
        if random.permille(150) {
            // Whether every key of a range was created before some revision.
            let (key, range_end) = range(self.keys, random);
            let union = TargetUnion::CreateRevision(random.below(200) as i64);
            let (result, target) = (CompareResult::Less as i32, CompareTarget::Create as i32);
            return Compare { key, range_end, result, target, target_union: Some(union) };
        }
        let key = key(self.keys, random);
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
