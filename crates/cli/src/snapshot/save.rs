//! `snapshot save`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use metastore_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};

use crate::arguments::Save;
use crate::connection::Connection;
use crate::failure::{Done, Failure, at};
use crate::output::with_suffix;
use crate::progress;

const PATH: &str = "/etcdserverpb.Maintenance/Snapshot";

pub fn run(save: &Save) -> Done {
    if save.target.endpoints.len() != 1 {
        let given = &save.target.endpoints;
        let text = format!("snapshot must be requested to one selected node, not multiple {given:?}");
        return Err(Failure::interrupted(text));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let part = with_suffix(&save.file, ".part");
    let saved = runtime.block_on(async {
        match save.command_timeout {
            Some(limit) => tokio::time::timeout(limit, receive(save, &part))
                .await
                .unwrap_or_else(|_| Err(Failure::interrupted(format!("not saved within {limit:?}")))),
            None => receive(save, &part).await,
        }
    });
    let version = saved.inspect_err(|_| {
        // The error is the one to show.
        let _ = std::fs::remove_file(&part);
    })?;
    std::fs::rename(&part, &save.file).map_err(at(&save.file))?;
    println!("Snapshot saved at {}", save.file.display());
    if !version.is_empty() {
        println!("Server version {version}");
    }
    Ok(())
}

/// Receives the backup into a file; returns the version of its storage. The digest at its end is compared.
async fn receive(save: &Save, part: &Path) -> Done<String> {
    let failed = |status: tonic::Status| Failure::interrupted(status.message());
    let mut answers = Connection::new(&save.target)?.stream(PATH, SnapshotRequest {}).await.map_err(failed)?;
    // As etcdctl does: a backup holds everything.
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(part).map_err(at(part))?;
    let (mut digest, mut version) = (Context::new(&SHA256), String::new());
    // The last bytes are the digest of all others.
    let mut tail: Vec<u8> = Vec::new();
    let bar = progress::bytes("saving", None);
    while let Some(SnapshotResponse { remaining_bytes, blob, version: reported, .. }) =
        answers.message().await.map_err(failed)?
    {
        version = reported;
        file.write_all(&blob).map_err(at(part))?;
        bar.inc(blob.len() as u64);
        if bar.position() + remaining_bytes > bar.length().unwrap_or_default() {
            bar.set_length(bar.position() + remaining_bytes);
        }
        tail.extend_from_slice(&blob);
        let before = tail.len().saturating_sub(SHA256_OUTPUT_LEN);
        digest.update(&tail[..before]);
        tail.drain(..before);
    }
    bar.finish_and_clear();
    if digest.finish().as_ref() != tail {
        return Err(Failure::interrupted("the backup was cut off, or changed on its way: its digest is wrong"));
    }
    file.sync_all().map_err(at(part))?;
    Ok(version)
}
