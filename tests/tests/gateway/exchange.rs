//! HTTP/1 by hand: what is sent and received shows as it is, chunk by chunk.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a server may take for an answer, or for the next chunk of one.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a server.
pub struct Connection(BufReader<TcpStream>);

/// The beginning of an answer. Names of headers are in lower case.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
}

/// A whole answer; a body in chunks as it was cut.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub chunks: Vec<String>,
}

impl Answer {
    pub fn body(&self) -> String {
        self.chunks.concat()
    }

    /// The body as JSON; a text if it is none.
    pub fn json(&self) -> Value {
        let body = self.body();
        serde_json::from_str(&body).unwrap_or(Value::String(body))
    }
}

impl Connection {
    pub fn open(address: &str) -> Connection {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Connection(BufReader::new(stream))
    }

    /// Sends a request with a whole body.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let length = body.len().to_string();
        self.send_head(method, path, &[headers, &[("Content-Length", &length)]].concat());
        // A server that refuses the request may close before it has read all of it.
        _ = self.0.get_ref().write_all(body);
    }

    /// Sends the head of a request whose body follows in chunks.
    pub fn begin(&mut self, path: &str, headers: &[(&str, &str)]) {
        self.send_head("POST", path, &[headers, &[("Transfer-Encoding", "chunked")]].concat());
    }

    pub fn send_chunk(&mut self, chunk: &str) {
        write!(self.0.get_ref(), "{:x}\r\n{chunk}\r\n", chunk.len()).expect("the server reads");
    }

    fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(self.0.get_ref(), "{method} {path} HTTP/1.1\r\nHost: m\r\n{lines}\r\n").expect("the server reads");
    }

    pub fn head(&mut self) -> Head {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|number| number.parse().ok());
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_string());
        }
        Head { status: status.expect("a status line"), headers }
    }

    /// The next chunk of a body; `None` at its end.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).expect("the size of a chunk");
        let chunk = self.exactly(size);
        self.line();
        (size > 0).then_some(chunk)
    }

    /// The answer to a request.
    pub fn answer(&mut self) -> Answer {
        let head = self.head();
        let mut chunks = Vec::new();
        match head.headers.get("content-length") {
            Some(length) => chunks.push(self.exactly(length.parse().expect("a length"))),
            None => chunks.extend(std::iter::from_fn(|| self.chunk())),
        }
        Answer { head, chunks }
    }

    /// The status of an answer, and the beginning of its body, which may go on; `None` if the body is empty.
    pub fn beginning(&mut self) -> (u16, Option<String>) {
        let head = self.head();
        let beginning = match head.headers.get("content-length") {
            Some(length) => Some(self.exactly(length.parse().expect("a length"))),
            None => self.chunk(),
        };
        (head.status, beginning)
    }

    /// Ends the client's half.
    pub fn close_half(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("the connection is open");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the server answers");
        line.trim_end().to_string()
    }

    fn exactly(&mut self, size: usize) -> String {
        let mut bytes = vec![0; size];
        self.0.read_exact(&mut bytes).expect("the server answers");
        String::from_utf8(bytes).expect("UTF-8")
    }
}

/// POST on a connection of its own.
pub fn post(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut connection = Connection::open(address);
    connection.send("POST", path, headers, body.as_bytes());
    connection.answer()
}
