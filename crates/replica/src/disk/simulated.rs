//! A disk in memory that forgets everything that was not synced.
//!
//! ```text
//!     write / rename / remove ---> live state      what reads see (the page cache)
//!                                     | sync_data, sync_all, sync_dir
//!                                  durable state   what crash() finds, plus what the policy lets survive
//! ```
//!
//! Everything is a function of the calls and of the seeds: no clock, no randomness, names in order. Operations that
//! change or sync something are counted from the start. So a test can run a script once, read the count, and run the
//! script again with a crash after each operation.
//!
//! Deliberately absent: modes and owners, links, renames between directories, and reordering of one file's length
//! against its own bytes beyond what a sector-wise choice gives.

mod content;
mod survival;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

pub use survival::CrashPolicy;
use survival::Survival;
use tree::{NodeId, Tree};

use super::{DirLock, Disk, DiskError, DiskFile, Result, SECTOR_BYTES};

/// `EIO`, the kernel's error for a device that failed.
const EIO: i32 = 5;

/// The disk. All clones are handles on the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tree: Tree,
    locks: BTreeSet<PathBuf>,
    operations: u64,
    syncs: u64,
    last_write: Option<(PathBuf, u64)>,
    crash_after: Option<u64>,
    fail_operation: Option<u64>,
    fail_write: Option<u64>,
    fail_sync: Option<u64>,
    capacity: Option<u64>,
}

impl SimulatedDisk {
    /// An empty disk with only the root directory.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// The number of operations so far that changed or synced something.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The number of syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The file that was written last, and the offset of that write.
    pub fn last_write(&self) -> Option<(PathBuf, u64)> {
        self.state().last_write.clone()
    }

    /// Lets the first `n` operations (counted as in [`SimulatedDisk::operations`]) through. Every later call of any
    /// kind fails with "simulated crash".
    pub fn crash_after(&self, n: u64) {
        self.state().crash_after = Some(n);
    }

    /// The disk as it is found after a power loss now, or after a kill of the process. From now on, handles on this
    /// disk fail.
    pub fn crash(&self, policy: CrashPolicy) -> SimulatedDisk {
        let mut state = self.state();
        state.crash_after = Some(0);
        let tree = match policy {
            CrashPolicy::Kill => state.tree.clone(),
            policy => state.tree.after_power_loss(policy),
        };
        SimulatedDisk { state: Arc::new(Mutex::new(State { tree, ..State::default() })) }
    }

    /// Another disk in the same state, including unsynced changes. Requested faults are not copied.
    pub fn fork(&self) -> SimulatedDisk {
        let tree = self.state().tree.clone();
        SimulatedDisk { state: Arc::new(Mutex::new(State { tree, ..State::default() })) }
    }

    /// Makes the `k`-th operation from now on (1 is the next; counted as in [`SimulatedDisk::operations`]) fail with
    /// EIO and do nothing. The operations after it succeed.
    pub fn fail_operation(&self, k: u64) {
        self.state().fail_operation = Some(k);
    }

    /// Makes the `k`-th write from now on (1 is the next) fail with EIO. Half of its sectors are written:
    /// a kernel stops between pages.
    pub fn fail_write(&self, k: u64) {
        self.state().fail_write = Some(k);
    }

    /// Makes the `k`-th sync of a file from now on (1 is the next) fail with EIO. The bytes that it should have made
    /// durable never become durable, whatever later syncs return.
    pub fn fail_sync(&self, k: u64) {
        self.state().fail_sync = Some(k);
    }

    /// Limits all files together to `bytes`. A write beyond that writes the sectors that fit, then fails with ENOSPC.
    pub fn limit_bytes(&self, bytes: u64) {
        self.state().capacity = Some(bytes);
    }

    /// The total length of all files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.state().tree.total_bytes()
    }

    /// Removes the limit of [`SimulatedDisk::limit_bytes`].
    pub fn lift_limit(&self) {
        self.state().capacity = None;
    }

    /// Inverts one bit of a file, durably: damage, as opposed to a write. Not counted as an operation.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        self.damage(path, offset, 1, |byte| byte[0] ^= 1 << bit)
    }

    /// Changes `len` bytes of a file durably, as damage and not as a write of a caller. Not counted as an operation.
    pub fn damage(&self, path: &Path, offset: u64, len: usize, act: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut state = self.state();
        let file = state.tree.file(path).map_err(|e| DiskError::new("open", path, e))?;
        let mut bytes = vec![0; len];
        let content = state.tree.content(file);
        content.read_at(offset, &mut bytes);
        act(&mut bytes);
        content.write(offset, &bytes);
        content.sync();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// Fails if the disk has crashed. Every call checks this first.
    fn check_power(&self, operation: &'static str, path: &Path) -> Result<()> {
        if self.crash_after.is_some_and(|n| self.operations > n || (self.operations == n && n == 0)) {
            return Err(crashed(operation, path));
        }
        Ok(())
    }

    /// Counts an operation that changes or syncs something. Fails if it comes after the last allowed one.
    fn count(&mut self, operation: &'static str, path: &Path) -> Result<()> {
        self.operations += 1;
        self.check_power(operation, path)?;
        if Self::due(&mut self.fail_operation) { Err(io_error(operation, path)) } else { Ok(()) }
    }

    /// Whether the countdown of an injected fault has run out.
    fn due(countdown: &mut Option<u64>) -> bool {
        match countdown {
            Some(1) => {
                *countdown = None;
                true
            }
            Some(k) => {
                *k -= 1;
                false
            }
            None => false,
        }
    }

    /// How far a file of length `len` may grow towards `wanted` before the disk is full.
    fn room(&self, len: u64, wanted: u64) -> u64 {
        let Some(capacity) = self.capacity else { return wanted };
        let others = self.tree.total_bytes().saturating_sub(len);
        wanted.min(capacity.saturating_sub(others)).max(len.min(wanted))
    }
}

