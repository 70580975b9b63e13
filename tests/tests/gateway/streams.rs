//! Streams over the gateway: watches, renewals of leases, and backups.

use bytes::Bytes;
use http::Request;
use metastore_tests::member::{Member, SAME_IDENTITY};
use metastore_tests::programs::{self, EngineKind};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Connection, Side, pair, post, start};
use crate::bad_days::observe::{eventually, memory_kib, metrics, open_calls};
use metastore_tests::cluster::block_on;

const WATCH: &str = "/v3/watch";
const CREATE: &str = r#"{"create_request":{"key":"Zm9v"}}"#;

/// Watches that are open at once.
const MANY: usize = 50;

/// The size of a request that no server should hold, and the memory that its refusal may take.
const HUGE_BYTES: usize = 256 << 20;
const HUGE_CHUNK_BYTES: usize = 1 << 20;
const MOST_MEMORY_KIB: u64 = 64 << 10;

each_engine!(
    streams_are_answered_as_by_etcd,
    a_first_request_that_is_not_valid_is_refused,
    requests_may_follow_while_a_stream_is_answered,
    clients_that_go_away_leave_nothing_behind,
    a_watch_over_http2_is_answered_at_once,
    a_request_without_an_end_takes_bounded_memory,
);

/// One server, and its lines on streams.
struct Talk<'a> {
    side: Side,
    member: &'a Member,
    lines: Vec<String>,
}

impl Talk<'_> {
    fn make(&mut self, path: &str, body: &str) {
        let answer = post(self.member.client_address(), &format!("/v3/{path}"), &[], body);
        assert_eq!(answer.head.status, 200, "{path} {body}: {}", answer.body());
    }

    /// Opens a watch, and takes its first chunks.
    fn watch(&mut self, body: &str, chunks: usize) -> Connection {
        let mut connection = Connection::open(self.member.client_address());
        connection.send("POST", WATCH, &[], body.as_bytes());
        let head = connection.head();
        self.lines.push(format!(
            "{} {:?} {:?}",
            head.status, head.headers["content-type"], head.headers["transfer-encoding"]
        ));
        self.take(&mut connection, chunks);
        connection
    }

    fn take(&mut self, connection: &mut Connection, chunks: usize) {
        for _ in 0..chunks {
            let chunk = connection.chunk().expect("the stream goes on");
            assert!(chunk.ends_with('\n'), "{chunk:?}");
            self.lines.push(self.side.steady(&chunk));
        }
    }
}

