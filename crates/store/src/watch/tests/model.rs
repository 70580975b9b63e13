//! Random histories, watchers and faults, checked against a naive oracle: every watcher gets exactly the events that it
//! asked for, in order, or is cancelled with the compacted revision.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Op>),
    /// The hub gets the oldest revisions of its mailbox.
    Deliver(usize),
    /// The mailbox overflows.
    Lose,
    /// Part of the mailbox is lost, and the hub is not told.
    Drop(usize),
    Create(Wanted),
    Cancel(usize),
    Take(usize, usize),
    CatchUp(usize),
    Compact(i64),
    CompactDuringRead(i64),
    Progress(usize),
    Tick,
}

#[derive(Clone, Debug)]
struct Wanted {
    stream: usize,
    key: Vec<u8>,
    range_end: Vec<u8>,
    /// Relative to the current revision; `None` for the current one.
    start: Option<i64>,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    fragment: bool,
    progress_notify: bool,
}

const STREAMS: usize = 3;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..b'd', 1..3)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (key(), 0usize..40).prop_map(|(key, len)| Op::Put(key, vec![b'v'; len])),
        1 => key().prop_map(Op::Delete),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let range_end = prop_oneof![Just(vec![]), Just(vec![0]), key()];
    let rare = || prop::bool::weighted(0.1);
    let flags = (rare(), rare(), rare(), any::<bool>(), any::<bool>());
    let key = prop_oneof![Just(b"a".to_vec()), key()];
    (0..STREAMS, key, range_end, prop::option::of(-12i64..4), flags).prop_map(
        |(stream, key, range_end, start, flags)| {
            let (prev_kv, no_put, no_delete, fragment, progress_notify) = flags;
            Wanted { stream, key, range_end, start, prev_kv, no_put, no_delete, fragment, progress_notify }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(op(), 1..13).prop_map(Step::Write),
        6 => (1usize..4).prop_map(Step::Deliver),
        1 => Just(Step::Lose),
        1 => (1usize..3).prop_map(Step::Drop),
        6 => wanted().prop_map(Step::Create),
        1 => (0usize..20).prop_map(Step::Cancel),
        4 => (0..STREAMS, 1usize..6).prop_map(|(stream, count)| Step::Take(stream, count)),
        4 => (1usize..3).prop_map(Step::CatchUp),
        1 => (0i64..10).prop_map(Step::Compact),
        1 => (0i64..6).prop_map(Step::CompactDuringRead),
        1 => (0..STREAMS).prop_map(Step::Progress),
        1 => Just(Step::Tick),
    ]
}

/// The oracle's record of a watcher.
struct Watched {
    wanted: Wanted,
    stream: usize,
    watch_id: i64,
    start: i64,
    /// The answer to the creation was taken.
    created: bool,
    got: Vec<Event>,
    /// A fragment was taken, and more must follow.
    unfinished: bool,
    ended: Option<i64>,
    cancelled: bool,
}

