//! The known differences between etcd 3.5.1 and the etcd that MetaStore follows. Used only when 3.5.1 is the reference.
//!
//! Each entry recognises exactly one difference, and makes the two answers equal in that respect. A run in which an
//! entry excuses nothing fails: either the entry is wrong, or no call tests it.

use metastore_proto::etcdserverpb::range_request::SortOrder;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::response_op::Response;
use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use tonic::Code;

use super::call::{Answer, Call};

pub struct Known {
    pub name: &'static str,
    /// If the answers differ in this way, removes the difference and returns true.
    excuse: fn(&Call, subject: &mut Answer, reference: &mut Answer) -> bool,
}

pub const KNOWN: [Known; 6] = [
    Known { name: "a put of a txn looks for its key before its lease", excuse: key_before_lease },
    Known { name: "HashKV refuses the compacted revision itself", excuse: no_hash_at_compaction },
    Known { name: "keys_only shows leases", excuse: keys_only_leases },
    Known { name: "an unknown sort order is taken for none", excuse: unknown_sort_order },
    Known { name: "RangeStream does not exist", excuse: no_range_stream },
    Known { name: "HashKV does not tell which revision it hashed", excuse: no_hash_revision },
];

fn unknown_sort_order(call: &Call, subject: &mut Answer, reference: &mut Answer) -> bool {
    let unknown = matches!(call, Call::Range(request) if SortOrder::try_from(request.sort_order).is_err());
    let refused = Answer::Error(Code::InvalidArgument, "etcdserver: invalid sort option".into());
    let found = unknown && *subject == refused;
    if found {
        *reference = refused;
    }
    found
}

fn keys_only_leases(call: &Call, subject: &mut Answer, reference: &mut Answer) -> bool {
    match (call, subject, reference) {
        (Call::Range(request), Answer::Range(subject), Answer::Range(reference)) => forget(request, subject, reference),
        (Call::Txn(request), Answer::Txn(subject), Answer::Txn(reference)) => forget_in(request, subject, reference),
        _ => false,
    }
}

/// Also in each nested range.
fn forget_in(request: &TxnRequest, subject: &mut TxnResponse, reference: &mut TxnResponse) -> bool {
    let taken = if subject.succeeded { &request.success } else { &request.failure };
    let mut found = false;
    for (op, (a, b)) in taken.iter().zip(subject.responses.iter_mut().zip(&mut reference.responses)) {
        found |= match (&op.request, &mut a.response, &mut b.response) {
            (Some(Request::RequestRange(op)), Some(Response::ResponseRange(a)), Some(Response::ResponseRange(b))) => {
                forget(op, a, b)
            }
            (Some(Request::RequestTxn(op)), Some(Response::ResponseTxn(a)), Some(Response::ResponseTxn(b))) => {
                forget_in(op, a, b)
            }
            _ => false,
        };
    }
    found
}

fn forget(request: &RangeRequest, subject: &RangeResponse, reference: &mut RangeResponse) -> bool {
    let hidden = request.keys_only && subject.kvs.iter().all(|kv| kv.lease == 0);
    let found = hidden && reference.kvs.iter().any(|kv| kv.lease != 0);
    if found {
        reference.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
    found
}

fn no_hash_at_compaction(_: &Call, subject: &mut Answer, reference: &mut Answer) -> bool {
    let compacted = "etcdserver: mvcc: required revision has been compacted".to_string();
    let refused = *reference == Answer::Error(Code::OutOfRange, compacted);
    let found = refused && matches!(subject, Answer::HashKv(_));
    if found {
        *reference = subject.clone();
    }
    found
}

fn key_before_lease(call: &Call, subject: &mut Answer, reference: &mut Answer) -> bool {
    let no_lease = Answer::Error(Code::NotFound, "etcdserver: requested lease not found".into());
    let no_key = Answer::Error(Code::InvalidArgument, "etcdserver: key not found".into());
    let found = matches!(call, Call::Txn(_)) && *subject == no_lease && *reference == no_key;
    if found {
        *reference = no_lease;
    }
    found
}

fn no_range_stream(call: &Call, subject: &mut Answer, reference: &mut Answer) -> bool {
    let missing = "unknown method RangeStream for service etcdserverpb.KV".to_string();
    let found = matches!(call, Call::RangeStream(_)) && *reference == Answer::Error(Code::Unimplemented, missing);
    if found {
        *reference = subject.clone();
    }
    found
}

fn no_hash_revision(_: &Call, subject: &mut Answer, reference: &mut Answer) -> bool {
    let (Answer::HashKv(subject), Answer::HashKv(reference)) = (subject, reference) else { return false };
    let found = reference.hash_revision == 0;
    if found {
        reference.hash_revision = subject.hash_revision;
    }
    found
}

/// Excuses the known differences of one pair of answers; `hits` counts per entry.
pub fn excuse(call: &Call, subject: &mut Answer, reference: &mut Answer, hits: &mut [u64]) {
    for (known, hits) in KNOWN.iter().zip(hits) {
        if subject != reference && (known.excuse)(call, subject, reference) {
            *hits += 1;
        }
    }
}
