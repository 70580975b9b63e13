//! Exhausted file descriptors.

use std::net::TcpStream;
use std::time::Duration;

use metastore_proto::etcdserverpb::{PutRequest, PutResponse};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::EngineKind;
use metastore_tests::watch::WatchStream;
use metastore_tests::{paths, programs};
use tokio::time::timeout;

use super::observe::{cpu_ticks, eventually};
use super::{block_on, put_request, subject, watch_prefix};

/// The server's limit of file descriptors.
const LIMIT: usize = 256;
/// The number of connections that are opened: more than the limit.
const CONNECTIONS: usize = 300;
/// How long the server is observed while it is full, and how much processor time it may use then, in
/// clock ticks (100 a second).
const WATCHED: Duration = Duration::from_secs(1);
const ALLOWED_TICKS: u64 = 20;
/// Writes that fill a log segment of 64 MiB. The next segment needs a descriptor.
const LARGE_PUTS: usize = 80;
const LARGE_BYTES: usize = 1024 * 1024;
/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

async fn put(client: &Client, put: PutRequest) {
    let answer = timeout(PATIENCE, client.unary::<_, PutResponse>(paths::PUT, put)).await;
    answer.expect("it is answered in time").expect("it is answered");
}

#[test]
fn without_descriptors_clients_go_on_and_new_ones_wait() {
    let found = programs::tool("prlimit");
    let Some(subject) = subject("descriptors", EngineKind::Memory) else { return };
    let Some(prlimit) = programs::or_skip("descriptors", found) else { return };
    let mut member = Member::new(&subject, &[]);
    member.wrap_in(&[prlimit.to_string_lossy().into_owned(), format!("--nofile={LIMIT}:{LIMIT}")]);
    member.restart();
    let (address, pid) = (member.client_address(), member.pid());
    block_on(async {
        let client = Client::new(address);
        put(&client, put_request("before", "v")).await;
        let mut watch = WatchStream::open(&client, watch_prefix("watched")).await.expect("a watch opens");
        watch.next(PATIENCE).await.expect("the stream lives").expect("created");
        // The kernel accepts all of them; the server accepts as many as it can.
        let mut crowd: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        eventually("the server says that it is full", || {
            member.log().iter().any(|line| line.contains("cannot accept") || line.contains("too many open connections"))
        });

        let before = cpu_ticks(pid);
        let nothing = watch.next(WATCHED).await.expect("the stream lives");
        assert!(nothing.is_none(), "{nothing:?}");
        let worked = cpu_ticks(pid) - before;
        println!("descriptors: {worked} ticks of 100 while it is full");
        assert!(worked < ALLOWED_TICKS, "it works {worked} ticks of 100 while it is full");

        // Writes that need the next segment of the log do not wait for a connection to close, either.
        for number in 0..LARGE_PUTS {
            put(&client, put_request(&format!("large/{}", number % 4), &"v".repeat(LARGE_BYTES))).await;
        }
        put(&client, put_request("watched", "v")).await;
        watch.next(PATIENCE).await.expect("the stream lives").expect("the event");

        let late = Client::new(address);
        let mut waiting = tokio::spawn(async move { put(&late, put_request("late", "v")).await });
        assert!(timeout(WATCHED / 2, &mut waiting).await.is_err(), "a new client is served though it is full");
        crowd.clear();
        waiting.await.expect("the new client is served once others left");
    });
    assert!(member.log().iter().all(|line| !line.contains("\"level\":\"error\"")), "{:#?}", member.log());
}