fn crashed(operation: &'static str, path: &Path) -> DiskError {
    DiskError::new(operation, path, io::Error::other("simulated crash"))
}

fn io_error(operation: &'static str, path: &Path) -> DiskError {
    DiskError::new(operation, path, io::Error::from_raw_os_error(EIO))
}

fn disk_full(operation: &'static str, path: &Path) -> DiskError {
    DiskError::new(operation, path, io::ErrorKind::StorageFull.into())
}

impl SimulatedDisk {
    /// Runs a counted change of the directory tree.
    fn change<T>(&self, name: &'static str, path: &Path, f: impl FnOnce(&mut Tree) -> io::Result<T>) -> Result<T> {
        let mut state = self.state();
        state.count(name, path)?;
        f(&mut state.tree).map_err(|e| DiskError::new(name, path, e))
    }

    /// Runs a query of the directory tree; it is not counted.
    fn ask<T>(&self, name: &'static str, path: &Path, f: impl FnOnce(&mut Tree) -> io::Result<T>) -> Result<T> {
        let mut state = self.state();
        state.check_power(name, path)?;
        f(&mut state.tree).map_err(|e| DiskError::new(name, path, e))
    }

    fn handle(&self, path: &Path, node: NodeId) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile { disk: self.clone(), path: path.to_owned(), node })
    }
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if self.ask("create directory", path, |tree| Ok(tree.directory(path).is_ok()))? {
            return Ok(());
        }
        self.change("create directory", path, |tree| tree.create_dir_all(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.ask("list", path, |tree| tree.list(path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let node = self.ask("open", path, |tree| tree.file(path))?;
        Ok(self.handle(path, node))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let node = self.change("create", path, |tree| tree.create_file(path))?;
        Ok(self.handle(path, node))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.change("remove", path, |tree| tree.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.change("remove directory", path, |tree| tree.remove_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.change("rename", from, |tree| tree.rename(from, to))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.change("sync directory", path, |tree| tree.sync_dir(path))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>> {
        self.ask("lock", path, |tree| tree.directory(path))?;
        if !self.state().locks.insert(path.to_owned()) {
            return Err(DiskError::locked(path));
        }
        Ok(Box::new(SimulatedLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.ask("read", path, |tree| {
            let node = tree.file(path)?;
            let content = tree.content(node);
            let mut bytes = vec![0; content.len() as usize];
            content.read_at(0, &mut bytes);
            Ok(bytes)
        })
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.ask("look up", path, |tree| Ok(tree.exists(path)))
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
}

impl DirLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    node: NodeId,
}

impl DiskFile for SimulatedFile {
    /// No other program knows this disk.
    fn lock(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.disk.state();
        state.count("write", &self.path)?;
        state.last_write = Some((self.path.clone(), offset));
        let fails = State::due(&mut state.fail_write);
        let len = state.tree.content(self.node).len();
        let end = offset + bytes.len() as u64;
        let room = state.room(len, end);
        let content = state.tree.content(self.node);
        if fails {
            let half = (offset + end) / 2;
            let whole = (half - half % SECTOR_BYTES as u64).saturating_sub(offset) as usize;
            content.write(offset, &bytes[..whole]);
            return Err(io_error("write", &self.path));
        }
        if room < end {
            let whole = (room - room % SECTOR_BYTES as u64).saturating_sub(offset) as usize;
            content.write(offset, &bytes[..whole.min(bytes.len())]);
            return Err(disk_full("write", &self.path));
        }
        content.write(offset, bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.disk.ask("read", &self.path, |tree| Ok(tree.content(self.node).read_at(offset, buffer)))
    }

    fn len(&self) -> Result<u64> {
        self.disk.ask("look up", &self.path, |tree| Ok(tree.content(self.node).len()))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.disk.state();
        state.count("set the length of", &self.path)?;
        state.tree.content(self.node).set_len(len);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.disk.state();
        state.count("allocate", &self.path)?;
        let now = state.tree.content(self.node).len();
        if state.room(now, offset + len) < offset + len {
            return Err(disk_full("allocate", &self.path));
        }
        state.tree.content(self.node).allocate(offset + len);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut state = self.disk.state();
        state.count("sync", &self.path)?;
        state.syncs += 1;
        let fails = State::due(&mut state.fail_sync);
        let content = state.tree.content(self.node);
        if fails {
            content.fail_sync();
            return Err(io_error("sync", &self.path));
        }
        content.sync();
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        self.sync_data()
    }
}
