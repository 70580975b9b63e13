//! The doors of HTTP, beside a real etcd: what each listener answers, and to whom.
//!
//! Each test asks the server under test and etcd the same, and compares what they answer.

mod answers;
mod hostile;
mod listeners;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use metastore_tests::programs::{self, EngineKind, Server};

/// How long an answer may take: longer than a read that waits for a quorum.
const PATIENCE: Duration = Duration::from_secs(30);

/// Headers of answers that clients act on.
const HEADERS: [&str; 6] = [
    "allow",
    "content-type",
    "x-content-type-options",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
];

/// The server under test, and etcd.
fn servers(test: &str) -> Option<[Server; 2]> {
    programs::beside_etcd(test, EngineKind::Memory, &programs::reference_flavor())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Those of [`HEADERS`].
    headers: BTreeMap<String, String>,
    body: String,
}

/// One request, with HTTP/1.0: its answer comes in one piece, and ends with the connection.
fn ask(address: &str, method: &str, path: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    ask_through(stream, method, path, headers)
}

fn ask_through(mut stream: impl Read + Write, method: &str, path: &str, headers: &str) -> Answer {
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: m\r\n{headers}\r\n").expect("the server reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value));
    Answer {
        status: status.unwrap_or_else(|| panic!("{method} {path}: {head:?}")),
        headers: headers
            .filter(|(name, _)| HEADERS.contains(&&**name))
            .map(|(name, value)| (name, value.to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}
