//! The Lock service (etcd: `server/etcdserver/api/v3lock`): a lock is held by the first key of a queue.

use std::rc::{Rc, Weak};

use bytes::Bytes;
use metastore_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};
use metastore_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use super::own_calls::{self, OwnCalls};
use super::queue::Waiting;
use crate::grpc::{Frame, Router, Status};
use crate::member::MemberHandle;

const SERVICE: &str = "v3lockpb.Lock";

pub fn register(router: &mut Router, member: &Rc<MemberHandle>, own: &Weak<Router>) {
    own_calls::register(router, (member, own), (SERVICE, "Lock"), lock);
    own_calls::register(router, (member, own), (SERVICE, "Unlock"), unlock);
}

async fn lock(calls: OwnCalls, request: LockRequest) -> Result<Frame, Status> {
    let mut waiting = Waiting::begin(calls, &request.name, request.lease, Bytes::new());
    let key = waiting.entered().await?.key;
    let header = waiting.turn().await?.ok_or_else(|| Status::unknown("mutex: session is expired"))?;
    let reply = Frame::of(&LockResponse { header: Some(header), key });
    waiting.stay();
    reply
}

async fn unlock(calls: OwnCalls, request: UnlockRequest) -> Result<Frame, Status> {
    let delete = DeleteRangeRequest { key: request.key, ..DeleteRangeRequest::default() };
    let deleted: DeleteRangeResponse = calls.unary("/etcdserverpb.KV/DeleteRange", &delete).await?;
    Frame::of(&UnlockResponse { header: deleted.header })
}
