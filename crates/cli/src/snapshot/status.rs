//! `snapshot status`: reads a whole database, checks it, and sums it up.

use std::collections::HashSet;
use std::path::Path;

use metastore_backup::MAX_PATH_BYTES;
use metastore_bbolt::{Database, ReadAt, Value};
use metastore_proto::Message;
use metastore_proto::mvccpb::KeyValue;
use metastore_store::schema::{STORAGE_VERSION, parse_revision_key};

use super::file;
use crate::arguments::Form;
use crate::failure::{Done, Failure, at};
use crate::output;
use crate::progress;

struct Status {
    /// CRC-32C over the names of all buckets and their rows.
    hash: u32,
    revision: i64,
    /// Keys that are alive at that revision.
    keys: usize,
    size_bytes: u64,
    /// The version of etcd's storage; empty before 3.6.
    version: String,
}

pub fn run(path: &Path, form: Form) -> Done {
    let Status { hash, revision, keys, size_bytes, version } = read(path)?;
    match form {
        Form::Simple => println!("{hash:x}, {revision}, {keys}, {}, {version}", output::size(size_bytes)),
        Form::Json => println!(
            "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{size_bytes},\"version\":{}}}",
            serde_json::Value::from(version)
        ),
        Form::Fields => {
            println!("\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {size_bytes}");
            println!("\"Version\" : {version}");
        }
        Form::Table => {
            let row = [format!("{hash:x}"), revision.to_string(), keys.to_string(), output::size(size_bytes), version];
            println!("{}", output::table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &row));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Done<Status> {
    let file = file::open(path)?;
    let size_bytes = file.size_bytes()?;
    let database = Database::open(file, MAX_PATH_BYTES).map_err(at(path))?;
    let mut status = Status { hash: 0, revision: 0, keys: 0, size_bytes, version: String::new() };
    let (mut living, mut buckets) = (HashSet::new(), database.root().map_err(at(path))?);
    let bar = progress::keys("reading");
    while let Some(bucket) = buckets.next().map_err(at(path))? {
        let name = bucket.key.to_vec();
        status.hash = crc32c::crc32c_append(status.hash, &name);
        if !bucket.is_bucket() {
            return Err(Failure::new(format!(
                "{}: {} stands outside of all buckets",
                path.display(),
                name.escape_ascii()
            )));
        }
        buckets.enter().map_err(at(path))?;
        while let Some(row) = buckets.next().map_err(at(path))? {
            let Value::Bytes(value) = row.value else {
                let text = format!("{}: a bucket inside of bucket {}", path.display(), name.escape_ascii());
                return Err(Failure::new(text));
            };
            status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, row.key), value);
            if name == b"key" {
                status.revision = count(row.key, value, &mut living).map_err(at(path))?;
                bar.inc(1);
            } else if name == b"meta" && row.key == STORAGE_VERSION {
                status.version = String::from_utf8_lossy(value).into_owned();
            }
        }
    }
    bar.finish_and_clear();
    status.keys = living.len();
    Ok(status)
}

/// Counts a version; returns its revision.
fn count(key: &[u8], value: &[u8], living: &mut HashSet<Vec<u8>>) -> Result<i64, String> {
    let (revision, tombstone) =
        parse_revision_key(key).ok_or_else(|| format!("{} is no revision", key.escape_ascii()))?;
    let row = KeyValue::decode(value)
        .map_err(|error| format!("the row at revision {}.{}: {error}", revision.main, revision.sub))?;
    if tombstone {
        living.remove(&row.key[..]);
    } else {
        living.insert(row.key.to_vec());
    }
    Ok(revision.main)
}
