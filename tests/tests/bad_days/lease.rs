//! Leases in real time.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::event::EventType;
use metastore_tests::grpc::Client;
use metastore_tests::lease::{KeepAliveStream, grant_and_keep};
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;
use metastore_tests::watch::WatchStream;

use super::{block_on, put_request, subject, watch_prefix};

/// The shortest TTL of a lease, at the default election timeout of 1 s.
const MIN_TTL_S: i64 = 2;
/// How long a lease may live after its TTL: the server looks for expired leases twice a second.
pub const LATE: Duration = Duration::from_secs(2);
/// A new leader extends every lease by an election timeout.
const EXTENSION: Duration = Duration::from_secs(1);
/// The time of a lease begins when the server grants it, which is before the test gets the answer.
const CLOCK_SLACK: Duration = Duration::from_millis(20);

/// Grants a lease with a key of its own, and returns the answer to the grant.
pub async fn grant(client: &Client, id: i64, ttl: i64) -> LeaseGrantResponse {
    let granted = client.unary(paths::LEASE_GRANT, LeaseGrantRequest { id, ttl }).await.expect("a lease is granted");
    let put = PutRequest { lease: id, ..put_request(&format!("lease/{id}"), "v") };
    let _: PutResponse = client.unary(paths::PUT, put).await.expect("a Put is answered");
    granted
}

pub async fn time_to_live(client: &Client, id: i64) -> LeaseTimeToLiveResponse {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    client.unary(paths::LEASE_TIME_TO_LIVE, request).await.expect("it is answered")
}

/// A watcher of the keys of all leases.
pub async fn watch_leases(client: &Client) -> WatchStream {
    let mut watch = WatchStream::open(client, watch_prefix("lease/")).await.expect("a watch opens");
    watch.next(LATE).await.expect("the stream lives").expect("created");
    watch
}

/// Waits until the key of lease `id` is deleted. That must happen between `least` and `most` after `since`.
pub async fn expect_expiry(watch: &mut WatchStream, id: i64, since: Instant, least: Duration, most: Duration) {
    loop {
        let patience = (most + LATE).saturating_sub(since.elapsed());
        let answer = watch.next(patience).await.expect("the stream lives");
        let events = answer.unwrap_or_else(|| panic!("lease {id} still lives after {:?}", since.elapsed())).events;
        let is_key = |event: &metastore_proto::mvccpb::Event| {
            event.kv.as_ref().is_some_and(|kv| kv.key == format!("lease/{id}"))
        };
        if events.iter().any(|event| is_key(event) && event.r#type == EventType::Delete as i32) {
            break;
        }
    }
    let lived = since.elapsed();
    println!("lease {id}: lived {lived:?}, of {least:?}");
    assert!(lived + CLOCK_SLACK >= least && lived <= most, "lease {id} lived {lived:?}, not {least:?} to {most:?}");
}

each_engine!(
    a_lease_lives_its_time_and_keepalives_prolong_it,
    a_renewal_that_comes_too_late_is_answered_when_the_lease_is_gone,
    after_kill_9_a_lease_has_its_full_time_again,
    leases_that_end_together_end_in_time
);

fn a_lease_lives_its_time_and_keepalives_prolong_it(engine: EngineKind) {
    let Some(subject) = subject("lease", engine) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        let mut watch = watch_leases(&client).await;
        let least = Duration::from_secs(MIN_TTL_S as u64);

        let began = Instant::now();
        assert_eq!(grant(&client, 1, 1).await.ttl, MIN_TTL_S, "raised to the least");
        assert_eq!(grant(&client, 2, MIN_TTL_S).await.ttl, MIN_TTL_S);
        assert!(time_to_live(&client, 2).await.ttl < MIN_TTL_S, "some time has passed");
        let (mut alive, first) = KeepAliveStream::open(&client, 2).await.expect("keepalives begin");
        assert_eq!(first.ttl, MIN_TTL_S);

        // Lease 2 is renewed until lease 1 expires, and then for the same time again.
        let mut renewed = Instant::now();
        let mut expired = None;
        while expired.is_none_or(|at: Instant| at.elapsed() < least) {
            if let Some(answer) = watch.next(least / 10).await.expect("the stream lives") {
                for event in answer.events.iter().filter(|event| event.r#type == EventType::Delete as i32) {
                    assert_eq!(event.kv.as_ref().expect("a key").key, "lease/1");
                    let lived = began.elapsed();
                    assert!(lived + CLOCK_SLACK >= least && lived <= least + LATE, "lease 1 lived {lived:?}");
                    expired = Some(Instant::now());
                }
            }
            assert!(began.elapsed() < least + LATE || expired.is_some(), "lease 1 still lives");
            renewed = Instant::now();
            assert_eq!(alive.renew(2).await.expect("it is renewed").ttl, MIN_TTL_S);
        }
        assert_eq!(time_to_live(&client, 1).await.ttl, -1, "gone");
        assert_eq!(alive.renew(1).await.expect("it is answered").ttl, 0, "nothing to renew");
        expect_expiry(&mut watch, 2, renewed, least, least + LATE).await;
    });
}

