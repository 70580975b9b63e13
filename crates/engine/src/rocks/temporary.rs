//! A directory that is removed with its owner.

use std::fs;
use std::path::PathBuf;

use rocksdb::{DB, Env, Options};

/// Removes a directory on drop. If that fails, the directory is left to the next start.
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    /// The environment of the directory, if it is not on the disk.
    pub(super) env: Option<Env>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        match &self.env {
            None => _ = fs::remove_dir_all(&self.path),
            Some(env) => {
                let mut options = Options::default();
                options.set_env(env);
                _ = DB::destroy(&options, &self.path);
            }
        }
    }
}
