//! Watchers on every member see every event, once and in order, whatever happens to leaders.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_proto::etcdserverpb::WatchCreateRequest;
use metastore_proto::mvccpb::Event;
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::load::Load;
use metastore_tests::watch::WatchStream;
use tonic::Status;

use super::{Members, each_harness};

const WRITES: usize = 200;
/// The key whose event ends the watch.
const LAST: &str = "last";
/// How long the delivery of all events may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for an answer before the end of the test is checked again.
const LOOK: Duration = Duration::from_millis(200);

each_harness!(; mixed: watchers_see_everything_across_a_change_of_leader);

fn watchers_see_everything_across_a_change_of_leader(members: Members) {
    let Some(mut cluster) = members.start("watch", 3, &[]) else { return };
    let watching: Vec<_> = cluster.addresses().into_iter().map(watch).collect();
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let ended = cluster.leader();
    cluster.end(ended);
    load.progress(WRITES);
    cluster.restart(ended);
    load.progress(WRITES);
    let history = load.stop();
    history.check(&cluster);
    cluster.put(cluster.leader(), LAST, "").expect("a write");
    let seen: Vec<_> = watching.into_iter().map(|thread| thread.join().expect("a watcher does not panic")).collect();
    assert!(seen[0].0.len() > history.acknowledged());
    for (node, (events, streams)) in seen.iter().enumerate() {
        assert!(*events == seen[0].0, "node {node} shows other events than node 0");
        assert!(node == ended || *streams == 1, "node {node} ended a watch, although it lived on");
    }
}

/// All events up to the last one, and the number of streams used. When a stream ends, the client
/// resumes at the next revision.
fn watch(address: String) -> JoinHandle<(Vec<Event>, usize)> {
    std::thread::spawn(move || {
        let (mut events, mut streams, deadline) = (Vec::new(), 0, Instant::now() + PATIENCE);
        while !is_over(&events) {
            assert!(Instant::now() < deadline, "only {} events from {address}", events.len());
            // While the member is down, connections are refused.
            let ended = block_on(follow(&address, &mut events, deadline));
            streams += usize::from(ended.is_ok());
            if ended.is_err() {
                std::thread::park_timeout(LOOK / 10);
            }
        }
        (events, streams)
    })
}

fn is_over(events: &[Event]) -> bool {
    events.last().and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.key == LAST)
}

/// Reads one stream until it ends. An error means that it could not be opened.
async fn follow(address: &str, events: &mut Vec<Event>, deadline: Instant) -> Result<(), Status> {
    let next = events.last().and_then(|event| event.kv.as_ref()).map_or(1, |kv| kv.mod_revision) + 1;
    let all = Bytes::from_static(b"\0");
    let create = WatchCreateRequest { key: all.clone(), range_end: all, start_revision: next, ..Default::default() };
    let mut stream = WatchStream::open(&Client::new(address), create).await?;
    while !is_over(events) && Instant::now() < deadline {
        match stream.next(LOOK).await {
            Ok(Some(answer)) => events.extend(answer.events),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    Ok(())
}
