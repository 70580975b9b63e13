//! The file of a backup: a database, and behind it the SHA-256 of all bytes before. A database that was copied from a
//! data directory has no digest.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use metastore_backup::DatabaseFile;

use crate::failure::{Done, Failure, at};
use crate::progress;

/// Pages are longer than that, and their length is a multiple of it: so a digest is recognised by the length of the
/// file, as in etcd.
const SECTOR_BYTES: u64 = 512;
const READ_BYTES: usize = 1 << 20;

/// Opens a database, with or without a digest, which is not looked at.
pub fn open(path: &Path) -> Done<DatabaseFile> {
    let file = File::open(path).map_err(at(path))?;
    let (size_bytes, _) = parts(&file, path)?;
    Ok(DatabaseFile::new(file, size_bytes))
}

/// Opens a database whose digest is right; without `check` any digest, or none, will do.
pub fn open_checked(path: &Path, check: bool) -> Done<DatabaseFile> {
    let mut file = File::open(path).map_err(at(path))?;
    let (size_bytes, has_digest) = parts(&file, path)?;
    if check && !has_digest {
        return Err(Failure::new("snapshot missing hash but --skip-hash-check=false"));
    }
    if check {
        let bar = progress::bytes("checking", Some(size_bytes));
        let (mut context, mut left, mut buffer) = (Context::new(&SHA256), size_bytes, vec![0; READ_BYTES]);
        while left > 0 {
            let count = file.read(&mut buffer[..left.min(READ_BYTES as u64) as usize]).map_err(at(path))?;
            if count == 0 {
                return Err(Failure::new(format!("{}: the file became shorter", path.display())));
            }
            context.update(&buffer[..count]);
            left -= count as u64;
            bar.inc(count as u64);
        }
        bar.finish_and_clear();
        let mut expected = [0; SHA256_OUTPUT_LEN];
        file.read_exact(&mut expected).map_err(at(path))?;
        let found = context.finish();
        if found.as_ref() != expected {
            let (expected, found) = (hex(&expected), hex(found.as_ref()));
            let text = format!("{}: expected sha256 {expected}, got {found}: the file is damaged", path.display());
            return Err(Failure::new(text));
        }
    }
    Ok(DatabaseFile::new(file, size_bytes))
}

/// The length of the database, and whether a digest follows.
fn parts(file: &File, path: &Path) -> Done<(u64, bool)> {
    let length = file.metadata().map_err(at(path))?.len();
    let has_digest = length % SECTOR_BYTES == SHA256_OUTPUT_LEN as u64;
    Ok((if has_digest { length - SHA256_OUTPUT_LEN as u64 } else { length }, has_digest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
