//! What each method counts. One instance per method and I/O thread; `/metrics` adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::status::Code;

/// A counter with one writing thread and any number of readers. An addition is a plain load and store: no locked
/// instruction, no shared cache line. Two writers would lose counts, which is why each I/O thread has its own.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who streams, in the words of the metric label `grpc_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    pub fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

/// The counts of one method on one I/O thread.
#[derive(Debug)]
pub struct MethodCounts {
    pub service: &'static str,
    pub method: &'static str,
    pub kind: Kind,
    pub started: Tally,
    pub handled: [Tally; Code::ALL.len()],
    pub received: Tally,
    pub received_bytes: Tally,
    pub sent: Tally,
    pub sent_bytes: Tally,
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
pub struct Ledger(Arc<Mutex<Vec<Arc<MethodCounts>>>>);

impl Ledger {
    /// Opens the counts of one method for the calling thread.
    pub fn open(&self, service: &'static str, method: &'static str, kind: Kind) -> Arc<MethodCounts> {
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
        });
        self.0.lock().push(counts.clone());
        counts
    }

    /// Everything that was opened, in order. A method appears once per thread.
    pub fn all(&self) -> Vec<Arc<MethodCounts>> {
        self.0.lock().clone()
    }
}

/// Counts a call as started now and as handled when dropped: Canceled, unless it got further than that.
#[derive(Debug)]
pub(super) struct Counted {
    counts: Arc<MethodCounts>,
    code: Code,
}

impl Counted {
    pub(super) fn start(counts: Arc<MethodCounts>) -> Counted {
        counts.started.add(1);
        Counted { counts, code: Code::Canceled }
    }

    /// The call has ended with `code`.
    pub(super) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.handled[self.code as usize].add(1);
    }
}
