//! A lock of a cluster whose leader dies, and whose clients leave: it has one holder at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use metastore_proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse};
use metastore_tests::cluster::{Cluster, block_on};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use tokio::time::timeout;
use tonic::Code;

use super::lock;

const CLIENTS: i64 = 6;
const TTL_S: i64 = 600;
/// How long a client waits for the lock before it gives up, and asks another member.
const IMPATIENCE: Duration = Duration::from_millis(300);
/// The holders before the leader is killed, and after that.
const HOLDERS: usize = 60;

each_engine!(a_lock_has_one_holder_although_leaders_die_and_waiters_leave);

#[derive(Default)]
struct Seen {
    end: AtomicBool,
    held: AtomicBool,
    holders: AtomicUsize,
    /// The revision at which the last holder got the lock.
    last: AtomicI64,
}

fn a_lock_has_one_holder_although_leaders_die_and_waiters_leave(engine: EngineKind) {
    let Some(subject) = programs::or_skip("one holder of a lock", programs::subject(engine)) else { return };
    let mut cluster = Cluster::start(&[subject.clone(), subject.clone(), subject], &[]);
    let seen = Arc::<Seen>::default();
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|id| {
            let (seen, addresses) = (seen.clone(), cluster.addresses());
            std::thread::spawn(move || block_on(contend(&seen, &addresses, id)))
        })
        .collect();
    let wait_for = |cluster: &Cluster, holders| {
        cluster.eventually("the lock goes round", |_| (seen.holders.load(Ordering::SeqCst) >= holders).then_some(()));
    };
    wait_for(&cluster, HOLDERS);
    let leader = cluster.leader();
    cluster.kill(leader);
    wait_for(&cluster, 2 * HOLDERS);
    cluster.restart(leader);
    wait_for(&cluster, 3 * HOLDERS);
    seen.end.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("no client saw two holders");
    }
}

/// Takes the lock and gives it back, again and again, at one member after the other. Each time has a lease of its own,
/// which is revoked at its end: so nothing is left of a call that was given up, even if it had the lock by then.
async fn contend(seen: &Seen, addresses: &[String], id: i64) {
    for turn in 0.. {
        let client = |next: i64| Client::new(&addresses[(turn + id + next) as usize % addresses.len()]);
        let id = id * 1_000_000 + turn;
        let grant = LeaseGrantRequest { ttl: TTL_S, id };
        if client(0).unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, grant).await.is_ok()
            && let Ok(Ok(held)) = timeout(IMPATIENCE, lock(&client(0), "one", id)).await
        {
            assert!(!seen.held.swap(true, Ordering::SeqCst), "{id} holds the lock beside another one");
            let revision = held.header.unwrap_or_default().revision;
            let last = seen.last.swap(revision, Ordering::SeqCst);
            assert!(last < revision, "the lock of revision {revision} comes after that of {last}");
            seen.holders.fetch_add(1, Ordering::SeqCst);
            seen.held.store(false, Ordering::SeqCst);
        }
        for next in 1.. {
            if seen.end.load(Ordering::SeqCst) {
                return;
            }
            let revoke = LeaseRevokeRequest { id };
            match client(next).unary::<_, LeaseRevokeResponse>(paths::LEASE_REVOKE, revoke).await {
                Err(status) if status.code() != Code::NotFound => tokio::task::yield_now().await,
                _ => break,
            }
        }
    }
}
