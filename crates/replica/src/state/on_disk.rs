//! State that an engine keeps on disk itself.

use std::path::Path;

use metastore_engine::{Applied, Engine, Table};
use metastore_store::schema::CONF_STATE;
use raft::eraftpb::ConfState;
use serde::Deserialize;

use super::Start;
use crate::data_dir::{DataDir, OpenError};
use crate::disk::{Disk, DiskError};
use crate::wal::Replay;

/// What to do about a directory that is not what the log needs.
const RESTORE: &str = "restore the directory from a newer copy, or replace this member";

/// Who votes, in the JSON that etcd stores.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct StoredConfState {
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

/// Refuses to make an empty state where the log that would fill it begins too late.
pub fn check_present(data: &DataDir, log: Applied) -> Result<(), OpenError> {
    let path = data.paths.engine();
    if log.index == 0 || data.disk.exists(&path)? {
        return Ok(());
    }
    let why = format!("the directory is missing, but the log may begin only behind entry {}: {RESTORE}", log.index);
    Err(OpenError::refused(&path, why))
}

/// The state must reach what the log may have released.
pub fn find(data: &DataDir, log: Applied, engine: &dyn Engine) -> Result<Start, OpenError> {
    let (path, applied) = (data.paths.engine(), engine.published().applied);
    if applied.index < log.index {
        let why = format!(
            "holds the state at entry {}, but the log may begin only behind entry {}: entries between are missing; {RESTORE}",
            applied.index, log.index
        );
        return Err(OpenError::refused(&path, why));
    }
    if applied.index == 0 {
        return Ok(Start::default());
    }
    let stored = engine.get(Table::Meta, CONF_STATE)?.unwrap_or_default();
    let stored: StoredConfState = serde_json::from_slice(&stored).map_err(|error| {
        let text = stored.escape_ascii();
        OpenError::refused(&path, format!("damaged: row confState of table meta, \"{text}\": {error}; {RESTORE}"))
    })?;
    Ok(Start { log, applied, conf_state: stored.into() })
}

impl From<StoredConfState> for ConfState {
    fn from(stored: StoredConfState) -> Self {
        let StoredConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = stored;
        Self { voters, learners, voters_outgoing, learners_next, auto_leave, ..Self::default() }
    }
}

/// The log must hold what the state was made from.
pub fn check_log(data: &DataDir, applied: Applied, replay: &Replay) -> Result<(), OpenError> {
    let Applied { index, term } = applied;
    let why = match replay.term(index) {
        Some(found) if found == term => return Ok(()),
        Some(found) => format!(
            "holds the state at entry {index} of term {term}, but in the log ({}) that entry is of term {found}: it is the \
             log of another history. Mount or name the directories that belong together (--data-dir, --wal-dir)",
            data.paths.wal().display()
        ),
        None => format!(
            "holds the state at entry {index}, but the log ({}) ends at entry {}: acknowledged entries are missing; restore \
             the log from a newer copy, or replace this member",
            data.paths.wal().display(),
            replay.last_index()
        ),
    };
    Err(OpenError::refused(&data.paths.engine(), why))
}

/// Removes everything that an engine on disk may have left here.
pub fn remove(data: &DataDir) -> Result<(), DiskError> {
    let engine = name_of(&data.paths.engine());
    let checkpoint = format!("{engine}.checkpoint-");
    let ours = |name: &str| name == engine || name == format!("{engine}.new") || name.starts_with(&checkpoint);
    for name in data.names(&data.paths.member())?.iter().filter(|name| ours(name)) {
        remove_dir(data.disk.as_ref(), &data.paths.member().join(name))?;
    }
    remove_unfinished(data)
}

/// Removes what a conversion left that did not get to its end.
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

/// Removes a directory of files, if it is there.
fn remove_dir(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    if !disk.exists(path)? {
        return Ok(());
    }
    for name in disk.list(path)? {
        disk.remove_file(&path.join(name))?;
    }
    disk.remove_dir(path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}
