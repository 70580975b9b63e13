//! Opening a database, or making one.

use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};
use rocksdb::{Cache, DB};

use super::layout::{STATE_KEY, parse_state};
use super::pending::Pending;
use super::{RocksDb, RocksDbSettings, options};
use crate::stock::Stock;
use crate::{EngineError, Result, Revision};

/// The file of a database that names the others; without it RocksDB would begin anew over what is there.
const NAMING_FILE: &str = "CURRENT";

impl RocksDb {
    /// Opens the database in the directory `path`, or makes an empty one if there is no such directory.
    ///
    /// # Errors
    /// If a file is missing or damaged as far as opening reads it, or is of another version. Nothing is changed then.
    pub fn open(path: &Path, settings: RocksDbSettings) -> Result<Self> {
        remove_leftovers(path).map_err(|error| refused(path, &error.to_string()))?;
        if path.exists() {
            if !path.join(NAMING_FILE).exists() {
                let why = "the file CURRENT is missing: the database is damaged. Restore the directory from a copy, or \
                           replace this member";
                return Err(refused(path, why));
            }
        } else {
            create(path, settings)?;
        }
        Self::open_existing(path, settings, false)
    }

    pub(super) fn open_existing(path: &Path, settings: RocksDbSettings, frozen: bool) -> Result<Self> {
        let options = options::database(settings);
        let cache = Cache::new_lru_cache(settings.block_cache_bytes);
        let families = options::families(&cache);
        let db = if frozen {
            DB::open_cf_descriptors_read_only(&options, path, families, false)
        } else {
            DB::open_cf_descriptors(&options, path, families)
        };
        let db = db.map_err(|error| {
            refused(path, &format!("{error}. Restore the directory from a copy, or replace this member"))
        })?;
        let state = db.get(STATE_KEY).map_err(|error| refused(path, error.as_ref()))?;
        let state = state.map(|state| parse_state(&state).map_err(|error| refused(path, &error.0)));
        let (published, usage) = state.transpose()?.unwrap_or_default();
        // What is appended is newer than all that is published, and nothing else is here.
        let last = Revision::new(published.revision, i64::MAX);
        Ok(Self {
            db,
            path: path.to_owned(),
            settings,
            options,
            cache,
            pending: Mutex::new(Pending { last, ..Pending::default() }),
            published: RwLock::new(published),
            stored: Stock::new(usage),
            frozen,
        })
    }
}

/// Makes an empty database. It appears whole, so that a directory with something missing is damage and nothing else.
fn create(path: &Path, settings: RocksDbSettings) -> Result<()> {
    let unfinished = sibling(path, "new");
    let made = (|| {
        let mut options = options::database(settings);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let cache = Cache::new_lru_cache(settings.block_cache_bytes);
        DB::open_cf_descriptors(&options, &unfinished, options::families(&cache)).map_err(|error| error.to_string())?;
        sync_dir(&unfinished)?;
        fs::rename(&unfinished, path).map_err(|error| error.to_string())?;
        sync_dir(path.parent().unwrap_or(Path::new("/")))
    })();
    made.map_err(|error| refused(path, &format!("cannot be made: {error}")))
}

fn sync_dir(path: &Path) -> std::result::Result<(), String> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| error.to_string())
}

/// Directories beside the database that belong to it: `<name>.<what>`.
pub(super) fn sibling(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    path.with_file_name(name)
}

/// Removes what a crash left: a database that was not finished, and checkpoints.
fn remove_leftovers(path: &Path) -> std::io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| parent.exists()) else { return Ok(()) };
    let own = sibling(path, "");
    let own = own.file_name().unwrap_or_default().as_encoded_bytes();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(own) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> EngineError {
    EngineError(format!("{}: {why}", path.display()))
}
