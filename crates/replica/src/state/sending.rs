//! The state for a follower that lacks entries which the log has no more.

use metastore_engine::EngineError;
use metastore_proto::raftpb;
use metastore_store::Store;
use metastore_store::mvcc::View;
use metastore_store::snapshot::{SnapshotError, Source};

use super::{Medium, conf_state};

/// A state that is to be sent: taken on the engine thread at once, opened and written on another.
///
/// On Memory it is the state of the moment in which it was taken. It holds nothing back, but as long as it lives, what
/// compactions drop of it stays in memory: that is what sending to a slow follower costs. Only the small tables are
/// copied. An engine on disk is frozen by [`StateToSend::open`].
pub struct StateToSend(From);

enum From {
    Taken(Source),
    ToBeFrozen(View),
}

impl StateToSend {
    pub(crate) fn take(medium: Medium, store: &Store) -> Result<Self, EngineError> {
        Ok(Self(match medium {
            Medium::Memory => From::Taken(store.snapshot()?),
            Medium::Disk => From::ToBeFrozen(store.view().clone()),
        }))
    }

    /// The state, and `message`, which asked for it, with the state's own position and members: as in etcd these may be newer
    /// than what consensus had in mind. Waits for the medium.
    ///
    /// # Errors
    /// If the medium failed, or the state does not say who votes in it.
    pub fn open(self, mut message: raftpb::Message) -> Result<(raftpb::Message, Source), SnapshotError> {
        let source = match self.0 {
            From::Taken(source) => source,
            From::ToBeFrozen(view) => view.freeze()?,
        };
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
