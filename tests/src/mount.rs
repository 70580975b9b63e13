//! File systems of a test's own: small ones that fill up, and one on a disk whose power can be cut.
//!
//! Both need root and a kernel that allows mounts; otherwise the error names what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::member::Directory;

/// MiB of the disk whose power can be cut. The image file is sparse.
const DISK_MIB: u32 = 2048;
/// The number of inodes on that disk. The inode table is written when the file system is made, so it is kept small.
const DISK_FILES: u32 = 4096;
/// Options that keep the kernel from writing back data that was never synced. `commit` is in seconds. Without
/// `noauto_da_alloc` ext4 syncs a file that replaces another.
const DISK_OPTIONS: &str = "loop,commit=300,noauto_da_alloc";

/// A mounted file system, unmounted on drop.
pub struct Mount {
    directory: Directory,
}

impl Mount {
    /// A file system in memory that holds `mib` MiB.
    ///
    /// # Errors
    /// This user may not mount.
    pub fn in_memory(mib: u32) -> Result<Mount, String> {
        let mount = Mount::directory()?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "metastore-test"], &[&mount.path()])?;
        Ok(mount)
    }

    /// A disk with ext4 on it.
    ///
    /// # Errors
    /// This user may not mount, or mkfs.ext4 or loop devices are missing.
    pub fn disk() -> Result<Mount, String> {
        let mount = Mount::directory()?;
        let image = mount.image();
        run("truncate", &["--size", &format!("{DISK_MIB}M")], &[&image])?;
        let features = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run("mkfs.ext4", &[&features[..], &["-N", &DISK_FILES.to_string()]].concat(), &[&image])?;
        mount.insert()?;
        Ok(mount)
    }

    fn directory() -> Result<Mount, String> {
        if !is_root() {
            return Err("only root may mount a file system".into());
        }
        let mount = Mount { directory: Directory::new("mount") };
        std::fs::create_dir(mount.path()).map_err(|error| error.to_string())?;
        Ok(mount)
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// The image file of the disk.
    fn image(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// The copy of the disk that survives the power cut.
    fn survived(&self) -> PathBuf {
        self.directory.path().join("survived")
    }

    fn insert(&self) -> Result<(), String> {
        run("mount", &["-o", DISK_OPTIONS], &[&self.image(), &self.path()])
    }

    /// Makes a file system in memory larger.
    pub fn grow(&self, mib: u32) {
        run("mount", &["-o", &format!("remount,size={mib}m")], &[&self.path()]).expect("it can be mounted again");
    }

    /// Cuts the power: keeps the present contents of the disk, without the data that the kernel has not written yet. No
    /// process may write afterwards.
    pub fn cut_power(&self) {
        run("cp", &["--sparse=always"], &[&self.image(), &self.survived()]).expect("the disk can be copied");
    }

    /// Mounts the copy that survived: ext4 replays its journal.
    pub fn power_on(&self) {
        run("umount", &[], &[&self.path()]).expect("nobody uses it any more");
        std::fs::rename(self.survived(), self.image()).expect("the power was cut");
        self.insert().expect("what survived can be mounted");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // If nothing was mounted, the failure means nothing.
        let _ = run("umount", &["--lazy"], &[&self.path()]);
    }
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).args(paths).output();
    let output = output.map_err(|error| format!("cannot run {program}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{program} {paths:?}: {}", stderr.trim()))
}

/// Whether this is root.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"))
}
