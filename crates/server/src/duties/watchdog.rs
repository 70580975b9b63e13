//! Notices when the engine thread makes no progress: a disk that hangs in a write or a sync holds it up.
//!
//! A leader that is held up sends no heartbeats, so the other members elect a new leader; that needs no help. But
//! clients of this member would be answered from what it knew last: that it leads. So as long as the engine thread is
//! held up, the member says that it knows no leader: clients that require one leave it, and health checks fail.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::shared::Shared;

/// Checks the engine thread every `interval`, in which it makes progress even if it has nothing to do. Without any for
/// `patience`, an election timeout, it counts as held up.
pub async fn watch(shared: Arc<Shared>, interval: Duration, patience: Duration) {
    let mut ticks = tokio::time::interval(interval);
    let (mut pulse, mut since) = (shared.pulse(), Instant::now());
    loop {
        let now = ticks.tick().await;
        // The first round processes the log, however long that takes.
        if shared.pulse() != pulse || pulse <= 1 {
            if shared.held_up() {
                seldom!(CHANGES: info, shared.member_id, took = ?(now - since), "the engine thread goes on");
            }
            (pulse, since) = (shared.pulse(), now);
            shared.set_held_up(false);
        } else if now - since >= patience && !shared.held_up() {
            shared.set_held_up(true);
            seldom!(
                CHANGES: warn, shared.member_id,
                took = ?(now - since), "expected-duration" = ?patience,
                "the engine thread is held up, perhaps by a disk that hangs; until it goes on this member knows no \
                    leader"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use metastore_engine::Memory;
    use metastore_replica::{Role, Standing};
    use metastore_store::Store;

    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_leader_that_is_held_up_is_none_until_it_goes_on() {
        let shared = Shared::new(1, 2, &Store::open(Arc::new(Memory::new())).unwrap());
        shared.set_standing(&Standing { leader: 2, role: Role::Leader, ..Standing::default() });
        let interval = Duration::from_millis(100);
        tokio::task::spawn_local(watch(shared.clone(), interval, interval * 10));
        for _ in 0..30 {
            shared.beat();
            tokio::time::sleep(interval).await;
            assert_eq!(shared.leader(), 2);
        }
        tokio::time::sleep(interval * 12).await;
        assert_eq!(shared.leader(), 0);
        shared.beat();
        tokio::time::sleep(interval * 2).await;
        assert_eq!(shared.leader(), 2);
    }
}
