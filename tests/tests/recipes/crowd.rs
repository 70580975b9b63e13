//! Many waiters for one lock, and waiters that leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metastore_proto::etcdserverpb::{LeaseLeasesRequest, LeaseLeasesResponse};
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::{self, EngineKind};
use metastore_tests::{lease, paths};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{lock, queued, unlock};
use crate::bad_days::observe::{eventually, metrics};

const WAITERS: i64 = 1000;
const TTL_S: i64 = 600;
/// How long all waiters together may take.
const PATIENCE: Duration = Duration::from_secs(60);
const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";
const EVENTS: &str = "etcd_debugging_mvcc_events_total";

each_engine!(each_release_wakes_one_of_a_thousand_waiters, waiters_that_leave_leave_nothing_behind);

fn each_release_wakes_one_of_a_thousand_waiters(engine: EngineKind) {
    let Some(subject) = programs::or_skip("a crowd at a lock", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    let address = member.client_address();
    block_on(async {
        let client = Client::new(address);
        let leases: Vec<i64> = (1..=WAITERS).collect();
        lease::grant_all(&client, &leases, TTL_S).await;
        let holders = Arc::<AtomicUsize>::default();
        let mut waiters = JoinSet::new();
        for id in leases {
            let (client, holders) = (client.clone(), holders.clone());
            waiters.spawn(async move {
                let held = lock(&client, "crowd", id).await.unwrap_or_else(|status| panic!("lock {id}: {status}"));
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "another one holds the lock");
                let first = queued(&client, "crowd").await.kvs.into_iter().min_by_key(|kv| kv.create_revision);
                let first = first.expect("the holder's key");
                assert_eq!(first.key, held.key, "the lock goes to the one that has waited longest");
                if id == 1 {
                    // The first one holds the lock until all others wait.
                    while queued(&client, "crowd").await.count < WAITERS {
                        tokio::task::yield_now().await;
                    }
                }
                holders.fetch_sub(1, Ordering::SeqCst);
                unlock(&client, held.key).await.unwrap_or_else(|status| panic!("unlock {id}: {status}"));
            });
        }
        let all = timeout(PATIENCE, waiters.join_all()).await;
        all.unwrap_or_else(|_| panic!("not all had the lock within {PATIENCE:?}"));
    });
    let now = metrics(address);
    // Each of the others saw one key go away, that of the waiter before it.
    assert!(now[EVENTS] <= (WAITERS - 1) as f64, "{} events were sent", now[EVENTS]);
    eventually("no watcher is left", || metrics(address)[WATCHERS] == 0.0);
}

/// Clients that wait with a lease of their own and without one, and go away at any stage.
fn waiters_that_leave_leave_nothing_behind(engine: EngineKind) {
    let Some(subject) = programs::or_skip("waiters that leave", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    let address = member.client_address();
    let holder = block_on(async {
        let client = Client::new(address);
        let leases: Vec<i64> = (1..=100).collect();
        lease::grant_all(&client, &leases, TTL_S).await;
        lock(&client, "left", 1).await.expect("the lock").key
    });
    for round in 0..10 {
        block_on(async {
            let client = Client::new(address);
            let mut waiters = JoinSet::new();
            for number in 0..10 {
                let (client, id) = (client.clone(), 2 + round * 5 + number);
                let id = if number < 5 { id } else { 0 };
                waiters.spawn(async move { lock(&client, "left", id).await });
            }
            // Some are in the queue; the others are on their way to it.
            while queued(&client, "left").await.count < 2 + round / 2 {
                tokio::task::yield_now().await;
            }
        });
    }
    eventually("only the holder's key is left", || {
        let left = block_on(async { queued(&Client::new(address), "left").await });
        left.kvs.iter().map(|kv| &kv.key).eq([&holder])
    });
    eventually("no watcher is left", || metrics(address)[WATCHERS] == 0.0);
    eventually("only the leases of the clients are left", || {
        let leases = block_on(async {
            Client::new(address).unary::<_, LeaseLeasesResponse>(paths::LEASE_LEASES, LeaseLeasesRequest {}).await
        });
        leases.is_ok_and(|leases| leases.leases.len() == 100)
    });
}
