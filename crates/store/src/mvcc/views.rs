//! Access to a member's current state, which may be replaced by another one.

use std::sync::Arc;

use metastore_engine::{EngineError, Revision, Row, Version};
use parking_lot::RwLock;

use super::View;
use crate::watch::HistorySource;

/// The current state of a member, for readers on any thread; cheap to clone.
///
/// A follower that fell behind is sent a whole state, which replaces its own. A reader takes the [`View`] once and uses
/// it until its read is done, so it never sees two states in one answer. The old state is freed with its last view.
/// Pins, the compacted revision and the hashes of compactions belong to the view, because they are about that state.
#[derive(Clone)]
pub struct Views(Arc<RwLock<View>>);

impl Views {
    pub(crate) fn new(view: View) -> Self {
        Self(Arc::new(RwLock::new(view)))
    }

    /// The view for one read, from its beginning to its end.
    pub fn now(&self) -> View {
        self.0.read().clone()
    }

    pub(crate) fn set(&self, view: View) {
        // Only a handle is dropped here. The state itself may be large; it is freed where its last reader ends.
        let _old = std::mem::replace(&mut *self.0.write(), view);
    }
}

/// The history that watchers read. Each call reads the state that is current at that moment. All states are moments of
/// one history, and a later one is compacted at least as far as an earlier one. So a reader that continues in another
/// state sees the same history.
impl HistorySource for Views {
    fn current_revision(&self) -> i64 {
        self.0.read().revision()
    }

    fn compact_revision(&self) -> i64 {
        self.0.read().compact_revision()
    }

    fn history(
        &self,
        from: Revision,
        to: i64,
        limit: usize,
        rows: &mut Vec<Version>,
    ) -> Result<Option<Revision>, EngineError> {
        HistorySource::history(&self.now(), from, to, limit, rows)
    }

    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Row>, EngineError> {
        self.now().value_at(key, main)
    }
}
