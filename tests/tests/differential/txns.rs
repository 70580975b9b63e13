//! Random transactions: up to three levels deep, with every compare, and every reason for a refusal.

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;

use super::grammar::{Grammar, MAX_TXN_OPS, NO_SUCH_ENUM, Seen};

const MAX_DEPTH: usize = 3;
/// How often a put draws another key if its branch already writes that key. After that it risks a refusal.
const KEY_TRIES: usize = 6;

pub struct Txns<'a> {
    pub grammar: &'a mut Grammar,
    pub seen: &'a Seen,
    /// The transaction has a delete without an end key. Later puts of the transaction use no options, so that etcd
    /// 3.7.3 can answer it.
    deletes_to_the_end: bool,
}

impl<'a> Txns<'a> {
    pub fn new(grammar: &'a mut Grammar, seen: &'a Seen) -> Self {
        Txns { grammar, seen, deletes_to_the_end: false }
    }

    pub fn txn(&mut self) -> TxnRequest {
        self.nested(1, &mut Vec::new())
    }

    /// One level; `written` are the keys that the branch around it writes.
    fn nested(&mut self, depth: usize, written: &mut Vec<Bytes>) -> TxnRequest {
        let compares = self.grammar.random.any(&[0, 1, 1, 1, 1, 1, 1, 2, 3]);
        let compare = (0..compares).map(|_| self.compare()).collect();
        let mut request = TxnRequest { compare, ..TxnRequest::default() };
        // The two branches of a transaction may write the same key, because only one of them runs.
        let mut other = written.clone();
        request.success = self.branch(depth, written);
        request.failure = self.branch(depth, &mut other);
        written.extend(other);
        if self.grammar.random.one_in(40) {
            self.overfill(&mut request);
        }
        request
    }

    fn overfill(&mut self, request: &mut TxnRequest) {
        let many = MAX_TXN_OPS + self.grammar.random.below(2);
        let range = RangeRequest { key: Bytes::from_static(b"a"), ..RangeRequest::default() };
        let op = RequestOp { request: Some(Request::RequestRange(range)) };
        match self.grammar.random.below(3) {
            0 => request.success = vec![op; many],
            1 => request.failure = vec![op; many],
            _ => request.compare = (0..many).map(|_| self.compare()).collect(),
        }
    }

    fn branch(&mut self, depth: usize, written: &mut Vec<Bytes>) -> Vec<RequestOp> {
        let count = self.grammar.random.any(&[0, 1, 1, 2, 2, 3, 4]);
        (0..count).map(|_| RequestOp { request: self.op(depth, written) }).collect()
    }

    fn op(&mut self, depth: usize, written: &mut Vec<Bytes>) -> Option<Request> {
        let random = &mut self.grammar.random;
        if random.one_in(150) {
            return None;
        }
        match random.below(if depth < MAX_DEPTH { 10 } else { 8 }) {
            0..3 => Some(Request::RequestRange(self.range())),
            3..7 => Some(Request::RequestPut(self.put(written))),
            7 => Some(Request::RequestDeleteRange(self.delete(written))),
            _ => Some(Request::RequestTxn(self.nested(depth + 1, written))),
        }
    }

    /// Mostly without options for which the whole transaction would be refused; otherwise few would run.
    fn range(&mut self) -> RangeRequest {
        let mut request = self.grammar.range(self.seen);
        if !self.grammar.random.one_in(8) || self.grammar.spare_old {
            request.key = if request.key.is_empty() { Bytes::from_static(b"a") } else { request.key };
            request.revision = request.revision.clamp(self.seen.compacted, self.seen.current);
            request.sort_order = request.sort_order.min(2);
            request.sort_target = request.sort_target.clamp(0, 4);
        }
        request
    }

    fn put(&mut self, written: &mut Vec<Bytes>) -> PutRequest {
        let mut request = self.grammar.put();
        for _ in 0..KEY_TRIES {
            if request.key.is_empty() || written.contains(&request.key) {
                request.key = self.grammar.key();
            }
        }
        if !self.grammar.random.one_in(6) || self.deletes_to_the_end {
            (request.ignore_value, request.ignore_lease, request.lease) = (false, false, 0);
        }
        written.push(request.key.clone());
        request
    }

    fn delete(&mut self, written: &mut [Bytes]) -> DeleteRangeRequest {
        let mut request = self.grammar.delete();
        for _ in 0..KEY_TRIES {
            if request.key.is_empty() || written.contains(&request.key) {
                request.key = self.grammar.key();
            }
        }
        self.deletes_to_the_end |= request.range_end[..] == *b"\0";
        request
    }

    fn compare(&mut self) -> Compare {
        let mut compare = Compare { key: self.grammar.key(), ..Compare::default() };
        let random = &mut self.grammar.random;
        compare.result = random.between(0, 3) as i32;
        // Compares of values and leases hold less often than the others, because many keys are absent and leases are
        // few. They are drawn twice as often.
        let target = random.any(&[0, 1, 2, 3, 3, 4, 4]);
        compare.target = target;
        match random.below(60) {
            0 => compare.result = NO_SUCH_ENUM,
            1 => compare.target = NO_SUCH_ENUM,
            2 => compare.target = random.between(0, 4) as i32, // the operand below belongs to another target
            _ => {}
        }
        if random.one_in(6) {
            compare.range_end = self.grammar.range_end(&compare.key.clone());
        }
        if !self.grammar.random.one_in(30) {
            compare.target_union = Some(self.operand(target, &compare.key.clone()));
        }
        compare
    }

    /// The value of the key as last seen, exactly or off by one; or any value.
    fn operand(&mut self, target: i32, key: &Bytes) -> TargetUnion {
        let seen = self.seen.keys.get(key).cloned().unwrap_or_default();
        let random = &mut self.grammar.random;
        let offset = random.any(&[0, 0, 1, -1]);
        let aimed = random.below(3) > 0;
        let anything = random.between(0, 3);
        let number = |exact: i64| if aimed { exact + offset } else { anything };
        match CompareTarget::try_from(target) {
            Ok(CompareTarget::Version) | Err(_) => TargetUnion::Version(number(seen.version)),
            Ok(CompareTarget::Create) => TargetUnion::CreateRevision(number(seen.create_revision)),
            Ok(CompareTarget::Mod) => TargetUnion::ModRevision(number(seen.mod_revision)),
            Ok(CompareTarget::Lease) => TargetUnion::Lease(number(seen.lease)),
            Ok(CompareTarget::Value) if aimed && offset == 0 => TargetUnion::Value(seen.value),
            // Above all values, or below all but the empty one. Many keys are absent, and no compare of
            // values holds for those.
            Ok(CompareTarget::Value) if offset != 0 => {
                TargetUnion::Value(Bytes::from_static(random.any(&[b"", b"\xff"])))
            }
            Ok(CompareTarget::Value) => TargetUnion::Value(self.grammar.value()),
        }
    }
}

/// The name of a compare result, for the coverage table.
pub fn result_name(result: i32) -> &'static str {
    CompareResult::try_from(result).map_or("unknown", |result| result.as_str_name())
}

/// The name of a compare target, for the coverage table.
pub fn target_name(target: i32) -> &'static str {
    CompareTarget::try_from(target).map_or("unknown", |target| target.as_str_name())
}
