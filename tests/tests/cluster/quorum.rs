//! Too few members are left: what needs the others ends in an error in time, and what does not goes on.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::{PutResponse, RangeRequest, RangeResponse};
use metastore_tests::cluster::{Cluster, block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use tonic::Status;

use super::Engines;

/// A request without a quorum ends within this time: etcd gives it 5 s, and two election timeouts; a read 7 s.
const LIMIT: Duration = Duration::from_secs(9);
/// "At once".
const AT_ONCE: Duration = Duration::from_millis(500);
/// How requests end that found no quorum.
const ERRORS: [&str; 4] = [
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to previous leader failure",
    "etcdserver: request timed out, possibly due to connection lost",
    "etcdserver: no leader",
];

#[test]
fn without_a_quorum_requests_end_in_time() {
    let Some(mut cluster) = Engines::Mixed.start("no quorum", 3, &[]) else { return };
    let [first, second] = cluster.followers()[..] else { panic!("two follow") };
    let left = cluster.leader();
    cluster.put(left, "key", "before").expect("a write");
    cluster.pause(first);
    cluster.kill(second);
    let address = cluster.address(left).to_string();
    let read = std::thread::spawn(move || ends(&address, false));
    let address = cluster.address(left).to_string();
    let write = std::thread::spawn(move || ends(&address, true));
    cluster.eventually("the last one knows that it is alone", |cluster| {
        (cluster.status(left).ok()?.leader == 0).then_some(())
    });
    for path in [paths::RANGE, paths::PUT] {
        let began = Instant::now();
        let refused = with_leader(&cluster, left, path).expect_err("there is no leader");
        assert_eq!(refused.message(), "etcdserver: no leader", "{path}");
        assert!(began.elapsed() < AT_ONCE, "{path}: {:?}", began.elapsed());
    }
    assert_eq!(cluster.get_serializable(left, "key").expect("a local read").as_deref(), Some("before"));
    for (what, thread) in [("read", read), ("write", write)] {
        let (status, took) = thread.join().expect("a client does not panic");
        println!("no quorum: a {what} ends after {took:?} with {:?}", status.message());
        assert!(ERRORS.contains(&status.message()), "{what}: {status:?}");
        assert!(took < LIMIT, "{what}: {took:?}");
    }
    cluster.resume(first);
    cluster.first_write();
    with_leader(&cluster, left, paths::PUT).expect("there is a leader again");
    cluster.restart(second);
    cluster.agree();
}

/// How and when a write, or a linearizable read, ends.
fn ends(address: &str, write: bool) -> (Status, Duration) {
    let began = Instant::now();
    let status = block_on(async {
        let client = Client::new(address);
        let answer = async {
            if write {
                client.unary::<_, PutResponse>(paths::PUT, put_request("lost", "")).await.map(|_| ())
            } else {
                let range = RangeRequest { key: "key".into(), ..RangeRequest::default() };
                // One that was under way when the others went may still be answered.
                loop {
                    client.unary::<_, RangeResponse>(paths::RANGE, range.clone()).await?;
                }
            }
        };
        tokio::time::timeout(2 * LIMIT, answer).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("it hangs")))
    });
    (status.expect_err("nothing is answered without a quorum"), began.elapsed())
}

/// A request that is only for a member with a leader.
fn with_leader(cluster: &Cluster, node: usize, path: &'static str) -> Result<(), Status> {
    block_on(async {
        let client = Client::new(cluster.address(node));
        if path == paths::PUT {
            return client.unary_with_leader::<_, PutResponse>(path, put_request("key", "after")).await.map(|_| ());
        }
        let range = RangeRequest { key: "key".into(), serializable: true, ..RangeRequest::default() };
        client.unary_with_leader::<_, RangeResponse>(path, range).await.map(|_| ())
    })
}
