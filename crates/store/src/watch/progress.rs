//! Progress: telling clients up to which revision they have got everything, while nothing that they watch changes.

use metastore_mutants::{Mutant, mutant};

use super::hub::Watcher;
use super::queue::Stream;
use super::{Hub, INVALID_WATCH_ID, Response, StreamId};

impl Hub {
    /// Answers a client's progress request by one response for the whole stream. The response comes after all events up
    /// to the revision that it names, and names no less than the revision that is current now. The request is dropped
    /// without an answer, as in etcd, if a watcher of the stream is unsynced or begins in the future, or if there is no
    /// watcher; clients ask again.
    ///
    /// The store may be ahead of the revisions that were published here; then the answer waits for them. Several
    /// waiting requests of a stream get one answer.
    pub fn progress(&mut self, id: StreamId) {
        let Some(stream) = self.stream(id) else { return };
        if stream.progress_from.is_none() {
            self.answer_or_wait(id.slot, self.revision());
        }
    }

    /// Answers the progress requests that waited for revisions which are published now. It looks at no other requests:
    /// the cost must not grow with the number of waiting streams.
    pub(super) fn answer_progress(&mut self) {
        while let Some(&(from, slot)) = self.progress_waiting.first()
            && from <= self.tail
        {
            self.progress_waiting.pop_first();
            self.answer_or_wait(slot, from);
        }
    }

    /// Answers a progress request, if everything up to `from`, and up to the greatest revision that the stream has
    /// named, is published here. Otherwise the request waits.
    fn answer_or_wait(&mut self, slot: u32, from: i64) {
        let stream = &mut self.streams[slot as usize];
        let from = from.max(stream.named_revision);
        let mut published = self.tail;
        if mutant(Mutant::ProgressAhead) {
            published = from;
        }
        if from > published {
            stream.progress_from = Some(from);
            self.progress_waiting.insert((from, slot));
            return;
        }
        stream.progress_from = None;
        if self.all_synced(&self.streams[slot as usize]) {
            let (watch_id, revision) = (INVALID_WATCH_ID, self.tail.max(from));
            self.push(slot, Response { watch_id, revision, ..Response::default() });
        }
    }

    fn all_synced(&self, stream: &Stream) -> bool {
        let begun = stream.future.last().is_none_or(|(start, _)| *start <= self.tail);
        stream.unsynced == 0 && !stream.watchers.is_empty() && begun
    }

    /// Notifies the quiet watchers of streams whose progress interval is over at `now_ms`: the watchers that asked for
    /// it, are synced, and got no events in the interval.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some(&(deadline_ms, slot)) = self.deadlines.first()
            && deadline_ms <= now_ms
        {
            self.deadlines.remove(&(deadline_ms, slot));
            self.schedule_progress(slot, now_ms);
            if self.streams[slot as usize].progress_watchers > 0 {
                self.notify_quiet(slot);
            }
        }
    }

    /// The time at which `tick` has something to do, in milliseconds of its clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Begins a progress interval. Up to a tenth of it is added, differently for each stream: clients that connect at
    /// the same time should not be notified at the same time.
    pub(super) fn schedule_progress(&mut self, slot: u32, now_ms: u64) {
        let stream = &mut self.streams[slot as usize];
        let spread = u64::from(stream.generation).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let interval_ms = self.limits.progress_interval_ms;
        stream.progress_deadline_ms = now_ms + interval_ms + spread % (interval_ms / 10);
        self.deadlines.insert((stream.progress_deadline_ms, slot));
    }

    fn notify_quiet(&mut self, slot: u32) {
        let revision = self.tail;
        if self.streams[slot as usize].named_revision > revision {
            return;
        }
        // A synced watcher whose cursor is after the next revision begins in the future.
        let due = |w: &Watcher| w.quiet && w.is_synced() && w.next <= revision + 1 && w.start <= revision;
        let watchers: Vec<u32> = self.streams[slot as usize].watchers.values().copied().collect();
        for watcher in watchers {
            let state = &mut self.watchers[watcher as usize];
            if !state.progress_notify {
                continue;
            }
            let (watch_id, is_due) = (state.id, due(state));
            state.quiet = true;
            if is_due && self.streams[slot as usize].has_room(&self.limits) {
                self.push(slot, Response { watch_id, revision, ..Response::default() });
            }
        }
    }
}

impl Watcher {
    fn is_synced(&self) -> bool {
        matches!(self.place, super::places::Place::Synced(_))
    }
}
