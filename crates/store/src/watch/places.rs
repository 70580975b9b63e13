//! The lists of watchers. Each watcher is on exactly one list at any time, and [`Watcher::place`] says which; all moves
//! between lists are here.
//!
//! ```text
//!   created ─▶ Ready ──────────▶ Synced    it has got everything: it is served live
//!               │ ▲ ▲              │ │
//!               ▼ │ └──────────────┘ │     revisions were lost
//!             Parked ◀───────────────┘     its stream is full
//! ```

use metastore_mutants::{Mutant, mutant};

use super::Hub;
#[cfg(doc)]
use super::hub::Watcher;

/// The list that holds a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The synced list of its group, at this position.
    Synced(u32),
    /// The watchers that read history.
    Ready,
    /// The parked list of its stream, until the queue has room.
    Parked,
}

impl Hub {
    /// Lists an unsynced watcher that is on no list: as synced if its cursor is after `horizon`, otherwise as ready.
    pub(super) fn settle(&mut self, watcher: u32, horizon: i64) {
        let state = &mut self.watchers[watcher as usize];
        if state.next <= horizon {
            state.place = Place::Ready;
            self.ready.insert((state.next, watcher));
            return;
        }
        let synced = &mut self.matcher.group_mut(state.group).synced;
        state.place = Place::Synced(synced.len() as u32);
        synced.push(watcher);
        self.streams[state.stream as usize].unsynced -= 1;
    }

    /// Lists an unsynced watcher that is on no list as parked on its stream.
    pub(super) fn park(&mut self, watcher: u32) {
        let state = &mut self.watchers[watcher as usize];
        state.place = Place::Parked;
        self.streams[state.stream as usize].parked.insert((state.next, watcher));
    }

    /// Makes parked watchers ready again, those with the smallest cursor first, and at most as many as the queue may
    /// have room for. On a stream of many watchers, the others would only be listed, found to have no room, and parked
    /// again. A parked watcher has events to get, so its turn ends with a response; when that is taken, the next
    /// watchers continue.
    pub(super) fn unpark(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        if stream.parked.is_empty() || !stream.has_drained(&self.limits) {
            return;
        }
        for _ in 0..self.limits.queue_responses.max(1) {
            let Some((next, watcher)) = stream.parked.pop_first() else { break };
            self.watchers[watcher as usize].place = Place::Ready;
            self.ready.insert((next, watcher));
        }
    }

    /// Makes every watcher unsynced, with its cursor after the last revision that it may have got live.
    pub(super) fn turn_to_history(&mut self) {
        for (watcher, state) in &mut self.watchers {
            if let Place::Synced(_) = state.place {
                let mut after = self.tail + 1;
                if mutant(Mutant::WatchRepeats) {
                    after = self.tail;
                }
                state.next = state.next.max(after);
                state.place = Place::Ready;
                self.ready.insert((state.next, watcher as u32));
                self.matcher.group_mut(state.group).synced.clear();
                self.streams[state.stream as usize].unsynced += 1;
            }
        }
    }

    /// Takes a watcher off its list. Then it is unsynced, and must be listed again or removed.
    pub(super) fn unlist(&mut self, watcher: u32) {
        let state = &self.watchers[watcher as usize];
        match state.place {
            Place::Ready => _ = self.ready.remove(&(state.next, watcher)),
            Place::Parked => _ = self.streams[state.stream as usize].parked.remove(&(state.next, watcher)),
            Place::Synced(at) => {
                let group = state.group;
                let mut synced = std::mem::take(&mut self.matcher.group_mut(group).synced);
                self.displace(&mut synced, at as usize);
                self.matcher.group_mut(group).synced = synced;
            }
        }
    }

    /// Takes a watcher off the synced list of its group, so that it is unsynced.
    pub(super) fn displace(&mut self, synced: &mut Vec<u32>, at: usize) {
        let watcher = synced.swap_remove(at);
        if let Some(moved) = synced.get(at) {
            self.watchers[*moved as usize].place = Place::Synced(at as u32);
        }
        let stream = self.watchers[watcher as usize].stream;
        self.streams[stream as usize].unsynced += 1;
    }
}
