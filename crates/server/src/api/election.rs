//! The Election service (etcd: `server/etcdserver/api/v3election`): the first key of a queue is the leader, and its
//! value is what it has proclaimed.

use std::rc::{Rc, Weak};

use bytes::Bytes;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{PutRequest, ResponseHeader, TxnRequest, WatchCreateRequest};
use metastore_proto::mvccpb::KeyValue;
use metastore_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};

use super::own_calls::{self, OwnCalls};
use super::queue::{self, Waiting, is_deletion, lease_of};
use crate::grpc::{Frame, Outbound, Router, Status};
use crate::member::MemberHandle;

const SERVICE: &str = "v3electionpb.Election";

pub fn register(router: &mut Router, member: &Rc<MemberHandle>, own: &Weak<Router>) {
    own_calls::register(router, (member, own), (SERVICE, "Campaign"), campaign);
    own_calls::register(router, (member, own), (SERVICE, "Proclaim"), proclaim);
    own_calls::register(router, (member, own), (SERVICE, "Leader"), leader);
    own_calls::register(router, (member, own), (SERVICE, "Resign"), resign);
    let (member, own) = (member.clone(), own.clone());
    router.server_stream(SERVICE, "Observe", move |call, request: LeaderRequest, outbound| {
        let (member, own) = (member.clone(), own.clone());
        async move { observe(own_calls::of_stream(&member, &call, &own)?, &request.name, outbound).await }
    });
}

/// The header is that of the first transaction, as in etcd, even if the candidate waited, or changed its value.
async fn campaign(calls: OwnCalls, request: CampaignRequest) -> Result<Frame, Status> {
    let mut waiting = Waiting::begin(calls.clone(), &request.name, request.lease, request.value.clone());
    let place = waiting.entered().await?;
    let lease = place.lease;
    if place.value != request.value {
        change(&calls, proclamation(place.key.clone(), place.revision, lease, request.value)).await?;
    }
    // etcd answers a candidate whose lease has expired meanwhile as if it were the leader.
    waiting.turn().await?.ok_or_else(not_leader)?;
    let leader = LeaderKey { name: request.name, key: place.key, rev: place.revision, lease };
    let reply = Frame::of(&CampaignResponse { header: Some(place.header), leader: Some(leader) });
    waiting.stay();
    reply
}

/// As in etcd, a leader that is named without a lease gets a new one for its key.
async fn proclaim(calls: OwnCalls, request: ProclaimRequest) -> Result<Frame, Status> {
    let leader = request.leader.ok_or_else(unnamed)?;
    let lease = lease_of(&calls, leader.lease).await?;
    let header = change(&calls, proclamation(leader.key, leader.rev, lease, request.value)).await?;
    Frame::of(&ProclaimResponse { header })
}

async fn leader(calls: OwnCalls, request: LeaderRequest) -> Result<Frame, Status> {
    let found = calls.range(&queue::first(&queue::prefix(&request.name))).await?;
    let kv = found.kvs.into_iter().next().ok_or_else(|| Status::unknown("election: no leader"))?;
    Frame::of(&LeaderResponse { header: found.header, kv: Some(kv) })
}

async fn resign(calls: OwnCalls, request: ResignRequest) -> Result<Frame, Status> {
    let leader = request.leader.ok_or_else(unnamed)?;
    let resigned = calls.txn(&queue::leave(leader.key, leader.rev)).await?;
    Frame::of(&ResignResponse { header: resigned.header })
}

/// Sends each leader, and what it proclaims, until the client goes away.
async fn observe(calls: OwnCalls, name: &[u8], mut outbound: Outbound) -> Result<(), Status> {
    let prefix = queue::prefix(name);
    loop {
        let found = calls.range(&queue::first(&prefix)).await?;
        let header = found.header.unwrap_or_default();
        let Some((header, kv)) = (match found.kvs.into_iter().next() {
            Some(kv) => Some((header, kv)),
            None => first_key_after(&calls, &prefix, header.revision).await?,
        }) else {
            continue;
        };
        let (key, revision) = (kv.key.clone(), header.revision);
        if !send(&mut outbound, header, kv).await? {
            return Ok(());
        }
        let watch = WatchCreateRequest { key, start_revision: revision + 1, ..WatchCreateRequest::default() };
        let mut watch = calls.watch(watch).await?;
        'leads: loop {
            let response = watch.next().await?;
            if response.canceled {
                break;
            }
            let header = response.header.unwrap_or_default();
            for event in response.events {
                if is_deletion(&event) {
                    break 'leads;
                }
                if !send(&mut outbound, header, event.kv.unwrap_or_default()).await? {
                    return Ok(());
                }
            }
        }
    }
}

/// The next key that is put into an empty queue, with the header of its revision; `None` if it may have been compacted.
async fn first_key_after(
    calls: &OwnCalls,
    prefix: &Bytes,
    revision: i64,
) -> Result<Option<(ResponseHeader, KeyValue)>, Status> {
    let (key, range_end) = (prefix.clone(), queue::end_of(prefix));
    let watch = WatchCreateRequest { key, range_end, start_revision: revision + 1, ..WatchCreateRequest::default() };
    let mut watch = calls.watch(watch).await?;
    loop {
        let response = watch.next().await?;
        if response.canceled {
            return Ok(None);
        }
        if let Some(put) = response.events.into_iter().find(|event| !is_deletion(event)) {
            let kv = put.kv.unwrap_or_default();
            return Ok(Some((ResponseHeader { revision: kv.mod_revision, ..response.header.unwrap_or_default() }, kv)));
        }
    }
}

/// False once the client is gone.
async fn send(outbound: &mut Outbound, header: ResponseHeader, kv: KeyValue) -> Result<bool, Status> {
    let frame = Frame::of(&LeaderResponse { header: Some(header), kv: Some(kv) })?;
    Ok(outbound.send(frame).await.is_ok())
}

fn proclamation(key: Bytes, revision: i64, lease: i64, value: Bytes) -> TxnRequest {
    let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    queue::while_it_is(key, revision, Request::RequestPut(put))
}

/// Makes a change that only the holder of the key may make.
async fn change(calls: &OwnCalls, request: TxnRequest) -> Result<Option<ResponseHeader>, Status> {
    let changed = calls.txn(&request).await?;
    changed.succeeded.then_some(changed.header).ok_or_else(not_leader)
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn unnamed() -> Status {
    Status::unknown("\"leader\" field must be provided")
}
