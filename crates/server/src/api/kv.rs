//! The KV service (etcd: `server/etcdserver/v3_server.go`).

use std::rc::Rc;
use std::time::Instant;

use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use metastore_store::Reply;
use metastore_store::apply::range_query;
use metastore_store::command::Kind;
use metastore_store::mvcc::row::key_of;
use metastore_store::mvcc::{RangeCursor, RangeQuery, RangeReply, ReadError, View};

use super::encode::{self, Header};
use super::{audited, check, unary, unary_on_learners};
use crate::audit::Open;
use crate::auth::methods::{self, Need};
use crate::grpc::{Call, Frame, Outbound, Router, Status};
use crate::instruments::requests::{RANGE, TXN};
use crate::member::{MemberHandle, cost_of_put, cost_of_txn, errors, may_range, may_read, mismatch, on_pool};

const SERVICE: &str = "etcdserverpb.KV";
/// Keys in the first message of a RangeStream. Later messages grow and shrink towards the request size of
/// [`MemberHandle`], as they do in etcd.
const FIRST_CHUNK_KEYS: usize = 10;

/// Bounded steps of the engine that a read takes on the I/O thread, about 50 us each. A longer read moves to the pool.
const INLINE_STEPS: usize = 4;

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    unary_on_learners!(router, member, SERVICE, "Range", range);
    unary!(router, member, SERVICE, "Put", put);
    unary!(router, member, SERVICE, "DeleteRange", delete_range);
    unary!(router, member, SERVICE, "Txn", txn);
    unary!(router, member, SERVICE, "Compact", compact);
    let (member, method) = (member.clone(), methods::method(SERVICE, "RangeStream"));
    router.server_stream(SERVICE, "RangeStream", move |call, request, outbound| {
        let member = member.clone();
        async move {
            let audit = audited(&member, method, &call, &request);
            range_stream(&member, method.need, (call, audit), request, outbound).await
        }
    });
}

/// A learner may lag, so it serves only serializable reads.
async fn range(member: &MemberHandle, call: Call, request: RangeRequest) -> Result<Frame, Status> {
    if !request.serializable {
        member.check_learner()?;
    }
    check::range(&request)?;
    let reading = wait_to_read(member, &call, request.serializable, RANGE).await?;
    member.counts().ranges.add(1);
    let result = range_now(member, &call, request).await;
    member.counts().requests.read(RANGE, reading, result.is_ok());
    result
}

/// Returns once a linearizable read sees everything that was acknowledged before. The result is when the read began and
/// when it may read. A read that fails here is counted as ended.
async fn wait_to_read(
    member: &MemberHandle,
    call: &Call,
    serializable: bool,
    kind: u32,
) -> Result<(Instant, Instant), Status> {
    let began = Instant::now();
    if serializable || member.shared.sole_leader() && !call.requires_leader() {
        return Ok((began, began));
    }
    let passed = member.read_barrier(call).await;
    passed.inspect_err(|_| member.counts().requests.ended(kind, began.elapsed(), false))?;
    Ok((began, Instant::now()))
}

async fn range_now(member: &MemberHandle, call: &Call, request: RangeRequest) -> Result<Frame, Status> {
    let view = member.view();
    let within = || view.range_within(&range_query(&request), INLINE_STEPS).map_err(errors::unreadable);
    if let Some(reply) = view.read_as(|auth| may_range(auth, &call.caller, &request), within)? {
        return encode::range(Header::new(&member.shared, reply.revision), &reply);
    }
    let (shared, caller) = (member.shared.clone(), call.caller.clone());
    on_pool(move || {
        let range = || view.range(&range_query(&request)).map_err(errors::unreadable);
        let reply = view.read_as(|auth| may_range(auth, &caller, &request), range)?;
        encode::range(Header::new(&shared, reply.revision), &reply)
    })
    .await
}

