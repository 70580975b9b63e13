//! Entries that were in the log at the start: what is done besides applying them, so that the member comes to where it was.
//!
//! - The high-water mark falls where it fell ([`Replica::lower_mark`]).
//! - A compaction is done at once. Nobody reads yet, and the log may hold many: dropping old versions only after the last
//!   of them would need the memory, and show the size, of a state that never was.

use super::{Fatal, Output, Replica};
use crate::state::MarkJob;

/// What is known of the entries behind the state that the start found.
pub(super) struct Past {
    /// The last entry that was in the log.
    pub(super) last: u64,
    /// The entry behind which the mark fell last; 0 if that is not known.
    pub(super) lowered: u64,
}

impl Replica {
    /// Lets the high-water mark of the state's size fall to what is in use; to be called when the medium has given space
    /// back. The job makes that durable, on another thread.
    ///
    /// # Errors
    /// [`Fatal`] if the medium fails.
    pub fn lower_mark(&mut self) -> Result<MarkJob, Fatal> {
        self.unless_failed(|member| {
            member.lower();
            member.engine.publish(member.engine.published())?;
            Ok(member.medium.mark_job(&member.data, &member.engine))
        })
    }

    fn lower(&self) {
        self.engine.set_mark(self.engine.mark().lowered(self.engine.usage()));
    }

    /// Lets the mark fall if it fell behind this entry, up to which the state is now.
    pub(super) fn lower_as_before(&self, index: u64) {
        if index == self.past.lowered {
            self.lower();
        }
    }

    /// Goes on behind an entry that was applied.
    pub(super) fn relive(&mut self, index: u64, output: &mut Output) -> Result<(), Fatal> {
        if index <= self.past.last && self.store.compacting() {
            // Nothing may be unpublished while versions are dropped.
            output.events.extend(self.store.publish()?);
            while self.store.compact_step()? {}
        }
        self.lower_as_before(index);
        Ok(())
    }
}
