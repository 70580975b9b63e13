//! The queue of those who want one thing: keys below a common prefix, in the order in which they were created.
//!
//! The first one has it, and each of the others waits until the key just before its own is gone. So a key that goes
//! away wakes one waiter. The keys and the steps are those of etcd's concurrency packages, so that clients that use
//! those, and clients of these services, stand in the same queue.

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::watch_create_request::FilterType;
use metastore_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, response_op,
};
use metastore_proto::mvccpb::KeyValue;
use metastore_proto::mvccpb::event::EventType;
use tokio::task::JoinHandle;

use super::own_calls::OwnCalls;
use crate::grpc::Status;

/// The seconds to live of a lease that is granted to a caller without one, as in etcd.
const LEASE_SECONDS: i64 = 60;

/// A key in a queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) key: Bytes,
    /// The revision in which the key was created.
    pub(super) revision: i64,
    pub(super) value: Bytes,
    pub(super) lease: i64,
    /// It was made by this call; otherwise by an earlier one with the same lease.
    pub(super) is_new: bool,
    /// No key is before it.
    pub(super) is_first: bool,
    /// The header of the transaction.
    pub(super) header: ResponseHeader,
}

/// All keys of the queue of this name begin with it.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The end of the range of all keys with a prefix that [`prefix`] made.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    let (_, before) = prefix.split_last().expect("it ends with a slash");
    [before, &[b'/' + 1]].concat().into()
}

/// The first key of a queue.
pub(super) fn first(prefix: &[u8]) -> RangeRequest {
    sorted(prefix, SortOrder::Ascend, 0)
}

/// The last key of a queue that was created before `revision`.
fn last_before(prefix: &[u8], revision: i64) -> RangeRequest {
    sorted(prefix, SortOrder::Descend, revision - 1)
}

fn sorted(prefix: &[u8], order: SortOrder, max_create_revision: i64) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision,
        ..RangeRequest::default()
    }
}

/// Adds a key at the end of a queue, or finds it in the queue, and reads which key is the first.
fn enter(name: &[u8], lease: i64, value: Bytes) -> TxnRequest {
    let prefix = prefix(name);
    let key: Bytes = [&prefix[..], format!("{lease:x}").as_bytes()].concat().into();
    let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    let first = || op(Request::RequestRange(first(&prefix)));
    TxnRequest {
        compare: vec![created_in(key, 0)],
        success: vec![op(Request::RequestPut(put)), first()],
        failure: vec![op(Request::RequestRange(get)), first()],
    }
}

/// A transaction that does `then` if `key` is still the one that was created in `revision`.
pub(super) fn while_it_is(key: Bytes, revision: i64, then: Request) -> TxnRequest {
    TxnRequest { compare: vec![created_in(key, revision)], success: vec![op(then)], failure: Vec::new() }
}

/// Deletes a key, unless it is another one that was created since.
pub(super) fn leave(key: Bytes, revision: i64) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    while_it_is(key, revision, Request::RequestDeleteRange(delete))
}

