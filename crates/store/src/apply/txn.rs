//! Transactions (etcd: `server/etcdserver/txn/txn.go`).
//!
//! Execution makes three passes over the request, so that a transaction takes effect as a whole or not at all. First it
//! evaluates every comparison, nested ones included, on the state before the transaction. Then it checks every
//! operation of the branches taken, on the same state. Then it runs the operations. After the second pass nothing can
//! be refused.

use std::cmp::Ordering;

use metastore_engine::KeyRange;
use metastore_mutants::Mutant;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::{Applying, HaltCause, OpReply, Reply, TxnReply, range_query};
use crate::Store;
use crate::mvcc::row::KeyValue;
use crate::mvcc::{ReadError, View};

/// The greatest depth of nested transactions that is applied. No request of the API can be deeper: every level takes at
/// least one of the operations that a request may have, and decoding stops at 100 levels of messages.
pub(super) const MAX_DEPTH: usize = 128;

/// The branch that each transaction of a tree takes, in the order of execution.
struct Path(Vec<bool>);

impl Store {
    pub(super) fn txn(&mut self, request: &TxnRequest) -> Applying<Reply> {
        let mut path = Path(Vec::new());
        choose(self.view(), request, i64::MAX, &mut path, 0)?;
        let mut taken = path.0.iter().copied();
        if let Err(refusal) = self.check_branch(request, &mut taken)? {
            return Ok(Err(refusal));
        }
        let mut taken = path.0.iter().copied();
        Ok(Ok(Reply::Txn(self.run(request, &mut taken)?)))
    }

