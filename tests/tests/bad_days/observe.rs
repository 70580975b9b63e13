//! Observations of a process from outside: /proc, /metrics, and its files.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is checked.
const LOOK: Duration = Duration::from_millis(20);
/// The file that keeps a second process out of a directory. A refused start may leave it behind.
const LOCK_FILE: &str = "LOCK";

/// Waits until `condition` holds. Panics with `what` if it does not come true within 30 s.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(condition), "{what}: not within {PATIENCE:?}");
}

/// Whether `condition` becomes true within 30 s.
pub fn comes_true(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::park_timeout(LOOK);
    }
    true
}

/// The memory that the process holds now, and its high-water mark, in KiB.
pub fn memory_kib(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Resets the memory high-water mark of the process, so that the next reading covers only the time from now on.
pub fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process is ours");
}

/// The processor time that the process has used, in clock ticks (a hundredth of a second).
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    // Fields 14 and 15 of proc(5); the first one here is field 3.
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// The answer to GET of a path on the client port: head and body. The request uses HTTP/1.0, because an answer of
/// HTTP/1.1 may come in chunks, whose boundaries could be inside a line.
pub fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: m\r\n\r\n").expect("the server reads");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("the server answers");
    page
}

/// The /metrics page as a map from sample, labels included, to value.
pub fn metrics(address: &str) -> BTreeMap<String, f64> {
    let page = http_get(address, "/metrics");
    let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?))).collect()
}

/// The number of calls of `method` ("Put") that the server has started and not finished.
pub fn open_calls(metrics: &BTreeMap<String, f64>, method: &str) -> f64 {
    let label = format!("grpc_method=\"{method}\"");
    let sum = |name: &str| -> f64 {
        metrics.iter().filter(|(key, _)| key.starts_with(name) && key.contains(&label)).map(|(_, value)| value).sum()
    };
    sum("grpc_server_started_total") - sum("grpc_server_handled_total")
}

/// Every file and directory below `path`, with a hash of its contents.
pub fn tree(path: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.file_name().is_some_and(|name| name == LOCK_FILE) {
            continue;
        }
        let mut hasher = DefaultHasher::new();
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else {
            std::fs::read(&path).expect("readable").hash(&mut hasher);
        }
        found.insert(path, hasher.finish());
    }
    found
}
