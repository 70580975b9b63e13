//! Calls to one member, each over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::*;
use tonic::Status;

use super::Cluster;
use crate::grpc::Client;
use crate::paths;

/// How long a call may take before it counts as hanging: longer than a server's own timeout.
const CALL_PATIENCE: Duration = Duration::from_secs(15);
/// How long a member may take to answer Status, for which it needs no other member.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// From now on all calls show this token.
    pub fn speak_as(&mut self, token: &str) {
        self.token = Some(token.to_string());
    }

    /// A new connection to one node.
    pub fn client(&self, node: usize) -> Client {
        let client = Client::new(self.address(node));
        self.token.as_ref().map_or_else(|| client.clone(), |token| client.with_token(token))
    }

    /// One call to one node, over a connection of its own.
    pub fn call<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        node: usize,
        path: &'static str,
        request: Q,
    ) -> Result<R, Status> {
        call_by(|| self.client(node), path, request, CALL_PATIENCE)
    }

    pub fn status(&self, node: usize) -> Result<StatusResponse, Status> {
        call_by(|| self.client(node), paths::STATUS, StatusRequest {}, STATUS_PATIENCE)
    }

    /// Puts a key, and returns the revision.
    pub fn put(&self, node: usize, key: &str, value: &str) -> Result<i64, Status> {
        let put: PutResponse = self.call(node, paths::PUT, put_request(key, value))?;
        Ok(put.header.unwrap_or_default().revision)
    }

    /// Makes `count` puts with a value each, `in_flight` of them at a time. Panics if one is not acknowledged.
    pub fn put_many(&self, node: usize, count: usize, in_flight: usize) {
        block_on(async {
            let client = self.client(node);
            let mut flying = tokio::task::JoinSet::new();
            for number in 0..count {
                let (client, put) =
                    (client.clone(), put_request(&format!("many/{}", number % 100), &number.to_string()));
                flying.spawn(async move { client.unary::<_, PutResponse>(paths::PUT, put).await });
                if flying.len() == in_flight {
                    flying.join_next().await.expect("some fly").expect("no panic").expect("acknowledged");
                }
            }
            while let Some(done) = flying.join_next().await {
                done.expect("no panic").expect("acknowledged");
            }
        });
    }

    /// The value of a key by a linearizable read; `None` if there is no such key.
    pub fn get(&self, node: usize, key: &str) -> Result<Option<String>, Status> {
        self.read(node, key, false)
    }

    /// The value of a key by a serializable read of this node.
    pub fn get_serializable(&self, node: usize, key: &str) -> Result<Option<String>, Status> {
        self.read(node, key, true)
    }

    fn read(&self, node: usize, key: &str, serializable: bool) -> Result<Option<String>, Status> {
        let request = RangeRequest { key: key.to_string().into(), serializable, ..RangeRequest::default() };
        let range: RangeResponse = self.call(node, paths::RANGE, request)?;
        Ok(range.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    /// The newest revision that this node has applied.
    pub fn revision(&self, node: usize) -> Result<i64, Status> {
        let request = RangeRequest { serializable: true, count_only: true, ..everything() };
        let range: RangeResponse = self.call(node, paths::RANGE, request)?;
        Ok(range.header.unwrap_or_default().revision)
    }

    pub fn members(&self, node: usize, linearizable: bool) -> Result<Vec<Member>, Status> {
        let list: MemberListResponse = self.call(node, paths::MEMBER_LIST, MemberListRequest { linearizable })?;
        Ok(list.members)
    }
}

/// One call over a connection of its own, within `patience`.
pub fn call<Q: Message + 'static, R: Message + Default + 'static>(
    address: &str,
    path: &'static str,
    request: Q,
    patience: Duration,
) -> Result<R, Status> {
    call_by(|| Client::new(address), path, request, patience)
}

/// A connection belongs to a runtime, so it is made inside of one.
fn call_by<Q: Message + 'static, R: Message + Default + 'static>(
    connect: impl FnOnce() -> Client,
    path: &'static str,
    request: Q,
    patience: Duration,
) -> Result<R, Status> {
    block_on(async {
        let client = connect();
        let answer = tokio::time::timeout(patience, client.unary(path, request)).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{path}: no answer within {patience:?}"))))
    })
}

/// Runs `work` on this thread.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(work)
}

/// A list of all keys.
pub fn everything() -> RangeRequest {
    let all = Bytes::from_static(b"\0");
    RangeRequest { key: all.clone(), range_end: all, ..RangeRequest::default() }
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..PutRequest::default() }
}
