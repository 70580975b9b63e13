//! Opening a database, or creating one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64};

use parking_lot::{Mutex, RwLock};
use rocksdb::{Cache, DB, Env};

use super::forgotten::Forgotten;
use super::layout::{STATE_KEY, State, parse_state};
use super::pending::Pending;
use super::temporary::Temporary;
use super::{RocksDb, RocksDbSettings, flushed, options};
use crate::stock::Stock;
use crate::{EngineError, HighWaterMark, Result, Revision};

/// The file that names the others. Without it RocksDB would create a new database over the existing files.
const NAMING_FILE: &str = "CURRENT";

/// Suffixes of directories: for a database whose creation is not finished, and, with a number, for a checkpoint.
const UNFINISHED: &str = "new";
pub(super) const CHECKPOINT: &str = "checkpoint-";

/// The system's text for ENOSPC, which RocksDB passes on.
const DISK_FULL: &str = "No space left on device";
/// The advice for a database that cannot be read.
const REMEDY: &str = "Restore the directory from a copy, or replace this member";

impl RocksDb {
    /// Opens the database in the directory `path`, or creates an empty one if there is no such directory.
    ///
    /// # Errors
    /// A file is missing, or damaged as far as opening reads it, or is of another version. No file of the database is
    /// changed then, except RocksDB's info logs.
    pub fn open(path: &Path, settings: RocksDbSettings) -> Result<Self> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                return Err(refused(path, "the state is kept in a directory of this name, but this is no directory"));
            }
            Ok(_) if !path.join(NAMING_FILE).exists() => {
                let why = format!("the file {NAMING_FILE} is missing: the database is damaged. {REMEDY}");
                return Err(refused(path, &why));
            }
            Ok(_) => {
                check(path, settings)?;
                remove_leftovers(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_leftovers(path)?;
                create(path, settings)?;
            }
            Err(error) => return Err(refused(path, &error.to_string())),
        }
        Self::open_in(path, settings, None)
    }

    /// Opens a database whose files are in `env`, or on the disk. Creates it only if they are in memory.
    pub(super) fn open_in(path: &Path, settings: RocksDbSettings, env: Option<Env>) -> Result<Self> {
        let mut options = options::database(settings, env.as_ref());
        options.create_if_missing(env.is_some());
        options.create_missing_column_families(env.is_some());
        let (cache, forgotten) = (Cache::new_lru_cache(settings.block_cache_bytes), Forgotten::default());
        let db = DB::open_cf_descriptors(&options, path, options::families(settings, &cache, &forgotten));
        let db = db.map_err(|error| unreadable(path, &error))?;
        Self::opened((db, options), cache, path, (settings, env), forgotten)
    }

    /// Creates a database that is removed when it is dropped.
    #[cfg(any(test, feature = "contract"))]
    pub fn temporary(path: &Path, settings: RocksDbSettings) -> Result<Self> {
        let directory = Temporary { path: path.to_owned(), env: None };
        let mut engine = Self::open(path, settings)?;
        engine.temporary = Some(directory);
        Ok(engine)
    }

    /// Opens a checkpoint, which is removed when it is dropped.
    pub(super) fn open_frozen(directory: Temporary, settings: RocksDbSettings, cache: Cache) -> Result<Self> {
        let (path, env) = (&directory.path, directory.env.clone());
        let options = options::database(settings, env.as_ref());
        let forgotten = Forgotten::default();
        let db =
            DB::open_cf_descriptors_read_only(&options, path, options::families(settings, &cache, &forgotten), false);
        let db = db.map_err(|error| unreadable(path, &error))?;
        let mut engine = Self::opened((db, options), cache, path, (settings, env), forgotten)?;
        engine.frozen = true;
        engine.pending.get_mut().refusal = Some("a checkpoint is not written".to_owned());
        engine.temporary = Some(directory);
        Ok(engine)
    }

    fn opened(
        (db, options): (DB, rocksdb::Options),
        cache: Cache,
        path: &Path,
        (settings, env): (RocksDbSettings, Option<Env>),
        forgotten: Forgotten,
    ) -> Result<Self> {
        let (state, mark) = read_state(&db, path)?;
        let State { published, usage, walk } = state;
        forgotten.advance(walk.done);
        // Appended versions must be newer than all published ones. No others exist here.
        let last = Revision::new(published.revision, i64::MAX);
        Ok(Self {
            db,
            path: path.to_owned(),
            settings,
            env,
            options,
            cache,
            pending: Mutex::new(Pending { last, state, ..Pending::default() }),
            published: RwLock::new(published),
            // It is noted again at the first flush.
            flushed: Mutex::new(0),
            stored: Stock::new(usage, mark),
            dropping: AtomicI64::new(walk.at.max(walk.done)),
            deletes_below: AtomicI64::new(walk.deletes_below()),
            dead_rows: Mutex::default(),
            flush_wanted: AtomicBool::new(false),
            forgotten,
            frozen: false,
            temporary: None,
        })
    }
}

