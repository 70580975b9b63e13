//! A directory that goes with its owner.

use std::fs;
use std::path::PathBuf;

use rocksdb::{DB, Env, Options};

/// Removes a directory when it is dropped. What cannot be removed is left to the next start.
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    /// Where it is, if not on the disk.
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
