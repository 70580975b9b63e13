//! State that an engine keeps on disk itself.

use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Applied, Engine};

use super::{OpenEngine, Start, conf_state};
use crate::data_dir::{DataDir, OpenError, is_state_name, received_name};
use crate::disk::{Disk, DiskError};
use crate::wal::Replay;

/// Advice for an operator whose state directory does not fit the log.
const RESTORE: &str = "restore the directory from a newer copy, or replace this member";

/// Refuses to make an empty state if the log no longer begins at its first entry.
fn check_present(data: &DataDir, log: Applied) -> Result<(), OpenError> {
    let path = data.engine_path();
    if log.index == 0 || data.disk.exists(&path)? {
        return Ok(());
    }
    let why = format!("the directory is missing, but the log may begin only behind entry {}: {RESTORE}", log.index);
    Err(OpenError::refused(&path, why))
}

/// Finds the position of the state. It must not be before the position up to which the log may have been released.
pub fn find(data: &DataDir, log: Applied, engine: &dyn Engine) -> Result<Start, OpenError> {
    let (path, applied) = (data.engine_path(), engine.published().applied);
    if applied.index < log.index {
        let why = format!(
            "holds the state at entry {}, but the log may begin only behind entry {}: entries between are missing; \
                {RESTORE}",
            applied.index, log.index
        );
        return Err(OpenError::refused(&path, why));
    }
    if applied.index == 0 {
        return Ok(Start::default());
    }
    let stored = conf_state::stored(|table, key| engine.get(table, key))?;
    let checked = stored.and_then(|stored| conf_state::check(&stored).map(|()| stored));
    let conf_state = checked.map_err(|why| OpenError::refused(&path, format!("damaged: {why}; {RESTORE}")))?;
    Ok(Start { log, applied, conf_state: crate::conf_state::from_disk(&conf_state), ..Start::default() })
}

/// Checks that the log holds the entry at the state's position, with the same term.
pub fn check_log(data: &DataDir, applied: Applied, replay: &Replay) -> Result<(), OpenError> {
    let Applied { index, term } = applied;
    let why = match replay.term(index) {
        Some(found) if found == term => return Ok(()),
        Some(found) => format!(
            "holds the state at entry {index} of term {term}, but in the log ({}) that entry is of term {found}: it \
             is the log of another history. Mount or name the directories that belong together (--data-dir, \
             --wal-dir)",
            data.paths.wal().display()
        ),
        None => format!(
            "holds the state at entry {index}, but the log ({}) ends at entry {}: acknowledged entries are missing; \
             restore the log from a newer copy, or replace this member",
            data.paths.wal().display(),
            replay.last_index()
        ),
    };
    Err(OpenError::refused(&data.engine_path(), why))
}

/// Opens the state of this member. It is normally the one that the identity names. If that state does not reach the
/// position that the log names, and the received state for that position exists, a crash came before the identity was
/// changed: then the received state is the member's.
pub fn open(data: &mut DataDir, log: Applied, open: &OpenEngine) -> Result<Arc<dyn Engine>, OpenError> {
    check_present(data, log)?;
    let engine = open(&data.engine_path())?;
    let received = received_name(log);
    let is_behind = engine.published().applied.index < log.index;
    if !is_behind || received == data.engine || !data.disk.exists(&data.paths.member().join(&received))? {
        return Ok(engine);
    }
    drop(engine);
    data.engine = received;
    Ok(open(&data.engine_path())?)
}

/// Removes all states of an engine on disk except `keep`, and the remains of a conversion.
pub fn remove(data: &DataDir, keep: Option<&str>) -> Result<(), DiskError> {
    for name in data.names(&data.paths.member())? {
        let state = name.split('.').next().unwrap_or_default();
        if is_state_name(state) && Some(state) != keep {
            remove_dir(data.disk.as_ref(), &data.paths.member().join(name))?;
        }
    }
    remove_unfinished(data)
}

/// Removes the remains of a conversion that did not finish.
pub fn remove_unfinished(data: &DataDir) -> Result<(), DiskError> {
    let unfinished = data.paths.converting();
    for path in [unfinished.with_file_name(format!("{}.new", name_of(&unfinished))), unfinished] {
        remove_dir(data.disk.as_ref(), &path)?;
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Removes a directory of files, if it exists.
pub fn remove_dir(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    if !disk.exists(path)? {
        return Ok(());
    }
    for name in disk.list(path)? {
        disk.remove_file(&path.join(name))?;
    }
    disk.remove_dir(path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}
