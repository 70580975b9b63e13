//! Defragment: space that nothing uses any more goes back to the medium, and the size of the state falls to what is in use.
//!
//! etcd holds up every request meanwhile; here reads and writes go on. As in etcd, a second request waits for the first, and
//! a client that goes away does not end what it began.

use std::time::Instant;

use metastore_proto::etcdserverpb::{DefragmentRequest, DefragmentResponse};

use super::Member;
use crate::grpc::{Call, Frame, Status};

/// The header of the answer is empty, as in etcd.
pub(super) async fn defragment(member: &Member, _call: Call, _request: DefragmentRequest) -> Result<Frame, Status> {
    tracing::info!("starting defragment");
    let turn = member.shared.defragmenting.clone().lock_owned().await;
    let (shared, metrics) = (member.shared.clone(), member.metrics.clone());
    let began = Instant::now();
    let before = shared.sizes();
    super::kv::on_pool(move || {
        let _turn = turn;
        let done = shared.views.now().engine().defragment();
        done.inspect_err(|error| tracing::warn!(error = %error, "failed to defragment"))
            .map_err(|error| Status::unknown(error.to_string()))?;
        let after = shared.shrink();
        let took = began.elapsed();
        metrics.defragment_seconds.observe(took.as_secs_f64());
        tracing::info!(
            "current-db-size-bytes-diff" = after.allocated as i64 - before.allocated as i64,
            "current-db-size-bytes" = after.allocated, "current-db-size-in-use-bytes" = after.in_use, took = ?took,
            "finished defragmenting directory"
        );
        Ok(())
    })
    .await?;
    tracing::info!("finished defragment");
    Frame::of(&DefragmentResponse::default())
}
