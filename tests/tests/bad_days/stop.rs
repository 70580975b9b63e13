//! SIGTERM ends the process by that signal, at once, whatever clients have open.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::PutResponse;
use metastore_tests::grpc::Client;
use metastore_tests::injected::Injected;
use metastore_tests::member::{Directory, Member, signal};
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use metastore_tests::watch::WatchStream;

use super::observe::{eventually, metrics, open_calls};
use super::raw::{Raw, framed};
use super::{block_on, put_request, subject, watch_prefix};

/// The number of SIGTERM.
const SIGTERM: i32 = 15;
/// The process must end within this time, which is less than the time of a request (5 s). A stop waits half a second
/// for answers that may never come, and a second for clients to read why their connection ends.
const STOP_LIMIT: Duration = Duration::from_secs(4);
const WATCH_STREAMS: usize = 20;
const WRITERS: usize = 32;

#[test]
fn a_polite_stop_is_quick_and_its_log_is_clean() {
    let Some(subject) = subject("stop", EngineKind::Memory) else { return };
    let mut member = Member::start(&subject, &[]);
    let address = member.client_address().to_string();
    let (status, took) = block_on(async {
        let mut streams = Vec::new();
        for _ in 0..WATCH_STREAMS {
            let client = Client::new(&address);
            streams.push(WatchStream::open(&client, watch_prefix("w")).await.expect("a watch opens"));
        }
        let client = Client::new(&address);
        let writers: Vec<_> =
            (0..WRITERS).map(|number| tokio::spawn(write_until_refused(client.clone(), number))).collect();
        // Every stream has received an event: all streams are open, and the writers write.
        for stream in &mut streams {
            stream.next(STOP_LIMIT).await.expect("the stream lives").expect("created");
            stream.next(STOP_LIMIT).await.expect("the stream lives").expect("an event");
        }
        // One more client has sent half a request, and never sends the rest.
        let mut raw = Raw::connect(&address).await;
        let mut half = raw.open(paths::PUT, &[]).await;
        half.body.send_data(framed(100, &[0; 10]), false).expect("the connection lives");
        let began = Instant::now();
        signal(member.pid(), "TERM");
        let waiting = tokio::task::spawn_blocking(move || (member.wait_exit(10 * STOP_LIMIT), member));
        let (status, stopped) = waiting.await.expect("waiting does not panic");
        let took = began.elapsed();
        for writer in writers {
            writer.await.expect("a writer does not panic");
        }
        check_log(&stopped);
        (status.expect("the process ends"), took)
    });
    assert_eq!(status.signal(), Some(SIGTERM), "{status:?}");
    assert!(took < STOP_LIMIT, "it took {took:?}");
    println!("stop: {took:?} with {WATCH_STREAMS} watch streams and {WRITERS} writers");
}

/// Longer than a stop waits for another leader, and then for answers that may never come.
const SLOW_SYNC_US: u32 = 2_500_000;

#[test]
fn a_write_that_waits_for_the_disk_as_the_member_stops_is_acknowledged() {
    let Some(subject) = subject("stop at a slow disk", EngineKind::Memory) else { return };
    let Some(strace) = programs::or_skip("stop at a slow disk", programs::tool("strace")) else { return };
    let mut member = Member::start(&subject, &[]);
    let address = member.client_address().to_string();
    let mut tracer = Injected::into_syncs(&strace, member.pid(), &format!("delay_enter={SLOW_SYNC_US}"));
    block_on(async {
        let client = Client::new(&address);
        let write =
            tokio::spawn(async move { client.unary::<_, PutResponse>(paths::PUT, put_request("slow", "1")).await });
        let under_way = move || eventually("the write", || open_calls(&metrics(&address), "Put") == 1.0);
        tokio::task::spawn_blocking(under_way).await.expect("a write is under way");
        signal(member.pid(), "TERM");
        write.await.expect("a writer does not panic").expect("what the member has taken up it finishes");
    });
    assert_eq!(member.wait_exit(10 * STOP_LIMIT).and_then(|status| status.signal()), Some(SIGTERM));
    tracer.wait();
}

async fn write_until_refused(client: Client, number: usize) {
    let mut count = 0;
    loop {
        let put = put_request(&format!("w{number}"), &count.to_string());
        if client.unary::<_, PutResponse>(paths::PUT, put).await.is_err() {
            return;
        }
        count += 1;
    }
}

/// A unit with `Type=notify` and a watchdog: the member reports to the manager that it is ready, that it is
/// alive, and that it stops.
#[test]
fn the_service_manager_is_told_of_start_life_and_stop() {
    let Some(subject) = subject("service manager", EngineKind::Memory) else { return };
    let directory = Directory::new("manager");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(10 * STOP_LIMIT)).expect("a timeout can be set");
    let heard = || {
        let mut text = [0; 100];
        let length = manager.recv(&mut text).expect("the manager hears in time");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let mut member = Member::new(&subject, &[]);
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    member.wrap_in(&["env".into(), socket, "WATCHDOG_USEC=600000".into()]);
    member.launch().expect("a process");
    assert_eq!(heard(), "READY=1");
    member.wait_until_ready().expect("clients are served");
    assert_eq!([heard(), heard(), heard()], ["WATCHDOG=1"; 3]);
    member.begin_stop();
    while heard() != "STOPPING=1" {}
    assert!(member.has_ended(10 * STOP_LIMIT));
}

/// The disk hangs: the process exists, but makes no progress.
#[test]
fn a_member_that_makes_no_progress_gives_the_watchdog_no_sign() {
    let Some(subject) = subject("watchdog", EngineKind::Memory) else { return };
    let Some(strace) = programs::or_skip("watchdog", programs::tool("strace")) else { return };
    let directory = Directory::new("manager");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(10 * STOP_LIMIT)).expect("a timeout can be set");
    let mut member = Member::new(&subject, &[]);
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    member.wrap_in(&["env".into(), socket, "WATCHDOG_USEC=600000".into()]);
    member.restart();
    let mut tracer = Injected::into_syncs(&strace, member.pid(), &format!("delay_enter={SLOW_SYNC_US}"));
    let address = member.client_address().to_string();
    let write = std::thread::spawn(move || {
        block_on(async { Client::new(&address).unary::<_, PutResponse>(paths::PUT, put_request("slow", "1")).await })
    });
    eventually("the write", || open_calls(&metrics(member.client_address()), "Put") == 1.0);
    let mut longest = Duration::ZERO;
    while !write.is_finished() {
        let before = Instant::now();
        manager.recv(&mut [0; 100]).expect("it goes on when the disk does");
        longest = longest.max(before.elapsed());
    }
    write.join().expect("no panic").expect("the write is acknowledged in the end");
    assert!(longest > Duration::from_secs(1), "a sign of life {longest:?} apart at most");
    member.terminate();
    tracer.wait();
}

/// Every line is JSON, none is an error, and the lines that operators wait for are in the log.
fn check_log(member: &Member) {
    eventually("the last line of the log", || member.log().iter().any(|line| line.contains("received signal")));
    for line in member.log() {
        let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let level = json["level"].as_str().expect("a line has a level");
        assert!(matches!(level, "debug" | "info" | "warn"), "{line}");
        assert!(json["ts"].is_string() && json["msg"].is_string(), "{line}");
    }
    let gate = "\"msg\":\"ready to serve client requests\"";
    assert!(member.log().iter().any(|line| line.contains(gate)), "{:#?}", member.log());
}