struct World {
    fixture: Fixture,
    streams: Vec<StreamId>,
    mailbox: VecDeque<Arc<RevisionEvents>>,
    /// All changes so far.
    changes: Vec<Arc<RevisionEvents>>,
    watched: Vec<Watched>,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            queue_responses: 3,
            queue_bytes: 400,
            chunk_rows: 5,
            chunk_bytes: 300,
            chunk_watchers: 3,
            fragment_bytes: 220,
            progress_interval_ms: 100,
        };
        let mut fixture = Fixture::new(limits);
        let streams = (0..STREAMS).map(|_| fixture.hub.open_stream(0)).collect();
        Self { fixture, streams, mailbox: VecDeque::new(), changes: vec![], watched: vec![], now_ms: 0 }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write(ops) => self.write(ops),
            Step::Deliver(count) => {
                for events in self.mailbox.drain(..self.mailbox.len().min(*count)) {
                    self.fixture.hub.publish(&events);
                }
            }
            Step::Lose => {
                self.mailbox.clear();
                self.fixture.hub.lost();
            }
            Step::Drop(count) => drop(self.mailbox.drain(..self.mailbox.len().min(*count))),
            Step::Create(wanted) => self.create(wanted),
            Step::Cancel(index) => {
                if let Some(watched) = self.watched.get_mut(*index) {
                    self.fixture.hub.cancel(self.streams[watched.stream], watched.watch_id);
                    watched.cancelled = true;
                }
            }
            Step::Take(stream, count) => (0..*count).for_each(|_| _ = self.take(*stream)),
            Step::CatchUp(count) => (0..*count).for_each(|_| _ = self.fixture.hub.catch_up().unwrap()),
            Step::Compact(behind) => {
                let at = self.fixture.store.current_revision() - behind;
                if at > self.fixture.store.compact_revision() {
                    self.fixture.store.compact(at);
                }
            }
            Step::CompactDuringRead(behind) => {
                self.fixture.store.compact_after_read(self.fixture.store.current_revision() - behind);
            }
            Step::Progress(stream) => self.fixture.hub.progress(self.streams[*stream]),
            Step::Tick => {
                self.now_ms += 60;
                self.fixture.hub.tick(self.now_ms);
            }
        }
    }

    fn write(&mut self, ops: &[Op]) {
        // The same condition as in etcd: no key twice in a transaction.
        let mut seen = Vec::new();
        let fresh = |op: &&Op| {
            let (Op::Put(key, _) | Op::Delete(key)) = op;
            let fresh = !seen.contains(key);
            seen.push(key.clone());
            fresh
        };
        let ops: Vec<_> = ops.iter().filter(fresh).cloned().collect();
        if let Some(events) = self.fixture.store.apply(&ops) {
            self.mailbox.push_back(events.clone());
            self.changes.push(events);
        }
    }

    fn create(&mut self, wanted: &Wanted) {
        let current = self.fixture.store.current_revision();
        let start_revision = wanted.start.map_or(0, |start| (current + start).max(1));
        let spec = WatchSpec {
            key: &wanted.key,
            range_end: &wanted.range_end,
            start_revision,
            prev_kv: wanted.prev_kv,
            no_put: wanted.no_put,
            no_delete: wanted.no_delete,
            fragment: wanted.fragment,
            progress_notify: wanted.progress_notify,
            watch_id: self.watched.len() as i64 + 1,
        };
        self.fixture.hub.create(self.streams[wanted.stream], &spec);
        let is_empty =
            wanted.range_end.len() + usize::from(wanted.range_end != [0]) > 1 && wanted.range_end <= wanted.key;
        let start = if start_revision == 0 { current + 1 } else { start_revision };
        self.watched.push(Watched {
            wanted: wanted.clone(),
            stream: wanted.stream,
            watch_id: spec.watch_id,
            start: if is_empty { i64::MAX } else { start },
            created: false,
            got: vec![],
            unfinished: false,
            ended: None,
            cancelled: is_empty,
        });
    }

    /// Takes a response and checks it against the oracle; `None` if the queue is empty.
    fn take(&mut self, stream: usize) -> Option<()> {
        let response = decode(self.fixture.hub.take(self.streams[stream])?);
        let header = revision(&response);
        if response.watch_id == -1 {
            if !response.created {
                // Progress: all events up to the named revision came before.
                let open = |w: &&Watched| w.stream == stream && w.created && !w.cancelled && w.ended.is_none();
                self.watched.iter().filter(open).for_each(|watched| assert_complete(watched, &self.changes, header));
            }
            return Some(());
        }
        let watched = &mut self.watched[response.watch_id as usize - 1];
        assert_eq!(watched.stream, stream);
        if response.canceled {
            watched.ended = Some(response.compact_revision);
            return Some(());
        }
        if !response.created && response.events.is_empty() {
            assert_complete(watched, &self.changes, header);
        }
        for event in response.events {
            let main = event.kv.as_ref().unwrap().mod_revision;
            assert!(header >= main, "the header names what is delivered");
            watched.got.push(event);
        }
        watched.unfinished = response.fragment;
        watched.created = true;
        Some(())
    }

    /// Delivers everything, drains everything, and checks every watcher.
    fn finish(&mut self) {
        self.run(&Step::Deliver(usize::MAX));
        self.fixture.hub.lost();
        loop {
            while self.fixture.hub.catch_up().unwrap() {}
            let taken = (0..STREAMS).filter(|stream| self.take(*stream).is_some()).count();
            if taken == 0 {
                break;
            }
        }
        assert_eq!(self.fixture.hub.counts().unsynced, 0, "everyone has caught up");
        for watched in &self.watched {
            assert!(!watched.unfinished, "a fragment without an end");
            match watched.ended {
                Some(compact_revision) if compact_revision > 0 => assert_prefix(watched, &self.changes),
                Some(_) => assert!(watched.cancelled, "cancelled without being asked"),
                None => assert_complete(watched, &self.changes, i64::MAX),
            }
            if watched.cancelled {
                assert_prefix(watched, &self.changes);
            }
        }
        for stream in self.streams.clone() {
            self.fixture.hub.close_stream(stream);
        }
        let counts = self.fixture.hub.counts();
        assert_eq!((counts.streams, counts.watchers, counts.groups, counts.queued), (1, 0, 0, 0), "all but the unused");
    }
}

