//! A client that uses the store as a Kubernetes API server does. It lists objects, creates absent ones, and changes or
//! deletes an object only if it is unchanged since the client read it. A failed comparison returns the newest version.
//! The client compacts now and then.

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, response_op,
};

use super::{Behaviour, Wish, value};
use crate::history::{Request, Response};
use crate::random::Random;

/// The prefix of all objects' keys, and the end of their range.
pub const REGISTRY: (&[u8], &[u8]) = (b"/registry/pods/", b"/registry/pods0");
const PAGE: i64 = 3;
/// The number of newest revisions that a compaction keeps.
const KEPT_REVISIONS: i64 = 40;

pub struct Kubernetes {
    /// The number of objects.
    objects: u64,
    /// The revision at which the client knows each object.
    known: BTreeMap<Bytes, i64>,
}

impl Kubernetes {
    pub fn new(objects: u64) -> Self {
        Self { objects, known: BTreeMap::new() }
    }
}

impl Behaviour for Kubernetes {
    fn wish(&mut self, id: u64, random: &mut Random, told: i64) -> Wish {
        let key = Bytes::from(format!("/registry/pods/p{}", random.below(self.objects)));
        let known = self.known.get(&key).copied().unwrap_or(0);
        Wish::Do(match random.below(100) {
            0..55 => {
                let put = PutRequest { key: key.clone(), value: value(id, random), ..PutRequest::default() };
                Request::Txn(unless_changed(key, known, Op::RequestPut(put)))
            }
            55..65 if known > 0 => {
                let delete = DeleteRangeRequest { key: key.clone(), prev_kv: true, ..Default::default() };
                Request::Txn(unless_changed(key, known, Op::RequestDeleteRange(delete)))
            }
            65..90 => Request::Range(list(random, told)),
            90..98 => Request::Range(RangeRequest { key, ..RangeRequest::default() }),
            _ => {
                let revision = (told - KEPT_REVISIONS).max(1);
                Request::Compact(CompactionRequest { revision, physical: true })
            }
        })
    }

    fn told(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::Range(_), Response::Range(found)) => {
                self.known.extend(found.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
            }
            (Request::Txn(request), Response::Txn(done)) => {
                let Some(key) = request.compare.first().map(|compare| compare.key.clone()) else { return };
                let revision = done.header.as_ref().map_or(0, |header| header.revision);
                match done.responses.first().and_then(|op| op.response.as_ref()) {
                    Some(response_op::Response::ResponsePut(_)) => _ = self.known.insert(key, revision),
                    Some(response_op::Response::ResponseRange(found)) => {
                        let newest = found.kvs.first().map_or(0, |kv| kv.mod_revision);
                        self.known.insert(key, newest);
                    }
                    _ => _ = self.known.remove(&key),
                }
            }
            _ => {}
        }
    }
}

/// Applies `then` to an object that is unchanged since this revision (0: that does not exist); otherwise reads the
/// object.
fn unless_changed(key: Bytes, known: i64, then: Op) -> TxnRequest {
    let (target, target_union) = (CompareTarget::Mod as i32, Some(TargetUnion::ModRevision(known)));
    let compare = vec![Compare { key: key.clone(), target, target_union, ..Compare::default() }];
    let read = Op::RequestRange(RangeRequest { key, ..RangeRequest::default() });
    let op = |request| vec![RequestOp { request: Some(request) }];
    TxnRequest { compare, success: op(then), failure: op(read) }
}

/// All objects, or a page of them at an earlier revision.
fn list(random: &mut Random, told: i64) -> RangeRequest {
    let (key, range_end) = (Bytes::from_static(REGISTRY.0), Bytes::from_static(REGISTRY.1));
    let all = RangeRequest { key, range_end, serializable: random.permille(200), ..RangeRequest::default() };
    match random.permille(250) {
        true => RangeRequest { limit: PAGE, revision: (told - 2).max(1), ..all },
        false => all,
    }
}