async fn put(member: &MemberHandle, call: Call, request: PutRequest) -> Result<Frame, Status> {
    check::put(&request)?;
    member.has_room(cost_of_put(&request)).await?;
    match member.propose(&call, Kind::Put, &request).await? {
        (revision, Reply::Put { previous }) => encode::put(Header::new(&member.shared, revision), previous.as_ref()),
        (_, other) => Err(mismatch(&other)),
    }
}

async fn delete_range(member: &MemberHandle, call: Call, request: DeleteRangeRequest) -> Result<Frame, Status> {
    check::delete_range(&request)?;
    match member.propose(&call, Kind::DeleteRange, &request).await? {
        (revision, Reply::DeleteRange { deleted, previous }) => {
            encode::delete_range(Header::new(&member.shared, revision), deleted, &previous)
        }
        (_, other) => Err(mismatch(&other)),
    }
}

async fn txn(member: &MemberHandle, call: Call, request: TxnRequest) -> Result<Frame, Status> {
    check::txn(&request, member.limits.max_txn_ops)?;
    if let Some(serializable) = only_reads(&request) {
        let reading = wait_to_read(member, &call, serializable, TXN).await?;
        let (view, shared, caller) = (member.view(), member.shared.clone(), call.caller.clone());
        let result = on_pool(move || {
            let read = || view.read_txn(&request).map_err(errors::unreadable);
            let (revision, reply, reads) = view.read_as(|auth| may_read(auth, &caller, &request), read)?;
            Ok((encode::txn(Header::new(&shared, revision), &reply)?, reads))
        });
        let result = result.await.map(|(frame, reads)| {
            member.counts().ranges.add(reads);
            // As in etcd, a transaction of one operation is not counted.
            member.counts().txns.add(u64::from(reads > 1));
            frame
        });
        member.counts().requests.read(TXN, reading, result.is_ok());
        return result;
    }
    member.has_room(cost_of_txn(&request)).await?;
    match member.propose(&call, Kind::Txn, &request).await? {
        (revision, Reply::Txn(reply)) => encode::txn(Header::new(&member.shared, revision), &reply),
        (_, other) => Err(mismatch(&other)),
    }
}

/// `None` if a transaction writes, otherwise whether all of its reads are serializable. A nested transaction counts as
/// a write, as in etcd.
fn only_reads(request: &TxnRequest) -> Option<bool> {
    let serializable = |op: &RequestOp| match &op.request {
        Some(Request::RequestRange(range)) => Some(range.serializable),
        _ => None,
    };
    let mut all = true;
    for op in request.success.iter().chain(&request.failure) {
        all &= serializable(op)?;
    }
    Some(all)
}

async fn compact(member: &MemberHandle, call: Call, request: CompactionRequest) -> Result<Frame, Status> {
    match member.propose(&call, Kind::Compaction, &request).await? {
        (revision, Reply::Compact { physical, .. }) => {
            if physical {
                member.compacted(&call).await?;
            }
            encode::header_only(Header::new(&member.shared, revision))
        }
        (_, other) => Err(mismatch(&other)),
    }
}

/// The permission is checked until the stream has its revision: everything that it shows was written before.
async fn range_stream(
    member: &MemberHandle,
    need: Need,
    (mut call, mut audit): (Call, Option<Open>),
    request: RangeRequest,
    mut outbound: Outbound,
) -> Result<(), Status> {
    let admitted = member.admit(&mut call, need).await;
    audit.iter_mut().for_each(|open| open.identified(&call, &call.caller));
    let began = match admitted {
        Ok(()) => begin_stream(member, &call, request, &mut outbound).await,
        Err(status) => Err(status),
    };
    // The decision is made before the first key is sent.
    audit.into_iter().for_each(|open| open.close(&began));
    let Some(mut cursor) = began? else { return Ok(()) };
    let target_bytes = member.limits.max_request_bytes;
    let mut keys = FIRST_CHUNK_KEYS;
    loop {
        let view = member.view();
        let (rows, back) = on_pool(move || {
            let rows = cursor.next_rows(&view, keys).map_err(errors::unreadable)?;
            Ok((rows, cursor))
        })
        .await?;
        cursor = back;
        if rows.is_empty() {
            break;
        }
        let chunk = RangeReply { rows, ..Default::default() };
        let frame = encode::range_chunk(None, &chunk)?;
        keys = match frame.message_bytes() {
            bytes if bytes < target_bytes / 2 => keys.saturating_mul(2),
            bytes if bytes > target_bytes.saturating_mul(2) => (keys / 2).max(1),
            _ => keys,
        };
        if outbound.send(frame).await.is_err() {
            return Ok(());
        }
    }
    let view = member.view();
    let last = on_pool(move || cursor.finish(&view).map_err(errors::unreadable)).await?;
    let frame = encode::range_chunk(Some(Header::new(&member.shared, last.revision)), &last)?;
    // A client that has gone needs no last message.
    let _ = outbound.send(frame).await;
    Ok(())
}

