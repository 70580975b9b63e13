//! `--force-new-cluster`: a member whose cluster has lost its quorum for good goes on alone, with all that it has.
//!
//! ```text
//!   1 the hard state commits the whole log        a restart applies it
//!   2 entries are appended, committed, that       promote this member, if it is a learner,
//!                                                 and remove all others, one by one
//! ```
//!
//! etcd drops the entries that it does not know to be committed. Here they stay: the lost members may have
//! acknowledged them, and none of those can contradict any more. A crash between the steps does no harm, because the
//! next start with the flag does the rest. In a cluster of one there is nothing to do.

use std::sync::Arc;

use metastore_proto::Message;
use metastore_proto::raftpb::{self, ConfChangeType};
use metastore_store::promotion_json;

use super::Replica;
use super::convert::ConvertError;
use crate::data_dir::{DataDir, Found, OpenError, Paths};
use crate::disk::Disk;
use crate::entry::CONF_CHANGE;
use crate::settings::Settings;
use crate::state::OpenEngine;
use crate::wal::Entry;

/// Makes the member in `paths` the only one of its cluster. Returns the members that were removed; none if there is no
/// member yet, or it is alone.
///
/// # Errors
/// As a start; and if this member was removed from its cluster.
pub fn force_new_cluster(
    settings: Settings,
    disk: Arc<dyn Disk>,
    paths: Paths,
    open: OpenEngine,
) -> Result<Vec<u64>, ConvertError> {
    let restart = || -> Result<Option<Replica>, ConvertError> {
        let mut data = DataDir::open(disk.clone(), paths.clone())?;
        let Found::Member(Some(identity)) = data.inspect(settings.engine)? else { return Ok(None) };
        data.lock_log()?;
        Replica::restart_stopped(settings.clone(), data, identity, open.clone()).map(Some)
    };
    let Some(mut replica) = restart()? else { return Ok(Vec::new()) };
    let conf_state = &replica.conf_state;
    if conf_state.voters == [replica.id] && conf_state.learners.is_empty() {
        return Ok(Vec::new());
    }
    replica.commit(replica.wal.last_index(), Vec::new())?;
    // The directory is closed before it is opened again.
    drop(replica);
    let Some(mut replica) = restart()? else { return Ok(Vec::new()) };
    replica.remove_others()
}

impl Replica {
    /// Appends entries, and commits the log up to `index`, durably.
    fn commit(&mut self, index: u64, entries: Vec<Entry>) -> Result<(), ConvertError> {
        let hard_state = raftpb::HardState { commit: Some(index), ..self.wal.hard_state() };
        Ok(self.wal.append(Some(&hard_state), entries, true).map_err(OpenError::from)?)
    }

    fn remove_others(&mut self) -> Result<Vec<u64>, ConvertError> {
        let (id, conf_state) = (self.id, &self.conf_state);
        let is_learner = conf_state.learners.contains(&id);
        if !is_learner && !conf_state.voters.contains(&id) {
            let why = format!("member {id:x} was removed from its cluster: restore a backup instead");
            return Err(OpenError::refused(&self.data.paths.member(), why).into());
        }
        let all = conf_state.voters.iter().chain(&conf_state.learners);
        let others: Vec<u64> = all.copied().filter(|other| *other != id).collect();
        let promotion = is_learner.then(|| change(ConfChangeType::ConfChangeAddNode, id, Some(promotion_json(id))));
        let removals = others.iter().map(|other| change(ConfChangeType::ConfChangeRemoveNode, *other, None));
        let (term, last) = (self.wal.hard_state().term(), self.wal.last_index());
        let entry = |(index, change): (u64, raftpb::ConfChange)| Entry {
            kind: CONF_CHANGE,
            term,
            index,
            data: change.encode_to_vec().into(),
        };
        let entries: Vec<Entry> = (last + 1..).zip(promotion.into_iter().chain(removals)).map(entry).collect();
        self.commit(last + entries.len() as u64, entries)?;
        Ok(others)
    }
}

/// A change that no request waits for.
fn change(kind: ConfChangeType, id: u64, context: Option<Vec<u8>>) -> raftpb::ConfChange {
    raftpb::ConfChange { id: None, r#type: Some(kind as i32), node_id: Some(id), context: context.map(Into::into) }
}
