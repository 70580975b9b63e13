//! Defragment: space that nothing uses any more goes back to the medium, and the size of the state falls to what is in use.
//!
//! etcd holds up every request meanwhile; here reads and writes go on. As in etcd, a second request waits for the first, and
//! a client that goes away does not end what it began.

use std::sync::Arc;
use std::time::Instant;

use metastore_proto::etcdserverpb::{DefragmentRequest, DefragmentResponse};
use tokio::sync::oneshot;

use super::{Member, errors};
use crate::driver::Event;
use crate::grpc::{Call, Frame, Status};
use crate::io::inbox::Inbox;
use crate::metrics::Metrics;
use crate::shared::Shared;

/// The header of the answer is empty, as in etcd.
pub(super) async fn defragment(member: &Member, _call: Call, _request: DefragmentRequest) -> Result<Frame, Status> {
    tracing::info!("starting defragment");
    let turn = member.shared.defragmenting.clone().lock_owned().await;
    let (shared, metrics, inbox) = (member.shared.clone(), member.metrics.clone(), member.inbox.clone());
    // A task of its own, which nobody ends.
    let task = tokio::task::spawn_local(async move {
        let _turn = turn;
        work(shared, metrics, inbox).await
    });
    let done = task.await.unwrap_or_else(|error| Err(Status::internal(format!("defragmenting failed: {error}"))));
    done.inspect_err(|error| tracing::warn!(error = %error.message, "failed to defragment"))?;
    tracing::info!("finished defragment");
    Frame::of(&DefragmentResponse::default())
}

async fn work(shared: Arc<Shared>, metrics: Arc<Metrics>, inbox: Inbox<Event>) -> Result<(), Status> {
    let (began, before) = (Instant::now(), shared.sizes());
    let view = shared.views.now();
    super::kv::on_pool(move || view.engine().defragment().map_err(|error| Status::unknown(error.to_string()))).await?;
    // The size falls between two entries, so that a restart lets it fall there again.
    let (done, fallen) = oneshot::channel();
    inbox.push_control(Event::LowerMark(done));
    fallen.await.map_err(|_| errors::stopped())?;
    let after = shared.sizes();
    let took = began.elapsed();
    metrics.defragment_seconds.observe(took.as_secs_f64());
    tracing::info!(
        "current-db-size-bytes-diff" = after.allocated as i64 - before.allocated as i64,
        "current-db-size-bytes" = after.allocated, "current-db-size-in-use-bytes" = after.in_use, took = ?took,
        "finished defragmenting directory"
    );
    Ok(())
}
