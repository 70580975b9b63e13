//! Replacing the state of a store: readers that have begun continue on the old state; watchers miss and repeat nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use metastore_engine::Memory;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{CompactionRequest, LeaseGrantRequest, PutRequest, WatchResponse};
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::{RangeQuery, Views};
use metastore_store::watch::{Header, Hub, Limits, RevisionEvents, StreamId, WatchSpec};
use metastore_store::{Refusal, Store};
use proptest::prelude::*;

use crate::engines::{Home, Medium};
use crate::entries::{load, snapshot_of};

/// A log of puts, each of which is one revision with one event, and of compactions.
struct Log(Vec<Bytes>);

impl Log {
    /// Adds a compaction at each revision in `compactions`, when the log is ten revisions further.
    fn new(puts: i64, compactions: &[i64]) -> Self {
        let mut entries = Vec::new();
        for revision in 2..puts + 2 {
            let (key, value) = (format!("k{}", revision % 7).into(), revision.to_string().into());
            entries.push(Command::encode(0, Kind::Put, &PutRequest { key, value, ..PutRequest::default() }));
            if let Some(at) = compactions.iter().find(|at| **at + 10 == revision) {
                let request = CompactionRequest { revision: *at, physical: false };
                entries.push(Command::encode(0, Kind::Compaction, &request));
            }
        }
        Self(entries)
    }

    /// Applies entries up to `index`; returns the events for watchers.
    fn apply(&self, store: &mut Store, index: usize) -> Vec<Arc<RevisionEvents>> {
        let mut events = Vec::new();
        while store.applied().index < index as u64 {
            let next = store.applied().index + 1;
            let outcome = store.apply(next, 1, self.0[next as usize - 1].clone()).unwrap().unwrap();
            assert!(matches!(outcome.reply, Ok(_) | Err(Refusal::Compacted)));
            events.extend(store.publish().unwrap());
            while store.compact_step().unwrap() {}
        }
        events
    }

    fn store(&self, home: &Home, index: usize) -> Store {
        let mut store = Store::open(home.open()).unwrap();
        self.apply(&mut store, index);
        store
    }
}

fn state_of(of: &Store, home: &Home) -> Store {
    let engine = home.open();
    load(&snapshot_of(of), engine.clone()).unwrap();
    Store::open(engine).unwrap()
}

/// It is a setting of the member, and no part of a state.
#[test]
fn another_state_keeps_the_minimum_of_leases() {
    let grant = |store: &mut Store, id| {
        let index = store.applied().index + 1;
        let request = LeaseGrantRequest { id, ttl: 1 };
        store.apply(index, 1, Command::encode(0, Kind::LeaseGrant, &request)).unwrap();
        store.publish().unwrap();
        store.leases().get(id).map(|lease| lease.ttl_s)
    };
    let [one, other] = [Home::new(Medium::Memory), Home::new(Medium::Memory)];
    let mut store = Store::open(one.open()).unwrap();
    store.set_minimum_ttl_s(15);
    assert_eq!(grant(&mut store, 7), Some(15));
    let by = state_of(&store, &other);
    drop(store.replace(by));
    assert_eq!(grant(&mut store, 8), Some(15));
}

fn medium() -> impl Strategy<Value = Medium> {
    prop_oneof![40 => Just(Medium::Memory), 1 => Just(Medium::RocksDb)]
}

/// The client of watch streams: the revisions that it has got.
struct Client {
    hub: Hub,
    stream: StreamId,
    /// The revision that each watcher must get next; `None` after its cancellation.
    next: BTreeMap<i64, Option<i64>>,
    cancelled: usize,
}

impl Client {
    fn new(views: &Views) -> Self {
        // The limits are so small that watchers are often parked, and history is read in many pieces.
        let limits = Limits { queue_responses: 2, chunk_rows: 5, ..Limits::default() };
        let mut hub = Hub::new(Arc::new(views.clone()), limits);
        let stream = hub.open_stream(0);
        Self { hub, stream, next: BTreeMap::new(), cancelled: 0 }
    }

