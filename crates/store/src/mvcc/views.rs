//! Where a member's state is to be found, though another one may take its place.

use std::sync::Arc;

use metastore_engine::{EngineError, Revision, Row, Version};
use parking_lot::RwLock;

use super::View;
use crate::watch::HistorySource;

/// The state that a member has now, for readers on any thread; cheap to clone.
///
/// A follower that fell behind is given a whole state, which takes the place of the one it had. A reader asks for the [`View`]
/// once and reads to its end from that, so that it never sees two states in one answer. The old state goes with the last view
/// of it; pins, the compacted revision and the hashes of compactions belong to the view, because they are about that state.
#[derive(Clone)]
pub struct Views(Arc<RwLock<View>>);

impl Views {
    pub(crate) fn new(view: View) -> Self {
        Self(Arc::new(RwLock::new(view)))
    }

    /// What to read from, from now to the end of a read.
    pub fn now(&self) -> View {
        self.0.read().clone()
    }

    pub(crate) fn set(&self, view: View) {
        // What is dropped here is a handle; the state itself may be large, and goes where its last reader goes.
        let _old = std::mem::replace(&mut *self.0.write(), view);
    }
}

/// What watchers read. Each call reads from the state that is there by then: all of them are moments of one history, the later
/// one compacted no less than the earlier one, so a reader that goes on in another state sees what it would have seen.
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
