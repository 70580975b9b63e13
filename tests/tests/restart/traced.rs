//! The order of the system calls for one Put, as strace reports it: log written, log synced, answer sent.

use std::path::Path;
use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::PutResponse;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::programs::EngineKind;
use metastore_tests::{paths, programs};

use super::put_request;

/// The system calls that write or sync.
const TRACED: &str = "trace=fdatasync,fsync,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2";
/// A value that appears nowhere else in the traffic.
const MARKER: &str = "durable-before-acknowledged";
/// How long strace may take to write its trace.
const PATIENCE: Duration = Duration::from_secs(20);
/// The types of HTTP/2 frames that carry an answer, RFC 9113 section 6: DATA and HEADERS. Other frames (window updates,
/// pings) may be sent at any time.
const ANSWER_FRAMES: [u8; 2] = [0, 1];

each_engine!(a_put_is_synced_before_it_is_answered);

fn a_put_is_synced_before_it_is_answered(engine: EngineKind) {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, programs::tool("strace")?)));
    let Some((subject, strace)) = programs::or_skip("traced put", found) else { return };
    let directory = Directory::new("strace");
    let trace = directory.path().join("trace");
    let mut member = Member::new(&subject, &[]);
    let command =
        [&strace.to_string_lossy(), "-f", "-yy", "-xx", "-s", "100000", "-e", TRACED, "-o", &trace.to_string_lossy()];
    member.wrap_in(&command.map(String::from));
    member.restart();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let client = Client::new(member.client_address());
        // The first Put opens the connection; the test looks for the answer to the second.
        for value in ["warm up", MARKER] {
            let _: PutResponse = client.unary(paths::PUT, put_request("key", value)).await.expect("a Put is answered");
        }
    });
    let lines = wait_for_answer(&trace, member.client_address());
    drop(member);
    judge(&lines, client_port(&lines.address));
}

struct Trace {
    lines: Vec<String>,
    address: String,
}

fn client_port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}

/// The trace, once the answer is in it: strace may lag behind the process.
fn wait_for_answer(trace: &Path, address: &str) -> Trace {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(with_plain_names).collect();
        let logged = lines.iter().position(|line| is_log_write(line));
        let answered =
            logged.and_then(|logged| lines[logged..].iter().position(|line| is_answer(line, client_port(address))));
        if answered.is_some() || Instant::now() > deadline {
            return Trace { lines, address: address.to_string() };
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Panics unless a sync of the same file completed between the write of the marker to the log and the answer.
fn judge(trace: &Trace, port: &str) {
    let lines = &trace.lines;
    let logged = lines.iter().position(|line| is_log_write(line)).expect("the value is written to a file");
    let answered = logged + lines[logged..].iter().position(|line| is_answer(line, port)).expect("the Put is answered");
    let file = file_of(&lines[logged]).expect("strace -yy names files");
    let synced = (logged..lines.len()).find(|at| is_completed_sync(lines, *at, file));
    let shown = || {
        lines[logged..=answered]
            .iter()
            .map(|line| line.chars().take(160).collect::<String>() + "\n")
            .collect::<String>()
    };
    assert!(
        synced.is_some_and(|synced| synced < answered),
        "the answer was sent before {file} was synced:\n{}",
        shown(),
    );
}

/// Decodes file names in a line of the trace, because `-xx` escapes names as well as data. Names end
/// before the first quote.
fn with_plain_names(line: &str) -> String {
    let (head, data) = line.split_at(line.find('"').unwrap_or(line.len()));
    let mut parts = head.split("\\x");
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        plain.push(u8::from_str_radix(digits, 16).map_or('?', char::from));
        plain.push_str(rest);
    }
    plain + data
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A write to a file (not to a socket) that contains the marker.
fn is_log_write(line: &str) -> bool {
    file_of(line).is_some_and(|file| file.ends_with(".wal")) && line.contains(&hex(MARKER))
}

/// The path in `call(7</path>, ...`.
fn file_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("</")?;
    let (path, _) = rest.split_once('>')?;
    Some(path)
}

/// A sync of `file` that ends on this line: it is there as a whole, or resumed after it began on an earlier line.
fn is_completed_sync(lines: &[String], at: usize, file: &str) -> bool {
    let line = &lines[at];
    let is_sync = line.contains("fdatasync") || line.contains("fsync");
    if !is_sync || !line.trim_end().ends_with("= 0") {
        return false;
    }
    if !line.contains("resumed>") {
        return file_of(line) == Some(file);
    }
    let thread = line.split_whitespace().next();
    let begun = |line: &&String| line.split_whitespace().next() == thread && line.contains("<unfinished");
    lines[..at].iter().rev().find(begun).is_some_and(|line| file_of(line) == Some(file))
}

/// A write to a client connection that contains DATA or HEADERS.
fn is_answer(line: &str, port: &str) -> bool {
    let local = format!("127.0.0.1:{port}->");
    if !line.contains("TCP:[") || !line.contains(&local) {
        return false;
    }
    line.split('"').skip(1).step_by(2).any(|bytes| has_answer_frame(&bytes_of(bytes)))
}

fn bytes_of(escaped: &str) -> Vec<u8> {
    escaped.split("\\x").skip(1).filter_map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}

/// Whether HTTP/2 data that begin with a frame contain an answer.
fn has_answer_frame(mut bytes: &[u8]) -> bool {
    const HEADER: usize = 9;
    while bytes.len() >= HEADER {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if ANSWER_FRAMES.contains(&bytes[3]) {
            return true;
        }
        bytes = bytes.get(HEADER + length..).unwrap_or_default();
    }
    false
}

#[test]
fn an_answer_before_the_sync_is_seen() {
    let path = hex("/data/0.wal");
    let write = with_plain_names(&format!("1 write(7<{path}>, \"{}\", 9) = 9", hex(MARKER)));
    let sync = with_plain_names(&format!("1 fdatasync(7<{path}>) = 0"));
    let answer =
        "2 write(9<TCP:[127.0.0.1:2379->127.0.0.1:1]>, \"\\x00\\x00\\x00\\x01\\x04\\x00\\x00\\x00\\x01\", 9) = 9"
            .to_string();
    let trace =
        |lines: [&String; 3]| Trace { lines: lines.map(String::clone).to_vec(), address: "127.0.0.1:2379".into() };
    judge(&trace([&write, &sync, &answer]), "2379");
    let late = trace([&write, &answer, &sync]);
    assert!(std::panic::catch_unwind(|| judge(&late, "2379")).is_err(), "a late sync was not noticed");
}