    fn watch(&mut self, start_revision: i64, now: i64) {
        let spec = WatchSpec { key: b"k", range_end: b"l", start_revision, prev_kv: true, ..WatchSpec::default() };
        self.hub.create(self.stream, &spec);
        let id = self.next.len() as i64;
        self.next.insert(id, Some(if start_revision == 0 { now + 1 } else { start_revision }));
    }

    fn take(&mut self, most: usize) -> bool {
        let mut took = false;
        for _ in 0..most {
            let Some(response) = self.hub.take(self.stream) else { break };
            let mut bytes = BytesMut::new();
            response.encode(&Header::default(), &mut bytes);
            self.see(&WatchResponse::decode(bytes.freeze()).unwrap());
            took = true;
        }
        took
    }

    fn see(&mut self, response: &WatchResponse) {
        let next = self.next.get_mut(&response.watch_id).expect("a watcher of this stream");
        for event in &response.events {
            let kv = event.kv.as_ref().unwrap();
            assert_eq!(Some(kv.mod_revision), *next, "watcher {}: nothing is missed or repeated", response.watch_id);
            assert_eq!(kv.value, kv.mod_revision.to_string());
            *next = Some(kv.mod_revision + 1);
        }
        if response.canceled {
            let expected = next.take().expect("it is cancelled once");
            assert!(expected < response.compact_revision, "{response:?}, but {expected} is not compacted");
            self.cancelled += 1;
        }
    }

    fn drain(&mut self) {
        while self.hub.catch_up().unwrap() | self.take(usize::MAX) {}
    }
}

#[derive(Clone, Debug)]
enum Step {
    Watch(i64),
    Take(usize),
    CatchUp(usize),
    /// The member applies this many entries.
    Apply(usize),
    /// The hub receives this many messages of its mailbox.
    Hear(usize),
    /// The state of the leader, this many entries ahead, replaces the member's state.
    Replace(usize, Medium),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![1 => Just(0), 4 => 2..80i64].prop_map(Step::Watch),
        3 => (1..6usize).prop_map(Step::Take),
        3 => (1..4usize).prop_map(Step::CatchUp),
        3 => (1..8usize).prop_map(Step::Apply),
        3 => (1..8usize).prop_map(Step::Hear),
        2 => (1..40usize, medium()).prop_map(|(further, medium)| Step::Replace(further, medium)),
    ]
}

/// The messages in a worker's mailbox.
enum Mail {
    Events(Arc<RevisionEvents>),
    Lost,
}

proptest! {
    #[test]
    fn watchers_get_every_revision_once_whatever_takes_the_place_of_what(
        steps in prop::collection::vec(step(), 1..60),
        compactions in prop::collection::vec(2..150i64, 0..4),
    ) {
        let log = Log::new(200, &compactions);
        let (mut homes, mut mail) = (vec![Home::new(Medium::Memory)], VecDeque::new());
        let mut store = log.store(&homes[0], 20);
        let mut client = Client::new(&store.views().clone());
        let within = |index: u64, more: usize| (index as usize + more).min(log.0.len());
        for step in steps {
            match step {
                Step::Watch(start) => client.watch(start, store.revision()),
                Step::Take(most) => _ = client.take(most),
                Step::CatchUp(most) => for _ in 0..most {
                    client.hub.catch_up().unwrap();
                },
                Step::Apply(more) => {
                    let index = within(store.applied().index, more);
                    mail.extend(log.apply(&mut store, index).into_iter().map(Mail::Events));
                }
                Step::Hear(most) => for mail in mail.drain(..most.min(mail.len())) {
                    match mail {
                        Mail::Events(events) => client.hub.publish(&events),
                        Mail::Lost => client.hub.lost(),
                    }
                },
                Step::Replace(further, medium) => {
                    let leader = Home::new(Medium::Memory);
                    let leader = log.store(&leader, within(store.applied().index, further));
                    homes.push(Home::new(medium));
                    drop(store.replace(state_of(&leader, &homes[homes.len() - 1])));
                    mail.push_back(Mail::Lost);
                }
            }
        }
        for mail in mail {
            match mail {
                Mail::Events(events) => client.hub.publish(&events),
                Mail::Lost => client.hub.lost(),
            }
        }
        client.drain();
        let current = store.revision();
        for (id, next) in &client.next {
            prop_assert!(next.is_none_or(|next| next > current), "watcher {} waits for {:?} of {}", id, next, current);
        }
    }
}

