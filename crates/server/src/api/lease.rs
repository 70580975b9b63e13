//! The Lease service (etcd: `server/lease`, `v3_server.go`).
//!
//! Leases are granted and revoked through the log. Only the leader knows how long they have to live, so the other
//! members ask it for their clients ([`crate::leader`]).
//!
//! Renewals go in batches. A batch is all that a client has sent when its stream is read: the first message never waits
//! for a second. One event takes a batch to the engine thread. One proof of leadership serves all batches that came
//! before it. One request takes a batch from a follower to the leader. Renewals that arrive while a batch is under way
//! form the next batch.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    ResponseHeader,
};
use metastore_store::command::{Caller, Kind};
use metastore_store::lease::{MAX_TTL_S, Renewal};
use metastore_store::{Access, Refusal, Reply};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::encode::{self, Header};
use super::unary;
use crate::audit::Subject;
use crate::auth::methods::{self, Method};
use crate::driver::{Answer, Event, LEASES_AT_ONCE};
use crate::grpc::{Call, Frame, Inbound, Outbound, Router, Status};
use crate::leader::renewal::{RENEWALS_AT_ONCE, joined, renew, renew_or_await_end};
use crate::leader::time_to_live::{TimeLeft, time_left};
use crate::member::{
    COST_OF_LEASE, LeaderWatch, MemberHandle, another_question, errors, mismatch, on_pool, permit_keys_of,
};

const SERVICE: &str = "etcdserverpb.Lease";
/// At most this many renewals of one stream wait for the end of an expired lease. At this number, no more are read.
const LATE_AT_ONCE: usize = 1024;

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    unary!(router, member, SERVICE, "LeaseGrant", grant);
    unary!(router, member, SERVICE, "LeaseRevoke", revoke);
    unary!(router, member, SERVICE, "LeaseTimeToLive", time_to_live);
    unary!(router, member, SERVICE, "LeaseLeases", leases);
    let (member, method) = (member.clone(), methods::method(SERVICE, "LeaseKeepAlive"));
    router.bidi(SERVICE, "LeaseKeepAlive", move |call, inbound, outbound| {
        keep_alive(member.clone(), method, call, inbound, outbound)
    });
}

/// The id is chosen here, so that every member applies the same id. The time to live is raised to the minimum when it
/// is applied.
async fn grant(member: &MemberHandle, call: Call, request: LeaseGrantRequest) -> Result<Frame, Status> {
    if request.ttl > MAX_TTL_S {
        return Err(errors::refused(Refusal::LeaseTtlTooLarge));
    }
    member.has_room(COST_OF_LEASE).await?;
    let ttl = request.ttl;
    let id = if request.id == 0 { (member.shared.next_id() & i64::MAX as u64) as i64 } else { request.id };
    match member.propose(&call, Kind::LeaseGrant, &LeaseGrantRequest { id, ttl }).await? {
        (revision, Reply::LeaseGrant { id, ttl_s }) => {
            let header = Some(member.header(revision));
            Frame::of(&LeaseGrantResponse { header, id, ttl: ttl_s, error: String::new() })
        }
        (_, other) => Err(mismatch(&other)),
    }
}

async fn revoke(member: &MemberHandle, call: Call, request: LeaseRevokeRequest) -> Result<Frame, Status> {
    match member.propose(&call, Kind::LeaseRevoke, &request).await? {
        (revision, Reply::LeaseRevoke { .. }) => encode::header_only(Header::new(&member.shared, revision)),
        (_, other) => Err(mismatch(&other)),
    }
}

async fn time_to_live(member: &MemberHandle, call: Call, request: LeaseTimeToLiveRequest) -> Result<Frame, Status> {
    let LeaseTimeToLiveRequest { id: lease, keys } = request;
    let found = time_left(member, &call, lease, keys).await?;
    let found = match found {
        Some(found) if keys => Some(permitted(member, &call, found).await?),
        found => found,
    };
    let header = Some(member.header(member.view().revision()));
    let mut reply = LeaseTimeToLiveResponse { header, id: lease, ttl: -1, ..Default::default() };
    if let Some(TimeLeft { time, keys }) = found {
        (reply.ttl, reply.granted_ttl, reply.keys) = (time.remaining_s, time.granted_s, keys);
    }
    Frame::of(&reply)
}

/// Checks the caller's permission on the keys that are shown. They come from the leader, so they may have been attached
/// after a change of users that this member has not applied yet: it applies that first.
async fn permitted(member: &MemberHandle, call: &Call, found: TimeLeft) -> Result<TimeLeft, Status> {
    member.read_barrier(call).await?;
    let Some(auth) = member.view().auth() else { return Ok(found) };
    let caller = call.caller.clone();
    on_pool(move || {
        let permits = |key: &Bytes| auth.permits(&caller, Access::Read, key, b"");
        found.keys.iter().try_for_each(permits).map_err(errors::refused)?;
        Ok(found)
    })
    .await
}

