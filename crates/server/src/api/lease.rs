//! The Lease service (etcd: `server/lease`, `v3_server.go`).

use std::rc::Rc;

use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use metastore_store::command::Kind;
use metastore_store::lease::{MAX_TTL_S, Renewal};
use metastore_store::{Refusal, Reply};

use super::encode::{self, Header};
use super::{Member, errors, kv, unary};
use crate::driver::{Answer, Event};
use crate::grpc::{Call, Frame, Inbound, Outbound, Router, Status};

const SERVICE: &str = "etcdserverpb.Lease";

pub fn register(router: &mut Router, member: &Rc<Member>) {
    unary!(router, member, SERVICE, "LeaseGrant", grant);
    unary!(router, member, SERVICE, "LeaseRevoke", revoke);
    unary!(router, member, SERVICE, "LeaseTimeToLive", time_to_live);
    unary!(router, member, SERVICE, "LeaseLeases", leases);
    let member = member.clone();
    router.bidi(SERVICE, "LeaseKeepAlive", move |call, inbound, outbound| {
        keep_alive(member.clone(), call, inbound, outbound)
    });
}

/// The id and the time to live are settled here, so that every member applies the same.
async fn grant(member: &Member, call: Call, request: LeaseGrantRequest) -> Result<Frame, Status> {
    if request.ttl > MAX_TTL_S {
        return Err(errors::refused(Refusal::LeaseTtlTooLarge));
    }
    let ttl = request.ttl.max(member.limits.min_lease_ttl_s);
    let id = if request.id == 0 { (member.shared.next_id() & i64::MAX as u64) as i64 } else { request.id };
    match member.propose(&call, Kind::LeaseGrant, &LeaseGrantRequest { id, ttl }).await? {
        (revision, Reply::LeaseGrant { id, ttl_s }) => {
            member.counts().lease_granted.add(1);
            let header = Some(member.header(revision));
            Frame::of(&LeaseGrantResponse { header, id, ttl: ttl_s, error: String::new() })
        }
        (_, other) => Err(kv::mismatch(&other)),
    }
}

async fn revoke(member: &Member, call: Call, request: LeaseRevokeRequest) -> Result<Frame, Status> {
    match member.propose(&call, Kind::LeaseRevoke, &request).await? {
        (revision, Reply::LeaseRevoke { .. }) => {
            member.counts().lease_revoked.add(1);
            encode::header_only(Header::new(&member.shared, revision))
        }
        (_, other) => Err(kv::mismatch(&other)),
    }
}

async fn time_to_live(member: &Member, call: Call, request: LeaseTimeToLiveRequest) -> Result<Frame, Status> {
    member.read_barrier(&call).await?;
    let LeaseTimeToLiveRequest { id: lease, keys } = request;
    let answer = member.ask(&call, 0, |waiter| Event::TimeToLive { waiter, lease, keys }).await?;
    let Answer::TimeToLive(found) = answer else { return Err(another_question()) };
    let header = Some(member.header(member.view().revision()));
    let mut reply = LeaseTimeToLiveResponse { header, id: lease, ttl: -1, ..Default::default() };
    if let Some(found) = found {
        (reply.ttl, reply.granted_ttl, reply.keys) = (found.remaining_s, found.granted_s, found.keys);
    }
    Frame::of(&reply)
}

async fn leases(member: &Member, call: Call, _request: LeaseLeasesRequest) -> Result<Frame, Status> {
    let answer = member.ask(&call, 0, |waiter| Event::Leases { waiter }).await?;
    let Answer::Leases(ids) = answer else { return Err(another_question()) };
    let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
    Frame::of(&LeaseLeasesResponse { header: Some(member.header(member.view().revision())), leases })
}

async fn keep_alive(
    member: Rc<Member>,
    call: Call,
    mut inbound: Inbound<LeaseKeepAliveRequest>,
    mut outbound: Outbound,
) -> Result<(), Status> {
    while let Some(LeaseKeepAliveRequest { id }) = inbound.next().await? {
        // The header tells the revision from before the renewal, as in etcd.
        let header = Some(member.header(member.view().revision()));
        let ttl = renew(&member, &call, id).await?;
        let reply = LeaseKeepAliveResponse { header, id, ttl };
        if outbound.send(Frame::of(&reply)?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Renews a lease; 0 if there is none. One that has expired is not brought back: the answer comes when it is revoked.
async fn renew(member: &Member, call: &Call, lease: i64) -> Result<i64, Status> {
    member.check_leader(call)?;
    // A stream lives long; its deadline is not that of one renewal.
    match member.ask(call, 0, |waiter| Event::KeepAlive { waiter, lease }).await? {
        Answer::Renewed(Renewal::Renewed(ttl_s)) => {
            member.counts().lease_renewed.add(1);
            Ok(ttl_s)
        }
        Answer::Renewed(_) => Ok(0),
        _ => Err(another_question()),
    }
}

fn another_question() -> Status {
    Status::internal("the member answered another question")
}
