//! File systems of a test's own: small ones that fill up, and one whose disk can be cut off from its power.
//!
//! Both need root, and a kernel that lets it mount: else the error says what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::member::Directory;

/// Bytes of the disk whose power can be cut. The file that stands for it is sparse.
const DISK_MIB: u32 = 2048;
/// Files that there can be on it: the table of them is written when it is made.
const DISK_FILES: u32 = 4096;
/// The kernel must not write back by itself what nobody synced: `commit` is in seconds, and without `noauto_da_alloc` ext4
/// syncs a file that replaces another.
const DISK_OPTIONS: &str = "loop,commit=300,noauto_da_alloc";

/// A mounted file system, gone on drop.
pub struct Mount {
    directory: Directory,
}

impl Mount {
    /// A file system in memory that holds `mib` MiB.
    ///
    /// # Errors
    /// If this user may not mount.
    pub fn in_memory(mib: u32) -> Result<Mount, String> {
        let mount = Mount::directory()?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "metastore-test"], &[&mount.path()])?;
        Ok(mount)
    }

    /// A disk with ext4 on it.
    ///
    /// # Errors
    /// If this user may not mount, or has no mkfs.ext4 or loop device.
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

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// The file that stands for the disk.
    fn image(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// What of it survives.
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

    /// Cuts the power: keeps what is on the disk at this moment, without what the kernel did not write yet. Nobody may write
    /// any more.
    pub fn cut_power(&self) {
        run("cp", &["--sparse=always"], &[&self.image(), &self.survived()]).expect("the disk can be copied");
    }

    /// Starts anew from what survived: ext4 replays its journal.
    pub fn power_on(&self) {
        run("umount", &[], &[&self.path()]).expect("nobody uses it any more");
        std::fs::rename(self.survived(), self.image()).expect("the power was cut");
        self.insert().expect("what survived can be mounted");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Where nothing was mounted, there is nothing to do.
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