/// Opens a database for reading only, to find out whether this version may open it for writing.
fn check(path: &Path, settings: RocksDbSettings) -> Result<()> {
    let db = DB::open_for_read_only(&options::database(settings, None), path, false);
    let db = db.map_err(|error| unreadable(path, &error))?;
    let found = read_state(&db, path)?.0.published.applied.index;
    let flushed = flushed::noted(path).map_err(|error| refused(path, &format!("{error}. {REMEDY}")))?;
    if found < flushed {
        let why = format!(
            "the state is that of log index {found}, but all up to {flushed} was flushed: the database is damaged, its \
             manifest most likely cut short. {REMEDY}"
        );
        return Err(refused(path, &why));
    }
    Ok(())
}

fn read_state(db: &DB, path: &Path) -> Result<(State, HighWaterMark)> {
    let state = db.get(STATE_KEY).map_err(|error| unreadable(path, &error))?;
    let state = state.map(|state| parse_state(&state).map_err(|error| refused(path, &error.0)));
    Ok(state.transpose()?.unwrap_or_default())
}

/// Creates an empty database. Its directory appears complete: if a file is missing, it is damaged.
fn create(path: &Path, settings: RocksDbSettings) -> Result<()> {
    let unfinished = sibling(path, UNFINISHED);
    let made = (|| {
        let mut options = options::database(settings, None);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let cache = Cache::new_lru_cache(settings.block_cache_bytes);
        let families = options::families(settings, &cache, &Forgotten::default());
        DB::open_cf_descriptors(&options, &unfinished, families).map_err(|error| error.to_string())?;
        sync_dir(&unfinished)?;
        fs::rename(&unfinished, path).map_err(|error| error.to_string())?;
        sync_dir(parent(path))
    })();
    made.map_err(|error| refused(path, &format!("cannot be made: {error}")))
}

fn sync_dir(path: &Path) -> std::result::Result<(), String> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| error.to_string())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path of a directory beside the database that belongs to it: `<name>.<what>`.
pub(super) fn sibling(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    path.with_file_name(name)
}

/// Removes the leftovers of a crash: an unfinished database, and checkpoints. Other directories are left alone.
fn remove_leftovers(path: &Path) -> Result<()> {
    let (unfinished, checkpoint) = (sibling(path, UNFINISHED), sibling(path, CHECKPOINT));
    let [unfinished, checkpoint] =
        [&unfinished, &checkpoint].map(|path| path.file_name().unwrap_or_default().as_encoded_bytes());
    let removed = (|| {
        for entry in fs::read_dir(parent(path))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if (name == unfinished || name.starts_with(checkpoint)) && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    })();
    removed
        .map_err(|error: io::Error| refused(path, &format!("what a crash left beside it cannot be removed: {error}")))
}

fn unreadable(path: &Path, error: &rocksdb::Error) -> EngineError {
    let full = error.as_ref().contains(DISK_FULL);
    refused(path, &format!("{error}. {}", if full { "Make room, and start again" } else { REMEDY }))
}

fn refused(path: &Path, why: &str) -> EngineError {
    EngineError(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Scratch;
    use crate::rocks::layout::FORMAT;

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let scratch = Scratch::new();
        let path = scratch.path().join("state");
        let open = || RocksDb::open(&path, RocksDbSettings::default());
        let engine = open().unwrap();
        let mut state = crate::rocks::layout::state_value(&State::default(), &HighWaterMark::default());
        state[..4].copy_from_slice(&(FORMAT + 1).to_be_bytes());
        engine.db.put(STATE_KEY, [&state[..], b"and more"].concat()).unwrap();
        assert!(engine.flush_all().is_err(), "it is written, and then read");
        drop(engine);
        let files = || {
            let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| !name.starts_with("LOG")).collect();
            names.sort();
            names.into_iter().map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect::<Vec<_>>()
        };
        let before = files();
        let error = open().err().expect("refused").0;
        assert!(error.contains("format 3, but this version reads format 2"), "{error}");
        assert!(files() == before, "files were changed");
    }
}
