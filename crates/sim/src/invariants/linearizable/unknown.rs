//! Operations with unknown outcome, indexed by their possible effects.

use std::collections::{BTreeMap, HashMap};

use metastore_proto::etcdserverpb::request_op::Request as Nested;
use metastore_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
use metastore_proto::mvccpb::Event;
use metastore_proto::mvccpb::event::EventType;

use super::task::Task;
use crate::history::{Request, Revisions};
use crate::model::range::is_inside;

/// Each list is in the order of the history.
#[derive(Default)]
pub struct Unknown {
    /// By revision: the operations that could have made it.
    makers: BTreeMap<i64, Vec<usize>>,
    /// By lease: its grants and revocations.
    leases: HashMap<i64, Vec<usize>>,
    /// By the revision compacted at.
    compactions: BTreeMap<i64, Vec<usize>>,
}

impl Unknown {
    pub fn new(tasks: &[Task<'_>], revisions: &Revisions) -> Self {
        let mut unknown = Self::default();
        let mut putting: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut deleting = Vec::new();
        for (n, task) in tasks.iter().enumerate().filter(|(_, task)| !task.is_known()) {
            let request = task.request();
            match request {
                Request::LeaseGrant(grant) => unknown.leases.entry(grant.id).or_default().push(n),
                Request::LeaseRevoke(revoke) => unknown.leases.entry(revoke.id).or_default().push(n),
                Request::Compact(compact) => unknown.compactions.entry(compact.revision).or_default().push(n),
                _ => {}
            }
            each_write(request, &mut |write| match write {
                Write::Put(put) => push_once(putting.entry(&put.key).or_default(), n),
                Write::Delete(_) | Write::Revoke(_) => push_once(&mut deleting, n),
            });
        }
        for (revision, events) in revisions {
            let Some((first, kv)) = events.first().and_then(|first| Some((first, first.kv.as_ref()?))) else {
                continue;
            };
            let among = if is_put(first) { putting.get(&kv.key[..]) } else { Some(&deleting) };
            let could = |n: &&usize| could_begin(tasks[**n].request(), first);
            let makers: Vec<usize> = among.into_iter().flatten().filter(could).copied().collect();
            if !makers.is_empty() {
                unknown.makers.insert(*revision, makers);
            }
        }
        unknown
    }

    /// The operations that could have made a revision.
    pub fn makers(&self, revision: i64) -> &[usize] {
        self.makers.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// The operations that could have granted or revoked a lease.
    pub fn of_lease(&self, id: i64) -> &[usize] {
        self.leases.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Compactions at a later revision than `compacted`, the earliest first.
    pub fn compactions_after(&self, compacted: i64) -> impl Iterator<Item = usize> + '_ {
        self.compactions.range(compacted + 1..).flat_map(|(_, tasks)| tasks).copied()
    }
}

fn push_once(to: &mut Vec<usize>, n: usize) {
    if to.last() != Some(&n) {
        to.push(n);
    }
}

/// A change that a request may make.
enum Write<'a> {
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    /// The revocation of the lease with this id.
    Revoke(i64),
}

/// Calls `f` with every write that a request may make, whichever branches its transactions take.
fn each_write<'a>(request: &'a Request, f: &mut impl FnMut(Write<'a>)) {
    match request {
        Request::Put(put) => f(Write::Put(put)),
        Request::DeleteRange(delete) => f(Write::Delete(delete)),
        Request::Txn(txn) => each_write_of_txn(txn, f),
        Request::LeaseRevoke(revoke) => f(Write::Revoke(revoke.id)),
        Request::Range(_) | Request::Compact(_) | Request::LeaseGrant(_) => {}
    }
}

fn each_write_of_txn<'a>(txn: &'a TxnRequest, f: &mut impl FnMut(Write<'a>)) {
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Nested::RequestPut(put)) => f(Write::Put(put)),
            Some(Nested::RequestDeleteRange(delete)) => f(Write::Delete(delete)),
            Some(Nested::RequestTxn(txn)) => each_write_of_txn(txn, f),
            Some(Nested::RequestRange(_)) | None => {}
        }
    }
}

fn is_put(event: &Event) -> bool {
    event.r#type() == EventType::Put
}

/// Whether this may be the first event of a revision that the request makes.
fn could_begin(request: &Request, event: &Event) -> bool {
    let mut could = false;
    each_write(request, &mut |write| could |= could_be(&write, event));
    could
}

fn could_be(write: &Write<'_>, event: &Event) -> bool {
    let Some(kv) = &event.kv else { return false };
    match write {
        Write::Put(put) => {
            is_put(event)
                && put.key == kv.key
                && (put.ignore_value || put.value == kv.value)
                && (put.ignore_lease || put.lease == kv.lease)
        }
        Write::Delete(delete) => !is_put(event) && is_inside(&kv.key, &delete.key, &delete.range_end),
        Write::Revoke(id) => !is_put(event) && event.prev_kv.as_ref().is_some_and(|before| before.lease == *id),
    }
}

/// Calls `f` with every lease that a request names.
pub fn each_lease(request: &Request, f: &mut impl FnMut(i64)) {
    match request {
        Request::LeaseGrant(grant) => f(grant.id),
        Request::LeaseRevoke(revoke) => f(revoke.id),
        _ => each_write(request, &mut |write| {
            if let Write::Put(put) = write
                && put.lease != 0
            {
                f(put.lease);
            }
        }),
    }
}
