//! States that no member uses any more.

use std::path::PathBuf;
use std::sync::Arc;

use metastore_engine::Engine;

use super::on_disk;
use crate::disk::{Disk, DiskError};

/// A state that was replaced, or that was received and not installed. Readers that began earlier may still read it. Its
/// owner checks [`Retired::is_unused`] from time to time, and then calls [`Retired::remove`] on a thread that may wait.
/// To free that much memory, or to close and remove that many files, takes a while. If a state is dropped instead, the
/// next start removes its files.
pub struct Retired {
    pub(crate) engine: Arc<dyn Engine>,
    /// The directory of the state's files.
    pub(crate) directory: Option<(Arc<dyn Disk>, PathBuf)>,
}

impl Retired {
    /// Whether no reader uses the state any more.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.engine) == 1
    }

    /// Frees the state, and removes its files.
    ///
    /// # Errors
    /// If the disk fails; the next start tries again.
    ///
    /// # Panics
    /// If the state is in use.
    pub fn remove(self) -> Result<(), DiskError> {
        assert!(self.is_unused(), "files of a state that is read are not removed");
        let Self { engine, directory } = self;
        // The engine is closed before its files are removed.
        drop(engine);
        match directory {
            Some((disk, path)) => on_disk::remove_dir(disk.as_ref(), &path),
            None => Ok(()),
        }
    }
}
