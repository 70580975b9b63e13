//! Starting a member: a new one, or an existing one with its state and log.

use std::sync::Arc;

use metastore_store::Store;
use raft::eraftpb::HardState;

use super::bootstrap::Bootstrap;
use super::passed_over::{PassedOver, flag};
use super::replay::ReplayedLog;
use super::{Replica, SnapshotProgress};
use crate::consensus::Consensus;
use crate::data_dir::{DataDir, Found, Identity, OpenError, Paths};
use crate::disk::Disk;
use crate::entry::{EntryId, passed_over, to_consensus};
use crate::entry_log::{EntryLog, Retention};
use crate::settings::Settings;
use crate::state::{Medium, Named, OpenEngine, Start, StateReceiver};
use crate::wal::{self, Keep, Metadata, Replay, TornTail, Wal};

impl Replica {
    /// Opens the member in `paths`, or makes a new one, for which `bootstrap` is called. `engine` opens the storage
    /// engine in a directory. Only an engine that outlives the process uses the directory; it makes an empty state if
    /// the directory does not exist. `engine` is called again for every state that another member sends. Also returns
    /// the torn tail of the log, if one was cut off.
    ///
    /// # Errors
    /// [`OpenError`]; every file of the member is as it was.
    pub fn open(
        settings: Settings,
        disk: Arc<dyn Disk>,
        paths: Paths,
        bootstrap: impl FnOnce() -> Result<Bootstrap, String>,
        engine: OpenEngine,
    ) -> Result<(Self, Option<TornTail>), OpenError> {
        let mut data = DataDir::open(disk, paths)?;
        let found = data.inspect(settings.engine)?;
        if let Found::Member(Some(identity)) = found {
            data.lock_log()?;
            return Self::restart(settings, data, (identity, true), engine);
        }
        // Without an identity this is the first start, or the first start was interrupted before it wrote one.
        let plan = bootstrap().map_err(OpenError::Bootstrap)?.plan()?;
        let metadata = plan.metadata;
        data.lock_log()?;
        if let Found::Empty = found {
            plan.create(&data, settings.log)?;
        }
        let identity = Identity::new(settings.engine, metadata.node_id, metadata.cluster_id);
        Self::restart(settings, data, (identity, false), engine)
    }

    /// Starts the member that `identity` names; the flag says whether the identity is on disk already.
    pub(crate) fn restart(
        settings: Settings,
        mut data: DataDir,
        (mut identity, recorded): (Identity, bool),
        open: OpenEngine,
    ) -> Result<(Self, Option<TornTail>), OpenError> {
        let (disk, wal_dir, snap_dir) = (data.disk.clone(), data.paths.wal(), data.paths.snap());
        let (Metadata { node_id: id, cluster_id }, named) = wal::owner_and_snapshots(disk.as_ref(), &wal_dir)?;
        data.check_owner(&identity, recorded, id, cluster_id)?;
        let medium = Medium::of(settings.engine);
        let named = Named::newest(&named);
        data.find_state(&identity);
        let mut cut = None;
        if medium.has_to_adopt(&data, &named)? {
            // After a kill, the record that names the state may exist only in the page cache. If the power were lost
            // after the adoption, the log would not reach the state.
            let at = (named.applied.index, named.applied.term);
            let (log, replay) = Wal::read(settings.log, disk.clone(), &wal_dir, at, Keep::ALL)?;
            log.open()?;
            cut = replay.cut;
            medium.finish_adoption(&data, &named)?;
        }
        let engine = medium.open_engine(&mut data, named.applied, &open)?;
        let start = medium.find(&data, named.applied, engine.as_ref())?;
        if !recorded && start.applied.index > 0 {
            let why = "the file is missing, but there is state; restore it from a copy, or remove the data directory \
                to start afresh";
            return Err(OpenError::refused(&data.identity_path(), why));
        }
        let Retention { entries, more_entries, bytes, .. } = settings.keep;
        let keep = Keep { applied: start.applied.index, entries: entries.saturating_add(more_entries), bytes };
        let (log, replay) = Wal::read(settings.log, disk.clone(), &wal_dir, (start.log.index, start.log.term), keep)?;
        medium.take_up(&data, &start, &replay, &engine)?;
        let passed_over = PassedOver::load(&data, settings.skip_entry)?;
        let store = open_store(&engine, &settings)?;
        let (cut, log_bytes) = (cut.or_else(|| replay.cut.clone()), replay.log_bytes);
        let replayed = ReplayedLog { last: replay.last_index(), lowered: start.lowered };
        let consensus = open_consensus(&settings, id, &start, (replay, &passed_over))
            .map_err(|why| OpenError::refused(&wal_dir, format!("the log cannot be replayed: {why}")))?;
        // The start can no longer be refused, so the disk may be changed.
        let wal = log.open()?;
        // The name of the identity file may exist only in the page cache, as the log did.
        disk.sync_dir(&data.paths.member())?;
        disk.create_dir_all(&snap_dir)?;
        if identity.name_directory(settings.new_directory) || !recorded {
            data.write_identity(&identity)?;
        }
        if recorded && !data.is_at_home(&identity) {
            data.move_state(data.engine.clone())?;
        }
        medium.clear_others(&data)?;
        medium.clear_received(&data)?;
        medium.clear(&data, start.log)?;
        let receiver = StateReceiver::new(id, &data, medium, open, store.views().clone());
        let (failed, conf_state) = (None, start.conf_state);
        let replica = Self {
            settings,
            data,
            medium,
            id,
            cluster_id,
            directory: identity.directory(),
            consensus,
            wal,
            engine,
            store,
            conf_state,
            outbox: Box::new(()),
            observer: Box::new(()),
            receiver,
            received: None,
            snapshot: SnapshotProgress { log_bytes, named: start.log, ..SnapshotProgress::default() },
            replayed,
            passed_over,
            failed,
        };
        replica.lower_as_before(start.applied.index);
        Ok((replica, cut))
    }
}

fn open_store(engine: &Arc<dyn metastore_engine::Engine>, settings: &Settings) -> Result<Store, OpenError> {
    let mut store = Store::open(engine.clone()).map_err(|error| OpenError::Replay(error.to_string()))?;
    store.set_minimum_ttl_s(settings.minimum_lease_ttl_s);
    Ok(store)
}

fn open_consensus(
    settings: &Settings,
    id: u64,
    start: &Start,
    (replay, passes_over): (Replay, &PassedOver),
) -> Result<Consensus, String> {
    let (disk_state, applied) = (&replay.hard_state, start.applied);
    let hard_state = HardState {
        term: disk_state.term().max(applied.term),
        vote: disk_state.vote(),
        commit: disk_state.commit().max(applied.index),
        ..HardState::default()
    };
    let mut log = EntryLog::new(hard_state, start.conf_state.clone(), replay.before);
    let converted = |entry: wal::Entry| {
        let id = EntryId { index: entry.index, term: entry.term };
        let converted = if passes_over.names(id) { passed_over(entry) } else { to_consensus(entry) };
        converted.map_err(|error| format!("{error}. {}", flag(id)))
    };
    log.append(&replay.entries.into_iter().map(converted).collect::<Result<Vec<_>, _>>()?);
    Consensus::new(id, settings.timing, settings.portions, log, applied.index).map_err(|error| error.to_string())
}