/// The cursor of a stream; `None` if the whole answer was sent.
async fn begin_stream(
    member: &MemberHandle,
    call: &Call,
    request: RangeRequest,
    outbound: &mut Outbound,
) -> Result<Option<RangeCursor>, Status> {
    check::range(&request)?;
    check_streamable(&request)?;
    if !request.serializable {
        member.read_barrier(call).await?;
    }
    let Some(request) = send_sorted(member, call, request, outbound).await? else { return Ok(None) };
    let (view, caller) = (member.view(), call.caller.clone());
    // A client that does not read its stream holds back nothing: each piece is read from the state of that moment.
    let cursor = on_pool(move || {
        let begin = || view.cursor(&range_query(&request)).map_err(errors::unreadable);
        view.read_as(|auth| may_range(auth, &caller, &request), begin)
    });
    cursor.await.map(Some)
}

/// Answers a request that names a sort target without an order, if etcd's first message would hold the whole answer:
/// etcd sorts each message by the target. Gives the request back otherwise. A longer answer is sent in key order, and
/// holds every key once.
async fn send_sorted(
    member: &MemberHandle,
    call: &Call,
    request: RangeRequest,
    outbound: &mut Outbound,
) -> Result<Option<RangeRequest>, Status> {
    if request.sort_order() != SortOrder::None || request.sort_target() == SortTarget::Key || request.count_only {
        return Ok(Some(request));
    }
    let (view, caller) = (member.view(), call.caller.clone());
    let (request, reply) = on_pool(move || {
        let first = || first_message(&view, &request).map_err(errors::unreadable);
        let reply = view.read_as(|auth| may_range(auth, &caller, &request), first)?;
        Ok((request, reply))
    })
    .await?;
    let Some(reply) = reply else { return Ok(Some(request)) };
    let frame = encode::range_chunk(Some(Header::new(&member.shared, reply.revision)), &reply)?;
    // A client that has gone needs no answer.
    let _ = outbound.send(frame).await;
    Ok(None)
}

/// The sorted answer, if it fits into the first message of a stream.
fn first_message(view: &View, request: &RangeRequest) -> Result<Option<RangeReply>, ReadError> {
    let first = FIRST_CHUNK_KEYS as i64;
    let limited = (1..=first).contains(&request.limit);
    let query = RangeQuery { limit: if limited { request.limit } else { first }, ..range_query(request) };
    let mut reply = view.range(&query)?;
    if !reply.more {
        return Ok(Some(reply));
    }
    if !limited {
        return Ok(None);
    }
    // As in etcd, the count continues after the last key of the sorted answer.
    if let Some(last) = reply.rows.last() {
        let key = [key_of(last), &[0]].concat();
        let revision = if request.revision > 0 { request.revision } else { reply.revision };
        let rest =
            RangeQuery { key: &key, range_end: &request.range_end, revision, count_only: true, ..Default::default() };
        reply.count = reply.rows.len() as i64 + view.range(&rest)?.count;
    }
    Ok(Some(reply))
}

fn check_streamable(request: &RangeRequest) -> Result<(), Status> {
    let by_key = request.sort_target() == SortTarget::Key;
    if request.sort_order() == SortOrder::Descend || (request.sort_order() == SortOrder::Ascend && !by_key) {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if bounds != [0; 4] {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}
