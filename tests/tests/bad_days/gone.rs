//! Clients that leave: the server frees everything that they had open.

use std::time::Duration;

use metastore_proto::Message;
use metastore_proto::etcdserverpb::PutResponse;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::EngineKind;
use metastore_tests::watch::WatchStream;
use metastore_tests::{paths, programs};

use super::observe::{eventually, memory_kib, metrics, open_calls};
use super::raw::{Raw, framed};
use super::{block_on, put_request, subject, watch_prefix};

const CONNECTIONS: usize = 20;
const STREAMS_EACH: usize = 500;
/// The memory that one watch stream may take in the server, with its watcher and its HTTP/2 stream.
const STREAM_KIB: u64 = 24;
/// The streams are opened and closed this often. One round may take a tenth more than another, because of the order in
/// which memory is given back; memory that is lost adds up from round to round.
const ROUNDS: usize = 6;
/// The memory that the cheapest of the later rounds may take, in percent of the cheapest of the earlier ones.
const LATER_PERCENT: u64 = 110;
/// DEADLINE_EXCEEDED and UNAVAILABLE.
const DEADLINE_EXCEEDED: u32 = 4;
const UNAVAILABLE: u32 = 14;

pub fn wait_until_idle(address: &str) {
    eventually("all calls are over", || {
        let now = metrics(address);
        let open = ["Put", "Watch"].map(|method| open_calls(&now, method)).iter().sum::<f64>();
        let names = ["proposals_pending", "watch_stream_total", "watcher_total"];
        let held = now.iter().filter(|(name, _)| names.iter().any(|end| name.ends_with(end)));
        open + held.map(|(_, value)| value).sum::<f64>() == 0.0
    });
}

#[test]
fn ten_thousand_watch_streams_leave_nothing_behind() {
    let Some(subject) = subject("watch streams", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    let address = member.client_address();
    let (before, _) = memory_kib(member.pid());
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        block_on(async {
            let clients: Vec<_> = (0..CONNECTIONS).map(|_| Client::new(address)).collect();
            let opening = clients.iter().map(|client| tokio::spawn(open_many(client.clone())));
            let mut streams = Vec::new();
            for opened in opening.collect::<Vec<_>>() {
                streams.extend(opened.await.expect("opening does not panic"));
            }
            let all = (CONNECTIONS * STREAMS_EACH) as f64;
            for name in ["etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_watch_stream_total"] {
                eventually("all are counted", || metrics(address)[name] == all);
            }
            rounds.push(memory_kib(member.pid()).0);
            // Half of the streams end one by one; the others end with their connection, when the runtime is dropped.
            streams.truncate(streams.len() / 2);
        });
        wait_until_idle(address);
    }
    let allowed = before + (CONNECTIONS * STREAMS_EACH) as u64 * STREAM_KIB;
    assert!(rounds[0] < allowed, "{} KiB, {before} before", rounds[0]);
    let (earlier, later) = rounds.split_at(ROUNDS / 2);
    let (earlier, later) = (earlier.iter().min().expect("a round"), later.iter().min().expect("a round"));
    assert!(later * 100 < earlier * LATER_PERCENT, "{rounds:?} KiB: the later rounds take more");
    let (after, _) = memory_kib(member.pid());
    println!("watch streams: {before} KiB before, {rounds:?} with 10,000 streams, {after} after");
}

#[test]
fn watches_are_counted_before_their_clients_are_told() {
    let Some(subject) = subject("watch gauges", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    let address = member.client_address();
    let counted = || {
        let now = metrics(address);
        (now["etcd_debugging_mvcc_watch_stream_total"], now["etcd_debugging_mvcc_watcher_total"])
    };
    const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
    for _ in 0..20 {
        block_on(async {
            let client = Client::new(address);
            let mut stream = WatchStream::open(&client, watch_prefix("w")).await.expect("a watch opens");
            let created = stream.next(ANSWER_PATIENCE).await.expect("the stream lives").expect("an answer");
            assert_eq!(counted(), (1.0, 1.0));
            stream.cancel(created.watch_id);
            let canceled = stream.next(ANSWER_PATIENCE).await.expect("the stream lives").expect("an answer");
            assert!(canceled.canceled);
            assert_eq!(counted(), (1.0, 0.0));
        });
        wait_until_idle(address);
    }
}

async fn open_many(client: Client) -> Vec<WatchStream> {
    let mut streams = Vec::new();
    for number in 0..STREAMS_EACH {
        let mut stream = WatchStream::open(&client, watch_prefix(&format!("w{number}"))).await.expect("a watch opens");
        let created = stream.next(Duration::from_secs(20)).await.expect("the stream lives").expect("an answer");
        assert!(created.created);
        streams.push(stream);
    }
    streams
}

#[test]
fn a_put_whose_client_left_holds_nothing() {
    let Some(subject) = subject("clients that leave", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    let address = member.client_address();
    for round in 0..20 {
        block_on(async {
            let client = Client::new(address);
            let mut puts = tokio::task::JoinSet::new();
            for number in 0..200 {
                let client = client.clone();
                let put = put_request(&format!("{round}/{number}"), "v");
                puts.spawn(async move { client.unary::<_, PutResponse>(paths::PUT, put).await });
            }
            // Some are answered; the others are dropped with their connection, at any stage.
            for _ in 0..round * 5 {
                puts.join_next().await;
            }
        });
    }
    wait_until_idle(address);
}

#[test]
fn a_deadline_ends_a_watch_and_a_request_that_never_comes() {
    let Some(subject) = subject("deadlines", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let mut raw = Raw::connect(member.client_address()).await;
        for path in [paths::WATCH, paths::PUT, paths::RANGE_STREAM] {
            let mut call = raw.open(path, &[("grpc-timeout", "300m")]).await;
            // Half a message, and then silence.
            call.body.send_data(framed(100, &[0; 10]), false).expect("the connection lives");
            let (status, _) = call.status().await;
            assert_eq!(status, DEADLINE_EXCEEDED, "{path}");
        }
    });
    wait_until_idle(member.client_address());
}

/// The disk hangs for longer than a request may take: strace delays one sync.
#[test]
fn without_progress_a_put_ends_in_etcds_timeout() {
    let found = programs::subject(EngineKind::Memory).and_then(|subject| Ok((subject, programs::tool("strace")?)));
    let Some((subject, strace)) = programs::or_skip("hanging disk", found) else { return };
    let mut member = Member::new(&subject, &[]);
    let hang = "inject=fdatasync:delay_enter=8500000:when=30";
    let command = [&*strace.to_string_lossy(), "-f", "-qq", "-e", "trace=fdatasync", "-e", hang, "-o", "/dev/null"];
    member.wrap_in(&command.map(String::from));
    member.restart();
    block_on(async {
        let put = put_request("k", "v").encode_to_vec();
        let mut raw = Raw::connect(member.client_address()).await;
        let hangs =
            async { while raw.call(paths::PUT, &[("grpc-timeout", "500m")], &put).await.0 != DEADLINE_EXCEEDED {} };
        tokio::time::timeout(Duration::from_secs(20), hangs).await.expect("the disk hangs at last");
        let (status, text) = raw.call(paths::PUT, &[], &put).await;
        assert_eq!((status, &*text), (UNAVAILABLE, "etcdserver: request timed out"));
    });
    wait_until_idle(member.client_address());
    block_on(async {
        let client = Client::new(member.client_address());
        let _: PutResponse = client.unary(paths::PUT, put_request("k", "v")).await.expect("it goes on");
    });
}
