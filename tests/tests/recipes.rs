//! The services Lock and Election.

mod answers;
mod crowd;
mod exclusion;

use bytes::Bytes;
use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse};
use metastore_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use tonic::Status;

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    client.unary(paths::LOCK, LockRequest { name: name.to_string().into(), lease }).await
}

async fn unlock(client: &Client, key: Bytes) -> Result<UnlockResponse, Status> {
    client.unary(paths::UNLOCK, UnlockRequest { key }).await
}

/// The keys of the queue of this name.
async fn queued(client: &Client, name: &str) -> RangeResponse {
    let (key, range_end) = (format!("{name}/").into(), format!("{name}0").into());
    let range = RangeRequest { key, range_end, ..RangeRequest::default() };
    client.unary(paths::RANGE, range).await.expect("a range")
}
