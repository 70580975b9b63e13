//! A directory that goes with its owner.

use std::fs;
use std::path::PathBuf;

/// Removes a directory when it is dropped. What cannot be removed is left to the next start.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}
