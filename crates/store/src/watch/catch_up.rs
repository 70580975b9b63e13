//! Delivery from history to unsynced watchers.

use std::collections::BTreeMap;

use metastore_engine::{Result, Revision, STEP, Version};
use metastore_mutants::{Mutant, mutant};

use super::{Change, Events, Hub, Response};
use crate::mvcc::row::{KeyValue, key_of};

/// The smallest number of rows that one read of history asks for, however large the rows were so far.
const MIN_READ_ROWS: usize = 16;

/// Up to this many groups are compared with each row one by one; more groups are found through the index of all groups.
const FEW_GROUPS: usize = 8;

/// A chunk: a piece of history that is read from revision `from` on.
#[derive(Debug)]
pub(super) struct Chunk {
    from: i64,
    /// The current revision at the beginning of the read; nothing after it is read.
    to: i64,
    rows: Vec<Version>,
    /// The revision at which the read continues; `None` if everything up to `to` was read.
    next: Option<Revision>,
    /// The first step ended before the end of the first revision.
    oversized: bool,
}

impl Chunk {
    fn new(from: i64, to: i64) -> Self {
        Self { from, to, rows: Vec::new(), next: Some(Revision::new(from, 0)), oversized: false }
    }

    /// The last revision that was read completely. An oversized revision is delivered alone, so that no response holds
    /// more revisions than one step can read.
    fn through(&self) -> i64 {
        match self.next {
            Some(next) if self.oversized => self.from.min(next.main - 1),
            None if self.oversized => self.from,
            Some(next) => next.main - 1,
            None => self.to,
        }
    }
}

/// The matched rows of a chunk.
struct Matched {
    changes: Vec<Change>,
    through: i64,
}

impl Hub {
    /// Serves unsynced watchers by one bounded step over history. Returns whether there is more to do now. If not,
    /// there may be more to do after the next call of any other method.
    ///
    /// # Errors
    /// The storage engine failed; the member must stop.
    pub fn catch_up(&mut self) -> Result<bool> {
        self.cancel_compacted();
        let Some(mut chunk) = self.resume_chunk().or_else(|| self.begin_chunk()) else { return Ok(false) };
        self.read(&mut chunk)?;
        if self.source.compact_revision() > chunk.from {
            // A compaction may have dropped rows between two reads. Watchers whose cursor is not compacted read again.
            self.cancel_compacted();
            return Ok(!self.ready.is_empty());
        }
        if chunk.through() < chunk.from {
            chunk.oversized = true;
            self.chunk = Some(chunk);
            return Ok(true);
        }
        let served = self.serve(&chunk)?;
        Ok(served && !self.ready.is_empty())
    }

    /// Cancels the watchers whose cursor is below the compacted revision.
    fn cancel_compacted(&mut self) {
        let compact_revision = self.source.compact_revision();
        while let Some(&(next, watcher)) = self.ready.first()
            && next < compact_revision
        {
            let (slot, watch_id) = (self.watchers[watcher as usize].stream, self.watchers[watcher as usize].id);
            self.remove_watcher(watcher);
            self.push_compacted(slot, watch_id, compact_revision);
        }
    }

