//! Compares the model with the store that it judges: where they differ, one of them is wrong.

use std::sync::Arc;

use metastore_engine::{Memory, Row};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::response_op::Response as Nested;
use metastore_proto::etcdserverpb::{ResponseOp, TxnResponse};
use metastore_store::apply::range_query;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::RangeReply;
use metastore_store::watch::RevisionEvents;
use metastore_store::{OpReply, Refusal, Reply, Store, TxnReply};

use super::story::Story;
use super::*;
use crate::random::Random;

const SEEDS: u64 = 100;
const REQUESTS: usize = 150;

#[test]
fn a_store_answers_as_the_model() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed, 0);
        let mut store = Store::open(Arc::new(Memory::new())).unwrap();
        let mut story = Story::default();
        for index in 1..=REQUESTS {
            let request = story.any_request(&mut random);
            let step = story.model.execute(&request);
            let at = story.call(0, request.clone());
            story.execute(at);
            assert_eq!(ask(&mut store, &request), (step.response, step.events), "seed {seed}, {index}: {request:?}");
        }
        assert!(story.model.revision() > 20, "seed {seed}: little was written");
    }
}

#[test]
fn refusals_are_worded_as_by_etcd() {
    let same = |refusal: Refusal, text: &str| assert_eq!(refusal.to_string(), text);
    same(Refusal::Compacted, COMPACTED);
    same(Refusal::FutureRevision, FUTURE_REVISION);
    same(Refusal::KeyNotFound, KEY_NOT_FOUND);
    same(Refusal::LeaseNotFound, LEASE_NOT_FOUND);
    same(Refusal::LeaseExists, LEASE_EXISTS);
    same(Refusal::LeaseTtlTooLarge, LEASE_TTL_TOO_LARGE);
}

#[test]
fn a_long_past_is_dropped_without_recursion() {
    let put = story::put("a", "1");
    let mut model = Model::default();
    for _ in 0..200_000 {
        model = model.execute(&put).after;
    }
    assert_eq!(model.revision(), 200_001);
}

/// The answer of the store, and the events that it sends to watchers.
fn ask(store: &mut Store, request: &Request) -> (Response, Vec<Event>) {
    let (kind, message): (Kind, &dyn Fn(u64, Kind) -> Bytes) = match request {
        Request::Put(put) => (Kind::Put, &|id, kind| Command::encode(id, kind, put)),
        Request::DeleteRange(delete) => (Kind::DeleteRange, &|id, kind| Command::encode(id, kind, delete)),
        Request::Txn(txn) => (Kind::Txn, &|id, kind| Command::encode(id, kind, txn)),
        Request::Compact(compact) => (Kind::Compaction, &|id, kind| Command::encode(id, kind, compact)),
        Request::LeaseGrant(grant) => (Kind::LeaseGrant, &|id, kind| Command::encode(id, kind, grant)),
        Request::LeaseRevoke(revoke) => (Kind::LeaseRevoke, &|id, kind| Command::encode(id, kind, revoke)),
        Request::Range(range) => {
            let reply = store.view().range(&range_query(range));
            let refused = |error: metastore_store::mvcc::ReadError| Response::Refused(error.to_string());
            return (reply.map_or_else(refused, |reply| Response::Range(range_response(&reply))), Vec::new());
        }
    };
    let index = store.applied().index + 1;
    let outcome = store.apply(index, 1, message(index, kind)).unwrap().unwrap();
    let events = store.publish().unwrap().iter().flat_map(|events| told(events)).collect();
    if let Some(job) = store.take_compaction_hash() {
        job.run().unwrap();
    }
    (outcome.reply.map_or_else(|r| Response::Refused(r.to_string()), |reply| response(reply, outcome.revision)), events)
}

fn kv(row: &Row) -> KeyValue {
    KeyValue::decode(&row[..]).unwrap()
}

fn told(events: &RevisionEvents) -> Vec<Event> {
    let event = |change: &metastore_store::watch::Change| {
        let is_delete = change.version.tombstone;
        let kind = if is_delete { EventType::Delete } else { EventType::Put };
        let mut now = kv(&change.version.row);
        now.mod_revision = events.revision;
        Event { r#type: kind.into(), kv: Some(now), prev_kv: change.previous.as_ref().map(kv) }
    };
    events.changes.iter().map(event).collect()
}

fn response(reply: Reply, revision: i64) -> Response {
    let header = header(revision);
    match reply {
        Reply::Put { previous } => Response::Put(PutResponse { header, prev_kv: previous.as_ref().map(kv) }),
        Reply::DeleteRange { deleted, previous } => {
            let prev_kvs = previous.iter().map(kv).collect();
            Response::DeleteRange(DeleteRangeResponse { header, deleted, prev_kvs })
        }
        Reply::Txn(reply) => Response::Txn(TxnResponse { header, ..txn_response(&reply) }),
        Reply::Compact { .. } => Response::Compact(CompactionResponse { header }),
        Reply::LeaseGrant { id, ttl_s: ttl } => {
            Response::LeaseGrant(LeaseGrantResponse { header, id, ttl, error: String::new() })
        }
        Reply::LeaseRevoke { .. } => Response::LeaseRevoke(LeaseRevokeResponse { header }),
        other => panic!("nobody asked for {other:?}"),
    }
}

fn range_response(reply: &RangeReply) -> RangeResponse {
    let kvs = reply.rows.iter().map(kv).collect();
    RangeResponse { header: header(reply.revision), kvs, more: reply.more, count: reply.count }
}

fn txn_response(reply: &TxnReply) -> TxnResponse {
    let responses = reply.ops.iter().map(|op| ResponseOp { response: Some(nested(op)) }).collect();
    TxnResponse { header: header(0), succeeded: reply.succeeded, responses }
}

fn nested(reply: &OpReply) -> Nested {
    match reply {
        OpReply::Range(reply) => Nested::ResponseRange(range_response(reply)),
        OpReply::Put { revision, previous } => {
            Nested::ResponsePut(PutResponse { header: header(*revision), prev_kv: previous.as_ref().map(kv) })
        }
        OpReply::DeleteRange { revision, deleted, previous } => Nested::ResponseDeleteRange(DeleteRangeResponse {
            header: header(*revision),
            deleted: *deleted,
            prev_kvs: previous.iter().map(kv).collect(),
        }),
        OpReply::Txn(reply) => Nested::ResponseTxn(txn_response(reply)),
    }
}
