//! Transactions (etcd: `server/etcdserver/txn/txn.go`).
//!
//! Execution makes three passes over the request, so that a transaction takes effect as a whole or not at all. First it
//! evaluates every comparison, nested ones included, on the state before the transaction. Then it checks every
//! operation of the branches taken, on the same state. Then it runs the operations. After the second pass nothing can
//! be refused.

use std::cmp::Ordering;

use metastore_engine::KeyRange;
use metastore_mutants::{Mutant, mutant};
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{Compare, TxnRequest};

use super::flat_txn::{FlatTxn, Op};
use super::kv::reads_before;
use super::{Applying, HaltCause, OpReply, Reply, TxnReply, range_query};
use crate::mvcc::row::KeyValue;
use crate::mvcc::{ReadError, View};
use crate::not_done::NotDone;
use crate::{Refusal, Store};

impl Store {
    pub(super) fn txn(&mut self, txn: &FlatTxn) -> Applying<Reply> {
        let (taken, compared) = choose(self.view(), txn)?;
        self.work.checks = compared;
        for op in txn.ops_taken(&taken) {
            match op {
                Op::Range(range) => _ = self.mvcc.readable_in_txn(range.revision)?,
                Op::Put(put) => {
                    let checked = self.check_put(put);
                    let reads = !matches!(checked, Err(NotDone::Refused(Refusal::LeaseNotFound)));
                    self.work.checks += u64::from(reads_before(put) && reads);
                    checked?;
                }
                Op::DeleteRange(_) | Op::Txn(_) => {}
            }
        }
        Ok(Reply::Txn(self.run(txn, &taken)?))
    }

    /// Executes the operations after their check. `open` holds the transactions under way, each with its remaining
    /// operations and the answers so far.
    fn run(&mut self, txn: &FlatTxn, taken: &[bool]) -> Result<TxnReply, HaltCause> {
        let begin = |number: usize| (txn.level(number).branch(taken[number]).iter(), taken[number], Vec::new());
        let mut open = vec![begin(0)];
        loop {
            let (rest, _, ops) = open.last_mut().expect("it is left with the outermost transaction");
            match rest.next() {
                Some(Op::Txn(number)) => open.push(begin(*number)),
                Some(op) => {
                    let reply = self.execute(op, ops.is_empty())?;
                    ops.push(reply);
                }
                None => {
                    let (_, succeeded, ops) = open.pop().expect("it was there");
                    let reply = TxnReply { succeeded, ops };
                    match open.last_mut() {
                        Some((_, _, around)) => around.push(OpReply::Txn(reply)),
                        None => return Ok(reply),
                    }
                }
            }
        }
    }

    fn execute(&mut self, op: &Op, first: bool) -> Result<OpReply, HaltCause> {
        Ok(match op {
            Op::Range(range) => {
                self.work.ranges += 1;
                let query = range_query(range);
                let at = if query.revision <= 0 { i64::MAX } else { query.revision };
                let reply = self.view().range_visible(&query, at, self.mvcc.seen());
                OpReply::Range(reply.map_err(unreadable)?)
            }
            Op::Put(put) => {
                if mutant(Mutant::TxnPartly) && !first {
                    return Ok(OpReply::Put { revision: self.mvcc.seen(), previous: None });
                }
                let previous = self.put_checked(put)?;
                OpReply::Put { revision: self.mvcc.seen(), previous }
            }
            Op::DeleteRange(delete) => {
                let (deleted, previous) = self.delete_checked(delete)?;
                OpReply::DeleteRange { revision: self.mvcc.seen(), deleted, previous }
            }
            Op::Txn(_) => return Err(HaltCause::Malformed("a nested transaction that was not opened".into())),
        })
    }
}

impl View {
    /// Runs a read-only transaction at one revision, without the log. The caller must have checked that both branches
    /// hold only ranges.
    ///
    /// # Errors
    /// As [`View::range`]. The result holds the revision that was read, the reply, and how many comparisons and ranges
    /// were evaluated.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<(i64, TxnReply, u64), ReadError> {
        loop {
            let current = self.revision();
            let Ok(_pin) = self.pin(current) else { continue };
            let (succeeded, compared) = all_hold(self, &request.compare, current).map_err(engine_error)?;
            let mut ops = Vec::new();
            for op in if succeeded { &request.success } else { &request.failure } {
                if let Some(Request::RequestRange(range)) = &op.request {
                    let query = range_query(range);
                    let at = self.readable_in_txn(query.revision, current)?;
                    let _pin = self.pin(at)?;
                    ops.push(OpReply::Range(self.range_visible(&query, at, current)?));
                }
            }
            let reads = compared + ops.len() as u64;
            return Ok((current, TxnReply { succeeded, ops }, reads));
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

/// The branch that each transaction takes, by number, only for those that are executed; and how many comparisons were
/// evaluated.
fn choose(view: &View, txn: &FlatTxn) -> Result<(Vec<bool>, u64), HaltCause> {
    let (mut taken, mut compared) = (vec![false; txn.levels().len()], 0);
    let mut open = vec![0];
    while let Some(number) = open.pop() {
        let level = txn.level(number);
        let (succeeded, more) = all_hold(view, &level.compare, i64::MAX)?;
        (taken[number], compared) = (succeeded, compared + more);
        let nested = level.branch(taken[number]).iter();
        open.extend(nested.filter_map(|op| if let Op::Txn(number) = op { Some(*number) } else { None }));
    }
    Ok((taken, compared))
}

/// Whether all comparisons hold, and how many were evaluated: none after the first that does not hold.
fn all_hold(view: &View, compares: &[Compare], at: i64) -> Result<(bool, u64), HaltCause> {
    for (before, compare) in (0..).zip(compares) {
        if !holds(view, compare, at)? {
            return Ok((false, before + 1));
        }
    }
    Ok((true, compares.len() as u64))
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
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(n))) => {
            let mut ordering = kv.mod_revision.cmp(n);
            if mutant(Mutant::CompareIgnoresNewer) && ordering.is_gt() {
                ordering = Ordering::Equal;
            }
            ordering
        }
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
