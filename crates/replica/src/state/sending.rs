//! The state for a follower that lacks entries which the log no longer holds.

use std::fmt;

use metastore_engine::EngineError;
use metastore_proto::raftpb;
use metastore_store::Store;
use metastore_store::mvcc::View;
use metastore_store::snapshot::{SnapshotError, Source};

use super::{Medium, conf_state};

/// A state that is to be sent. It is taken on the engine thread at once; opening and writing happen on another thread.
///
/// On Memory it is the state at the moment when it was taken. It holds nothing back, but as long as it lives, its old
/// versions stay in memory when compactions drop them: that is the cost of sending to a slow follower. Only the small
/// tables are copied. An engine on disk is frozen by [`StateToSend::open`].
pub struct StateToSend(From);

enum From {
    Taken(Source),
    ToBeFrozen(View),
}

impl fmt::Debug for StateToSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateToSend").finish_non_exhaustive()
    }
}

impl StateToSend {
    pub(crate) fn take(medium: Medium, store: &Store) -> Result<Self, EngineError> {
        Ok(Self(match medium {
            Medium::Memory => From::Taken(store.snapshot()?),
            Medium::Disk => From::ToBeFrozen(store.view().clone()),
        }))
    }

    /// Returns the state. Waits for the medium.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn freeze(self) -> Result<Source, EngineError> {
        match self.0 {
            From::Taken(source) => Ok(source),
            From::ToBeFrozen(view) => view.freeze(),
        }
    }

    /// Returns the state, and the `message` that asked for it, with the state's own position and members. As in etcd,
    /// these may be newer than those that consensus asked for. Waits for the medium.
    ///
    /// # Errors
    /// If the medium failed, or the state does not record its members.
    pub fn open(self, mut message: raftpb::Message) -> Result<(raftpb::Message, Source), SnapshotError> {
        let source = self.freeze()?;
        let conf_state = conf_state::stored(|table, key| source.row(table, key))?.map_err(SnapshotError::Damaged)?;
        let applied = source.applied();
        let metadata = raftpb::SnapshotMetadata {
            conf_state: Some(conf_state),
            index: Some(applied.index),
            term: Some(applied.term),
        };
        message.snapshot = Some(raftpb::Snapshot { data: None, metadata: Some(metadata) });
        Ok((message, source))
    }
}
