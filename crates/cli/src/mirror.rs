//! `mirror`: the keys of a running cluster, copied to another one and kept equal.
//!
//! ```text
//!   copy     pages of the source at one revision, compared with the same keys of the destination; the differences are
//!            written, and keys that the source does not have are deleted
//!   follow   every later change, in the order of the revisions
//!   compare  all keys at the revision that was reached
//! ```
//!
//! A copy writes only differences, so it may be begun again at any time. It is, if the source has compacted a revision
//! that is still needed. Leases are not copied: keys that end with a lease are deleted when the source deletes them.

mod compare;
mod copy;
mod follow;
mod join;
mod position;

use std::time::Duration;

use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, TxnResponse};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::arguments::{Mirror, Target};
use crate::connection::Connection;
use crate::failure::{Done, Failure};
use crate::progress;
use position::Position;

/// Pause after a failure, before the next member is tried.
const PAUSE: Duration = Duration::from_secs(1);
/// Operations and bytes of a transaction: etcd's default limits, with room for the rest of the request.
const MAX_OPERATIONS: usize = 128;
const MAX_BYTES: usize = 1 << 20;

/// Both clusters, and the keys that are copied.
struct Both {
    source: Connection,
    destination: Connection,
    range: Keys,
}

/// A range of keys, as etcd's requests name it.
#[derive(Clone)]
struct Keys {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Keys {
    fn with_prefix(prefix: &str) -> Self {
        let start = prefix.as_bytes().to_vec();
        let mut end = start.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { start, end };
            }
        }
        // All keys from the start on; etcd's name for the first one is a zero byte.
        Self { start: if start.is_empty() { vec![0] } else { start }, end: vec![0] }
    }
}

/// Why a part of the work ended early.
enum Trouble {
    /// The source has compacted a revision that is needed.
    Compacted,
    Failed(Status),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        if status.message().contains("required revision has been compacted") {
            Self::Compacted
        } else {
            Self::Failed(status)
        }
    }
}

pub fn run(mirror: &Mirror) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(mirror))
}

async fn work(mirror: &Mirror) -> Done {
    let destination = Target {
        endpoints: mirror.dest_endpoints.clone(),
        user: mirror.dest_user.clone(),
        password: mirror.dest_password.clone(),
        cacert: mirror.dest_cacert.clone(),
        cert: mirror.dest_cert.clone(),
        key: mirror.dest_key.clone(),
        ..mirror.target.clone()
    };
    let (source, destination) = (Connection::new(&mirror.target)?, Connection::new(&destination)?);
    let mut both = Both { source, destination, range: Keys::with_prefix(&mirror.prefix) };
    let mut position = Position::load(mirror)?;
    let (tell, mut end) = watch::channel(false);
    tokio::spawn(async move {
        // Without a signal handler the work goes on, and the signal ends the process.
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = tell.send(true);
        }
        std::future::pending::<()>().await;
    });
    loop {
        match advance(&mut both, &mut position, mirror.once, &mut end).await {
            Ok(()) => break,
            Err(Trouble::Compacted) => {
                eprintln!("the source has compacted what is needed next: everything is compared and copied again");
                position.forget();
            }
            Err(Trouble::Failed(status)) => {
                if !may_pass(&status) {
                    return Err(Failure::new(status.message()));
                }
                eprintln!("{}; trying again", status.message());
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = end.wait_for(|end| *end) => break,
                }
                both.source.next()?;
                both.destination.next()?;
            }
        }
    }
    position.save()?;
    let Some(revision) = position.revision() else {
        return Err(Failure::interrupted("ended before everything was copied"));
    };
    compare::run(&mut both, revision).await
}

/// Copies what is not copied yet, then follows. Ends after the copy, if only that is wanted, and when it is told to.
async fn advance(
    both: &mut Both,
    position: &mut Position,
    once: bool,
    end: &mut watch::Receiver<bool>,
) -> Result<(), Trouble> {
    position.check(&mut both.source).await?;
    if position.revision().is_none() || once {
        position.forget();
        let bar = progress::keys("copying");
        let revision = tokio::select! {
            copied = copy::run(both, &bar) => copied?,
            _ = end.wait_for(|end| *end) => return Ok(()),
        };
        bar.finish_and_clear();
        eprintln!("copied at revision {revision}");
        position.reach(revision)?;
    }
    if once {
        return Ok(());
    }
    follow::run(both, position, end).await?;
    Ok(())
}

/// Whether a failure may be over at another time, or at another member.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition
    )
}

/// Writes for the destination, gathered into transactions.
#[derive(Default)]
struct Batch {
    operations: Vec<RequestOp>,
    keys: std::collections::HashSet<Vec<u8>>,
    bytes: usize,
}

impl Batch {
    async fn put(&mut self, to: &mut Connection, key: &[u8], value: &[u8]) -> Result<(), Status> {
        let put = PutRequest { key: key.to_vec().into(), value: value.to_vec().into(), ..PutRequest::default() };
        self.add(to, key, value.len(), Request::RequestPut(put)).await
    }

    async fn delete(&mut self, to: &mut Connection, key: &[u8]) -> Result<(), Status> {
        let delete = DeleteRangeRequest { key: key.to_vec().into(), ..DeleteRangeRequest::default() };
        self.add(to, key, 0, Request::RequestDeleteRange(delete)).await
    }

    /// A transaction changes a key once, and has limits: where one would be passed, what is there is written first.
    async fn add(&mut self, to: &mut Connection, key: &[u8], more: usize, request: Request) -> Result<(), Status> {
        let bytes = key.len() + more;
        if self.operations.len() == MAX_OPERATIONS || self.bytes + bytes > MAX_BYTES || self.keys.contains(key) {
            self.flush(to).await?;
        }
        self.keys.insert(key.to_vec());
        self.bytes += bytes;
        self.operations.push(RequestOp { request: Some(request) });
        Ok(())
    }

    async fn flush(&mut self, to: &mut Connection) -> Result<(), Status> {
        if self.operations.is_empty() {
            return Ok(());
        }
        let Self { operations, .. } = std::mem::take(self);
        let txn = TxnRequest { success: operations, ..TxnRequest::default() };
        to.call::<_, TxnResponse>("/etcdserverpb.KV/Txn", txn).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_as_in_etcd() {
        let of = |prefix: &str| {
            let Keys { start, end } = Keys::with_prefix(prefix);
            (start, end)
        };
        assert_eq!(of("ab"), (b"ab".to_vec(), b"ac".to_vec()));
        assert_eq!(of(""), (vec![0], vec![0]));
    }
}