/// All leases, ordered by when they end. They come from the engine thread in pieces, and each I/O thread makes one list
/// at a time, so that a list of any length holds up nothing. A lease that is granted or revoked while the list is made
/// may be in it or not.
async fn leases(member: &MemberHandle, call: Call, _request: LeaseLeasesRequest) -> Result<Frame, Status> {
    let limit = member.time_limit(&call);
    let _turn = timeout_at(limit.at, member.listing.lock()).await.map_err(|_| limit.passed())?;
    let (mut leases, mut after) = (Vec::new(), None);
    loop {
        let answer = member.ask(&call, 0, |waiter| Event::Leases { waiter, after }).await?;
        let Answer::Leases(piece) = answer else { return Err(another_question()) };
        let is_last = piece.len() < LEASES_AT_ONCE;
        after = piece.last().map(|lease| lease.id);
        leases.extend(piece);
        if is_last {
            break;
        }
    }
    let listed = leases.iter().map(|lease| lease.id).collect();
    permit_keys(member, &call.caller, Access::Read, listed).await?;
    let header = Some(member.header(member.view().revision()));
    let encode = move || {
        leases.sort_unstable();
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.id }).collect();
        Frame::of(&LeaseLeasesResponse { header, leases })
    };
    on_pool(encode).await
}

/// Checks the caller's permission on all keys of some leases.
async fn permit_keys(member: &MemberHandle, caller: &Caller, access: Access, leases: Vec<i64>) -> Result<(), Status> {
    let view = member.view();
    if view.auth().is_none() {
        return Ok(());
    }
    let caller = caller.clone();
    on_pool(move || permit_keys_of(&view, &caller, access, leases)).await
}

/// A stream is admitted when it is opened. The caller of each batch of its renewals is found out anew: a token may have
/// expired since then.
async fn keep_alive(
    member: Rc<MemberHandle>,
    method: Method,
    call: Call,
    inbound: Inbound<LeaseKeepAliveRequest>,
    outbound: Outbound,
) -> Result<(), Status> {
    member.check_learner()?;
    member.check_leader(&call)?;
    let mut leader = LeaderWatch::new(&member, &call);
    let call = Rc::new(call);
    tokio::select! {
        ended = renew_all(&member, method, &call, inbound, outbound) => ended,
        status = leader.lost() => Err(status),
    }
}

/// The renewals that a client has sent since the last batch.
struct Batch {
    leases: Vec<i64>,
    /// How its half of the stream has ended, if it has.
    end: Option<Result<(), Status>>,
}

