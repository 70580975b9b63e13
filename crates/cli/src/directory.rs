//! A data directory under construction.
//!
//! It is built in a directory `.partial` inside the new one, because that may be the root of a file system. A rename of
//! `member` is the last step: a run that is interrupted before leaves nothing that a member would start from.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use metastore_replica::{PARTIAL, Paths};

use crate::failure::{Done, Failure, at};

/// The root of a file system may have it.
const LOST_AND_FOUND: &str = "lost+found";

/// Dropped before [`NewDirectory::finish`], everything that was built is removed.
pub struct NewDirectory {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    /// The directories that did not exist before.
    made: Vec<PathBuf>,
    finished: bool,
}

impl NewDirectory {
    /// Begins a directory.
    ///
    /// # Errors
    /// If there is something in it, or in the directory for the log.
    pub fn begin(data_dir: &Path, wal_dir: Option<&Path>) -> Done<Self> {
        let (data_dir, wal_dir) = (data_dir.to_owned(), wal_dir.map(Path::to_owned));
        let mut new = Self { data_dir: data_dir.clone(), wal_dir: wal_dir.clone(), made: Vec::new(), finished: true };
        for (dir, name) in [(Some(data_dir), "data-dir"), (wal_dir, "wal-dir")] {
            let Some(dir) = dir else { continue };
            check_empty(&dir, name)?;
            if !dir.exists() {
                new.made.push(dir.clone());
            }
            // From here on a drop removes what was made.
            new.finished = false;
            let mut create = fs::DirBuilder::new();
            create.recursive(true).mode(0o700).create(dir.join(PARTIAL)).map_err(at(&dir))?;
        }
        Ok(new)
    }

    /// The place where the directory is built.
    pub fn paths(&self) -> Paths {
        Paths { data_dir: self.data_dir.join(PARTIAL), wal_dir: self.wal_dir.as_ref().map(|dir| dir.join(PARTIAL)) }
    }

    /// Puts what was built into its place, durably.
    pub fn finish(mut self) -> Done {
        if let Some(dir) = &self.wal_dir {
            let partial = dir.join(PARTIAL);
            for entry in fs::read_dir(&partial).map_err(at(&partial))? {
                let name = entry?.file_name();
                if name.to_string_lossy().ends_with(".wal") {
                    fs::rename(partial.join(&name), dir.join(&name)).map_err(at(dir))?;
                }
            }
            sync(dir)?;
        }
        let (built, member) = (self.data_dir.join(PARTIAL).join("member"), self.data_dir.join("member"));
        fs::rename(built, &member).map_err(at(&member))?;
        sync(&self.data_dir)?;
        for dir in &self.made {
            // The name of the directory itself.
            sync(dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
        self.finished = true;
        self.remove_partial();
        Ok(())
    }

    fn remove_partial(&self) {
        for dir in [Some(&self.data_dir), self.wal_dir.as_ref()].into_iter().flatten() {
            // The next run names the rest, and refuses it.
            let _ = fs::remove_dir_all(dir.join(PARTIAL));
        }
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if !self.finished {
            self.remove_partial();
            for dir in &self.made {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

fn check_empty(dir: &Path, name: &str) -> Done {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(at(dir))?,
    };
    for entry in entries {
        let found = entry.map_err(at(dir))?.file_name();
        if found == PARTIAL {
            let partial = dir.join(PARTIAL);
            let text = format!("{} is left from a run that was interrupted; remove it first", partial.display());
            return Err(Failure::new(text));
        }
        if found != LOST_AND_FOUND {
            return Err(Failure::new(format!("{name} {:?} not empty or could not be read", dir.display().to_string())));
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
fn sync(dir: &Path) -> Done {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed at the end.
    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("metactl-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[test]
    fn an_interrupted_run_leaves_nothing_that_starts() {
        let root = scratch("interrupted");
        let (data, wal) = (root.join("data"), root.join("wal"));
        let new = NewDirectory::begin(&data, Some(&wal)).expect("a new directory");
        fs::create_dir_all(new.paths().member()).expect("a part");
        drop(new);
        assert!(!data.exists() && !wal.exists());
        let killed = NewDirectory::begin(&data, None).expect("a new directory");
        std::mem::forget(killed);
        assert!(!data.join("member").exists());
        let refused = NewDirectory::begin(&data, None).err().expect("a refusal");
        assert!(refused.text.contains(".partial is left from a run"), "{}", refused.text);
        fs::remove_dir_all(root).expect("the end");
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused_and_an_empty_one_is_filled() {
        let root = scratch("filled");
        let (data, wal) = (root.join("data"), root.join("wal"));
        fs::create_dir_all(data.join(LOST_AND_FOUND)).expect("a mount");
        let new = NewDirectory::begin(&data, Some(&wal)).expect("it is empty");
        fs::create_dir_all(new.paths().member()).expect("a part");
        fs::write(new.paths().wal().join("0.wal"), "log").expect("a log");
        new.finish().expect("it is whole");
        assert!(data.join("member").is_dir() && wal.join("0.wal").is_file());
        assert!(!data.join(PARTIAL).exists() && !wal.join(PARTIAL).exists());
        let refused = NewDirectory::begin(&data, None).err().expect("a refusal");
        assert!(refused.text.contains("not empty"), "{}", refused.text);
        fs::remove_dir_all(root).expect("the end");
    }
}
