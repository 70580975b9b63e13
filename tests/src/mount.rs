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

/// The number of files that a file system in memory holds.
const MEMORY_FILES: usize = 4096;

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
        let options = format!("size={mib}m,nr_inodes={MEMORY_FILES}");
        run("mount", &["-t", "tmpfs", "-o", &options, "metastore-test"], &[&mount.path()])?;
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

    /// Creates empty files until a file system in memory takes no more. It is full then, although no byte of it is
    /// used: a member that looks at the free space does not see that coming.
    pub fn use_up_files(&self) {
        std::fs::create_dir(self.files()).expect("there is room for some files");
        let full =
            (0..MEMORY_FILES).find_map(|number| std::fs::File::create(self.files().join(number.to_string())).err());
        let full = full.expect("the number of files is limited");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    /// Removes the files of [`Mount::use_up_files`].
    pub fn remove_files(&self) {
        std::fs::remove_dir_all(self.files()).expect("files can be removed from a full file system");
    }

    fn files(&self) -> PathBuf {
        self.path().join("files")
    }

    /// Fills the file system with a file of its own, except for the last `mib` MiB. Returns the size of the file.
    pub fn fill_up_to(&self, mib: u32) -> u64 {
        let bytes = self.free_bytes().saturating_sub(u64::from(mib) << 20);
        run("fallocate", &["--length", &bytes.to_string()], &[&self.filler()]).expect("there is so much space");
        bytes
    }

    /// Removes the file of [`Mount::fill_up_to`].
    pub fn remove_filler(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// The free bytes.
    pub fn free_bytes(&self) -> u64 {
        let output = Command::new("stat").args(["-f", "--format=%a %S"]).arg(self.path()).output().expect("stat runs");
        let text = String::from_utf8(output.stdout).expect("two numbers");
        text.split_whitespace().map(|number| number.parse::<u64>().expect("a number")).product()
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
