//! Calls that a service makes to other services of this member, in the name of its own caller.
//!
//! They pass the router like those of a client: permissions, limits and the audit log are those of the methods called.

use std::future::poll_fn;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};

use crate::auth::methods;
use crate::grpc::local::{self, Replies, Requests};
use crate::grpc::{Call, Frame, Origin, Router, Status};
use crate::member::MemberHandle;

/// The other services of a member, for one caller.
#[derive(Clone)]
pub(super) struct OwnCalls {
    router: Rc<Router>,
    headers: HeaderMap,
    origin: Rc<Origin>,
}

impl OwnCalls {
    fn of(call: &Call, own: &Weak<Router>) -> Result<OwnCalls, Status> {
        let router = own.upgrade().ok_or_else(Status::stopped)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &call.token {
            let invalid = |_| Status::unknown("etcdserver: invalid auth token");
            headers.insert("token", HeaderValue::from_bytes(token).map_err(invalid)?);
        }
        if call.requires_leader() {
            headers.insert("hasleader", HeaderValue::from_static("true"));
        }
        Ok(OwnCalls { router, headers, origin: call.origin.clone().unwrap_or_default() })
    }

    pub(super) async fn unary<R: Message + Default>(&self, path: &str, request: &impl Message) -> Result<R, Status> {
        let message = Bytes::from(request.encode_to_vec());
        let reply = local::unary(&self.router, path, self.headers.clone(), message, &self.origin).await;
        R::decode(reply.map_err(as_unknown)?).map_err(undecodable)
    }

    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }

    pub(super) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        self.unary("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn watch(&self, create: WatchCreateRequest) -> Result<OwnWatch, Status> {
        let path = "/etcdserverpb.Watch/Watch";
        let (requests, replies) = local::bidi(&self.router, path, self.headers.clone(), &self.origin).await?;
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // Fails only if the stream has ended; the next answer says why.
        _ = requests.send(request.encode_to_vec().into()).await;
        Ok(OwnWatch { replies, _requests: requests })
    }
}

/// One watcher. It ends when this is dropped.
pub(super) struct OwnWatch {
    replies: Replies,
    _requests: Requests,
}

impl OwnWatch {
    /// The next answer that holds events, or that says that the events were compacted (`compact_revision`).
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            let reply = poll_fn(|cx| self.replies.poll_next(cx)).await.unwrap_or_else(|| Err(Status::stopped()))?;
            let response = WatchResponse::decode(reply).map_err(undecodable)?;
            if response.canceled && response.compact_revision == 0 {
                return Err(Status::unknown(response.cancel_reason));
            }
            if response.canceled || !response.events.is_empty() {
                return Ok(response);
            }
        }
    }
}

/// Adds a unary method of a service that calls others. Learners do not serve it. The work is dropped when the client
/// goes away or its deadline passes.
pub(super) fn register<T, F>(
    router: &mut Router,
    (member, own): (&Rc<MemberHandle>, &Weak<Router>),
    (service, name): (&'static str, &'static str),
    work: impl Fn(OwnCalls, T) -> F + Copy + 'static,
) where
    T: Message + Default + 'static,
    F: Future<Output = Result<Frame, Status>> + 'static,
{
    let (member, own, need) = (member.clone(), own.clone(), methods::method(service, name).need);
    router.unary(service, name, move |mut call, request| {
        let (member, own) = (member.clone(), own.clone());
        async move {
            member.admit(&mut call, need).await?;
            let work = work(OwnCalls::of(&call, &own)?, request);
            match call.deadline {
                None => work.await,
                Some(deadline) => {
                    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Status::deadline_exceeded()))
                }
            }
        }
    });
}

/// The calls of a stream, which learners do not serve.
pub(super) fn of_stream(member: &MemberHandle, call: &Call, own: &Weak<Router>) -> Result<OwnCalls, Status> {
    member.check_learner()?;
    member.check_leader(call)?;
    OwnCalls::of(call, own)
}

/// Errors of other methods reach the caller with their text and this code, as in etcd.
fn as_unknown(status: Status) -> Status {
    Status::unknown(status.message)
}

fn undecodable(error: metastore_proto::prost::DecodeError) -> Status {
    Status::internal(format!("an answer of this member cannot be decoded: {error}"))
}