fn created_in(key: Bytes, revision: i64) -> Compare {
    Compare {
        key,
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The place that the transaction of [`enter`] took or found; `None` if the answer is not one to it.
fn place(request: &TxnRequest, answer: TxnResponse) -> Option<Place> {
    let header = answer.header?;
    let [Some(one), Some(response_op::Response::ResponseRange(first))] =
        <[_; 2]>::try_from(answer.responses).ok()?.map(|op| op.response)
    else {
        return None;
    };
    let Some(Request::RequestPut(put)) = &request.success.first()?.request else { return None };
    let lease = put.lease;
    let (revision, value) = match one {
        response_op::Response::ResponsePut(_) => (header.revision, put.value.clone()),
        response_op::Response::ResponseRange(found) => {
            let found = found.kvs.into_iter().next()?;
            (found.create_revision, found.value)
        }
        _ => return None,
    };
    let is_first = first.kvs.first().is_none_or(|first| first.create_revision == revision);
    Some(Place { key: put.key.clone(), revision, value, lease, is_new: answer.succeeded, is_first, header })
}

/// The lease of a caller, or a new one if it is 0.
pub(super) async fn lease_of(calls: &OwnCalls, lease: i64) -> Result<i64, Status> {
    if lease != 0 {
        return Ok(lease);
    }
    let grant = LeaseGrantRequest { ttl: LEASE_SECONDS, ..LeaseGrantRequest::default() };
    let granted: LeaseGrantResponse = calls.unary("/etcdserverpb.Lease/LeaseGrant", &grant).await?;
    Ok(granted.id)
}

/// A caller in a queue. If it goes away before [`Waiting::stay`], its key is deleted; a lease that was granted to it is
/// revoked.
pub(super) struct Waiting {
    calls: OwnCalls,
    prefix: Bytes,
    is_granted: bool,
    /// The transaction goes on when the caller goes away, because its outcome decides what has to be deleted.
    entering: Option<JoinHandle<Result<Place, Status>>>,
    place: Option<Place>,
}

impl Waiting {
    /// A caller without a lease (0) is granted one.
    pub(super) fn begin(calls: OwnCalls, name: &[u8], lease: i64, value: Bytes) -> Waiting {
        let (prefix, own, name) = (prefix(name), calls.clone(), Bytes::copy_from_slice(name));
        let entering = tokio::task::spawn_local(async move {
            let request = enter(&name, lease_of(&own, lease).await?, value);
            let answer = own.txn(&request).await?;
            place(&request, answer).ok_or_else(|| Status::internal("a transaction has no answer to its requests"))
        });
        Waiting { calls, prefix, is_granted: lease == 0, entering: Some(entering), place: None }
    }

    /// The place, once the transaction is done.
    pub(super) async fn entered(&mut self) -> Result<Place, Status> {
        if let Some(entering) = &mut self.entering {
            let entered = entering.await;
            self.entering = None;
            self.place = Some(entered.unwrap_or_else(|_stopped| Err(Status::stopped()))?);
        }
        self.place.clone().ok_or_else(Status::stopped)
    }

    /// Returns once no key is before this one. The result is the header of an answer that saw this key later than that;
    /// `None` if the key is gone, because its lease has expired.
    pub(super) async fn turn(&mut self) -> Result<Option<ResponseHeader>, Status> {
        let place = self.entered().await?;
        if place.is_first {
            return Ok(Some(place.header));
        }
        loop {
            let before = self.calls.range(&last_before(&self.prefix, place.revision)).await?;
            let Some(last) = before.kvs.into_iter().next() else { break };
            self.gone(last, before.header.unwrap_or_default().revision).await?;
        }
        let own = RangeRequest { key: place.key, ..RangeRequest::default() };
        let own = self.calls.range(&own).await?;
        let still = own.kvs.first().is_some_and(|found| found.create_revision == place.revision);
        Ok(own.header.filter(|_| still))
    }

    /// Returns once a key that existed at `revision` is gone, or may be.
    async fn gone(&self, kv: KeyValue, revision: i64) -> Result<(), Status> {
        let filters = vec![FilterType::Noput.into()];
        let (key, start_revision) = (kv.key, revision + 1);
        let create = WatchCreateRequest { key, start_revision, filters, ..WatchCreateRequest::default() };
        self.calls.watch(create).await?.next().await.map(drop)
    }

    /// The key stays although the call ends.
    pub(super) fn stay(mut self) {
        (self.entering, self.place) = (None, None);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (calls, is_granted) = (self.calls.clone(), self.is_granted);
        let (entering, place) = (self.entering.take(), self.place.take());
        if entering.is_none() && place.is_none() {
            return;
        }
        tokio::task::spawn_local(async move {
            let place = match entering {
                Some(entering) => entering.await.ok().and_then(Result::ok),
                None => place,
            };
            let Some(place) = place else { return };
            let left = if is_granted {
                let revoke = LeaseRevokeRequest { id: place.lease };
                calls.unary("/etcdserverpb.Lease/LeaseRevoke", &revoke).await.map(|_: LeaseRevokeResponse| ())
            } else if place.is_new || !place.is_first {
                calls.txn(&leave(place.key.clone(), place.revision)).await.map(drop)
            } else {
                // An earlier call made the key, and its caller may hold what the queue is for.
                return;
            };
            if let Err(status) = left {
                seldom!(
                    warn, "waiter", lease = place.lease, error = %status.message,
                    "a waiter went away; its key stays until the lease expires"
                );
            }
        });
    }
}

/// Whether an event deletes a key.
pub(super) fn is_deletion(event: &metastore_proto::mvccpb::Event) -> bool {
    event.r#type() == EventType::Delete
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::{PutResponse, RangeResponse, ResponseOp};

    use super::*;

    fn kv(key: &'static str, create_revision: i64) -> KeyValue {
        KeyValue { key: key.into(), create_revision, value: "old".into(), ..KeyValue::default() }
    }

    fn found(kvs: Vec<KeyValue>) -> ResponseOp {
        let range = RangeResponse { kvs, ..RangeResponse::default() };
        ResponseOp { response: Some(response_op::Response::ResponseRange(range)) }
    }

    #[test]
    fn keys_are_those_of_the_concurrency_packages() {
        let request = enter(b"a/", 0x6b93, Bytes::new());
        assert_eq!(request.compare[0].key, "a//6b93");
        assert_eq!((&prefix(b"")[..], &end_of(&prefix(b"a"))[..]), (&b"/"[..], &b"a0"[..]));
    }

    #[test]
    fn a_new_key_is_first_only_in_an_empty_queue() {
        let request = enter(b"a", 7, "new".into());
        let header = ResponseHeader { revision: 9, ..ResponseHeader::default() };
        let put = ResponseOp { response: Some(response_op::Response::ResponsePut(PutResponse::default())) };
        for (first, is_first) in [(kv("a/7", 9), true), (kv("a/5", 8), false)] {
            let responses = vec![put.clone(), found(vec![first])];
            let answer = TxnResponse { header: Some(header), succeeded: true, responses };
            let (key, lease, value, header) = ("a/7".into(), 7, "new".into(), header);
            let expected = Place { key, revision: 9, value, lease, is_new: true, is_first, header };
            assert_eq!(place(&request, answer), Some(expected));
        }
    }

    #[test]
    fn a_key_of_the_same_lease_keeps_its_place() {
        let request = enter(b"a", 7, "new".into());
        let header = ResponseHeader { revision: 9, ..ResponseHeader::default() };
        for (first, is_first) in [(kv("a/7", 5), true), (kv("a/5", 4), false)] {
            let responses = vec![found(vec![kv("a/7", 5)]), found(vec![first])];
            let answer = TxnResponse { header: Some(header), succeeded: false, responses };
            let (key, lease, value, header) = ("a/7".into(), 7, "old".into(), header);
            let expected = Place { key, revision: 5, value, lease, is_new: false, is_first, header };
            assert_eq!(place(&request, answer), Some(expected));
        }
        assert_eq!(place(&request, TxnResponse::default()), None);
    }
}