/// Waits for the next messages of a client. Safe to drop and call again: no message is lost.
async fn next_batch(inbound: &mut Inbound<LeaseKeepAliveRequest>) -> Batch {
    poll_fn(|cx| {
        let mut batch = Batch { leases: Vec::new(), end: None };
        while batch.end.is_none() && batch.leases.len() < RENEWALS_AT_ONCE {
            match inbound.poll_next(cx) {
                Poll::Ready(Ok(Some(request))) => batch.leases.push(request.id),
                Poll::Ready(Ok(None)) => batch.end = Some(Ok(())),
                Poll::Ready(Err(status)) => batch.end = Some(Err(status)),
                Poll::Pending if batch.leases.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(batch)
    })
    .await
}

async fn renew_all(
    member: &Rc<MemberHandle>,
    method: Method,
    call: &Rc<Call>,
    mut inbound: Inbound<LeaseKeepAliveRequest>,
    mut outbound: Outbound,
) -> Result<(), Status> {
    // A renewal that comes too late is answered when its lease is gone, and holds up no other renewal.
    let mut late: JoinSet<Result<LeaseKeepAliveResponse, Status>> = JoinSet::new();
    let mut end = None;
    while end.is_none() || !late.is_empty() {
        let batch = tokio::select! {
            batch = next_batch(&mut inbound), if end.is_none() && late.len() < LATE_AT_ONCE => batch,
            Some(answer) = late.join_next() => {
                if outbound.send(Frame::of(&joined(answer)??)?).await.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        end = batch.end;
        if !batch.leases.is_empty() {
            may_renew(member, method, call, &batch.leases).await?;
        }
        // The header has the revision from before the renewal, as in etcd.
        let header = Some(member.header(member.view().revision()));
        for (id, renewal) in renew(member, call, &batch.leases).await? {
            let ttl = match renewal {
                Renewal::Expired => {
                    late.spawn_local(answer_late(member.clone(), call.clone(), header, id));
                    continue;
                }
                Renewal::Renewed(ttl_s) => ttl_s,
                Renewal::Unknown | Renewal::NotLeader => 0,
            };
            if outbound.send(Frame::of(&LeaseKeepAliveResponse { header, id, ttl })?).await.is_err() {
                return Ok(());
            }
        }
    }
    end.unwrap_or(Ok(()))
}

/// Whether the caller may renew the leases of a batch. A batch is one line of the audit log.
async fn may_renew(member: &MemberHandle, method: Method, call: &Call, leases: &[i64]) -> Result<(), Status> {
    let mut audit = member.audit.open(method.name, method.effect, call, || Subject::leases(leases));
    let allowed = async {
        if !member.shared.auth_enabled() {
            return Ok(());
        }
        let caller = member.caller_of(call, method.need).await?;
        audit.iter_mut().for_each(|open| open.identified(call, &caller));
        permit_keys(member, &caller, Access::Write, leases.to_vec()).await
    };
    let allowed = allowed.await;
    audit.into_iter().for_each(|open| open.close(&allowed));
    allowed
}

async fn answer_late(
    member: Rc<MemberHandle>,
    call: Rc<Call>,
    header: Option<ResponseHeader>,
    id: i64,
) -> Result<LeaseKeepAliveResponse, Status> {
    let ttl = renew_or_await_end(&member, &call, id).await?.unwrap_or(0);
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::InternalRaftRequest;
    use tokio::time::{Duration, Instant};

    use super::*;
    use crate::driver::LeaseEnd;
    use crate::member::fake_engine::FakeEngine;

    /// Each member raises the time to its own minimum when it applies the entry, as in etcd.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_grant_is_proposed_with_the_time_that_the_client_asked_for() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        let proposed = RefCell::new(Vec::new());
        let engine = |event: &Event| {
            let Event::Propose { id, data, .. } = event else { panic!("another question") };
            let grant = InternalRaftRequest::decode(&data[..]).unwrap().lease_grant.unwrap();
            proposed.borrow_mut().push((grant.id, grant.ttl));
            let reply = Ok(Reply::LeaseGrant { id: grant.id, ttl_s: 15 });
            Answer::Outcome(metastore_store::Outcome { id: *id, revision: 1, reply })
        };
        let ask = async |id, ttl| {
            let call = Call::of_member(Instant::now() + Duration::from_secs(60));
            let frame = grant(&fake.member, call, LeaseGrantRequest { id, ttl }).await.unwrap().into_bytes();
            let granted = LeaseGrantResponse::decode(frame.slice(crate::grpc::frame::PREFIX_BYTES..)).unwrap();
            (granted.id, granted.ttl)
        };
        let test = async {
            assert_eq!((ask(7, 1).await, ask(8, -3).await), ((7, 15), (8, 15)));
            let (chosen, _) = ask(0, 20).await;
            assert!(chosen > 0);
            assert_eq!(proposed.take(), [(7, 1), (8, -3), (chosen, 20)]);
        };
        fake.answer_during(engine, test).await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn all_leases_are_listed_piece_by_piece_in_the_order_of_their_ends() {
        const COUNT: i64 = 2 * LEASES_AT_ONCE as i64 + 3;
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let pieces = RefCell::new(Vec::new());
        let engine = |event: &Event| match event {
            Event::Leases { after, .. } => {
                pieces.borrow_mut().push(*after);
                let from = after.map_or(1, |after| after + 1);
                let end = |id| LeaseEnd { ends_ms: (id as u64 * 7919) % 1000, id };
                Answer::Leases((from..=COUNT).take(LEASES_AT_ONCE).map(end).collect())
            }
            _ => Answer::NotLeader,
        };
        let list = async || {
            let call = Call::of_member(Instant::now() + Duration::from_secs(60));
            let frame = leases(&fake.member, call, LeaseLeasesRequest {}).await.unwrap().into_bytes();
            let listed = LeaseLeasesResponse::decode(frame.slice(crate::grpc::frame::PREFIX_BYTES..)).unwrap().leases;
            listed.into_iter().map(|lease| lease.id).collect::<Vec<_>>()
        };
        let test = async {
            let listed = list().await;
            assert!(listed.is_sorted_by_key(|id| ((*id as u64 * 7919) % 1000, *id)));
            assert_eq!(listed.len(), COUNT as usize);
            let one_list = pieces.take();
            tokio::join!(list(), list());
            assert_eq!(pieces.take(), [&one_list[..], &one_list].concat(), "one list after the other");
        };
        fake.answer_during(engine, test).await;
    }
}
