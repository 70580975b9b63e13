//! One stream of watch responses: its queue and its watchers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    CHUNK_BYTES, CHUNK_ROWS, CHUNK_WATCHERS, FRAGMENT_OVERHEAD_BYTES, MIN_PROGRESS_INTERVAL_MS, PROGRESS_INTERVAL_MS,
    QUEUE_BYTES, QUEUE_RESPONSES, Response,
};

/// The bounds and the interval of a hub.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See [`QUEUE_RESPONSES`].
    pub queue_responses: usize,
    /// See [`QUEUE_BYTES`].
    pub queue_bytes: usize,
    /// See [`CHUNK_ROWS`].
    pub chunk_rows: usize,
    /// See [`CHUNK_BYTES`].
    pub chunk_bytes: usize,
    /// See [`CHUNK_WATCHERS`].
    pub chunk_watchers: usize,
    /// Responses of at least this size are sent in fragments to the watchers that asked for fragments.
    pub fragment_bytes: usize,
    /// The interval of progress notifications to a quiet watcher that asked for them.
    pub progress_interval_ms: u64,
}

impl Limits {
    /// The usual limits for a member with this `--max-request-bytes` and `--watch-progress-notify-interval`.
    pub fn new(max_request_bytes: usize, progress_interval_ms: u64) -> Self {
        Self {
            queue_responses: QUEUE_RESPONSES,
            queue_bytes: QUEUE_BYTES,
            chunk_rows: CHUNK_ROWS,
            chunk_bytes: CHUNK_BYTES,
            chunk_watchers: CHUNK_WATCHERS,
            fragment_bytes: max_request_bytes + FRAGMENT_OVERHEAD_BYTES,
            progress_interval_ms: progress_interval_ms.max(MIN_PROGRESS_INTERVAL_MS),
        }
    }
}

impl Default for Limits {
    /// For etcd's default request size, 1.5 MiB, and its default progress interval, 10 minutes.
    fn default() -> Self {
        Self::new(3 << 19, PROGRESS_INTERVAL_MS)
    }
}

/// State of one stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Distinguishes this stream from earlier ones in the same slot.
    pub(super) generation: u32,
    queue: VecDeque<Response>,
    queued_bytes: usize,
    /// The greatest revision in a response header so far. Progress must not name a smaller revision: after a reconnect
    /// the client would begin there, and get events twice.
    pub(super) named_revision: i64,
    /// The shell was told that there is something to take.
    pub(super) announced: bool,
    /// Watchers, by the id that the client knows.
    pub(super) watchers: BTreeMap<i64, u32>,
    /// The next id to try for a watcher whose request names none.
    next_id: i64,
    /// Unsynced watchers that wait for room in the queue, ordered by cursor.
    pub(super) parked: BTreeSet<(i64, u32)>,
    /// The number of unsynced watchers.
    pub(super) unsynced: usize,
    /// Watchers that were created to begin in the future, ordered by their start revision.
    pub(super) future: BTreeSet<(i64, u32)>,
    /// A progress request waits until this revision is published to the hub.
    pub(super) progress_from: Option<i64>,
    /// The end of the progress interval.
    pub(super) progress_deadline_ms: u64,
    /// The number of watchers that asked for progress notifications.
    pub(super) progress_watchers: usize,
}

impl Stream {
    pub(super) fn new(generation: u32) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Whether more requests may be read. The bound has no share for the watchers: otherwise each creation would make
    /// room for its own answer.
    pub(super) fn accepts_requests(&self, limits: &Limits) -> bool {
        self.queue.len() < limits.queue_responses && self.queued_bytes < limits.queue_bytes
    }

    /// Whether another response with events may be queued.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.queue.len() < limits.queue_responses + self.watchers.len() && self.queued_bytes < limits.queue_bytes
    }

    /// Whether parked watchers may continue: only when the queue is half empty, so that they are not parked again after
    /// every response.
    pub(super) fn has_drained(&self, limits: &Limits) -> bool {
        self.queue.len() <= limits.queue_responses / 2 && self.queued_bytes <= limits.queue_bytes / 2
    }

    pub(super) fn push(&mut self, response: Response) {
        self.queued_bytes += event_bytes(&response);
        self.named_revision = self.named_revision.max(response.revision);
        self.queue.push_back(response);
    }

    /// Takes the next response; a large one in fragments, if its watcher asked for fragments.
    pub(super) fn pop(&mut self, limits: &Limits) -> Option<Response> {
        let fragment = self.queue.front_mut()?.split_fragment(limits.fragment_bytes);
        let response = match fragment {
            Some(fragment) => fragment,
            None => self.queue.pop_front()?,
        };
        self.queued_bytes -= event_bytes(&response);
        Some(response)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The id of a new watcher: `wanted`, or for 0 the next free one, counted from 0. `None` if `wanted` is taken.
    pub(super) fn choose_id(&mut self, wanted: i64) -> Option<i64> {
        if wanted != 0 {
            return (!self.watchers.contains_key(&wanted)).then_some(wanted);
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }
}

fn event_bytes(response: &Response) -> usize {
    response.events.as_ref().map_or(0, super::Events::encoded_len)
}
