//! Followers that are sent a whole state, and the entries behind it.
//!
//! A state takes its time: it is read, sent, loaded and installed, and the leader goes on meanwhile. Were the leader to
//! forget entries as usual, a busy one would have forgotten those behind the state by the time it is installed, and
//! would send the next state, for ever. So from the moment in which consensus wants a state for a follower, the entries
//! that the follower needs next are held, until the follower is as close to the end of the log as any follower may be
//! without a state. They are not held for a follower that has fallen silent, and never beyond a bound
//! ([`Retention`](crate::entry_log::Retention)).

use std::collections::BTreeMap;

use raft::{ProgressState, ProgressTracker};

/// A follower that says nothing for so many election timeouts is not waited for: 30 s, for which etcd keeps the log
/// behind a state.
const SILENT_ELECTIONS: usize = 30;

/// The followers that are waited for.
#[derive(Debug, Default)]
pub struct CatchingUp {
    /// The tick in which each was heard last.
    heard: BTreeMap<u64, u64>,
    ticks: u64,
}

impl CatchingUp {
    /// A state is wanted for a follower.
    pub fn begins(&mut self, follower: u64) {
        self.heard.insert(follower, self.ticks);
    }

    /// A member has said something.
    pub fn hear(&mut self, member: u64) {
        if let Some(heard) = self.heard.get_mut(&member) {
            *heard = self.ticks;
        }
    }

    pub fn tick(&mut self, election_ticks: usize) {
        self.ticks += 1;
        let longest = (SILENT_ELECTIONS * election_ticks) as u64;
        self.heard.retain(|_, heard| self.ticks - *heard <= longest);
    }

    /// This member does not lead any more.
    pub fn clear(&mut self) {
        self.heard.clear();
    }

    /// The first entry that must be held, if any must. A log that reaches back to `close` is enough for every other
    /// follower, and what lies before `first` is gone.
    pub fn needed(&mut self, followers: &ProgressTracker, first: u64, close: u64) -> Option<u64> {
        let mut needed = None;
        self.heard.retain(|id, _| {
            let Some(progress) = followers.get(*id) else { return false };
            let next = match progress.state {
                ProgressState::Snapshot => progress.pending_snapshot + 1,
                ProgressState::Probe => progress.next_idx,
                ProgressState::Replicate => progress.matched + 1,
            };
            if progress.state == ProgressState::Replicate && next >= close {
                return false;
            }
            // One whose entries are gone is sent another state.
            if next >= first {
                needed = Some(needed.map_or(next, |needed: u64| needed.min(next)));
            }
            true
        });
        needed
    }
}
