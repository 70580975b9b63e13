//! Too few members are left: requests that need the others end in an error in time, and the rest still work.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, LeaseGrantRequest, LeaseGrantResponse, MemberListRequest, MemberListResponse,
    PutResponse, RangeRequest, RangeResponse,
};
use metastore_tests::cluster::{Cluster, block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use tonic::{Code, Status};

use super::Engines;

/// A request without a quorum ends within this time: in etcd after 5 s and two election timeouts, a read after 7 s.
const LIMIT: Duration = Duration::from_secs(9);
/// The limit for an immediate answer: well below the 7 s after which a request without a leader ends.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The errors of requests that found no quorum.
const ERRORS: [&str; 5] = [
    "context deadline exceeded",
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

/// A request that was not proposed ends as if the client's own deadline had passed, so that etcd's client retries it. A
/// read, which is safe to repeat, ends as unavailable. etcd puts even the list of alarms through its log.
#[test]
fn without_a_leader_requests_end_as_in_etcd() {
    let Some(mut cluster) = Engines::Mixed.start("no leader", 3, &[]) else { return };
    let [first, second] = cluster.followers()[..] else { panic!("two follow") };
    let left = cluster.leader();
    cluster.kill(first);
    cluster.kill(second);
    cluster.eventually("the last one knows that it is alone", |cluster| {
        (cluster.status(left).ok()?.leader == 0).then_some(())
    });
    let ends = block_on(async {
        let client = Client::new(cluster.address(left));
        let range = RangeRequest { key: "key".into(), ..RangeRequest::default() };
        tokio::join!(
            client.unary::<_, PutResponse>(paths::PUT, put_request("never", "")),
            client.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, LeaseGrantRequest { id: 0, ttl: 60 }),
            client.unary::<_, AlarmResponse>(paths::ALARM, AlarmRequest::default()),
            client.unary::<_, RangeResponse>(paths::RANGE, range),
            client.unary::<_, MemberListResponse>(paths::MEMBER_LIST, MemberListRequest { linearizable: true }),
        )
    });
    let end = |status: Option<Status>| status.map(|status| (status.code(), status.message().to_owned()));
    let ends = [end(ends.0.err()), end(ends.1.err()), end(ends.2.err()), end(ends.3.err()), end(ends.4.err())];
    let not_proposed = Some((Code::DeadlineExceeded, "context deadline exceeded".to_owned()));
    let not_read = Some((Code::Unavailable, "etcdserver: request timed out".to_owned()));
    assert_eq!(ends, [&not_proposed, &not_proposed, &not_proposed, &not_read, &not_read].map(Clone::clone));
    cluster.restart(first);
    cluster.first_write();
    assert_eq!(cluster.get(left, "never").expect("a read"), None, "nothing was proposed");
}

#[test]
fn a_read_under_way_when_the_leader_changes_is_told_so() {
    let Some(mut cluster) = Engines::Mixed.start("leader changes", 3, &[]) else { return };
    let old = cluster.leader();
    let asked = cluster.followers()[0];
    // A client that reads all the time has a read under way whenever the leader stops.
    let address = cluster.address(asked).to_string();
    let (answers, answered) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        block_on(async { read_until_refused(&Client::new(&address), || _ = answers.send(())).await })
    });
    answered.recv().expect("a read before the leader stops");
    cluster.pause(old);
    let refused = reader.join().expect("a client does not panic");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: leader changed"));
    cluster.first_write();
    cluster.get(asked, "key").expect("a leader that answers");
    cluster.resume(old);
    cluster.agree();
}

/// The error with which a write, or a linearizable read, ends, and the time until then.
fn ends(address: &str, write: bool) -> (Status, Duration) {
    let began = Instant::now();
    let status = block_on(async {
        let client = Client::new(address);
        let answer = async {
            if write {
                let put = client.unary::<_, PutResponse>(paths::PUT, put_request("lost", "")).await;
                put.expect_err("nothing is written without a quorum")
            } else {
                // A read that was in flight when the others were lost may still be answered.
                read_until_refused(&client, || ()).await
            }
        };
        tokio::time::timeout(2 * LIMIT, answer).await.unwrap_or_else(|_| Status::deadline_exceeded("it hangs"))
    });
    (status, began.elapsed())
}

/// Reads one time after the other until a read is refused. `answered` is called after each other read.
async fn read_until_refused(client: &Client, mut answered: impl FnMut()) -> Status {
    let range = RangeRequest { key: "key".into(), ..RangeRequest::default() };
    loop {
        match client.unary::<_, RangeResponse>(paths::RANGE, range.clone()).await {
            Ok(_) => answered(),
            Err(status) => return status,
        }
    }
}

/// A request that only a member with a leader accepts.
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
