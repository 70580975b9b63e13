//! States that are nobody's any more.

use std::path::PathBuf;
use std::sync::Arc;

use metastore_engine::Engine;

use super::on_disk;
use crate::disk::{Disk, DiskError};

/// A state whose place another one has taken, or that was received and not wanted. Readers that began may still read it. Its
/// owner looks at [`Retired::is_unused`] from time to time, and then calls [`Retired::remove`] on a thread that may wait: to
/// free so much memory, or to close and remove so many files, takes a while. One that is dropped instead is removed by the next
/// start.
pub struct Retired {
    pub(crate) engine: Arc<dyn Engine>,
    /// The directory that goes with it.
    pub(crate) directory: Option<(Arc<dyn Disk>, PathBuf)>,
}

impl Retired {
    /// Whether nobody reads it any more.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.engine) == 1
    }

    /// Frees it, and removes its files.
    ///
    /// # Errors
    /// If the disk fails; the next start tries again.
    ///
    /// # Panics
    /// If it is used.
    pub fn remove(self) -> Result<(), DiskError> {
        assert!(self.is_unused(), "files of a state that is read are not removed");
        let Self { engine, directory } = self;
        // Closed, before its files go.
        drop(engine);
        match directory {
            Some((disk, path)) => on_disk::remove_dir(disk.as_ref(), &path),
            None => Ok(()),
        }
    }
}