/// The events that a watcher must get, each with the previous value that it may get.
fn expected(watched: &Watched, changes: &[Arc<RevisionEvents>], to: i64) -> Vec<Event> {
    let Wanted { key, range_end, no_put, no_delete, .. } = &watched.wanted;
    let in_range = |candidate: &[u8]| match range_end.as_slice() {
        [] => candidate == key,
        [0] => candidate >= key.as_slice(),
        end => candidate >= key.as_slice() && candidate < end,
    };
    let revisions = changes.iter().filter(|events| events.revision >= watched.start && events.revision <= to);
    let matching = revisions
        .flat_map(|events| &events.changes)
        .filter(|change| in_range(change.key()) && !(if change.version.tombstone { *no_delete } else { *no_put }));
    let event = |change: &Change| {
        let mut kv = KeyValue::decode(&change.version.row[..]).unwrap();
        kv.mod_revision = change.version.revision.main;
        let prev_kv = change.previous.as_ref().filter(|_| watched.wanted.prev_kv);
        Event {
            r#type: i32::from(change.version.tombstone),
            kv: Some(kv),
            prev_kv: prev_kv.map(|row| KeyValue::decode(&row[..]).unwrap()),
        }
    };
    matching.map(event).collect()
}

fn assert_prefix(watched: &Watched, changes: &[Arc<RevisionEvents>]) {
    for (got, expected) in watched.got.iter().zip(expected(watched, changes, i64::MAX)) {
        assert_eq!((got.r#type, &got.kv), (expected.r#type, &expected.kv));
        // A previous value may be compacted before history is read, but it is never wrong.
        assert!(got.prev_kv.is_none() || got.prev_kv == expected.prev_kv, "{got:?} instead of {expected:?}");
    }
    // A cancellation comes between two revisions.
    if let Some(last) = watched.got.last() {
        assert_complete(watched, changes, last.kv.as_ref().unwrap().mod_revision);
    }
}

fn assert_complete(watched: &Watched, changes: &[Arc<RevisionEvents>], to: i64) {
    let expected = expected(watched, changes, to);
    let short = |events: &[Event]| text(events).join(", ");
    assert_eq!(watched.got.len(), expected.len(), "got {}, expected {}", short(&watched.got), short(&expected));
    for (got, expected) in watched.got.iter().zip(&expected) {
        assert_eq!((got.r#type, &got.kv), (expected.r#type, &expected.kv));
        assert!(got.prev_kv.is_none() || got.prev_kv == expected.prev_kv, "{got:?} instead of {expected:?}");
    }
}

/// Previous values are there as long as they are not compacted: without compaction, always.
fn assert_previous(watched: &BTreeMap<i64, &Watched>, changes: &[Arc<RevisionEvents>]) {
    for watched in watched.values().filter(|w| !w.cancelled) {
        assert_eq!(watched.got, expected(watched, changes, i64::MAX));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_watcher_gets_exactly_what_it_asked_for(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.run(step));
        world.finish();
        if !steps.iter().any(|step| matches!(step, Step::Compact(_) | Step::CompactDuringRead(_))) {
            assert_previous(&world.watched.iter().map(|w| (w.watch_id, w)).collect(), &world.changes);
        }
    }
}
