//! Leases while leaders change: no lease ends early, and none lives for ever.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse,
};
use metastore_tests::cluster::{Cluster, block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::lease::{KeepAliveStream, grant_and_keep};
use metastore_tests::paths;
use tonic::Status;

use super::{Engines, Members, each_harness};

const TTL: i64 = 3;
const LEFT_ALONE: i64 = 101;
const KEPT: i64 = 102;
/// A new leader gives every lease its whole TTL again, and a little more; but first it must be elected.
const LONGEST: Duration = Duration::from_secs(2 * TTL as u64 + 5);

each_harness!(; mixed: a_lease_outlives_its_leader_but_not_its_time);

fn a_lease_outlives_its_leader_but_not_its_time(members: Members) {
    let Some(mut cluster) = members.start("lease", 3, &[]) else { return };
    let follower = cluster.followers()[0];
    for lease in [LEFT_ALONE, KEPT] {
        let grant = LeaseGrantRequest { ttl: TTL, id: lease };
        let granted: LeaseGrantResponse = cluster.call(follower, paths::LEASE_GRANT, grant).expect("granted");
        assert_eq!((granted.id, granted.ttl), (lease, TTL));
        let put = PutRequest { lease, ..put_request(&lease.to_string(), "value") };
        let _: PutResponse = cluster.call(follower, paths::PUT, put).expect("a write");
    }
    let mut renewed = Instant::now();
    for node in 0..3 {
        renewed = Instant::now();
        assert_eq!(keep_alive(&cluster, node, LEFT_ALONE).expect("renewed").ttl, TTL, "through {node}");
        let request = LeaseTimeToLiveRequest { id: LEFT_ALONE, keys: true };
        let told: LeaseTimeToLiveResponse =
            cluster.call(node, paths::LEASE_TIME_TO_LIVE, request).expect("the time that is left");
        assert_eq!((told.granted_ttl, told.keys.len()), (TTL, 1), "through {node}");
        assert!((1..=TTL).contains(&told.ttl), "{told:?}");
    }
    cluster.end(cluster.leader());
    let survivors = cluster.voters();
    let ended = cluster.eventually("the lease that is left alone ends", |cluster| {
        let asked = survivors.iter().map(|node| keep_alive(cluster, *node, KEPT));
        let asked: Vec<_> = asked.collect();
        // Without a leader the answer is an error, but no member may answer that the lease is gone.
        assert!(asked.iter().flatten().all(|answer| answer.ttl == TTL), "{asked:?}");
        let read = cluster.get(survivors[0], &LEFT_ALONE.to_string()).ok()?;
        read.is_none().then(Instant::now)
    });
    let lived = ended - renewed;
    println!("lease: a lease of {TTL} s lived for {lived:?} after its last renewal and its leader's end");
    assert!(lived >= Duration::from_secs(TTL as u64), "it ended after {lived:?}");
    assert!(lived < LONGEST, "it lived for {lived:?}");
    for node in survivors {
        assert!(cluster.get(node, &KEPT.to_string()).expect("a read").is_some(), "the lease that was kept alive");
    }
    cluster.agree();
}

/// By its own clock the lease ended long before the paused leader resumes.
#[test]
fn a_leader_that_was_paused_ends_no_lease() {
    let Some(mut cluster) = Engines::Mixed.start("lease of a paused leader", 3, &[]) else { return };
    let old = cluster.leader();
    let grant = LeaseGrantRequest { ttl: TTL, id: KEPT };
    let _: LeaseGrantResponse = cluster.call(old, paths::LEASE_GRANT, grant).expect("granted");
    let put = PutRequest { lease: KEPT, ..put_request("kept", "value") };
    let _: PutResponse = cluster.call(old, paths::PUT, put).expect("a write");
    cluster.pause(old);
    let new = cluster.leader();
    keep_for(&cluster, new, Duration::from_secs(2 * TTL as u64));
    cluster.resume(old);
    cluster.eventually("the old leader follows", |cluster| {
        (cluster.status(old).ok()?.leader == cluster.id(new)).then_some(())
    });
    keep_for(&cluster, new, Duration::from_secs(TTL as u64));
    assert!(cluster.get(old, "kept").expect("a read").is_some(), "the lease that was kept alive");
}

/// More leases than one stream can renew in time if each renewal needs a proof of its own.
#[test]
fn a_client_keeps_thousands_of_leases_alive_through_a_follower() {
    const COUNT: i64 = 12_000;
    const TTL_S: i64 = 6;
    let Some(cluster) = Engines::Mixed.start("thousands of leases", 3, &[]) else { return };
    let follower = cluster.followers()[0];
    let ids: Vec<i64> = (1..=COUNT).collect();
    block_on(async {
        let client = Client::new(cluster.address(follower));
        let mut stream = grant_and_keep(&client, &ids, TTL_S).await;
        let (began, mut passes) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(2 * TTL_S as u64) {
            assert_eq!(stream.renew_all(&ids).await.expect("the stream lives"), [0; 0], "lost in pass {passes}");
            passes += 1;
        }
        println!("lease: {passes} passes over {COUNT} leases in {:?}", began.elapsed());
    });
    for node in 0..3 {
        let listed: LeaseLeasesResponse =
            cluster.call(node, paths::LEASE_LEASES, LeaseLeasesRequest {}).expect("the list");
        let mut listed: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        listed.sort_unstable();
        assert!(listed == ids, "{} of {COUNT} leases at {node}", listed.len());
    }
}

/// Keeps the lease alive for `time`.
fn keep_for(cluster: &Cluster, node: usize, time: Duration) {
    let began = Instant::now();
    cluster.eventually("the lease is kept alive", |cluster| {
        assert_eq!(keep_alive(cluster, node, KEPT).expect("renewed").ttl, TTL);
        (began.elapsed() >= time).then_some(())
    });
}

fn keep_alive(cluster: &Cluster, node: usize, lease: i64) -> Result<LeaseKeepAliveResponse, Status> {
    block_on(async {
        let client = Client::new(cluster.address(node));
        let opened = tokio::time::timeout(Duration::from_millis(500), KeepAliveStream::open(&client, lease)).await;
        opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(|(_, answer)| answer)
    })
}
