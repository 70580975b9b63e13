//! Errors of disk operations: the operation, the path and the cause.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of a disk operation.
pub type Result<T> = std::result::Result<T, DiskError>;

/// A failed disk operation. Cheap to clone: a poisoned log repeats its first error.
#[derive(Clone, Debug)]
pub struct DiskError {
    /// The operation, as a verb: `write`, `sync`, `rename`.
    pub operation: &'static str,
    /// The file or directory of the operation.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: Arc<io::Error>,
}

impl DiskError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> DiskError {
        DiskError { operation, path: path.to_owned(), source: Arc::new(source) }
    }

    /// The kind of the underlying error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether a directory or file could not be locked because another process or caller holds the lock.
    pub fn is_locked(&self) -> bool {
        self.operation == "lock" && self.kind() == io::ErrorKind::WouldBlock
    }

    /// The error for a lock that another process or caller holds.
    pub(super) fn locked(path: &Path) -> DiskError {
        let text = "another process uses this directory; stop it, or choose another data directory";
        DiskError::new("lock", path, io::Error::new(io::ErrorKind::WouldBlock, text))
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.operation, self.path.display(), self.source)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
