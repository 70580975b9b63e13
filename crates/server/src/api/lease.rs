//! The Lease service (etcd: `server/lease`, `v3_server.go`).
//!
//! Leases are granted and revoked through the log. How long they live is the leader's to know, so that the other members ask
//! it for their clients ([`super::forward`], [`crate::peer::leases`]).

use std::rc::Rc;

use http::Method;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use metastore_proto::leasepb::LeaseInternalRequest;
use metastore_store::command::Kind;
use metastore_store::lease::{MAX_TTL_S, Renewal};
use metastore_store::{Refusal, Reply};

use super::encode::{self, Header};
use super::forward::{Question, ask_leader};
use super::leader::LeaderWatch;
use super::{Member, another_question, errors, kv, unary};
use crate::driver::{Answer, Event, TimeToLive};
use crate::grpc::{Call, Frame, Inbound, Outbound, Router, Status};
use crate::peer::leases as peer;

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
            member.metrics.lease_ttl.observe(ttl_s as f64);
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
    let LeaseTimeToLiveRequest { id: lease, keys } = request;
    let found = time_left(member, &call, lease, keys).await?;
    let header = Some(member.header(member.view().revision()));
    let mut reply = LeaseTimeToLiveResponse { header, id: lease, ttl: -1, ..Default::default() };
    if let Some(found) = found {
        (reply.ttl, reply.granted_ttl, reply.keys) = (found.remaining_s, found.granted_s, found.keys);
    }
    Frame::of(&reply)
}

/// How long a lease has to live, as the leader knows it; `None` if there is no such lease.
async fn time_left(member: &Member, call: &Call, lease: i64, keys: bool) -> Result<Option<TimeToLive>, Status> {
    let here = async || Ok(time_left_here(member, call, lease, keys).await?.found());
    let request = LeaseTimeToLiveRequest { id: lease, keys };
    let body = LeaseInternalRequest { lease_time_to_live_request: Some(request) }.encode_to_vec().into();
    let question = Question { method: Method::POST, path: peer::INTERNAL_PATH, body };
    ask_leader(member, call, question, here, |reply| peer::read_time_left(lease, &reply).map(Ok)).await
}

/// What this member says of a lease.
#[derive(Debug)]
pub(crate) enum Told<T> {
    Known(T),
    Unknown,
    NotLeader,
}

impl<T> Told<T> {
    /// `None` if this member cannot say; inside, `None` if there is no such lease.
    fn found(self) -> Option<Option<T>> {
        match self {
            Self::Known(known) => Some(Some(known)),
            Self::Unknown => Some(None),
            Self::NotLeader => None,
        }
    }
}

/// The time left of a lease, if this member leads. Everything that was acknowledged before is taken into account.
pub(crate) async fn time_left_here(
    member: &Member,
    call: &Call,
    lease: i64,
    keys: bool,
) -> Result<Told<TimeToLive>, Status> {
    // The keys could have been attached under another leader, too.
    match member.read_barrier(call).await {
        Err(status) if status == errors::leader_changed() => return Ok(Told::NotLeader),
        passed => passed?,
    }
    match member.ask(call, 0, |waiter| Event::TimeToLive { waiter, lease, keys }).await? {
        Answer::TimeToLive(found) => Ok(found.map_or(Told::Unknown, Told::Known)),
        Answer::NotLeader => Ok(Told::NotLeader),
        _ => Err(another_question()),
    }
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
    inbound: Inbound<LeaseKeepAliveRequest>,
    outbound: Outbound,
) -> Result<(), Status> {
    member.admit(&call)?;
    let mut leader = LeaderWatch::new(&member, &call);
    tokio::select! {
        ended = renew_all(&member, &call, inbound, outbound) => ended,
        status = leader.lost() => Err(status),
    }
}

async fn renew_all(
    member: &Member,
    call: &Call,
    mut inbound: Inbound<LeaseKeepAliveRequest>,
    mut outbound: Outbound,
) -> Result<(), Status> {
    while let Some(LeaseKeepAliveRequest { id }) = inbound.next().await? {
        // The header tells the revision from before the renewal, as in etcd.
        let header = Some(member.header(member.view().revision()));
        let ttl = renew(member, call, id).await?;
        let reply = LeaseKeepAliveResponse { header, id, ttl };
        if outbound.send(Frame::of(&reply)?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Renews a lease, or lets the leader do it; 0 if there is none. One that has expired is not brought back: the answer comes
/// when it is revoked.
async fn renew(member: &Member, call: &Call, lease: i64) -> Result<i64, Status> {
    let here = async || Ok(renew_here(member, call, lease).await?.found());
    let body = LeaseKeepAliveRequest { id: lease }.encode_to_vec().into();
    let question = Question { method: Method::POST, path: peer::PATH, body };
    let renewed = ask_leader(member, call, question, here, |reply| peer::read_renewal(lease, &reply).map(Ok)).await;
    renewed.map(|ttl: Option<i64>| ttl.unwrap_or(0))
}

/// Renews a lease, if this member leads and the others have confirmed that; returns its time to live in seconds.
pub(crate) async fn renew_here(member: &Member, call: &Call, lease: i64) -> Result<Told<i64>, Status> {
    let term = member.shared.term();
    let renewal = ask_for_renewal(member, call, lease).await?;
    if renewal == Renewal::NotLeader {
        return Ok(Told::NotLeader);
    }
    member.read_barrier(call).await?;
    Ok(match renewal {
        _ if !member.shared.is_leader() || member.shared.term() != term => Told::NotLeader,
        Renewal::Renewed(ttl_s) => Told::Known(ttl_s),
        _ => Told::Unknown,
    })
}

async fn ask_for_renewal(member: &Member, call: &Call, lease: i64) -> Result<Renewal, Status> {
    match member.ask(call, 0, |waiter| Event::KeepAlive { waiter, lease }).await? {
        Answer::Renewed(renewal) => {
            if let Renewal::Renewed(_) = renewal {
                member.counts().lease_renewed.add(1);
            }
            Ok(renewal)
        }
        Answer::NotLeader => Ok(Renewal::NotLeader),
        _ => Err(another_question()),
    }
}
