//! The lines that a member has logged so far, and whether it is ready.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a member may take to serve clients. An etcd needs up to 2 s to elect itself, on a busy machine more.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How often /health is queried while a member starts, and how long one answer may take.
const HEALTH_POLL: Duration = Duration::from_millis(50);
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// The log line with which etcd reports that it serves clients.
const READY: &str = "ready to serve client requests";
/// Lines of the log that an error message shows.
const LOG_TAIL: usize = 15;

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    ready: bool,
    closed: bool,
}

#[derive(Default)]
pub struct SharedLog {
    log: Mutex<Log>,
    changed: Condvar,
}

impl SharedLog {
    /// Reads the process's stderr to its end.
    pub fn follow(&self, stderr: impl BufRead) {
        for line in stderr.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.change(|log| {
                log.ready |= line.contains(READY);
                log.lines.push(line);
            });
        }
        self.close();
    }

    /// Adds one line.
    pub fn push(&self, line: String) {
        self.change(|log| log.lines.push(line));
    }

    /// Records that the member serves clients.
    pub fn set_ready(&self) {
        self.change(|log| log.ready = true);
    }

    /// Records that the member has ended.
    pub fn close(&self) {
        self.change(|log| log.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log.lock().unwrap());
        self.changed.notify_all();
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().lines.clone()
    }

    /// Waits until the log is closed; false if it is not within `patience`.
    pub fn wait_until_closed(&self, patience: Duration) -> bool {
        let log = self.log.lock().unwrap();
        self.changed.wait_timeout_while(log, patience, |log| !log.closed).unwrap().0.closed
    }

    /// Waits until the member reports readiness in its log, or answers /health with 200.
    pub fn wait_until_ready(&self, address: &str) -> Result<(), String> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut log = self.log.lock().unwrap();
        while !log.ready && !log.closed && Instant::now() < deadline {
            drop(log);
            if is_healthy(address) {
                return Ok(());
            }
            log = self.log.lock().unwrap();
            let waiting = |log: &mut Log| !log.ready && !log.closed;
            log = self.changed.wait_timeout_while(log, HEALTH_POLL, waiting).unwrap().0;
        }
        if log.ready {
            return Ok(());
        }
        let problem = if log.closed { "it ended" } else { "neither its log nor /health said so in time" };
        let tail = &log.lines[log.lines.len().saturating_sub(LOG_TAIL)..];
        Err(format!("{problem}; its log ends with:\n{}", tail.join("\n")))
    }
}

/// Whether GET /health is answered with status 200.
fn is_healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}
