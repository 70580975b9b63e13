//! A transaction as it stands in the log, with those nested in it side by side.
//!
//! The member that proposed a transaction decides how deep it may be nested: an etcd accepts 129 levels with the
//! default
//! `--max-txn-ops`, and up to 5,000, the limit of Go's decoder, with a larger one. So a level must not take stack,
//! neither in decoding nor in execution: nested transactions have numbers, and everything here is a loop.

use bytes::{Buf, Bytes};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp};
use metastore_proto::prost::DecodeError;
use metastore_proto::prost::encoding::{self, DecodeContext, WireType};

use super::HaltCause;

const FIELD_COMPARE: u32 = 1;
const FIELD_SUCCESS: u32 = 2;
const FIELD_FAILURE: u32 = 3;
/// A transaction in an operation.
const FIELD_NESTED: u32 = 4;

/// A transaction, and all that are nested in it. Number 0 is the outermost one.
pub(super) struct FlatTxn(Vec<Level>);

/// One transaction of the tree.
#[derive(Default)]
pub(super) struct Level {
    pub compare: Vec<Compare>,
    success: Vec<Op>,
    failure: Vec<Op>,
}

pub(super) enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    /// The number of a nested transaction.
    Txn(usize),
}

impl Level {
    pub fn branch(&self, succeeded: bool) -> &[Op] {
        if succeeded { &self.success } else { &self.failure }
    }

    /// Both branches.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.success.iter().chain(&self.failure)
    }
}

impl FlatTxn {
    /// Reads the bytes of a `TxnRequest`.
    ///
    /// # Errors
    /// If they are damaged, or an operation is missing.
    pub fn decode(body: Bytes) -> Result<Self, HaltCause> {
        let (mut levels, mut bodies) = (Vec::new(), vec![body]);
        while let Some(body) = bodies.get_mut(levels.len()) {
            let body = std::mem::take(body);
            let nested = |body| {
                bodies.push(body);
                bodies.len() - 1
            };
            levels.push(read_level(body, nested)?);
        }
        Ok(Self(levels))
    }

    pub fn level(&self, number: usize) -> &Level {
        &self.0[number]
    }

    /// All transactions of the tree, in no order that matters.
    pub fn levels(&self) -> &[Level] {
        &self.0
    }

    /// The operations on the branches that are taken, in the order of their execution, nested transactions resolved.
    pub fn ops_taken<'a>(&'a self, taken: &'a [bool]) -> impl Iterator<Item = &'a Op> {
        let branch = |number: usize| self.0[number].branch(taken[number]).iter();
        let mut open = vec![branch(0)];
        std::iter::from_fn(move || {
            loop {
                match open.last_mut()?.next() {
                    None => _ = open.pop(),
                    Some(Op::Txn(number)) => open.push(branch(*number)),
                    Some(op) => return Some(op),
                }
            }
        })
    }
}

/// Reads one transaction. `nested` takes the bytes of one that is in it, and numbers it.
fn read_level(mut body: Bytes, mut nested: impl FnMut(Bytes) -> usize) -> Result<Level, HaltCause> {
    let mut level = Level::default();
    while body.has_remaining() {
        let (field, wire) = encoding::decode_key(&mut body)?;
        match field {
            FIELD_COMPARE => level.compare.push(Compare::decode(message_of(wire, &mut body)?)?),
            FIELD_SUCCESS => level.success.push(read_op(message_of(wire, &mut body)?, &mut nested)?),
            FIELD_FAILURE => level.failure.push(read_op(message_of(wire, &mut body)?, &mut nested)?),
            _ => encoding::skip_field(wire, field, &mut body, DecodeContext::default())?,
        }
    }
    Ok(level)
}

fn read_op(bytes: Bytes, nested: &mut impl FnMut(Bytes) -> usize) -> Result<Op, HaltCause> {
    if let Some(txn) = only_nested(bytes.clone()) {
        return Ok(Op::Txn(nested(txn)));
    }
    match RequestOp::decode(bytes)?.request {
        Some(Request::RequestRange(range)) => Ok(Op::Range(range)),
        Some(Request::RequestPut(put)) => Ok(Op::Put(put)),
        Some(Request::RequestDeleteRange(delete)) => Ok(Op::DeleteRange(delete)),
        // Beside fields that are not known, or in pieces; no member writes either.
        Some(Request::RequestTxn(txn)) => Ok(Op::Txn(nested(txn.encode_to_vec().into()))),
        None => Err(HaltCause::Malformed("an operation of a transaction is missing".into())),
    }
}

/// The bytes of a nested transaction, if an operation holds that and nothing else.
fn only_nested(mut op: Bytes) -> Option<Bytes> {
    let (field, wire) = encoding::decode_key(&mut op).ok()?;
    let txn = (field == FIELD_NESTED).then(|| message_of(wire, &mut op).ok())??;
    op.is_empty().then_some(txn)
}

fn message_of(wire: WireType, bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let mut message = Bytes::new();
    encoding::bytes::merge(wire, &mut message, bytes, DecodeContext::default())?;
    Ok(message)
}
