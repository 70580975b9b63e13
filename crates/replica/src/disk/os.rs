//! The real disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, SEEK_SET, flock};
use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::{DirLock, Disk, DiskError, DiskFile, LOCK_FILE, Result};

/// An operation on a file that is reported to an [`Observer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A write of so many bytes.
    Write(usize),
    /// A sync of the data.
    SyncData,
    /// A sync of the data and all attributes.
    SyncAll,
}

/// Called after every write and sync of a file, with the path, the operation and its duration.
pub type Observer = Arc<dyn Fn(&Path, Access, Duration) + Send + Sync>;

/// The file system of the machine.
#[derive(Clone)]
pub struct OsDisk {
    fsync: bool,
    observer: Option<Observer>,
}

impl OsDisk {
    /// A disk whose syncs are real.
    pub fn new() -> OsDisk {
        OsDisk { fsync: true, observer: None }
    }

    /// The same disk, with its writes and syncs reported to `observer`.
    pub fn observed(self, observer: Observer) -> OsDisk {
        OsDisk { observer: Some(observer), ..self }
    }

    /// A disk whose syncs do nothing (`--unsafe-no-fsync`): a power loss may take acknowledged writes.
    pub fn without_fsync() -> OsDisk {
        OsDisk { fsync: false, observer: None }
    }
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Tells file systems apart.
    pub device: u64,
    pub total: u64,
    /// The bytes that a process without privileges may still write.
    pub free: u64,
}

impl Space {
    /// The space of the file system that holds `path`.
    pub fn around(path: &Path) -> Result<Space> {
        let asked = rustix::fs::statvfs(path).and_then(|space| Ok((space, rustix::fs::stat(path)?)));
        let (space, found) = named("find the free space around", path, asked.map_err(io::Error::from))?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(Space { device: found.st_dev, total: bytes(space.f_blocks), free: bytes(space.f_bavail) })
    }
}

impl Default for OsDisk {
    fn default() -> OsDisk {
        OsDisk::new()
    }
}

/// Wraps the error of one operation on one path.
fn named<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| DiskError::new(operation, path, source))
}

