//! Starting: a new member, or one that comes back with snapshot and log.

use std::sync::Arc;

use metastore_engine::{Applied, Engine};
use metastore_proto::{Message, raftpb};
use metastore_store::{Member, Store};
use raft::eraftpb::{ConfState, HardState};

use super::{Replica, Settings, SnapshotProgress, conf_state_from_disk};
use crate::consensus::Consensus;
use crate::data_dir::{DataDir, Found, Identity, OpenError, Paths};
use crate::disk::Disk;
use crate::entry::{CONF_CHANGE, to_consensus};
use crate::entry_log::EntryLog;
use crate::snapshot_files;
use crate::wal::{self, Metadata, Options, Replay, TornTail, Wal};

/// What a new member begins with. A member that has a log ignores it, as in etcd.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub name: String,
    pub peer_urls: Vec<String>,
    pub cluster_token: String,
}

impl Replica {
    /// Opens the member in `paths`, or makes a new one, for which `bootstrap` is asked. `engine` must be empty. Also returns what a crash had left at the
    /// end of the log, if it was cut off.
    ///
    /// # Errors
    /// [`OpenError`]; the directory is as it was.
    pub fn open(
        settings: Settings,
        disk: Arc<dyn Disk>,
        paths: Paths,
        bootstrap: impl FnOnce() -> Result<Bootstrap, String>,
        engine: Arc<dyn Engine>,
    ) -> Result<(Self, Option<TornTail>), OpenError> {
        let data = DataDir::open(disk, paths)?;
        let found = data.inspect(settings.engine)?;
        data.disk.create_dir_all(&data.paths.snap())?;
        match found {
            Found::Empty => {
                let bootstrap = bootstrap().map_err(OpenError::Bootstrap)?;
                create(&data, &bootstrap, settings.log)?;
                Self::restart(settings, data, None, engine)
            }
            Found::Member(identity) => Self::restart(settings, data, identity, engine),
        }
    }

    fn restart(
        settings: Settings,
        data: DataDir,
        identity: Option<Identity>,
        engine: Arc<dyn Engine>,
    ) -> Result<(Self, Option<TornTail>), OpenError> {
        let (disk, wal_dir, snap_dir) = (data.disk.clone(), data.paths.wal(), data.paths.snap());
        let named = wal::snapshots(disk.as_ref(), &wal_dir)?;
        let snapshot = snapshot_files::newest(disk.as_ref(), &snap_dir, &named)?;
        let start = snapshot.as_ref().map(|found| found.applied).unwrap_or_default();
        let (wal, replay) = Wal::open_with(settings.log, disk.clone(), &wal_dir, (start.index, start.term))?;
        let Metadata { node_id: id, cluster_id } = replay.metadata;
        match identity {
            Some(identity) => data.check_owner(&identity, id, cluster_id)?,
            None => data.write_identity(&Identity::new(settings.engine, id, cluster_id))?,
        }
        let mut conf_state = ConfState::default();
        if let Some(found) = &snapshot {
            snapshot_files::load(disk.as_ref(), &snap_dir, found.applied, &engine)?;
            snapshot_files::purge(disk.as_ref(), &snap_dir, found.applied).map_err(OpenError::from)?;
            conf_state = conf_state_from_disk(&found.conf_state);
        }
        let store = Store::open(engine).map_err(|error| OpenError::Replay(error.to_string()))?;
        let cut = replay.cut.clone();
        let log_bytes = replay.entries.iter().map(|entry| entry.data.len() as u64).sum();
        let consensus = open_consensus(&settings, id, &conf_state, start, replay)?;
        let snapshot = SnapshotProgress { running: false, log_bytes };
        let replica =
            Self { settings, data, id, cluster_id, consensus, wal, store, conf_state, snapshot, physical: Vec::new() };
        Ok((replica, cut))
    }
}

fn open_consensus(
    settings: &Settings,
    id: u64,
    conf_state: &ConfState,
    start: Applied,
    replay: Replay,
) -> Result<Consensus, OpenError> {
    let disk_state = &replay.hard_state;
    let hard_state = HardState {
        term: disk_state.term().max(start.term),
        vote: disk_state.vote(),
        commit: disk_state.commit().max(start.index),
        ..HardState::default()
    };
    let mut log = EntryLog::new(hard_state, conf_state.clone(), (start.index, start.term));
    let entries = replay.entries.into_iter().map(to_consensus).collect::<Result<Vec<_>, _>>()?;
    log.append(&entries);
    Consensus::new(id, settings.timing, log, start.index).map_err(|error| OpenError::Replay(error.to_string()))
}

/// Makes the log of a new cluster of one. Its first entry adds the member, committed at term 1, as etcd writes it.
fn create(data: &DataDir, bootstrap: &Bootstrap, options: Options) -> Result<(), OpenError> {
    let id = crate::identity::member_id(&bootstrap.peer_urls, &bootstrap.cluster_token);
    let cluster_id = crate::identity::cluster_id(&[id]);
    let member =
        Member { id, name: bootstrap.name.clone(), peer_urls: bootstrap.peer_urls.clone(), ..Member::default() };
    let context = serde_json::to_vec(&member).map_err(|error| OpenError::Replay(error.to_string()))?;
    let change = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
        node_id: Some(id),
        context: Some(context.into()),
        ..raftpb::ConfChange::default()
    };
    let entry = wal::Entry { kind: CONF_CHANGE, term: 1, index: 1, data: change.encode_to_vec().into() };
    let hard_state = raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(1) };
    let metadata = Metadata { node_id: id, cluster_id };
    Wal::bootstrap(options, data.disk.clone(), &data.paths.wal(), metadata, (hard_state, vec![entry]))?;
    Ok(())
}
