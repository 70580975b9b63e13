//! Reads that may be long: they run on the pool, not on the I/O thread.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::grpc::Status;

/// Reads of this process that run on the pool now.
static OPEN_READS: AtomicU64 = AtomicU64::new(0);

pub fn open_reads() -> u64 {
    OPEN_READS.load(Ordering::Relaxed)
}

/// Runs a read that may be long on the pool, not on the I/O thread.
pub async fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let counted = move || {
        OPEN_READS.fetch_add(1, Ordering::Relaxed);
        let result = work();
        OPEN_READS.fetch_sub(1, Ordering::Relaxed);
        result
    };
    let result = tokio::task::spawn_blocking(counted).await;
    result.unwrap_or_else(|error| Err(Status::internal(format!("a read failed: {error}"))))
}
