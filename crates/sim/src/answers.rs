//! The answers of members as etcd's messages: the form in which a history is judged.

use bytes::Bytes;
use metastore_engine::Row;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::response_op;
use metastore_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseRevokeResponse, PutResponse, RangeResponse,
    ResponseHeader, ResponseOp, TxnResponse,
};
use metastore_proto::mvccpb::KeyValue;
use metastore_store::mvcc::RangeReply;
use metastore_store::{OpReply, Outcome, Reply, TxnReply};

use crate::history::Response;

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// A stored row as clients see it.
///
/// # Panics
/// If the row is not a `KeyValue`: a member has read bytes that no command wrote.
pub fn key_value(row: &Row) -> KeyValue {
    KeyValue::decode(Bytes::copy_from_slice(row)).expect("a row is a KeyValue")
}

/// The answer to a range. Of its header, only the revision is filled in.
pub fn range(reply: &RangeReply) -> RangeResponse {
    let kvs = reply.rows.iter().map(key_value).collect();
    RangeResponse { header: header(reply.revision), kvs, more: reply.more, count: reply.count }
}

/// The answer to a command; `None` for commands that clients do not send.
pub fn outcome(outcome: &Outcome) -> Option<Response> {
    let header = header(outcome.revision);
    let reply = match &outcome.reply {
        Ok(reply) => reply,
        Err(refusal) => return Some(Response::Refused(refusal.to_string())),
    };
    Some(match reply {
        Reply::Put { previous } => Response::Put(PutResponse { header, prev_kv: previous.as_ref().map(key_value) }),
        Reply::DeleteRange { deleted, previous } => {
            let prev_kvs = previous.iter().map(key_value).collect();
            Response::DeleteRange(DeleteRangeResponse { header, deleted: *deleted, prev_kvs })
        }
        Reply::Txn(reply) => Response::Txn(TxnResponse { header, ..txn(reply) }),
        Reply::Compact { .. } => Response::Compact(CompactionResponse { header }),
        Reply::LeaseGrant { id, ttl_s } => {
            Response::LeaseGrant(LeaseGrantResponse { header, id: *id, ttl: *ttl_s, error: String::new() })
        }
        Reply::LeaseRevoke { .. } => Response::LeaseRevoke(LeaseRevokeResponse { header }),
        Reply::LeaseCheckpoint
        | Reply::Recorded
        | Reply::LoggedIn { .. }
        | Reply::LoggedOut { .. }
        | Reply::AllLoggedOut
        | Reply::MembersChanged
        | Reply::Alarms(_)
        | Reply::AnsweredElsewhere => return None,
    })
}

/// Whether the answer proves that the request has changed a key.
pub fn changed(response: &Response) -> bool {
    match response {
        Response::Put(_) => true,
        Response::DeleteRange(done) => done.deleted > 0,
        Response::Txn(done) => txn_changed(done),
        _ => false,
    }
}

fn txn_changed(done: &TxnResponse) -> bool {
    done.responses.iter().any(|op| match &op.response {
        Some(response_op::Response::ResponsePut(_)) => true,
        Some(response_op::Response::ResponseDeleteRange(done)) => done.deleted > 0,
        Some(response_op::Response::ResponseTxn(done)) => txn_changed(done),
        _ => false,
    })
}

/// The header of a top-level transaction is filled from its outcome. The header of a nested transaction is present and
/// empty.
fn txn(reply: &TxnReply) -> TxnResponse {
    let header = Some(ResponseHeader::default());
    TxnResponse { header, succeeded: reply.succeeded, responses: reply.ops.iter().map(op).collect() }
}

fn op(reply: &OpReply) -> ResponseOp {
    let response = match reply {
        OpReply::Range(reply) => response_op::Response::ResponseRange(range(reply)),
        OpReply::Put { revision, previous } => {
            let prev_kv = previous.as_ref().map(key_value);
            response_op::Response::ResponsePut(PutResponse { header: header(*revision), prev_kv })
        }
        OpReply::DeleteRange { revision, deleted, previous } => {
            let prev_kvs = previous.iter().map(key_value).collect();
            let reply = DeleteRangeResponse { header: header(*revision), deleted: *deleted, prev_kvs };
            response_op::Response::ResponseDeleteRange(reply)
        }
        OpReply::Txn(reply) => response_op::Response::ResponseTxn(txn(reply)),
    };
    ResponseOp { response: Some(response) }
}
