//! Bad input at the doors of HTTP: what is refused costs little, and no other client notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use metastore_proto::etcdserverpb::PutResponse;
use metastore_tests::cluster::{block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::{Member, free_address};
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use tokio::time::timeout;

use super::ask;
use crate::bad_days::observe::{eventually, forget_peak, memory_kib};

/// How long another client may wait for an answer meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server may take to read what is sent, and to close the connection.
const TALK: Duration = Duration::from_secs(30);
/// The memory that one client may make the server hold: the bounds of a connection (docs/limitations.md), and some that
/// the allocator keeps.
const ALLOWED_KIB: u64 = 64 * 1024;
const IDLE: usize = 8000;
/// The memory that an idle connection may take.
const ALLOWED_IDLE_BYTES: u64 = 16 * 1024;
const FLOOD: usize = 200_000;

/// A member with a metrics port, and its doors.
fn member() -> Option<(Member, [String; 2])> {
    let server = programs::or_skip("bad input over HTTP", programs::subject(EngineKind::Memory))?;
    let metrics = free_address();
    let member = Member::start(&server, &[&format!("--listen-metrics-urls=http://{metrics}")]);
    let doors = [member.client_address().to_owned(), metrics];
    Some((member, doors))
}

/// Other clients are served: a call, and a question at each door.
fn others_are_served(doors: &[String; 2]) {
    block_on(async {
        let client = Client::new(&doors[0]);
        let put = client.unary::<_, PutResponse>(paths::PUT, put_request("a", "b"));
        timeout(PATIENCE, put).await.expect("in time").expect("a put");
    });
    for door in doors {
        assert_eq!(ask(door, "GET", "/livez", "").status, 200, "{door}");
    }
}

/// Sends the pieces until the server has had enough. Returns the beginning of its answer; nothing if it only closes.
fn talk<'a>(door: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut stream = TcpStream::connect(door).expect("the server accepts");
    stream.set_read_timeout(Some(TALK)).expect("a timeout can be set");
    stream.set_write_timeout(Some(TALK)).expect("a timeout can be set");
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn bad_requests_are_refused_and_cost_little() {
    let Some((member, doors)) = member() else { return };
    others_are_served(&doors);
    forget_peak(member.pid());
    let before = memory_kib(member.pid()).1;
    let long = vec![b'a'; 1 << 20];
    let get = b"GET /livez HTTP/1.1\r\nHost: m\r\n";
    let headers: Vec<u8> = (0..100_000).flat_map(|n| format!("x-{n}: {n}\r\n").into_bytes()).collect();
    let chunk = [b"100000\r\n", &long[..], b"\r\n"].concat();
    for door in &doors {
        let refused = |what: &str, pieces: Vec<&[u8]>| {
            let answer = talk(door, pieces);
            let well = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
            assert!(well, "{what} at {door}: {answer:?}");
        };
        refused("no HTTP", vec![b"\x00\x01\x02 nothing like it\r\n\r\n"]);
        refused("a line without an end", (0..40).map(|_| &long[..]).collect());
        let mut path: Vec<&[u8]> = vec![b"GET /"];
        path.extend((0..40).map(|_| &long[..]));
        refused("a path of 40 MiB", path);
        let mut header: Vec<&[u8]> = vec![get, b"x: "];
        header.extend((0..40).map(|_| &long[..]));
        refused("a header of 40 MiB", header);
        refused("a flood of headers", vec![get, &headers, b"\r\n"]);
        refused("a length that is none", vec![b"GET /livez HTTP/1.1\r\nHost: m\r\nContent-Length: -1\r\n\r\n"]);
        refused("two lengths", vec![get, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"]);
        refused("an unknown encoding", vec![get, b"Transfer-Encoding: zip\r\n\r\n"]);
        refused("a version to come", vec![b"GET /livez HTTP/9.9\r\nHost: m\r\n\r\n"]);
        // Bodies that nobody asked for are not read into memory, whatever the answer is.
        let mut body: Vec<&[u8]> = vec![b"POST /livez HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n"];
        body.extend((0..100).map(|_| &chunk[..]));
        refused("a body without an end", body);
    }
    let after = memory_kib(member.pid()).1;
    assert!(after < before + ALLOWED_KIB, "{before} KiB before, {after} KiB at the peak");
    others_are_served(&doors);
}

/// The preface of HTTP/2 with empty settings, and frames by type, flags, stream and content.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}

/// The frames of a number.
type Flood = Box<dyn Fn(u32) -> Vec<u8>>;

#[test]
fn floods_of_frames_end_their_own_connection_only() {
    let Some((member, doors)) = member() else { return };
    others_are_served(&doors);
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    // POST http /, as indices of the static table.
    let head = [0x83, 0x86, 0x84];
    let resets = move |n: u32| [frame(1, 4, 2 * n + 1, &head), frame(3, 0, 2 * n + 1, &8u32.to_be_bytes())].concat();
    let floods: [(&str, Flood); 5] = [
        ("resets", Box::new(resets)),
        ("pings", Box::new(|_| frame(6, 0, 0, &[7; 8]))),
        ("settings", Box::new(|_| frame(4, 0, 0, &[]))),
        ("empty data", Box::new(move |n| if n == 0 { frame(1, 4, 1, &head) } else { frame(0, 0, 1, &[]) })),
        ("continuations", Box::new(|n| if n == 0 { frame(1, 0, 1, &[0x83]) } else { frame(9, 0, 1, &[]) })),
    ];
    for (what, flood) in floods {
        forget_peak(member.pid());
        let before = memory_kib(member.pid()).1;
        let mut stream = TcpStream::connect(&doors[0]).expect("the server accepts");
        stream.set_write_timeout(Some(TALK)).expect("a timeout can be set");
        stream.write_all(&preface).expect("it is sent");
        let mut answers = stream.try_clone().expect("a second handle");
        let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        for first in (0..FLOOD as u32).step_by(1000) {
            let batch: Vec<u8> = (first..first + 1000).flat_map(&flood).collect();
            if stream.write_all(&batch).is_err() {
                break;
            }
            if first % 20_000 == 0 {
                others_are_served(&doors);
            }
        }
        _ = stream.shutdown(std::net::Shutdown::Both);
        _ = reader.join().expect("the reader ends");
        let after = memory_kib(member.pid()).1;
        assert!(after < before + ALLOWED_KIB, "{what}: {before} KiB before, {after} KiB at the peak");
        others_are_served(&doors);
    }
}

/// Half of them have sent nothing, and half the beginning of a request. The client port and the metrics port have
/// bounds of their own.
#[test]
fn thousands_of_idle_connections_are_in_nobodys_way() {
    let Some((member, doors)) = member() else { return };
    others_are_served(&doors);
    let before = memory_kib(member.pid()).0;
    let mut idle = Vec::new();
    for number in 0..IDLE {
        let mut stream = TcpStream::connect(&doors[usize::from(number % 8 == 0)]).expect("the server accepts");
        if number % 2 == 0 {
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: m\r\nx: ").expect("it is sent");
        }
        idle.push(stream);
    }
    let open = |member: &Member| std::fs::read_dir(format!("/proc/{}/fd", member.pid())).map_or(0, Iterator::count);
    eventually("all of them are accepted", || open(&member) > IDLE);
    others_are_served(&doors);
    let after = memory_kib(member.pid()).0;
    let each = (after.saturating_sub(before)) * 1024 / IDLE as u64;
    assert!(each < ALLOWED_IDLE_BYTES, "{each} bytes for each");
    drop(idle);
    eventually("all of them are closed", || open(&member) < IDLE / 10);
    others_are_served(&doors);
}
