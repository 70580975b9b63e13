//! The hub of one I/O thread: its streams and watchers, and the requests of their clients.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use slab::Slab;

use super::catch_up::Chunk;
use super::matcher::{Interest, Matcher, Wishes};
use super::places::Place;
use super::queue::Stream;
use super::{HistorySource, INVALID_WATCH_ID, Limits, Response};

const RANGE_IS_EMPTY: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// etcd's answer to a negative start revision, which it checks before permissions.
const NEGATIVE_START: &str = "etcdserver: mvcc: required revision has been compacted";

/// A stream of a hub. The id of a closed stream never becomes valid again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub(super) slot: u32,
    generation: u32,
}

/// The content of a `WatchCreateRequest`; the fields have the same meaning as there.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchSpec<'a> {
    pub key: &'a [u8],
    pub range_end: &'a [u8],
    pub start_revision: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub fragment: bool,
    pub progress_notify: bool,
    /// 0: the hub chooses the id.
    pub watch_id: i64,
}

/// Sizes of the hub, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that are not synced (etcd's slow watchers).
    pub unsynced: usize,
    /// Distinct combinations of range and wishes.
    pub groups: usize,
    /// Responses that wait in the queues.
    pub queued: usize,
    /// Events that were queued since the hub was created.
    pub events: u64,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: u32,
    pub(super) group: u32,
    pub(super) id: i64,
    /// The smallest revision that the watcher may still want. A synced watcher has got all revisions up to the tail,
    /// even if this number is smaller.
    pub(super) next: i64,
    /// The start revision of the request; 0 for the current one.
    pub(super) start: i64,
    pub(super) place: Place,
    pub(super) fragment: bool,
    pub(super) progress_notify: bool,
    /// Whether there were no events since the last progress interval ended.
    pub(super) quiet: bool,
}

/// All watches of one I/O thread. See the essay of [`crate::watch`].
pub struct Hub {
    pub(super) source: Arc<dyn HistorySource>,
    pub(super) limits: Limits,
    pub(super) streams: Slab<Stream>,
    pub(super) watchers: Slab<Watcher>,
    pub(super) matcher: Matcher,
    /// The newest revision that was published to this hub, or that is known to be lost.
    pub(super) tail: i64,
    /// Unsynced watchers whose stream may have room, ordered by cursor.
    pub(super) ready: BTreeSet<(i64, u32)>,
    /// A chunk that ends within a revision; its read continues.
    pub(super) chunk: Option<Chunk>,
    pub(super) from_head: bool,
    /// Streams with responses of which the shell was not told yet, by slot.
    woken: BTreeSet<u32>,
    /// Streams with a waiting progress request, ordered by the revision that the request waits for.
    pub(super) progress_waiting: BTreeSet<(i64, u32)>,
    /// Streams, ordered by the end of their progress interval.
    pub(super) deadlines: BTreeSet<(u64, u32)>,
    generation: u32,
    pub(super) events: u64,
}

impl Hub {
    /// A hub that delivers live what is published to it after the source's current revision.
    pub fn new(source: Arc<dyn HistorySource>, limits: Limits) -> Self {
        Self {
            tail: source.current_revision(),
            source,
            limits,
            streams: Slab::new(),
            watchers: Slab::new(),
            matcher: Matcher::default(),
            ready: BTreeSet::new(),
            chunk: None,
            from_head: false,
            woken: BTreeSet::new(),
            progress_waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            generation: 0,
            events: 0,
        }
    }

