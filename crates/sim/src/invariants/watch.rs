//! Watches are exact. etcd promises (<https://etcd.io/docs/v3.6/learning/api_guarantees/>, "Watch APIs"): ordered,
//! unique, reliable (nothing in between is missing), atomic (all events of a revision in one response, unless the
//! watcher takes fragments), resumable (from any revision that is not compacted), bookmarkable (a progress notification
//! says that all events up to its revision were delivered).
//!
//! All of this is one statement: the delivered events are the beginning of the events that the cluster's revisions hold
//! for this watcher, and the sequence ends only where the watcher received a cancellation. So each event is compared
//! with the one that is due.

use metastore_proto::etcdserverpb::watch_create_request::FilterType;
use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use metastore_proto::mvccpb::event::EventType;
use metastore_proto::mvccpb::{Event, KeyValue};

use crate::history::{Revisions, Violation, Watch};

/// The watch id of progress responses for a whole stream.
const ALL_WATCHERS: i64 = -1;

/// Judges one watcher by the events of the cluster's revisions.
pub fn check(watch: &Watch, revisions: &Revisions) -> Result<(), Violation> {
    let request = &watch.request;
    let told = |place: String, why: Violation| {
        let (client, key, end, start) = (watch.client, &request.key, &request.range_end, request.start_revision);
        format!("client {client} watches {key:?} to {end:?} from {start}: {place}: {why}")
    };
    let mut reader = Reader::new(watch, revisions);
    for (place, response) in watch.responses.iter().enumerate() {
        reader.response(response).map_err(|why| told(format!("response {place}"), why))?;
    }
    reader.end().map_err(|why| told("at the end".into(), why))
}

/// Judges a client that resumes its watch again and again.
pub fn check_chain(watches: &[Watch], revisions: &Revisions) -> Result<(), Violation> {
    for pair in watches.windows(2) {
        let (next, request) = (next_revision(&pair[0]), &pair[1].request);
        let same = |request: &WatchCreateRequest| {
            let mut filters = request.filters.clone();
            filters.sort_unstable();
            (request.key.clone(), request.range_end.clone(), filters)
        };
        if request.start_revision != next || same(request) != same(&pair[0].request) {
            let client = pair[1].client;
            return Err(format!("client {client} does not watch on from {next}, but {request:?}"));
        }
    }
    watches.iter().try_for_each(|watch| check(watch, revisions))
}

/// The revision from which a client that lost its watcher would resume, as etcd's client does: after the last event or
/// progress notification. Events in fragments count once the last fragment has arrived. If a compaction has overtaken
/// the watcher, the result is the compacted revision. The result is 0 if the client asked for future events and never
/// received an answer to the creation.
pub fn next_revision(watch: &Watch) -> i64 {
    let mut next = watch.request.start_revision;
    for response in &watch.responses {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled {
            next = next.max(response.compact_revision);
        } else if response.created {
            next = if next == 0 { revision + 1 } else { next };
        } else if let Some(last) = response.events.last() {
            next = if response.fragment { next } else { mod_revision(last) + 1 };
        } else {
            next = next.max(revision + 1);
        }
    }
    next
}

/// The responses of one watcher so far.
struct Reader<'a> {
    watch: &'a Watch,
    revisions: &'a Revisions,
    /// The id of the watcher, once it is created.
    id: Option<i64>,
    /// The smallest revision that may still come.
    next: i64,
    /// All events to be delivered, with their revisions.
    due: Vec<(i64, &'a Event)>,
    delivered: usize,
    /// Whether the last response is a fragment that is to be continued.
    in_fragments: bool,
    canceled: bool,
}

impl<'a> Reader<'a> {
    fn new(watch: &'a Watch, revisions: &'a Revisions) -> Self {
        let (id, next, due) = (None, watch.request.start_revision, Vec::new());
        Self { watch, revisions, id, next, due, delivered: 0, in_fragments: false, canceled: false }
    }

    fn response(&mut self, response: &WatchResponse) -> Result<(), Violation> {
        if self.canceled {
            return Err("it was canceled before".into());
        }
        let Some(id) = self.id else { return self.created(response) };
        if response.created {
            return Err("it was created before".into());
        }
        let whole_stream = response.watch_id == ALL_WATCHERS && response.events.is_empty() && !response.canceled;
        if response.watch_id != id && !whole_stream {
            return Err(format!("it is for watcher {}, this one is {id}", response.watch_id));
        }
        if self.in_fragments && (response.events.is_empty() || response.canceled) {
            return Err("the fragments before it have no end".into());
        }
        if response.canceled {
            return self.canceled(response);
        }
        let revision = revision_of(response)?;
        if response.events.is_empty() { self.progress(revision) } else { self.events(response, revision) }
    }

    fn created(&mut self, response: &WatchResponse) -> Result<(), Violation> {
        let request = &self.watch.request;
        if !response.created {
            return Err("the watcher is not created yet".into());
        }
        if !response.events.is_empty() || response.compact_revision != 0 {
            return Err(format!("more than a creation: {response:?}"));
        }
        let revision = revision_of(response)?;
        self.id = Some(response.watch_id);
        self.canceled = response.canceled;
        if response.canceled {
            return Ok(());
        }
        let impossible = !matches!(&request.range_end[..], [] | [0]) && request.range_end[..] <= first_key(request)[..];
        if impossible || request.start_revision < 0 {
            return Err("the request should have been refused".into());
        }
        if request.watch_id != 0 && request.watch_id != response.watch_id {
            return Err(format!("it got the id {}, and asked for {}", response.watch_id, request.watch_id));
        }
        if request.start_revision == 0 {
            self.next = revision + 1;
        }
        let due = self.revisions.range(self.next..);
        let due = due.flat_map(|(revision, events)| events.iter().map(|event| (*revision, event)));
        self.due = due.filter(|(_, event)| wants(request, event)).collect();
        Ok(())
    }