fn streams_are_answered_as_by_etcd(engine: EngineKind) {
    let Some(servers) = pair("streams of the gateway", engine) else { return };
    let members = start(&servers);
    let [subject, etcd] = members.each_ref().map(|member| {
        let mut talk = Talk { side: Side::new(member), member, lines: Vec::new() };
        let put = |talk: &mut Talk, value: &str| talk.make("kv/put", &format!(r#"{{"key":"Zm9v","value":"{value}"}}"#));
        // Live events, one chunk each; a second request that is not valid does not end them.
        let mut first =
            talk.watch(r#"{"create_request":{"key":"Zm9v","prevKv":true}} {"create_request":{"key":7}}"#, 1);
        put(&mut talk, "MQ==");
        talk.take(&mut first, 1);
        put(&mut talk, "Mg==");
        talk.take(&mut first, 1);
        talk.make("kv/deleterange", r#"{"key":"Zm9v"}"#);
        talk.take(&mut first, 1);
        // History, filters, and several requests.
        let several = r#"{"create_request":{"key":"Zm9v","start_revision":"2","filters":["NODELETE"]}}
            {"create_request":{"key":"YQ==","range_end":"eg==","watch_id":"7"}}"#;
        let mut second = talk.watch(several, 3);
        put(&mut talk, "Mw==");
        talk.take(&mut second, 2);
        talk.lines[4..].sort();
        // Cancelled by a request, by a compaction, and at once.
        talk.watch(&format!("{CREATE}{}", r#"{"cancel_request":{"watch_id":0}}"#), 2);
        talk.make("kv/compaction", r#"{"revision":"4"}"#);
        talk.watch(r#"{"create_request":{"key":"Zm9v","start_revision":1}}"#, 2);
        talk.watch(r#"{"create_request":{"key":"Zm9v","start_revision":-3}}"#, 1);
        talk.lines
    });
    for (subject, etcd) in subject.iter().zip(&etcd) {
        assert_eq!(subject, etcd, "left is the subject, right is etcd");
    }
    let [subject, etcd] = members.each_ref().map(backup);
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
}

/// The shape of a backup: the members of its first and last lines, whether the announced bytes came, and its headers.
fn backup(member: &Member) -> (Vec<String>, Vec<String>, bool, String) {
    let answer = post(member.client_address(), "/v3/maintenance/snapshot", &[], "");
    let body = answer.chunks.concat();
    let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names =
        |line: &Value| -> Vec<String> { line["result"].as_object().expect("a result").keys().cloned().collect() };
    let bytes = |line: &Value| {
        let text = line["result"]["blob"].as_str().expect("a blob");
        text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count()
    };
    // A small database is in the first line, and 0 is not written.
    let remaining = lines[0]["result"]["remaining_bytes"].as_str().unwrap_or("0");
    let remaining: usize = remaining.parse().expect("a number");
    // The hash at the end is not announced.
    let sent: usize = lines[1..].iter().map(bytes).sum();
    let announced = sent == remaining + 32 || sent == remaining;
    let last = lines.last().expect("lines");
    (names(&lines[0]), names(last), announced, answer.head.headers["content-type"].clone())
}

/// An etcd says nothing: it closes the stream of renewals without a word, and a watch waits for ever.
fn a_first_request_that_is_not_valid_is_refused(engine: EngineKind) {
    let Some(subject) = programs::or_skip("first request of a stream", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    let refused = |path, body: &str| {
        let answer = post(member.client_address(), path, &[], body);
        (answer.head.status, answer.head.headers["content-type"].clone(), answer.json())
    };
    let error =
        |message: &str| (400, "application/json".to_string(), json!({"error": {"code": 3, "message": message}}));
    let value = "proto: (line 1:7): invalid value for int64 field ID: \"x\"";
    assert_eq!(refused("/v3/lease/keepalive", r#"{"ID":"x"}"#), error(value));
    let key = "proto: (line 1:26): invalid value for bytes field key: 7";
    assert_eq!(refused(WATCH, r#"{"create_request":{"key":7}}"#), error(key));
    assert_eq!(refused(WATCH, "{"), error("unexpected EOF"));
}

/// In Go the answer of HTTP/1 ends the request, so this cannot be compared.
fn requests_may_follow_while_a_stream_is_answered(engine: EngineKind) {
    let Some(subject) = programs::or_skip("requests of a stream", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &SAME_IDENTITY);
    let mut connection = Connection::open(member.client_address());
    connection.begin(WATCH, &[]);
    let (beginning, rest) = CREATE.split_at(9);
    connection.send_chunk(beginning);
    connection.send_chunk(rest);
    assert_eq!(connection.head().status, 200);
    let result = |connection: &mut Connection| {
        let chunk = connection.chunk().expect("the stream goes on");
        let mut line: Value = serde_json::from_str(&chunk).expect("JSON");
        line["result"].as_object_mut().expect("a result").remove("header");
        line["result"].take()
    };
    assert_eq!(result(&mut connection), json!({"created": true}));
    connection.send_chunk(&format!("{CREATE}\n"));
    assert_eq!(result(&mut connection), json!({"created": true, "watch_id": "1"}));
    connection.send_chunk(r#"{"cancel_request":{"watch_id":"1"}}"#);
    assert_eq!(result(&mut connection), json!({"canceled": true, "watch_id": "1"}));
}

fn clients_that_go_away_leave_nothing_behind(engine: EngineKind) {
    let Some(subject) = programs::or_skip("vanished clients of the gateway", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    let address = member.client_address();
    let counts = || {
        let metrics = metrics(address);
        (open_calls(&metrics, "Watch"), metrics["etcd_debugging_mvcc_watcher_total"])
    };
    let mut open = Vec::new();
    for number in 0..MANY {
        let mut connection = Connection::open(address);
        // Half of the clients leave their requests open.
        if number % 2 == 0 {
            connection.send("POST", WATCH, &[], CREATE.as_bytes());
        } else {
            connection.begin(WATCH, &[]);
            connection.send_chunk(CREATE);
        }
        assert_eq!(connection.head().status, 200);
        connection.chunk().expect("the watch is created");
        open.push(connection);
    }
    assert_eq!(counts(), (MANY as f64, MANY as f64));
    // Nobody reads these events.
    let value = "A".repeat(400_000);
    for _ in 0..10 {
        post(address, "/v3/kv/put", &[], &format!(r#"{{"key":"Zm9v","value":"{value}"}}"#));
    }
    for connection in &open[..MANY / 5] {
        connection.close_half();
    }
    drop(open.split_off(MANY / 5));
    drop(open);
    eventually("all watches end", || counts() == (0.0, 0.0));
}

fn a_watch_over_http2_is_answered_at_once(engine: EngineKind) {
    let Some(subject) = programs::or_skip("gateway over HTTP/2", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let socket = TcpStream::connect(member.client_address()).await.expect("the server accepts");
        let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut client = client.ready().await.expect("the connection is open");
        let request = |path: &str| {
            let uri = format!("http://{}{path}", member.client_address());
            Request::post(uri).header("content-type", "application/json").body(()).expect("a request")
        };
        let (watch, mut requests) = client.send_request(request(WATCH), false).expect("a stream");
        requests.send_data(Bytes::from(CREATE), false).expect("it is sent");
        let watch = watch.await.expect("an answer");
        assert_eq!(
            (watch.status().as_u16(), &watch.headers()["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        let mut body = watch.into_body();
        let first = body.data().await.expect("a line").expect("bytes");
        assert!(first.ends_with(b"\"created\":true}}\n"), "{first:?}");
        let (put, mut sending) = client.send_request(request("/v3/kv/put"), false).expect("a stream");
        sending.send_data(Bytes::from(r#"{"key":"Zm9v","value":"MQ=="}"#), true).expect("it is sent");
        let put = put.await.expect("an answer");
        assert_eq!((put.status().as_u16(), put.headers().contains_key("content-length")), (200, true));
        let event = body.data().await.expect("a line").expect("bytes");
        let event: Value = serde_json::from_slice(&event).expect("JSON");
        assert_eq!(event["result"]["events"][0]["kv"]["value"], "MQ==");
    });
    eventually("the watch ends with its connection", || open_calls(&metrics(member.client_address()), "Watch") == 0.0);
}

fn a_request_without_an_end_takes_bounded_memory(engine: EngineKind) {
    let Some(subject) = programs::or_skip("huge requests to the gateway", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    let (before, _) = memory_kib(member.pid());
    let chunk = "A".repeat(HUGE_CHUNK_BYTES);
    let mut connection = Connection::open(member.client_address());
    connection.send(
        "POST",
        "/v3/kv/put",
        &[],
        &[br#"{"key":""#, chunk.repeat(HUGE_BYTES / HUGE_CHUNK_BYTES).as_bytes()].concat(),
    );
    let answer = connection.answer();
    assert_eq!((answer.head.status, answer.json()["code"].clone()), (429, json!(8)), "{}", answer.body());
    let (_, most) = memory_kib(member.pid());
    assert!(most.saturating_sub(before) < MOST_MEMORY_KIB, "{before} KiB became {most}");
}
