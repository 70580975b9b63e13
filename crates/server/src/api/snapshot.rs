//! Snapshot: a backup of this member's state, as a file from which etcd can be restored. `etcdctl snapshot save` asks
//! for it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use metastore_backup::{BackupError, Survey};
use metastore_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use tokio::time::timeout;

use super::audited;
use crate::audit::Open;
use crate::auth::methods::{self, Need};
use crate::driver::{Answer, Event};
use crate::grpc::{Call, Frame, Gone, Outbound, Router, Status};
use crate::member::{MemberHandle, another_question, on_pool};

const SERVICE: &str = "etcdserverpb.Maintenance";
/// Bytes of the file in a message, as in etcd.
const BLOB_BYTES: usize = 32 << 10;
/// Bytes of the file that are made at a time.
const PIECE_BYTES: usize = 8 * BLOB_BYTES;
/// Steps of the first pass over the state that are made at a time.
const SURVEY_STEPS: usize = 64;
/// A client that does not take a piece within this time is given up, because the state that it holds back grows. etcd
/// waits for ever, and its database grows meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    let (member, method) = (member.clone(), methods::method(SERVICE, "Snapshot"));
    router.server_stream(SERVICE, "Snapshot", move |call, request: SnapshotRequest, outbound| {
        let member = member.clone();
        async move {
            let audit = audited(&member, method, &call, &request);
            snapshot(&member, method.need, (call, audit), outbound).await
        }
    });
}

/// A learner serves it, too. A client that goes away, or does not read, holds no more than one piece and the frozen
/// state.
async fn snapshot(
    member: &MemberHandle,
    need: Need,
    (mut call, mut audit): (Call, Option<Open>),
    mut outbound: Outbound,
) -> Result<(), Status> {
    let admitted = member.admit_anywhere(&mut call, need).await;
    audit.iter_mut().for_each(|open| open.identified(&call, &call.caller));
    audit.into_iter().for_each(|open| open.close(&admitted));
    admitted?;
    let began = Instant::now();
    let Answer::State(state) = member.ask(&call, 0, |waiter| Event::State { waiter }).await? else {
        return Err(another_question());
    };
    let freeze = move || Survey::new(state.freeze().map_err(BackupError::from)?);
    let mut survey = on_pool(move || freeze().map_err(failed)).await?;
    // In turns: a client that goes away ends it, with the handler.
    loop {
        let read = on_pool(move || Ok((survey.go_on(SURVEY_STEPS).map_err(failed)?, survey)));
        let (more, back) = read.await?;
        survey = back;
        if !more {
            break;
        }
    }
    let mut backup = survey.finish().map_err(failed)?;
    let (total, version) = (backup.size_bytes(), backup.storage_version().to_owned());
    seldom!(
        CHANGES: info, (), "total-bytes" = total, "storage-version" = version, "sending database snapshot to client"
    );
    let (mut digest, mut remaining_bytes) = (Context::new(&SHA256), total);
    loop {
        let made = on_pool(move || {
            let piece = backup.next_piece(PIECE_BYTES).map_err(failed)?;
            Ok((piece, backup))
        });
        let (piece, back) = made.await?;
        backup = back;
        let Some(piece) = piece else { break };
        digest.update(&piece);
        remaining_bytes -= piece.len() as u64;
        if send(&mut outbound, piece.freeze(), remaining_bytes, &version).await?.is_err() {
            seldom!(CHANGES: info, (), "remaining-bytes" = remaining_bytes, "the client of a snapshot has gone");
            return Ok(());
        }
    }
    // The last messages wait for the client without the state.
    drop(backup);
    let digest = Bytes::copy_from_slice(digest.finish().as_ref());
    // A client that has gone needs no end.
    let _ = outbound.send(message(digest, 0, &version)?).await;
    seldom!(
        CHANGES: info, (), "total-bytes" = total, took = ?began.elapsed(), "storage-version" = version,
        "successfully sent database snapshot to client"
    );
    Ok(())
}

/// Sends a piece, after which `remaining_bytes` are left.
async fn send(
    outbound: &mut Outbound,
    mut piece: Bytes,
    remaining_bytes: u64,
    version: &str,
) -> Result<Result<(), Gone>, Status> {
    let sending = async {
        while !piece.is_empty() {
            let blob = piece.split_to(piece.len().min(BLOB_BYTES));
            if outbound.send(message(blob, remaining_bytes + piece.len() as u64, version)?).await.is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(Ok(()))
    };
    timeout(PATIENCE, sending).await.unwrap_or_else(|_elapsed| Err(too_slow()))
}

fn too_slow() -> Status {
    let limit = PATIENCE.as_secs();
    let text = format!("the snapshot is given up: its client took less than {PIECE_BYTES} bytes in {limit} s");
    seldom!(CHANGES: warn, (), "{text}");
    Status::resource_exhausted(text)
}

fn message(blob: Bytes, remaining_bytes: u64, version: &str) -> Result<Frame, Status> {
    Frame::of(&SnapshotResponse { header: None, remaining_bytes, blob, version: version.to_owned() })
}

fn failed(error: BackupError) -> Status {
    seldom!(error, (), error = %error, "a snapshot cannot be made");
    Status::unknown(error.to_string())
}
