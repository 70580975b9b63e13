//! From a stopped etcd.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_backup::{DatabaseFile, EtcdState};
use metastore_proto::raftpb::ConfState;
use metastore_replica::disk::OsDisk;
use metastore_replica::{LogEnd, NewMember, StoppedMember, wal};

use super::{describe, import};
use crate::arguments::Migrate;
use crate::directory::NewDirectory;
use crate::engines;
use crate::failure::{Done, Failure, at};

pub fn run(migrate: &Migrate, etcd: &Path) -> Done {
    let member = etcd.join("member");
    let log = migrate.etcd_wal_dir.clone().unwrap_or_else(|| member.join("wal"));
    let disk = Arc::new(OsDisk::new());
    // As long as this runs, no etcd starts on the directory.
    let _locked = wal::lock(disk.as_ref(), &log).map_err(|error| {
        Failure::new(format!("{error}. Stop the etcd first; --etcd-wal-dir names its log if that is elsewhere"))
    })?;
    let (path, state) = newest_state(&member.join("snap"))?;
    let end = LogEnd::read(disk.as_ref(), &log, state.applied().index)?;
    let recorded = state.applied().term;
    if recorded != 0 && recorded != end.state.term {
        let (index, term) = (end.state.index, end.state.term);
        let text = format!(
            "{}: the database is at entry {index} of term {recorded}, but in the log that entry is of term {term}: \
             they do not belong together",
            path.display()
        );
        return Err(Failure::new(text));
    }
    let members = state.members().map_err(at(&path))?;
    let ids = |learner: bool| members.iter().filter(move |member| member.is_learner == learner).map(|member| member.id);
    let conf_state = ConfState { voters: ids(false).collect(), learners: ids(true).collect(), ..ConfState::default() };
    let settings = engines::settings(migrate.engine)?;
    let open = engines::opener(settings.engine);
    let new = NewDirectory::begin(&migrate.data_dir, migrate.wal_dir.as_deref())?;
    let begun = NewMember::begin(settings.clone(), disk.clone(), new.paths(), (end, conf_state.clone()), &open)?;
    import(&state, begun, &conf_state).map_err(|failure| at(&path)(failure.text))?;
    // It is opened before it is put into its place: a directory that cannot be opened is not left behind.
    let opened = StoppedMember::open(settings, disk, new.paths(), engines::opener)?;
    describe(&migrate.data_dir, &opened)?;
    drop(opened);
    new.finish()
}

/// The newest database in the directory: the usual one, or one that a leader has sent and that was not put in its place
/// before the etcd ended.
fn newest_state(directory: &Path) -> Done<(PathBuf, EtcdState<DatabaseFile>)> {
    let usual = directory.join("db");
    let mut newest = open(usual)?;
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let index = name.strip_suffix(".snap.db").and_then(|index| u64::from_str_radix(index, 16).ok());
        if index.is_some_and(|index| index > newest.1.applied().index) {
            newest = open(path)?;
        }
    }
    if newest.1.applied().index == 0 {
        return Err(Failure::new(format!("{}: the database holds no state yet", newest.0.display())));
    }
    Ok(newest)
}

fn open(path: PathBuf) -> Done<(PathBuf, EtcdState<DatabaseFile>)> {
    let file = File::open(&path).and_then(DatabaseFile::whole).map_err(at(&path))?;
    let state = EtcdState::open(file).map_err(at(&path))?;
    Ok((path, state))
}