/// As in etcd: the received state may no longer hold the history that a watcher needs.
#[test]
fn a_watcher_whose_history_was_compacted_away_is_cancelled() {
    let log = Log::new(100, &[60]);
    let home = Home::new(Medium::Memory);
    let mut store = log.store(&home, 20);
    let mut client = Client::new(&store.views().clone());
    client.watch(0, store.revision());
    client.watch(70, 0);
    client.drain();
    let leader = log.store(&Home::new(Medium::Memory), log.0.len());
    let home = Home::new(Medium::Memory);
    store.replace(state_of(&leader, &home));
    client.hub.lost();
    client.drain();
    assert_eq!(client.cancelled, 1);
    assert_eq!(client.next, BTreeMap::from([(0, None), (1, Some(102))]));
    assert_eq!(store.view().compact_revision(), 60);
}

/// Each answer comes from one state, even if the state is replaced during the read.
#[test]
fn readers_see_one_state_or_the_other() {
    let log = Log::new(300, &[]);
    let home = Home::new(Medium::Memory);
    let mut store = log.store(&home, 1);
    let (views, done) = (store.views().clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let view = views.now();
                    let reply =
                        view.range(&RangeQuery { key: b"k", range_end: b"l", ..RangeQuery::default() }).unwrap();
                    assert!(reply.revision >= last, "time goes on");
                    last = reply.revision;
                    // The newest values are those of the last seven revisions.
                    let newest =
                        reply.rows.iter().map(|row| metastore_store::mvcc::row::KeyValue::of(row).mod_revision);
                    assert_eq!(newest.max(), Some(reply.revision), "all of it is of one moment");
                    assert_eq!(reply.count, (reply.revision - 1).min(7));
                }
            });
        }
        for index in (10..log.0.len()).step_by(10) {
            let leader = log.store(&Home::new(Medium::Memory), index);
            store.replace(state_of(&leader, &Home::new(Medium::Memory)));
            log.apply(&mut store, index + 5);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn pins_and_compactions_belong_to_the_state_that_they_are_about() {
    let log = Log::new(100, &[60]);
    let home = Home::new(Medium::Memory);
    let mut store = log.store(&home, 20);
    let old = store.view().clone();
    let pin = old.pin(5).unwrap();
    let leader = log.store(&Home::new(Medium::Memory), log.0.len());
    store.replace(state_of(&leader, &Home::new(Medium::Memory)));
    assert_eq!((old.revision(), old.compact_revision()), (21, -1));
    assert!(store.view().pin(5).is_err(), "the new one has no such past");
    // A reader of the old state holds back nothing in the new one.
    let request = CompactionRequest { revision: 80, physical: false };
    let index = store.applied().index + 1;
    store.apply(index, 1, Command::encode(0, Kind::Compaction, &request)).unwrap();
    store.publish().unwrap();
    drop(store.take_compaction_hash());
    while store.compact_step().unwrap() {}
    assert!(!store.compacting());
    drop(pin);
}

/// The writer reloads the state that it keeps in memory beside the engine.
#[test]
fn leases_come_with_the_state() {
    let mut leader = Store::open(Arc::new(Memory::new())).unwrap();
    let grant = LeaseGrantRequest { id: 7, ttl: 60 };
    leader.apply(1, 1, Command::encode(0, Kind::LeaseGrant, &grant)).unwrap();
    let put = PutRequest { key: "k".into(), lease: 7, ..PutRequest::default() };
    leader.apply(2, 1, Command::encode(0, Kind::Put, &put)).unwrap();
    leader.publish().unwrap();
    let mut store = Store::open(Arc::new(Memory::new())).unwrap();
    store.replace(state_of(&leader, &Home::new(Medium::Memory)));
    assert_eq!(store.leases().ids().collect::<Vec<_>>(), [7]);
    assert_eq!(store.lease_keys(7).unwrap(), [b"k"]);
    assert_eq!(store.applied(), leader.applied());
}