    /// The unfinished chunk, if any watcher still waits for it.
    fn resume_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.chunk.take()?;
        let waiting = self.ready.range((chunk.from, 0)..=(chunk.from, u32::MAX)).next().is_some();
        waiting.then_some(chunk)
    }

    /// A new chunk, from the cursor whose turn it is; `None` if no watcher needs anything that the source has.
    fn begin_chunk(&mut self) -> Option<Chunk> {
        let to = self.source.current_revision();
        let horizon = to.max(self.tail);
        // If revisions were lost, watchers that begin in the future are listed here too; they have nothing to read.
        while let Some(&(next, watcher)) = self.ready.last()
            && next > horizon
        {
            self.unlist(watcher);
            self.settle(watcher, horizon);
        }
        self.from_head = !self.from_head;
        let mut readable = self.ready.range(..=(to, u32::MAX));
        let &(from, _) = if self.from_head { readable.next_back() } else { readable.next() }?;
        Some(Chunk::new(from, to))
    }

    /// Continues the read, until the budget of a step is used or history ends.
    fn read(&self, chunk: &mut Chunk) -> Result<()> {
        let begin = chunk.rows.len();
        let mut bytes = 0;
        while let Some(next) = chunk.next {
            let rows = chunk.rows.len() - begin;
            if rows >= self.limits.chunk_rows || bytes >= self.limits.chunk_bytes {
                break;
            }
            // Later rows are assumed to be as large as the rows read so far.
            let fitting = (self.limits.chunk_bytes - bytes) * rows.max(1) / bytes.max(1);
            let limit = fitting.clamp(MIN_READ_ROWS, STEP).min(self.limits.chunk_rows - rows);
            chunk.next = self.source.history(next, chunk.to, limit, &mut chunk.rows)?;
            bytes += chunk.rows[begin + rows..].iter().map(|version| version.row.len()).sum::<usize>();
        }
        Ok(())
    }

    /// Delivers a chunk to the watchers whose cursors are in it. Returns whether any watcher was served.
    fn serve(&mut self, chunk: &Chunk) -> Result<bool> {
        let range = (chunk.from, 0)..=(chunk.through(), u32::MAX);
        let served: Vec<u32> =
            self.ready.range(range).take(self.limits.chunk_watchers).map(|(_, watcher)| *watcher).collect();
        let mut groups: Vec<u32> = served.iter().map(|watcher| self.watchers[*watcher as usize].group).collect();
        groups.sort_unstable();
        groups.dedup();
        let matched = self.match_rows(chunk, &groups);
        if let Ok(matched) = &matched {
            let mut built = BTreeMap::new();
            for &watcher in &served {
                self.serve_one(watcher, chunk, matched, &mut built);
            }
        }
        for group in groups {
            let group = self.matcher.group_mut(group);
            group.wanted = false;
            group.hits = Vec::new();
        }
        matched?;
        Ok(!served.is_empty())
    }

    /// Records in each of `groups` the rows that it wants, and reads the previous values that are wanted. Previous
    /// values count towards the bytes of a step. If they exceed them, the chunk ends early, at the end of a revision.
    fn match_rows(&mut self, chunk: &Chunk, groups: &[u32]) -> Result<Matched> {
        for &group in groups {
            self.matcher.group_mut(group).wanted = true;
        }
        let (mut changes, mut found) = (Vec::<Change>::new(), Vec::new());
        let mut previous_bytes = 0;
        let mut through = chunk.through();
        for version in chunk.rows.iter().take_while(|version| version.revision.main <= chunk.through()) {
            let main = version.revision.main;
            if previous_bytes >= self.limits.chunk_bytes
                && changes.last().is_some_and(|c| c.version.revision.main < main)
            {
                through = main - 1;
                break;
            }
            let key = key_of(&version.row);
            found.clear();
            if groups.len() <= FEW_GROUPS {
                self.matcher.matching_among(groups, key, &mut found);
            } else {
                self.matcher.matching(key, &mut found);
            }
            let mut wants_previous = false;
            for &id in &found {
                let group = self.matcher.group_mut(id);
                if group.wanted && group.wishes.admit(version.tombstone) {
                    group.hits.push(changes.len() as u32);
                    wants_previous |= group.wishes.prev_kv;
                }
            }
            // A key that this version creates has no previous value, even if the same transaction deleted it first.
            let begins = KeyValue::of(&version.row).create_revision == main;
            let previous = if wants_previous && !begins { self.source.value_at(key, main - 1)? } else { None };
            previous_bytes += previous.as_ref().map_or(0, |row| row.len());
            changes.push(Change { version: version.clone(), previous });
        }
        Ok(Matched { changes, through })
    }

    /// Delivers to one watcher the matched rows that it wants, and moves its cursor after them. Parks it if its stream
    /// has no room. `built` holds the events that were encoded for earlier watchers, by group and first change.
    fn serve_one(
        &mut self,
        watcher: u32,
        chunk: &Chunk,
        matched: &Matched,
        built: &mut BTreeMap<(u32, usize), Events>,
    ) {
        if self.watchers[watcher as usize].next > matched.through {
            return;
        }
        self.unlist(watcher);
        let state = &mut self.watchers[watcher as usize];
        let group = self.matcher.group(state.group);
        let change = |hit: &u32| &matched.changes[*hit as usize];
        let mut next = state.next;
        if mutant(Mutant::CatchUpSkipsFirst) {
            next += 1;
        }
        let first = group.hits.partition_point(|hit| change(hit).version.revision.main < next);
        let horizon = chunk.to.max(self.tail);
        if first < group.hits.len() {
            if !self.streams[state.stream as usize].has_room(&self.limits) {
                return self.park(watcher);
            }
            let build = || Events::new(group.hits[first..].iter().map(|hit| group.wishes.apply(change(hit))).collect());
            let events = built.entry((state.group, first)).or_insert_with(build).clone();
            state.quiet = false;
            self.events += events.count() as u64;
            let (slot, watch_id, may_fragment) = (state.stream, state.id, state.fragment);
            let events = Some(events);
            self.push(slot, Response { watch_id, revision: horizon, events, may_fragment, ..Response::default() });
        }
        self.watchers[watcher as usize].next = matched.through + 1;
        self.settle(watcher, horizon);
    }
}
