//! The counters of each method. One instance per method and I/O thread; `/metrics` adds them up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use super::status::{Code, Status};
use crate::instruments::histogram::{Bounds, Histogram};
use crate::instruments::tally::Tally;

/// The buckets that Prometheus' libraries have by default, in nanoseconds.
const HANDLING: Bounds = Bounds::Listed(&[
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
]);

/// One I/O thread tells at most this many client versions apart: the number of labels must not depend on what unknown
/// clients send.
const CLIENT_VERSIONS: usize = 32;
/// The label of all further versions.
const OTHER_VERSIONS: &str = "other";
/// The label of a client that names no version, as in etcd.
const NO_VERSION: &str = "unknown";

/// Which side streams, in the words of the metric label `grpc_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcType {
    Unary,
    ServerStream,
    BidiStream,
}

impl GrpcType {
    pub fn label(self) -> &'static str {
        match self {
            GrpcType::Unary => "unary",
            GrpcType::ServerStream => "server_stream",
            GrpcType::BidiStream => "bidi_stream",
        }
    }
}

/// The counts of one method on one I/O thread.
#[derive(Debug)]
pub struct MethodCounts {
    pub service: &'static str,
    pub method: &'static str,
    pub kind: GrpcType,
    pub started: Tally,
    pub handled: [Tally; Code::ALL.len()],
    pub received: Tally,
    pub received_bytes: Tally,
    pub sent: Tally,
    pub sent_bytes: Tally,
    /// How long calls took, with `--metrics=extensive`.
    pub handling: Option<Histogram>,
}

impl MethodCounts {
    pub(super) fn message_received(&self, length: usize) {
        self.received.add(1);
        self.received_bytes.add(length as u64);
    }

    pub(super) fn message_sent(&self, length: usize) {
        self.sent.add(1);
        self.sent_bytes.add(length as u64);
    }
}

/// All methods of all I/O threads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    methods: Arc<Mutex<Vec<Arc<MethodCounts>>>>,
    clients: Arc<Mutex<Vec<ClientVersion>>>,
    extensive: bool,
}

/// Requests of the clients of one version on one I/O thread: unary ones, and streams.
type ClientCounts = [Tally; 2];
/// A version that clients name, and their requests.
type ClientVersion = (Arc<str>, Arc<ClientCounts>);

impl Ledger {
    /// A ledger that records the duration of every call.
    pub fn extensive() -> Ledger {
        Ledger { extensive: true, ..Ledger::default() }
    }

    /// The requests so far, by the version that their clients named.
    pub fn client_requests(&self) -> BTreeMap<Arc<str>, [u64; 2]> {
        let mut requests = BTreeMap::<_, [u64; 2]>::new();
        for (version, counts) in self.clients.lock().iter() {
            let sums = requests.entry(version.clone()).or_default();
            sums.iter_mut().zip(counts.iter()).for_each(|(sum, count)| *sum += count.get());
        }
        requests
    }

    /// Opens the counts of one method for the calling thread.
    pub fn open(&self, service: &'static str, method: &'static str, kind: GrpcType) -> Arc<MethodCounts> {
        let counts = Arc::new(MethodCounts {
            service,
            method,
            kind,
            started: Tally::default(),
            handled: Default::default(),
            received: Tally::default(),
            received_bytes: Tally::default(),
            sent: Tally::default(),
            sent_bytes: Tally::default(),
            handling: self.extensive.then(|| Histogram::new(HANDLING)),
        });
        self.methods.lock().push(counts.clone());
        counts
    }

    /// Everything that was opened, in order. A method appears once per thread.
    pub fn all(&self) -> Vec<Arc<MethodCounts>> {
        self.methods.lock().clone()
    }
}

/// The clients of one I/O thread.
#[derive(Debug)]
pub(super) struct Clients {
    ledger: Ledger,
    /// The version seen last is at the end. Most often there is only one.
    known: RefCell<Vec<ClientVersion>>,
}

impl Clients {
    pub fn new(ledger: Ledger) -> Clients {
        Clients { ledger, known: RefCell::default() }
    }