fn a_renewal_that_comes_too_late_is_answered_when_the_lease_is_gone(engine: EngineKind) {
    let Some(subject) = subject("late renewal", engine) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        // The server looks for expired leases twice a second. At least one of these leases ends well before it looks.
        let mut renewals = tokio::task::JoinSet::new();
        for id in 1..=5 {
            renewals.spawn(renew_too_late(Client::new(member.client_address()), id));
        }
        while let Some(renewed) = renewals.join_next().await {
            renewed.expect("no renewal is answered before its lease is gone");
        }
    });
}

/// Grants a lease `id` tenths of a second from now, and tries to renew it as soon as its TTL is over.
async fn renew_too_late(client: Client, id: i64) {
    let mut watch = watch_leases(&client).await;
    let began = Instant::now();
    let wait = Duration::from_millis(100) * id as u32;
    while began.elapsed() < wait {
        let _ = watch.next(wait.saturating_sub(began.elapsed())).await.expect("the stream lives");
    }
    grant(&client, id, MIN_TTL_S).await;
    let granted = Instant::now();
    let over = Duration::from_secs(MIN_TTL_S as u64) + CLOCK_SLACK;
    while granted.elapsed() < over {
        let _ = watch.next(over.saturating_sub(granted.elapsed())).await.expect("the stream lives");
    }
    let (_stream, answer) = KeepAliveStream::open(&client, id).await.expect("it is answered");
    assert_eq!(answer.ttl, 0);
    assert_eq!(time_to_live(&client, id).await.ttl, -1, "lease {id}: answered before it was revoked");
}

fn leases_that_end_together_end_in_time(engine: EngineKind) {
    const COUNT: i64 = 12_000;
    const TTL_S: i64 = 6;
    let Some(subject) = subject("leases that end together", engine) else { return };
    let member = Member::start(&subject, &[]);
    let ids: Vec<i64> = (1..=COUNT).collect();
    block_on(async {
        let client = Client::new(member.client_address());
        let _stream = grant_and_keep(&client, &ids, TTL_S).await;
        let renewed = Instant::now();
        let (least, most) = (Duration::from_secs(TTL_S as u64 - 1), Duration::from_secs(TTL_S as u64) + LATE);
        loop {
            let listed: LeaseLeasesResponse =
                client.unary(paths::LEASE_LEASES, LeaseLeasesRequest {}).await.expect("the list");
            let (left, lived) = (listed.leases.len(), renewed.elapsed());
            if left == 0 {
                println!("lease: {COUNT} leases of {TTL_S} s were gone {lived:?} after their last renewal");
                assert!(lived >= least, "all are gone after {lived:?}");
                break;
            }
            assert!(lived <= most, "{left} leases live {lived:?} after their last renewal");
        }
    });
}

fn after_kill_9_a_lease_has_its_full_time_again(engine: EngineKind) {
    const TTL_S: i64 = 3;
    let Some(subject) = subject("lease after a crash", engine) else { return };
    let mut member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        assert_eq!(grant(&client, 3, TTL_S).await.ttl, TTL_S);
        let began = Instant::now();
        while time_to_live(&client, 3).await.ttl > 1 {
            assert!(began.elapsed() < Duration::from_secs(TTL_S as u64), "the time to live goes down");
            tokio::task::yield_now().await;
        }
    });
    member.kill();
    let began = Instant::now();
    member.restart();
    let served = Instant::now();
    block_on(async {
        let client = Client::new(member.client_address());
        let mut watch = watch_leases(&client).await;
        let now = time_to_live(&client, 3).await;
        assert_eq!((now.granted_ttl, now.keys.len()), (TTL_S, 1));
        assert!(now.ttl >= TTL_S - 1, "{} s left", now.ttl);
        let (ttl, starting) = (Duration::from_secs(TTL_S as u64), served - began);
        expect_expiry(&mut watch, 3, began, ttl + EXTENSION, starting + ttl + EXTENSION + LATE).await;
    });
}
