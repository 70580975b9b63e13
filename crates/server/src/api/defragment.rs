//! Defragment: gives unused space back to the disk, so that the size of the state falls to the size in use.
//!
//! etcd holds up every request while it defragments; here reads and writes go on. As in etcd, a second request waits
//! for the first, and a defragmentation goes on when its client goes away.

use std::sync::Arc;
use std::time::Instant;

use metastore_proto::etcdserverpb::{DefragmentRequest, DefragmentResponse};
use tokio::sync::oneshot;

use crate::driver::Event;
use crate::grpc::{Call, Frame, Status};
use crate::member::{MemberHandle, errors, on_pool};
use crate::metrics::Metrics;
use crate::shared::Shared;

/// The header of the answer is empty, as in etcd.
pub(super) async fn defragment(
    member: &MemberHandle,
    _call: Call,
    _request: DefragmentRequest,
) -> Result<Frame, Status> {
    seldom!(CHANGES: info, (), "starting defragment");
    let turn = member.shared.defragmenting.clone().lock_owned().await;
    let (shared, metrics, engine) = (member.shared.clone(), member.metrics.clone(), member.engine.clone());
    // A task of its own, so that it goes on when the client goes away.
    let task = tokio::task::spawn_local(async move {
        let _turn = turn;
        work(shared, metrics, |done| _ = engine.tell(Event::LowerMark(done))).await
    });
    let done = task.await.unwrap_or_else(|error| Err(Status::internal(format!("defragmenting failed: {error}"))));
    done.inspect_err(|error| seldom!(CHANGES: warn, (), error = %error.message, "failed to defragment"))?;
    seldom!(CHANGES: info, (), "finished defragment");
    Frame::of(&DefragmentResponse::default())
}

/// Defragments before clients are served, if that frees at least `threshold_megabytes`. If it would free less, the log
/// says so, as etcd's does.
///
/// # Errors
/// Why the member does not start: there is no runtime, or the disk failed.
pub(crate) fn at_start(
    threshold_megabytes: u64,
    shared: &Arc<Shared>,
    metrics: &Arc<Metrics>,
    lower_mark: impl FnOnce(oneshot::Sender<()>),
) -> Result<(), String> {
    let (sizes, threshold) = (shared.sizes(), threshold_megabytes << 20);
    if sizes.allocated.saturating_sub(sizes.in_use) < threshold {
        tracing::info!(
            "current-db-size-bytes" = sizes.allocated,
            "current-db-size" = readable(sizes.allocated),
            "current-db-size-in-use-bytes" = sizes.in_use,
            "current-db-size-in-use" = readable(sizes.in_use),
            "bootstrap-defrag-threshold-bytes" = threshold,
            "bootstrap-defrag-threshold" = readable(threshold),
            "Skipping defragmentation"
        );
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| format!("cannot start a thread: {error}"))?;
    let done = runtime.block_on(work(shared.clone(), metrics.clone(), lower_mark));
    done.map_err(|status| format!("cannot defragment at the start: {}", status.message))
}

/// A size as etcd's log has it: `21 kB`, `2.1 GB`; in powers of 1000.
fn readable(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    let decimals = usize::from(value < 10.0 && bytes >= 10);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `lower_mark` tells the engine thread that space was given back.
async fn work(
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    lower_mark: impl FnOnce(oneshot::Sender<()>),
) -> Result<(), Status> {
    let (began, before) = (Instant::now(), shared.sizes());
    let view = shared.views.now();
    on_pool(move || view.engine().defragment().map_err(|error| Status::unknown(error.to_string()))).await?;
    // The engine thread lowers the size between two entries, so that a restart lowers it at the same entry again.
    let (done, fallen) = oneshot::channel();
    lower_mark(done);
    fallen.await.map_err(|_| errors::stopped())?;
    let after = shared.sizes();
    let took = began.elapsed();
    metrics.defragment_seconds.observe(took.as_secs_f64());
    seldom!(
        CHANGES: info, (),
        "current-db-size-bytes-diff" = after.allocated as i64 - before.allocated as i64,
        "current-db-size-bytes" = after.allocated, "current-db-size-in-use-bytes" = after.in_use, took = ?took,
        "finished defragmenting directory"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_etcd_writes_them() {
        // Read from the log of a real etcd 3.7.3, and from the library that it uses.
        let written = [0, 9, 20480, 16384, 2147483648, 104857600, 9_960_000].map(readable);
        assert_eq!(written, ["0 B", "9 B", "20 kB", "16 kB", "2.1 GB", "105 MB", "10 MB"]);
    }
}
