//! Live delivery of newly published revisions.

use std::sync::Arc;

use super::{Events, Hub, Response, RevisionEvents};

impl Hub {
    /// Delivers a revision to the synced watchers that want it. Revisions come in order. A revision that was published
    /// before is ignored; if a revision is missing, all watchers turn to history. A hub without watchers need not be
    /// called.
    pub fn publish(&mut self, published: &Arc<RevisionEvents>) {
        let revision = published.revision;
        if revision <= self.tail {
            return;
        }
        if revision > self.tail + 1 {
            self.turn_to_history();
        }
        let touched = self.match_changes(published);
        for group in touched {
            let hits = std::mem::take(&mut self.matcher.group_mut(group).hits);
            self.deliver(group, published, &hits);
        }
        self.tail = revision;
        self.answer_progress();
    }

    /// The mailbox overflowed: revisions up to the source's current one may never come here. All watchers turn to
    /// history.
    pub fn lost(&mut self) {
        self.turn_to_history();
        self.tail = self.tail.max(self.source.current_revision());
        self.answer_progress();
    }

    /// Records in each group with synced watchers the changes that it wants; returns these groups, each once.
    fn match_changes(&mut self, published: &RevisionEvents) -> Vec<u32> {
        let (mut touched, mut found) = (Vec::new(), Vec::new());
        for (at, change) in published.changes.iter().enumerate() {
            found.clear();
            self.matcher.matching(change.key(), &mut found);
            for &id in &found {
                let group = self.matcher.group_mut(id);
                if group.synced.is_empty() || !group.wishes.admit(change.version.tombstone) {
                    continue;
                }
                if group.hits.is_empty() {
                    touched.push(id);
                }
                group.hits.push(at as u32);
            }
        }
        touched
    }

    /// Queues the changes at `hits` for every synced watcher of a group. A watcher whose stream is full becomes
    /// unsynced, with its cursor at this revision.
    fn deliver(&mut self, group: u32, published: &RevisionEvents, hits: &[u32]) {
        let revision = published.revision;
        let wishes = self.matcher.group(group).wishes;
        let mut synced = std::mem::take(&mut self.matcher.group_mut(group).synced);
        let mut events = None;
        let mut at = 0;
        while let Some(&watcher) = synced.get(at) {
            let state = &mut self.watchers[watcher as usize];
            if state.next > revision {
                at += 1;
                continue;
            }
            let stream = &mut self.streams[state.stream as usize];
            if stream.has_room(&self.limits) {
                let changes = || hits.iter().map(|hit| wishes.apply(&published.changes[*hit as usize])).collect();
                let events = events.get_or_insert_with(|| Events::new(changes())).clone();
                state.quiet = false;
                self.events += events.count() as u64;
                let (slot, watch_id, may_fragment) = (state.stream, state.id, state.fragment);
                self.push(
                    slot,
                    Response { watch_id, revision, events: Some(events), may_fragment, ..Response::default() },
                );
                at += 1;
                continue;
            }
            state.next = revision;
            self.displace(&mut synced, at);
            self.park(watcher);
        }
        self.matcher.group_mut(group).synced = synced;
    }
}
