//! Followers that are sent a whole state, and the log entries after that state.
//!
//! A state takes time: it is read, sent, loaded and installed, while the leader goes on writing. If the leader
//! compacted its log as usual, a busy leader would have dropped the entries after the state before the follower has
//! installed it. It would then send another state, and so on for ever. So the leader holds the entries that such a
//! follower needs next, from the moment in which consensus wants to send it a state. It holds them until the follower
//! has acknowledged the whole log, uncommitted entries included: they may all be committed at once. Entries are not
//! held for a follower that has fallen silent, and never beyond a bound ([`Retention`](crate::entry_log::Retention)).

use std::collections::BTreeMap;

use raft::{ProgressState, ProgressTracker};

/// A follower that is silent for so many election timeouts is no longer waited for. With etcd's default timeout of 1 s
/// that is 30 s. etcd keeps the log after a state for the same time.
const SILENT_ELECTIONS: usize = 30;

/// The followers for which entries are held.
#[derive(Debug, Default)]
pub struct CatchingUp {
    /// The tick in which each follower was last heard from.
    heard: BTreeMap<u64, u64>,
    ticks: u64,
}

impl CatchingUp {
    /// Notes that consensus wants to send a state to a follower.
    pub fn begins(&mut self, follower: u64) {
        self.heard.insert(follower, self.ticks);
    }

    /// Notes that a message of a member has been taken. A follower that holds the whole log, up to `last`, is in step,
    /// and no entries are held for it any more.
    pub fn hear(&mut self, member: u64, followers: &ProgressTracker, last: u64) {
        let Some(heard) = self.heard.get_mut(&member) else { return };
        *heard = self.ticks;
        let follower = followers.get(member);
        if follower.is_some_and(|follower| follower.state == ProgressState::Replicate && follower.matched >= last) {
            self.heard.remove(&member);
        }
    }

    pub fn tick(&mut self, election_ticks: usize) {
        self.ticks += 1;
        let longest = (SILENT_ELECTIONS * election_ticks) as u64;
        self.heard.retain(|_, heard| self.ticks - *heard <= longest);
    }

    /// Forgets all followers: this member no longer leads.
    pub fn clear(&mut self) {
        self.heard.clear();
    }

    /// The first entry that must be held, if any. Entries before `first` are already gone.
    pub fn needed(&mut self, followers: &ProgressTracker, first: u64) -> Option<u64> {
        let mut needed = None;
        self.heard.retain(|id, _| {
            let Some(progress) = followers.get(*id) else { return false };
            let next = match progress.state {
                ProgressState::Snapshot => progress.pending_snapshot + 1,
                ProgressState::Probe => progress.next_idx,
                ProgressState::Replicate => progress.matched + 1,
            };
            // A follower whose next entries are gone will be sent another state.
            if next >= first {
                needed = Some(needed.map_or(next, |needed: u64| needed.min(next)));
            }
            true
        });
        needed
    }
}