impl Disk for OsDisk {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        if let Some(above) = above {
            self.create_dir_all(above)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            result => named("create directory", path, result)?,
        }
        self.sync_dir(above.unwrap_or(Path::new(".")))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in named("list", path, fs::read_dir(path))? {
            names.push(named("list", path, entry)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let file = named("open", path, OpenOptions::new().read(true).write(true).open(path))?;
        Ok(Box::new(OsFile { file, path: path.to_owned(), fsync: self.fsync, observer: self.observer.clone() }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = named("create", path, options.open(path))?;
        Ok(Box::new(OsFile { file, path: path.to_owned(), fsync: self.fsync, observer: self.observer.clone() }))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        named("remove", path, fs::remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        named("remove directory", path, fs::remove_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        named("rename", from, fs::rename(from, to))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        if !self.fsync {
            return Ok(());
        }
        named("sync directory", path, File::open(path).and_then(|dir| dir.sync_all()))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = named("lock", path, options.open(path.join(LOCK_FILE)))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Box::new(OsLock { _file: file })),
            Err(Errno::WOULDBLOCK) => Err(DiskError::locked(path)),
            Err(errno) => Err(DiskError::new("lock", path, errno.into())),
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let read = || {
            let mut file = File::open(path)?;
            let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize);
            file.read_to_end(&mut bytes)?;
            // A log is read once and then written to. Pages that the kernel has read ahead are large, and a small write
            // into one of them makes all of it dirty.
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
            Ok(bytes)
        };
        named("read", path, read())
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        match path.try_exists() {
            // A file stands where a directory should: there is nothing behind it.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            looked => named("look up", path, looked),
        }
    }
}

/// The lock lives as long as the open file.
struct OsLock {
    _file: File,
}

impl DirLock for OsLock {}

struct OsFile {
    file: File,
    path: PathBuf,
    fsync: bool,
    observer: Option<Observer>,
}

impl OsFile {
    /// Runs an operation on the file, and reports its duration.
    fn watched<T>(&self, access: Access, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(observer) = &self.observer else { return act() };
        let began = Instant::now();
        let result = act();
        observer(&self.path, access, began.elapsed());
        result
    }

    fn named<T>(&self, operation: &'static str, result: io::Result<T>) -> Result<T> {
        named(operation, &self.path, result)
    }
}

impl DiskFile for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.watched(Access::Write(bytes.len()), || self.named("write", self.file.write_all_at(bytes, offset)))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(DiskError::new("read", &self.path, e)),
            }
        }
        Ok(done)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.named("look up", self.file.metadata())?.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.named("set the length of", self.file.set_len(len))
    }

    fn lock(&self) -> Result<()> {
        let whole = flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(()),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(DiskError::locked(&self.path)),
            Err(nix::Error::EINVAL | nix::Error::ENOLCK | nix::Error::ENOSYS | nix::Error::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(DiskError::new("lock", &self.path, errno.into())),
        }
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // Without preallocation the log still works: each write extends the file.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
                Err(errno) => return Err(DiskError::new("allocate", &self.path, errno.into())),
            }
        }
    }

    fn sync_data(&self) -> Result<()> {
        if !self.fsync {
            return Ok(());
        }
        self.watched(Access::SyncData, || self.named("sync", self.file.sync_data()))
    }

    fn sync_all(&self) -> Result<()> {
        if !self.fsync {
            return Ok(());
        }
        self.watched(Access::SyncAll, || self.named("sync", self.file.sync_all()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("metastore-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_locked_file_is_locked_until_it_is_closed() {
        let path = std::env::temp_dir().join(format!("metastore-lock-{}", std::process::id()));
        let disk = OsDisk::new();
        let file = disk.create(&path).unwrap();
        file.lock().unwrap();
        let other = disk.open(&path).unwrap();
        let error = other.lock().unwrap_err();
        assert!(error.is_locked(), "{error}");
        drop(file);
        other.lock().unwrap();
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn files_and_directories_are_private() {
        let dir = scratch("modes");
        let disk = OsDisk::new();
        disk.create_dir_all(&dir.join("a/b")).unwrap();
        let file = disk.create(&dir.join("a/b/f")).unwrap();
        file.write_at(3, b"abc").unwrap();
        file.allocate(0, 4096).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(&dir.join("a/b")).unwrap();
        assert_eq!(fs::metadata(dir.join("a/b")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(dir.join("a/b/f")).unwrap().permissions().mode() & 0o777, 0o600);
        let mut buffer = [9; 6];
        assert_eq!(file.read_at(0, &mut buffer).unwrap(), 6);
        assert_eq!(&buffer, b"\0\0\0abc");
        assert_eq!(disk.list(&dir.join("a")).unwrap(), ["b"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn writes_and_syncs_are_reported_and_those_that_are_not_done_are_not() {
        let dir = scratch("observed");
        OsDisk::new().create_dir_all(&dir).unwrap();
        let path = dir.join("f");
        for (disk, syncs) in [(OsDisk::new(), &[Access::SyncData, Access::SyncAll][..]), (OsDisk::without_fsync(), &[])]
        {
            let reported = Arc::new(Mutex::new(Vec::new()));
            let report = reported.clone();
            let disk = disk.observed(Arc::new(move |path, access, took| {
                assert!(took > Duration::ZERO);
                report.lock().unwrap().push((path.to_owned(), access));
            }));
            let file = disk.create(&path).unwrap();
            file.write_at(0, b"abc").unwrap();
            file.sync_data().unwrap();
            file.sync_all().unwrap();
            disk.open(&path).unwrap().write_at(1, b"BC").unwrap();
            assert_eq!(disk.read(&path).unwrap(), b"aBC");
            assert!(disk.open(Path::new("/dev/full")).unwrap().write_at(0, b"lost").is_err());
            let mut expected = vec![(path.clone(), Access::Write(3))];
            expected.extend(syncs.iter().map(|access| (path.clone(), *access)));
            expected.extend([(path.clone(), Access::Write(2)), ("/dev/full".into(), Access::Write(4))]);
            assert_eq!(*reported.lock().unwrap(), expected);
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = scratch("lock");
        let disk = OsDisk::new();
        disk.create_dir_all(&dir).unwrap();
        let lock = disk.lock_dir(&dir).unwrap();
        let error = disk.lock_dir(&dir).err().unwrap();
        assert!(error.is_locked(), "{error}");
        assert!(error.to_string().contains("another process uses this directory"), "{error}");
        drop(lock);
        disk.lock_dir(&dir).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_error_names_operation_and_path() {
        let error = OsDisk::new().open(Path::new("/nonexistent/x")).err().unwrap();
        assert!(error.to_string().starts_with("cannot open /nonexistent/x: "), "{error}");
    }
}
