//! Transactions (etcd: `server/etcdserver/txn/txn.go`): every comparison, then every check, uses the state before the
//! transaction. Then the operations run, and each sees the changes of the operations before it.

use std::cmp::Ordering;

use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::response_op::Response;
use metastore_proto::etcdserverpb::{Compare, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse};
use metastore_proto::mvccpb::KeyValue;

use super::{Answer, COMPACTED, Model, Writing, range};

impl Model {
    fn succeeds(&self, txn: &TxnRequest) -> bool {
        txn.compare.iter().all(|compare| self.holds(compare))
    }

    /// A comparison of a range holds if it holds for each of its keys. A missing key compares as zeros, but its value
    /// compares with nothing.
    fn holds(&self, compare: &Compare) -> bool {
        let kvs = range::alive(&self.keys, &compare.key, &compare.range_end);
        if kvs.is_empty() {
            return compare.target() != CompareTarget::Value && is_true_of(compare, &KeyValue::default());
        }
        kvs.iter().all(|kv| is_true_of(compare, kv))
    }

    fn branch<'a>(&self, txn: &'a TxnRequest) -> &'a [RequestOp] {
        if self.succeeds(txn) { &txn.success } else { &txn.failure }
    }

    /// Checks that the operations of the taken branches can be executed.
    fn check_txn(&self, txn: &TxnRequest) -> Answer<()> {
        self.branch(txn).iter().filter_map(|op| op.request.as_ref()).try_for_each(|request| match request {
            // A negative revision means "now", but only after a comparison with the compacted revision.
            Request::RequestRange(range) if range.revision < 0 && range.revision < self.compacted => Err(COMPACTED),
            Request::RequestRange(range) => self.readable(range.revision).map(|_| ()),
            Request::RequestPut(put) => self.check_put(put),
            Request::RequestDeleteRange(_) => Ok(()),
            Request::RequestTxn(txn) => self.check_txn(txn),
        })
    }
}

impl Writing {
    pub(super) fn txn(&mut self, txn: &TxnRequest) -> Answer<TxnResponse> {
        let before = self.model.clone();
        before.check_txn(txn)?;
        let response = self.run(&before, txn);
        Ok(TxnResponse { header: self.header(), ..response })
    }

    /// Runs the taken branch. The header of a nested transaction is empty.
    fn run(&mut self, before: &Model, txn: &TxnRequest) -> TxnResponse {
        let requests = before.branch(txn).iter().filter_map(|op| op.request.as_ref());
        let responses = requests.map(|request| ResponseOp { response: Some(self.operate(before, request)) }).collect();
        TxnResponse { header: Some(ResponseHeader::default()), succeeded: before.succeeds(txn), responses }
    }

    fn operate(&mut self, before: &Model, request: &Request) -> Response {
        match request {
            Request::RequestRange(range) => {
                let keys = if range.revision > 0 { before.keys_at(range.revision) } else { &self.model.keys };
                let alive = range::alive(keys, &range.key, &range.range_end);
                Response::ResponseRange(range::answer(alive, range, self.seen()))
            }
            Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
            Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete_range(delete)),
            Request::RequestTxn(txn) => Response::ResponseTxn(self.run(before, txn)),
        }
    }
}

/// An operand that belongs to another target counts as zero or empty.
fn is_true_of(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match (compare.target(), &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => kv.version.cmp(n),
        (CompareTarget::Version, _) => kv.version.cmp(&0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => kv.create_revision.cmp(n),
        (CompareTarget::Create, _) => kv.create_revision.cmp(&0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => kv.mod_revision.cmp(n),
        (CompareTarget::Mod, _) => kv.mod_revision.cmp(&0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => kv.lease.cmp(n),
        (CompareTarget::Lease, _) => kv.lease.cmp(&0),
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => kv.value.cmp(value),
        (CompareTarget::Value, _) => kv.value[..].cmp(&[]),
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}
