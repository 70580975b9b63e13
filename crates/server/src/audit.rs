//! The audit log: one line of JSON for each decision about a call of a client (`--audit-log`).
//!
//! ```text
//!   a call ─▶ Audit::open ─▶ the handler ─▶ Open::close ─▶ queue ─▶ the thread "audit" ─▶ the file
//! ```
//!
//! A call never waits for the file. A record is lost if the queue is full or the file cannot be written: the next line
//! of the file, the log and the metric `metastore_audit_lost_total` say how many were lost. Records hold keys and
//! names, but neither values nor passwords, and of each only up to [`SHOWN_BYTES`].
//!
//! Deliberately absent: calls that the gRPC front refuses before it knows their method.

mod file;
mod queue;
mod subject;

pub use subject::{SHOWN_BYTES, Subject, Subjects};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use metastore_store::command::Caller;

use crate::auth::methods::Effect;
use crate::config::{AuditLevel, AuditSettings};
use crate::grpc::{Call, Code, Status};
use queue::Queue;

/// A member that ends waits this long for its last records to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way of calls to the audit log. Without a file it does nothing.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Log>>);

struct Log {
    level: AuditLevel,
    queue: Queue<Record>,
}

/// A call and its outcome.
struct Record {
    at: SystemTime,
    remote: Option<SocketAddr>,
    user: Bytes,
    identified: &'static str,
    method: &'static str,
    subject: Subject,
    outcome: Result<(), Status>,
}

/// A call that is not answered yet. If it is dropped, the client has gone before there was an answer.
pub struct Open {
    log: Arc<Log>,
    effect: Effect,
    /// Empty once it was handed to the queue.
    record: Option<Record>,
}

impl Audit {
    /// Opens the file, and starts the thread that writes it.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread cannot be started; the text names the file.
    pub fn start(settings: Option<&AuditSettings>, member: &str) -> Result<Self, String> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let queue = Queue::default();
        let log = Arc::new(Log { level: settings.level, queue: queue.clone() });
        let failed = |error: io::Error| format!("cannot open the audit log {}: {error}", settings.file.display());
        let (mut file, member) = (file::File::open(settings).map_err(failed)?, member.to_owned());
        let write = move || queue.drain(|records, lost| file.write(&member, records, lost));
        std::thread::Builder::new().name("audit".into()).spawn(write).map_err(failed)?;
        Ok(Self(Some(log)))
    }

    /// Begins the record of a call, if the log holds such calls. `subject` is asked only then.
    pub fn open(
        &self,
        method: &'static str,
        effect: Effect,
        call: &Call,
        subject: impl FnOnce() -> Subject,
    ) -> Option<Open> {
        let log = self.0.as_ref()?;
        let record = Record {
            at: SystemTime::now(),
            remote: call.origin.as_ref().and_then(|origin| origin.remote),
            user: Bytes::new(),
            identified: "",
            method,
            subject: subject(),
            outcome: Ok(()),
        };
        Some(Open { log: log.clone(), effect, record: Some(record) })
    }

    /// Records that were lost because the queue was full.
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |log| log.queue.lost())
    }

    /// Waits until everything is in the file. A file that hangs does not keep the member from ending.
    pub fn finish(&self) {
        let unwritten = self.0.as_ref().map_or(0, |log| log.queue.finish(PATIENCE));
        if unwritten > 0 {
            seldom!(error, (), records = unwritten, "the audit log could not be written within {PATIENCE:?}");
        }
    }
}

impl Open {
    /// The caller was found out, whether it was admitted or not.
    pub fn identified(&mut self, call: &Call, caller: &Caller) {
        if let Some(record) = &mut self.record {
            record.user = caller.user.clone();
            record.identified = match (&call.token, record.user.is_empty()) {
                (_, true) => "",
                (Some(_), false) => "token",
                (None, false) => "certificate",
            };
        }
    }

    pub fn close<T>(mut self, result: &Result<T, Status>) {
        self.end(result.as_ref().map(drop).map_err(Clone::clone));
    }

    fn end(&mut self, outcome: Result<(), Status>) {
        let Some(mut record) = self.record.take() else { return };
        let wanted = match self.log.level {
            AuditLevel::All => true,
            AuditLevel::Writes => self.effect == Effect::Writes || is_denied(&outcome),
            AuditLevel::Denied => is_denied(&outcome),
        };
        if wanted {
            record.outcome = outcome;
            let bytes = size_of::<Record>() + record.user.len() + record.subject.bytes();
            self.log.queue.push(record, bytes);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end(Err(Status::new(Code::Canceled, "the client has gone, or the member stops")));
    }
}

/// Whether a call was refused because of the identity or the permissions of its caller.
fn is_denied(outcome: &Result<(), Status>) -> bool {
    const TEXTS: [&str; 3] = [
        "etcdserver: user name is empty",
        "etcdserver: authentication failed, invalid user ID or password",
        "etcdserver: revision of auth store is old",
    ];
    match outcome {
        Ok(()) => false,
        Err(Status { code: Code::PermissionDenied | Code::Unauthenticated, .. }) => true,
        Err(status) => TEXTS.contains(&&*status.message),
    }
}