    fn check_branch(&self, request: &TxnRequest, taken: &mut impl Iterator<Item = bool>) -> Applying<()> {
        for op in branch(request, next(taken)?) {
            let checked = match operation(op)? {
                Request::RequestRange(range) => self.mvcc.readable_in_txn(range.revision).map(|_| ()),
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestDeleteRange(_) => Ok(()),
                Request::RequestTxn(txn) => self.check_branch(txn, taken)?,
            };
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    fn run(&mut self, request: &TxnRequest, taken: &mut impl Iterator<Item = bool>) -> Result<TxnReply, HaltCause> {
        let succeeded = next(taken)?;
        let mut ops = Vec::new();
        for op in branch(request, succeeded) {
            ops.push(match operation(op)? {
                Request::RequestRange(range) => {
                    let query = range_query(range);
                    let at = if query.revision <= 0 { i64::MAX } else { query.revision };
                    let reply = self.view().range_visible(&query, at, self.mvcc.seen());
                    OpReply::Range(reply.map_err(unreadable)?)
                }
                Request::RequestPut(_) if metastore_mutants::on(Mutant::TxnPartly) && !ops.is_empty() => {
                    OpReply::Put { revision: self.mvcc.seen(), previous: None }
                }
                Request::RequestPut(put) => {
                    let previous = self.put_checked(put)?;
                    OpReply::Put { revision: self.mvcc.seen(), previous }
                }
                Request::RequestDeleteRange(delete) => {
                    let (deleted, previous) = self.delete_checked(delete)?;
                    OpReply::DeleteRange { revision: self.mvcc.seen(), deleted, previous }
                }
                Request::RequestTxn(txn) => OpReply::Txn(self.run(txn, taken)?),
            });
        }
        Ok(TxnReply { succeeded, ops })
    }
}

impl View {
    /// Runs a read-only transaction at one revision, without the log. The caller must have checked that both branches
    /// hold only ranges.
    ///
    /// # Errors
    /// As [`View::range`]. The result holds the revision that was read, and the reply.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<(i64, TxnReply), ReadError> {
        loop {
            let current = self.revision();
            let Ok(_pin) = self.pin(current) else { continue };
            let mut path = Path(Vec::new());
            choose(self, request, current, &mut path, 0).map_err(engine_error)?;
            let succeeded = path.0.first().copied().unwrap_or_default();
            let mut ops = Vec::new();
            for op in branch(request, succeeded) {
                if let Some(Request::RequestRange(range)) = &op.request {
                    let query = range_query(range);
                    let at = self.readable_in_txn(query.revision, current)?;
                    let _pin = self.pin(at)?;
                    ops.push(OpReply::Range(self.range_visible(&query, at, current)?));
                }
            }
            return Ok((current, TxnReply { succeeded, ops }));
        }
    }
}

fn engine_error(cause: HaltCause) -> ReadError {
    match cause {
        HaltCause::Engine(error) => error.into(),
        other => metastore_engine::EngineError(other.to_string()).into(),
    }
}

fn unreadable(error: ReadError) -> HaltCause {
    match error {
        ReadError::Engine(error) => error.into(),
        ReadError::Refused(refusal) => HaltCause::Malformed(format!("a checked range was refused: {refusal}")),
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn operation(op: &RequestOp) -> Result<&Request, HaltCause> {
    op.request.as_ref().ok_or_else(|| HaltCause::Malformed("an operation of a transaction is missing".into()))
}

fn next(taken: &mut impl Iterator<Item = bool>) -> Result<bool, HaltCause> {
    taken.next().ok_or_else(|| HaltCause::Malformed("a transaction without a chosen branch".into()))
}

/// Decides the branch of `request` and of every transaction inside the branch taken.
fn choose(view: &View, request: &TxnRequest, at: i64, path: &mut Path, depth: usize) -> Result<(), HaltCause> {
    if depth > MAX_DEPTH {
        return Err(HaltCause::Malformed(format!("transactions nested deeper than {MAX_DEPTH}")));
    }
    let mut succeeded = true;
    for compare in &request.compare {
        succeeded = succeeded && holds(view, compare, at)?;
    }
    path.0.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            choose(view, txn, at, path, depth + 1)?;
        }
    }
    Ok(())
}

/// Whether a comparison holds for its key, or for every key of its range. For a key that does not exist, all numbers
/// compare as zero; a comparison of its value never holds.
fn holds(view: &View, compare: &Compare, at: i64) -> Result<bool, HaltCause> {
    let absent = || compare.target != CompareTarget::Value as i32 && matches(compare, &KeyValue::default());
    let engine = view.engine();
    if compare.range_end.is_empty() {
        let found = engine.newest(&compare.key, at)?.filter(|version| !version.tombstone);
        return Ok(found.map_or_else(absent, |version| matches(compare, &KeyValue::of(&version.row))));
    }
    let range = KeyRange::from_request(&compare.key, &compare.range_end);
    let mut any = false;
    let mut from = Some(range.start.to_vec());
    while let Some(start) = from {
        let mut rows = Vec::new();
        from = engine.scan(KeyRange { start: &start, ..range }, at, usize::MAX, &mut rows)?;
        any |= !rows.is_empty();
        if !rows.iter().all(|version| matches(compare, &KeyValue::of(&version.row))) {
            return Ok(false);
        }
    }
    Ok(any || absent())
}

/// Compares as etcd does: if the request holds a value for another target, zero or the empty value takes its place; an
/// unknown target compares as equal; an unknown result always holds.
fn matches(compare: &Compare, kv: &KeyValue<'_>) -> bool {
    let ordering = match (CompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(n))) => kv.version.cmp(n),
        (Ok(CompareTarget::Version), _) => kv.version.cmp(&0),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(n))) => kv.create_revision.cmp(n),
        (Ok(CompareTarget::Create), _) => kv.create_revision.cmp(&0),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(n)))
            if metastore_mutants::on(Mutant::CompareIgnoresNewer) && kv.mod_revision > *n =>
        {
            Ordering::Equal
        }
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(n))) => kv.mod_revision.cmp(n),
        (Ok(CompareTarget::Mod), _) => kv.mod_revision.cmp(&0),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(n))) => kv.lease.cmp(n),
        (Ok(CompareTarget::Lease), _) => kv.lease.cmp(&0),
        (Ok(CompareTarget::Value), Some(TargetUnion::Value(value))) => kv.value.cmp(value),
        (Ok(CompareTarget::Value), _) => kv.value.cmp(&[]),
        (Err(_), _) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