    /// Counts a request by the version that its client names in the metadata `client-api-version`.
    ///
    /// # Errors
    /// A version that is not UTF-8 text, as in etcd.
    pub fn count(&self, headers: &HeaderMap, streams: bool) -> Result<(), Status> {
        let version = headers.get("client-api-version").map_or(NO_VERSION.as_bytes(), HeaderValue::as_bytes);
        let version = std::str::from_utf8(version)
            .map_err(|_| Status::invalid_argument("etcdserver: invalid client api version"))?;
        let mut known = self.known.borrow_mut();
        if known.last().is_none_or(|(last, _)| **last != *version) {
            self.bring_to_end(&mut known, version);
        }
        if let Some((_, counts)) = known.last() {
            counts[usize::from(streams)].add(1);
        }
        Ok(())
    }

    fn bring_to_end(&self, known: &mut Vec<ClientVersion>, version: &str) {
        let version = if known.len() < CLIENT_VERSIONS || known.iter().any(|(one, _)| **one == *version) {
            version
        } else {
            OTHER_VERSIONS
        };
        let found = match known.iter().position(|(one, _)| **one == *version) {
            Some(at) => known.remove(at),
            None => {
                let new = (Arc::from(version), Arc::default());
                self.ledger.clients.lock().push(Clone::clone(&new));
                new
            }
        };
        known.push(found);
    }
}

/// Counts a call as started now, and as handled when dropped: with the code of [`Counted::end`], otherwise as Canceled.
#[derive(Debug)]
pub(super) struct Counted {
    counts: Arc<MethodCounts>,
    code: Code,
    began: Option<Instant>,
}

impl Counted {
    pub(super) fn start(counts: Arc<MethodCounts>) -> Counted {
        counts.started.add(1);
        let began = counts.handling.as_ref().map(|_| Instant::now());
        Counted { counts, code: Code::Canceled, began }
    }

    /// The call has ended with `code`.
    pub(super) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.handled[self.code as usize].add(1);
        if let (Some(began), Some(handling)) = (self.began, &self.counts.handling) {
            handling.observe_time(began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn clients_are_counted_by_the_version_that_they_name_up_to_a_bound() {
        let headers = |version: Option<&[u8]>| {
            let version = version.map(|version| HeaderValue::from_bytes(version).unwrap());
            version.into_iter().map(|version| (HeaderName::from_static("client-api-version"), version)).collect()
        };
        let ledger = Ledger::default();
        let threads = [Clients::new(ledger.clone()), Clients::new(ledger.clone())];
        for (version, streams) in
            [(Some(&b"3.7"[..]), false), (Some(b"3.6"), false), (Some(b"3.7"), true), (None, false)]
        {
            threads.iter().for_each(|clients| clients.count(&headers(version), streams).unwrap());
        }
        assert_eq!(
            threads[0].count(&headers(Some(b"\xff")), false).unwrap_err().message,
            "etcdserver: invalid client api version"
        );
        let requests = ledger.client_requests();
        assert_eq!((requests["3.7"], requests["3.6"], requests["unknown"]), ([2, 2], [2, 0], [2, 0]));
        for number in 0..100 {
            threads[0].count(&headers(Some(format!("{number}").as_bytes())), false).unwrap();
        }
        let requests = ledger.client_requests();
        assert_eq!(requests.len(), CLIENT_VERSIONS + 1);
        assert_eq!(requests.values().map(|[unary, _]| unary).sum::<u64>(), 106);
        threads[0].count(&headers(Some(b"3.7")), false).unwrap();
        assert_eq!(ledger.client_requests()["3.7"], [3, 2], "the first ones are told apart still");
    }

    #[test]
    fn the_time_of_calls_is_kept_where_it_is_wanted() {
        for (ledger, wanted) in [(Ledger::extensive(), true), (Ledger::default(), false)] {
            let counts = ledger.open("a.B", "C", GrpcType::Unary);
            Counted::start(counts.clone()).end(Code::Ok);
            let sum = crate::instruments::histogram::Sum::of(counts.handling.as_ref());
            assert_eq!(sum.map(|sum| sum.count()), wanted.then_some(1));
        }
    }
}