    /// Opens a stream; its progress interval begins at `now_ms`.
    pub fn open_stream(&mut self, now_ms: u64) -> StreamId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.streams.insert(Stream::new(generation)) as u32;
        self.schedule_progress(slot, now_ms);
        StreamId { slot, generation }
    }

    /// Closes a stream, with its queue and its watchers; does nothing if it is closed already.
    pub fn close_stream(&mut self, id: StreamId) {
        if self.stream(id).is_none() {
            return;
        }
        while let Some((_, watcher)) = self.streams[id.slot as usize].watchers.first_key_value() {
            self.remove_watcher(*watcher);
        }
        let stream = self.streams.remove(id.slot as usize);
        self.deadlines.remove(&(stream.progress_deadline_ms, id.slot));
        if let Some(from) = stream.progress_from {
            self.progress_waiting.remove(&(from, id.slot));
        }
        self.woken.remove(&id.slot);
    }

    /// Whether the shell should read another request from the stream. Answers to requests are queued without a bound,
    /// so a client that sends requests but does not read the answers must be made to wait here.
    pub fn accepts_requests(&self, id: StreamId) -> bool {
        self.stream(id).is_some_and(|stream| stream.accepts_requests(&self.limits))
    }

    /// Creates a watcher. Queues the answer on the stream, and a cancellation if the start revision is compacted.
    pub fn create(&mut self, id: StreamId, spec: &WatchSpec<'_>) {
        if self.stream(id).is_none() {
            return;
        }
        if spec.start_revision < 0 {
            return self.refuse(id, NEGATIVE_START);
        }
        let Some(interest) = Interest::from_request(spec.key, spec.range_end) else {
            return self.refuse(id, RANGE_IS_EMPTY);
        };
        let Some(watch_id) = self.streams[id.slot as usize].choose_id(spec.watch_id) else {
            return self.refuse(id, DUPLICATE_ID);
        };
        let revision = self.revision();
        if self.watchers.is_empty() {
            // A hub without watchers need not be told of revisions, so its tail may be old. No watcher missed anything.
            self.tail = revision;
        }
        self.push(id.slot, Response { watch_id, revision, created: true, ..Response::default() });
        let compact_revision = self.source.compact_revision();
        if spec.start_revision > 0 && spec.start_revision < compact_revision {
            return self.push_compacted(id.slot, watch_id, compact_revision);
        }
        let wishes = Wishes { prev_kv: spec.prev_kv, no_put: spec.no_put, no_delete: spec.no_delete };
        let group = self.matcher.join(interest, wishes);
        let start = spec.start_revision;
        let watcher = self.watchers.insert(Watcher {
            stream: id.slot,
            group,
            id: watch_id,
            next: if start == 0 { revision + 1 } else { start },
            start,
            place: Place::Ready,
            fragment: spec.fragment,
            progress_notify: spec.progress_notify,
            quiet: true,
        }) as u32;
        let stream = &mut self.streams[id.slot as usize];
        stream.watchers.insert(watch_id, watcher);
        stream.unsynced += 1;
        stream.progress_watchers += usize::from(spec.progress_notify);
        if start > self.tail {
            stream.future.insert((start, watcher));
        }
        self.settle(watcher, self.tail);
    }

    /// Answers a request to create a watcher with a refusal that the shell decided on, such as a missing permission.
    pub fn refuse(&mut self, id: StreamId, reason: impl Into<Cow<'static, str>>) {
        if self.stream(id).is_none() {
            return;
        }
        let (revision, cancel_reason) = (self.revision(), reason.into());
        let refusal = Response { created: true, canceled: true, cancel_reason, revision, ..Response::default() };
        self.push(id.slot, Response { watch_id: INVALID_WATCH_ID, ..refusal });
    }

    /// Cancels a watcher and queues the answer; no answer if there is no such watcher, as in etcd.
    pub fn cancel(&mut self, id: StreamId, watch_id: i64) {
        let Some(&watcher) = self.stream(id).and_then(|stream| stream.watchers.get(&watch_id)) else { return };
        self.remove_watcher(watcher);
        let revision = self.revision();
        self.push(id.slot, Response { watch_id, revision, canceled: true, ..Response::default() });
    }

    /// The next response of a stream; `None` if there is none now or the stream is closed.
    pub fn take(&mut self, id: StreamId) -> Option<Response> {
        self.stream(id)?;
        let stream = &mut self.streams[id.slot as usize];
        let response = stream.pop(&self.limits);
        if response.is_none() {
            stream.announced = false;
        }
        self.unpark(id.slot);
        response
    }

    /// A stream that got something to take after `take` last returned `None` for it; each stream is named once.
    pub fn next_woken(&mut self) -> Option<StreamId> {
        let slot = self.woken.pop_first()?;
        Some(StreamId { slot, generation: self.streams[slot as usize].generation })
    }

    /// The numbers of streams and of watchers: the part of [`Hub::counts`] that is cheap to compute.
    pub fn sizes(&self) -> (usize, usize) {
        (self.streams.len(), self.watchers.len())
    }

    /// The sizes of the hub now.
    pub fn counts(&self) -> Counts {
        Counts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            unsynced: self.streams.iter().map(|(_, stream)| stream.unsynced).sum(),
            groups: self.matcher.group_count(),
            queued: self.streams.iter().map(|(_, stream)| stream.queued()).sum(),
            events: self.events,
        }
    }

    pub(super) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(id.slot as usize).filter(|stream| stream.generation == id.generation)
    }

    /// The revision in the headers of answers: the store's current one, and no less than the newest delivered one.
    pub(super) fn revision(&self) -> i64 {
        self.source.current_revision().max(self.tail)
    }

    /// Queues a response, even if the queue has no room.
    pub(super) fn push(&mut self, slot: u32, response: Response) {
        let stream = &mut self.streams[slot as usize];
        stream.push(response);
        if !stream.announced {
            stream.announced = true;
            self.woken.insert(slot);
        }
    }

    /// etcd's special answer: the header has revision 0 and there is no reason, but the compacted revision is named.
    pub(super) fn push_compacted(&mut self, slot: u32, watch_id: i64, compact_revision: i64) {
        self.push(slot, Response { watch_id, canceled: true, compact_revision, ..Response::default() });
    }

    /// Removes a watcher, wherever it is listed.
    pub(super) fn remove_watcher(&mut self, watcher: u32) {
        self.unlist(watcher);
        let state = self.watchers.remove(watcher as usize);
        let stream = &mut self.streams[state.stream as usize];
        stream.watchers.remove(&state.id);
        stream.future.remove(&(state.start, watcher));
        stream.progress_watchers -= usize::from(state.progress_notify);
        stream.unsynced -= 1;
        self.matcher.leave(state.group);
    }
}
