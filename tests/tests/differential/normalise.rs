//! Removes from answers the differences that are allowed between two correct servers, and nothing else.
//!
//! - cluster id, member id and raft term: each server has its own; replaced by 1. Zeros stay zeros, because the headers
//!   inside a transaction must be empty.
//! - lease ids that the server chose: replaced by the numbers that calls use.
//! - remaining TTLs: time passes between two answers. A TTL that is below the granted one by no more than the time
//!   since the run began becomes the granted one.
//! - the order of the keys of a lease, and of leases: etcd does not define it (a map, a heap ordered by time); sorted.
//! - the order of equal elements in a sorted range: etcd's sort is not stable; see [`settle_ties`].

use std::cmp::Ordering;

use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::response_op::Response;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::KeyValue;
use metastore_sim::model::range;

use super::call::{Answer, Call, FIRST_CHOSEN, Side};

pub fn normalise(call: &Call, answer: &mut Answer, side: &Side) {
    if let Some(found) = header(answer) {
        normalise_header(found, side);
    }
    match (call, answer) {
        (Call::Range(request) | Call::RangeStream(request), Answer::Range(answer)) => settle_ties(request, answer),
        (Call::Txn(request), Answer::Txn(answer)) => normalise_txn(request, answer),
        (Call::Grant(request), Answer::Grant(answer)) if request.id == 0 && answer.id > 0 => answer.id = FIRST_CHOSEN,
        (_, Answer::KeepAlive(answer)) => answer.id = side.number_of(answer.id),
        (_, Answer::TimeToLive(answer)) => normalise_ttl(answer, side),
        (_, Answer::Leases(answer)) => {
            answer.leases.iter_mut().for_each(|lease| lease.id = side.number_of(lease.id));
            answer.leases.sort_by_key(|lease| lease.id);
        }
        (_, Answer::Status(answer)) => normalise_status(answer, side),
        _ => {}
    }
}

/// The header of an answer, if it has one.
pub fn header(answer: &mut Answer) -> Option<&mut ResponseHeader> {
    match answer {
        Answer::Range(answer) => answer.header.as_mut(),
        Answer::Put(answer) => answer.header.as_mut(),
        Answer::Delete(answer) => answer.header.as_mut(),
        Answer::Txn(answer) => answer.header.as_mut(),
        Answer::Compact(answer) => answer.header.as_mut(),
        Answer::HashKv(answer) => answer.header.as_mut(),
        Answer::Grant(answer) => answer.header.as_mut(),
        Answer::Revoke(answer) => answer.header.as_mut(),
        Answer::KeepAlive(answer) => answer.header.as_mut(),
        Answer::TimeToLive(answer) => answer.header.as_mut(),
        Answer::Leases(answer) => answer.header.as_mut(),
        Answer::Status(answer) => answer.header.as_mut(),
        Answer::Watch(answer) => answer.header.as_mut(),
        Answer::Error(..) => None,
    }
}

fn normalise_header(header: &mut ResponseHeader, side: &Side) {
    for (found, own) in [
        (&mut header.cluster_id, side.cluster_id),
        (&mut header.member_id, side.member_id),
        (&mut header.raft_term, side.raft_term),
    ] {
        if *found == own {
            *found = 1;
        }
    }
}

fn normalise_txn(request: &TxnRequest, answer: &mut TxnResponse) {
    let taken = if answer.succeeded { &request.success } else { &request.failure };
    for (request, answer) in taken.iter().zip(&mut answer.responses) {
        match (&request.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(answer))) => {
                settle_ties(request, answer);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(answer))) => {
                normalise_txn(request, answer);
            }
            _ => {}
        }
    }
}

fn normalise_ttl(answer: &mut LeaseTimeToLiveResponse, side: &Side) {
    answer.id = side.number_of(answer.id);
    answer.keys.sort();
    // etcd and MetaStore both round down to a whole second.
    let passed_s = side.since.elapsed().as_secs() as i64 + 1;
    let lowest = (answer.granted_ttl - passed_s).max(0);
    if (lowest..=answer.granted_ttl).contains(&answer.ttl) {
        answer.ttl = answer.granted_ttl;
    }
}

/// Sizes, indexes and versions differ between servers. Leadership and reported errors are compared.
fn normalise_status(answer: &mut StatusResponse, side: &Side) {
    *answer = StatusResponse {
        header: answer.header,
        leader: if answer.leader == side.member_id { 1 } else { answer.leader },
        errors: std::mem::take(&mut answer.errors),
        is_learner: answer.is_learner,
        ..StatusResponse::default()
    };
}

/// Puts equal elements of a sorted range in key order. etcd's sort is not stable, so any order of equal elements is
/// right. If a limit cuts through a run of equal elements, any of them may be in the answer. Therefore the last run of
/// a cut answer keeps only the fields by which it was sorted. Values that `keys_only` removed cannot be distinguished:
/// all of them form one run.
fn settle_ties(request: &RangeRequest, answer: &mut RangeResponse) {
    let Ok(target) = SortTarget::try_from(request.sort_target) else { return };
    if target == SortTarget::Key || SortOrder::try_from(request.sort_order).is_err() {
        return;
    }
    let same = |a: &KeyValue, b: &KeyValue| range::compare(a, b, target) == Ordering::Equal;
    let mut kvs = std::mem::take(&mut answer.kvs);
    let last = kvs.chunk_by(same).count().saturating_sub(1);
    for (number, run) in kvs.chunk_by_mut(same).enumerate() {
        run.sort_by(|a, b| a.key.cmp(&b.key));
        if answer.more && number == last {
            run.iter_mut().for_each(|kv| *kv = only(target, kv));
        }
    }
    answer.kvs = kvs;
}

fn only(target: SortTarget, kv: &KeyValue) -> KeyValue {
    let mut rest = KeyValue::default();
    match target {
        SortTarget::Key => rest.key = kv.key.clone(),
        SortTarget::Version => rest.version = kv.version,
        SortTarget::Create => rest.create_revision = kv.create_revision,
        SortTarget::Mod => rest.mod_revision = kv.mod_revision,
        SortTarget::Value => rest.value = kv.value.clone(),
    }
    rest
}
