//! The replay of entries that were in the log at the start. Besides being applied, they repeat two effects, so that the
//! member reaches the same state as before:
//!
//! - The high-water mark is lowered where it was lowered before ([`Replica::lower_mark`]).
//! - A compaction is completed at once. No reader exists yet, and the log may hold many compactions. If old versions
//!   were dropped only after the last of them, the replay would need the memory of a state that never existed, and
//!   report its size.

use super::{Fatal, Output, Replica};
use crate::state::MarkJob;

/// Facts about the replayed entries, as the start found them.
pub(super) struct ReplayedLog {
    /// The last entry that was in the log.
    pub(super) last: u64,
    /// The last entry after which the high-water mark was lowered; 0 if none is known.
    pub(super) lowered: u64,
}

impl Replica {
    /// Lowers the high-water mark of the state's size to the size in use. To be called when the medium has given space
    /// back. The returned job makes that durable, on another thread.
    ///
    /// # Errors
    /// [`Fatal`] if the medium fails.
    pub fn lower_mark(&mut self) -> Result<MarkJob, Fatal> {
        self.unless_failed(|member| {
            member.lower();
            member.snapshot.wanted = member.snapshot.shortage.is_some();
            member.engine.publish(member.engine.published())?;
            Ok(member.medium.mark_job(&member.data, &member.engine))
        })
    }

    fn lower(&self) {
        self.engine.set_mark(self.engine.mark().lowered(self.engine.usage()));
    }

    /// Lowers the high-water mark if it was lowered after this entry, up to which the state is now.
    pub(super) fn lower_as_before(&self, index: u64) {
        if index == self.replayed.lowered {
            self.lower();
        }
    }

    /// Repeats the effects of an entry that was applied.
    pub(super) fn repeat_effects(&mut self, index: u64, output: &mut Output) -> Result<(), Fatal> {
        if index <= self.replayed.last && self.store.compacting() {
            // Everything must be published before versions are dropped.
            output.events.extend(self.store.publish()?);
            while self.store.compact_step()? {}
        }
        self.lower_as_before(index);
        Ok(())
    }
}
