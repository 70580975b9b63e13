//! The only interface through which a member touches the disk.
//!
//! ```text
//!     wal, snapshots, member directory
//!                  |
//!         Disk / DiskFile (this file)
//!            |               |
//!         OsDisk       SimulatedDisk
//!       std + rustix   in memory; forgets what was not synced
//! ```
//!
//! The durability of a log is tested by cutting the power, and no test can cut the power of a real disk: a killed
//! process leaves its writes in the page cache. So everything durable goes through this trait, and the simulated disk
//! behind it forgets, tears and fails on demand.
//!
//! Rules
//! - Bytes of a file are durable after [`DiskFile::sync_data`] or [`DiskFile::sync_all`] returned `Ok`; a name
//!   (created, renamed, removed) is durable after [`Disk::sync_dir`] of its directory. Neither implies the other.
//! - A failed sync is final: the kernel may have dropped the bytes, and a second sync that returns `Ok` proves nothing.
//!   Callers stop; nothing here retries.
//! - Names are renamed within one directory only. That is atomic on every file system we support.
//! - Directories are created with mode 0700, files with 0600.
//!
//! Deliberately absent: buffered writers, memory maps, asynchronous calls, directory walks. Callers are synchronous
//! threads that write one buffer at a known offset.

mod error;
mod os;
mod simulated;

use std::path::Path;

pub use error::{DiskError, Result};
pub use os::{Access, Observer, OsDisk, Space};
pub use simulated::{CrashPolicy, SimulatedDisk};

/// The smallest unit that a device writes whole or not at all. A power loss leaves each aligned run of so many bytes
/// either as written or as it was before.
pub const SECTOR_BYTES: usize = 512;

/// The name of the file that [`Disk::lock_dir`] locks.
pub const LOCK_FILE: &str = "LOCK";

/// A directory that file systems of the ext family have in their root.
pub const LOST_AND_FOUND: &str = "lost+found";

/// The parts of a file system that a member needs.
pub trait Disk: Send + Sync {
    /// Creates a directory and its missing parents, with mode 0700, durably. An existing directory is fine.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>>;

    /// Creates a file with mode 0600, or empties the one that is there, and opens it for reading and writing.
    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>>;

    /// Removes the name of a file. Open handles stay usable.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<()>;

    /// Gives a file or directory another name in the same directory, atomically. A file of that name is replaced;
    /// a directory of that name must be empty.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Keeps all other processes, and all other callers, out of a directory until the result is dropped. If another
    /// holder has locked the directory, [`DiskError::is_locked`] is true for the error.
    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>>;

    /// The whole content of a file. For files whose size the caller has bounded.
    fn read(&self, path: &Path) -> Result<Vec<u8>>;

    /// Whether the path names a file or a directory.
    fn exists(&self, path: &Path) -> Result<bool>;
}

/// An open file. Offsets and lengths are bytes.
pub trait DiskFile: Send + Sync {
    /// Writes all bytes at the offset; the file grows if needed. After an error, any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Fills the buffer from the offset. Returns the number of bytes read; it is smaller than the buffer only at the
    /// end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// The length of the file.
    fn len(&self) -> Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or extends it with zeros that take no space.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Reserves space: the file is at least `offset + len` bytes long afterwards, new bytes read as zeros, and writes
    /// there do not run out of space. Does nothing where the file system does not support it.
    fn allocate(&self, offset: u64, len: u64) -> Result<()>;

    /// Keeps programs away that lock files as etcd locks its log, until the file is closed. If one of them, or another
    /// caller, holds the lock, [`DiskError::is_locked`] is true for the error. Does nothing where the file system does
    /// not support such locks.
    fn lock(&self) -> Result<()>;

    /// Makes the bytes and the length durable (fdatasync).
    fn sync_data(&self) -> Result<()>;

    /// Makes the bytes and all attributes durable (fsync).
    fn sync_all(&self) -> Result<()>;
}

/// A held directory lock; dropping it releases the directory.
pub trait DirLock: Send + Sync {}
