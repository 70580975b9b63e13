//! The log position of the last flush, in a file beside RocksDB's own.
//!
//! If a manifest ends in the middle of a record, RocksDB assumes that a crash tore its last write. It then opens the
//! older state, and deletes the files that only the rest of the manifest named. But flushed data are durable, and the
//! raft log before them may be gone. So the log position is noted, and a database with an older state is refused.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The file that holds the log index in decimal digits.
const NAME: &str = "FLUSHED";

/// Notes durably that a flush has reached a log index.
pub(super) fn note(directory: &Path, index: u64) -> io::Result<()> {
    let unfinished = directory.join("FLUSHED.new");
    let mut file = File::create(&unfinished)?;
    file.write_all(index.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(unfinished, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

/// The log index that the last flush has reached; 0 if there was none.
pub(super) fn noted(directory: &Path) -> io::Result<u64> {
    match fs::read_to_string(directory.join(NAME)) {
        Ok(digits) => digits.parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the file {NAME} is damaged: {}", digits.escape_debug()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(io::Error::new(error.kind(), format!("the file {NAME} cannot be read: {error}"))),
    }
}