    fn canceled(&mut self, response: &WatchResponse) -> Result<(), Violation> {
        let (compacted, next) = (response.compact_revision, self.next);
        self.canceled = true;
        if !response.events.is_empty() {
            return Err("it is canceled, with events".into());
        }
        if compacted > 0 && compacted <= next {
            return Err(format!("it is canceled because {compacted} is compacted, and is at {next} already"));
        }
        if compacted > self.watch.compacted {
            let newest = self.watch.compacted;
            return Err(format!("it is canceled because {compacted} is compacted; the newest compaction is {newest}"));
        }
        Ok(())
    }

    /// Every event up to `revision` was delivered, and will not come again.
    fn progress(&mut self, revision: i64) -> Result<(), Violation> {
        if revision < self.next - 1 {
            return Err(format!("progress is at {revision}, and was beyond {} before", self.next - 1));
        }
        self.nothing_due(revision)?;
        self.next = revision + 1;
        Ok(())
    }

    fn events(&mut self, response: &WatchResponse, revision: i64) -> Result<(), Violation> {
        if response.fragment && !self.watch.request.fragment {
            return Err("a fragment, which was not asked for".into());
        }
        for event in &response.events {
            self.event(event, revision)?;
        }
        let last = response.events.last().map_or(0, mod_revision);
        if revision < last {
            return Err(format!("the header says {revision}, the events go up to {last}"));
        }
        self.in_fragments = response.fragment;
        if !response.fragment
            && let Some((due, event)) = self.due.get(self.delivered)
            && *due == last
        {
            return Err(format!("revision {last} is torn, {event:?} is missing"));
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, header: i64) -> Result<(), Violation> {
        let revision = mod_revision(event);
        let Some(&(due, wanted)) = self.due.get(self.delivered).filter(|(due, _)| *due <= revision) else {
            let next = self.next;
            return Err(if revision < next {
                format!("{event:?} comes again, or out of order: the next revision is {next}")
            } else {
                format!("{event:?} is not what this watcher asked for, or never was, or comes twice")
            });
        };
        if due < revision {
            return Err(format!("{event:?} comes next, but {wanted:?} of revision {due} is missing"));
        }
        if (event.r#type, &event.kv) != (wanted.r#type, &wanted.kv) {
            return Err(format!("{event:?} comes in the place of {wanted:?}"));
        }
        self.prev_kv(event, wanted, header)?;
        self.delivered += 1;
        self.next = match self.due.get(self.delivered) {
            Some((due, _)) if *due == revision => revision,
            _ => revision + 1,
        };
        Ok(())
    }

    fn prev_kv(&self, event: &Event, wanted: &Event, header: i64) -> Result<(), Violation> {
        let request = &self.watch.request;
        let wanted = wanted.prev_kv.as_ref().filter(|_| request.prev_kv);
        let found = event.prev_kv.as_ref();
        if found == wanted {
            return Ok(());
        }
        // Only events that are read from history can have lost it. Live events carry the revision of the header.
        let revision = mod_revision(event);
        let from_history = request.start_revision > 0 || header > revision;
        if found.is_none() && from_history && self.watch.compacted >= revision {
            return Ok(());
        }
        Err(format!("revision {revision} has the previous value {found:?}, and it was {wanted:?}"))
    }

    /// Checks that every event up to `revision` was delivered.
    fn nothing_due(&self, revision: i64) -> Result<(), Violation> {
        match self.due.get(self.delivered) {
            Some((due, event)) if *due <= revision => {
                Err(format!("everything up to {revision} should be here, but {event:?} of revision {due} is missing"))
            }
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Violation> {
        let Some(revision) = self.watch.complete_to.filter(|_| !self.canceled) else { return Ok(()) };
        if self.id.is_none() {
            return Err("its creation was never answered".into());
        }
        if self.in_fragments {
            return Err("the last fragments have no end".into());
        }
        self.nothing_due(revision)
    }
}

fn revision_of(response: &WatchResponse) -> Result<i64, Violation> {
    let revision = response.header.as_ref().map(|header| header.revision).filter(|revision| *revision > 0);
    revision.ok_or_else(|| format!("the header has no revision: {response:?}"))
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// An empty key means the first key, as in etcd.
fn first_key(request: &WatchCreateRequest) -> &[u8] {
    if request.key.is_empty() { &[0] } else { &request.key }
}

/// Whether an event is in the range of a watcher, and passes its filters.
fn wants(request: &WatchCreateRequest, event: &Event) -> bool {
    let kind = if event.r#type() == EventType::Put { FilterType::Noput } else { FilterType::Nodelete };
    let in_range = |kv: &KeyValue| match (first_key(request), &request.range_end[..]) {
        (key, []) => kv.key == key,
        (from, [0]) => kv.key[..] >= *from,
        (from, to) => kv.key[..] >= *from && kv.key[..] < *to,
    };
    !request.filters.contains(&kind.into()) && event.kv.as_ref().is_some_and(in_range)
}

#[cfg(test)]
mod tests;
