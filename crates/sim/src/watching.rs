//! Clients that watch. Each has one watcher at a time, on any member. When its connection ends, it resumes where it
//! was.

use bytes::{Bytes, BytesMut};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::watch_create_request::FilterType;
use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use metastore_store::watch::{Header, StreamId, WatchSpec};

use crate::clients::Workload;
use crate::history::Watch;
use crate::invariants::watch;
use crate::member::Member;
use crate::random::Random;
use crate::world::World;

/// Responses that a client takes at a time, at most.
const TAKEN_AT_ONCE: usize = 5;
/// Steps of reading history that a member makes in a moment, at most.
const CATCH_UP_STEPS: u64 = 3;
/// Moments until a client connects again, at most.
const RECONNECT_MOMENTS: u64 = 40;
/// How often the watchers' thread receives its mail, in thousandths per moment.
const MAIL_PERMILLE: u64 = 500;

pub struct Watcher {
    client: usize,
    random: Random,
    request: WatchCreateRequest,
    /// The member and the stream to which it is connected.
    at: Option<(usize, StreamId)>,
    responses: Vec<WatchResponse>,
    next_try: u64,
    /// How often the client takes the responses that have arrived, in thousandths per moment.
    zeal: u64,
    /// The ended connections of the current watch; and the watches that are over.
    chain: Vec<Watch>,
    chains: Vec<Vec<Watch>>,
}

impl Watcher {
    pub fn new(seed: u64, client: usize, workload: Workload) -> Self {
        let mut random = Random::new(seed, 200 + client as u64);
        let request = request(workload, &mut random);
        let zeal = *random.pick(&[1000, 500, 60, 15]).unwrap_or(&1000);
        let (at, next_try) = (None, random.below(100));
        let (responses, chain, chains) = Default::default();
        Self { client, random, request, at, responses, next_try, zeal, chain, chains }
    }

    /// The connection has ended: the client resumes after the last response.
    fn disconnected(&mut self, now: u64, compacted: i64, complete_to: Option<i64>) {
        self.at = None;
        self.next_try = now + self.random.between(1, RECONNECT_MOMENTS);
        let responses = std::mem::take(&mut self.responses);
        let watch = Watch { client: self.client, request: self.request.clone(), responses, complete_to, compacted };
        let next = watch::next_revision(&watch);
        let compacted = watch.responses.last().filter(|last| last.canceled).map(|last| last.compact_revision);
        self.chain.push(watch);
        self.request.start_revision = next;
        if let Some(compact_revision) = compacted {
            // The compacted events are lost to this client; it lists, and begins a new watch.
            self.request.start_revision = compact_revision;
            self.chains.push(std::mem::take(&mut self.chain));
        }
    }

    fn spec(&self) -> WatchSpec<'_> {
        let request = &self.request;
        WatchSpec {
            key: &request.key,
            range_end: &request.range_end,
            start_revision: request.start_revision,
            prev_kv: request.prev_kv,
            no_put: request.filters.contains(&(FilterType::Noput as i32)),
            no_delete: request.filters.contains(&(FilterType::Nodelete as i32)),
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            watch_id: request.watch_id,
        }
    }
}

/// The watch request of a client of this workload.
pub fn request(workload: Workload, random: &mut Random) -> WatchCreateRequest {
    match workload {
        Workload::Mixed => mixed(random),
        Workload::Kubernetes => informer(),
    }
}

fn mixed(random: &mut Random) -> WatchCreateRequest {
    let (key, end): (&[u8], &[u8]) = match random.below(6) {
        0 => (b"k0", b""),
        1 => (b"k1", b"k4"),
        2 => (b"lease/", b"lease0"),
        3 => (b"k", b"l"),
        _ => (b"\0", b"\0"),
    };
    let filters = match random.below(6) {
        0 => vec![FilterType::Noput as i32],
        1 => vec![FilterType::Nodelete as i32],
        _ => Vec::new(),
    };
    WatchCreateRequest {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(end),
        start_revision: random.below(3) as i64,
        prev_kv: random.permille(500),
        progress_notify: random.permille(500),
        fragment: random.permille(300),
        filters,
        ..WatchCreateRequest::default()
    }
}

fn informer() -> WatchCreateRequest {
    let (key, range_end) = crate::clients::REGISTRY;
    let (key, range_end) = (Bytes::from_static(key), Bytes::from_static(range_end));
    WatchCreateRequest { key, range_end, prev_kv: true, progress_notify: true, ..WatchCreateRequest::default() }
}

impl World {
    /// Runs one moment of all watches.
    pub(crate) fn watch(&mut self) {
        for at in 0..self.members.len() {
            self.deliver_history(at);
        }
        let mut watchers = std::mem::take(&mut self.watchers);
        for watcher in &mut watchers {
            match watcher.at {
                None if watcher.next_try <= self.now => self.connect(watcher),
                None => {}
                Some((at, stream)) => self.look(watcher, at, stream),
            }
        }
        self.watchers = watchers;
    }

    /// A member reads history for watchers that are behind.
    fn deliver_history(&mut self, at: usize) {
        let steps = self.random.below(CATCH_UP_STEPS + 1);
        let member = &mut self.members[at];
        if !member.awake(self.now) {
            return;
        }
        if self.random.permille(MAIL_PERMILLE) {
            member.deliver_mail();
        }
        let now_ms = member.clock.ms();
        let (Some(hub), Some(replica)) = (&mut member.hub, &member.replica) else { return };
        self.compacted = self.compacted.max(replica.store().view().compact_revision());
        hub.tick(now_ms);
        for _ in 0..steps {
            if !hub.catch_up().unwrap_or_else(|error| panic!("member {at} cannot read history: {error}")) {
                break;
            }
        }
    }

    fn connect(&mut self, watcher: &mut Watcher) {
        let awake: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].awake(self.now)).collect();
        let Some(&at) = watcher.random.pick(&awake) else { return };
        let now_ms = self.members[at].clock.ms();
        let Some(hub) = &mut self.members[at].hub else { return };
        let stream = hub.open_stream(now_ms);
        hub.create(stream, &watcher.spec());
        watcher.at = Some((at, stream));
        self.counts.watches += 1;
        self.counts.watches_resumed += u64::from(!watcher.chain.is_empty());
        self.note(|| format!("watcher {} begins at {} on {at}", watcher.client, watcher.request.start_revision));
    }

    fn look(&mut self, watcher: &mut Watcher, at: usize, stream: StreamId) {
        if !self.members[at].awake(self.now) {
            return;
        }
        if watcher.random.permille(watcher.zeal) {
            self.take(watcher, at, stream, TAKEN_AT_ONCE);
        }
        let Some(hub) = &mut self.members[at].hub else { return };
        if watcher.random.permille(10) {
            hub.progress(stream);
        }
        let canceled = watcher.responses.last().is_some_and(|last| last.canceled);
        if canceled || (!self.healed && watcher.random.permille(4)) {
            hub.close_stream(stream);
            self.counts.watches_compacted += u64::from(canceled);
            watcher.disconnected(self.now, self.compacted, None);
        }
    }

    fn take(&mut self, watcher: &mut Watcher, at: usize, stream: StreamId, most: usize) {
        for _ in 0..most {
            let Some(response) = self.members[at].hub.as_mut().and_then(|hub| hub.take(stream)) else { return };
            let mut bytes = BytesMut::new();
            response.encode(&Header::default(), &mut bytes);
            let response = WatchResponse::decode(bytes.freeze()).expect("a response is read as it was written");
            self.counts.watch_events += response.events.len() as u64;
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            let (client, events, canceled) = (watcher.client, response.events.len(), response.canceled);
            self.note(|| format!("watcher {client} hears {events} events at {revision}, canceled {canceled}"));
            watcher.responses.push(response);
        }
    }

    /// The connections to a member end.
    pub(crate) fn disconnect_watchers(&mut self, at: usize) {
        let (now, compacted) = (self.now, self.compacted);
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.at.is_some_and(|(member, _)| member == at)) {
            watcher.disconnected(now, compacted, None);
        }
    }

    /// At the end, delivers all remaining events to every watcher, and returns the watches.
    pub(crate) fn end_watches(&mut self) -> Vec<Vec<Watch>> {
        let newest = self.judge.revisions.newest();
        self.members.iter_mut().for_each(Member::deliver_mail);
        let mut watchers = std::mem::take(&mut self.watchers);
        for watcher in &mut watchers {
            let Some((at, stream)) = watcher.at else { continue };
            loop {
                let hub = self.members[at].hub.as_mut().expect("a healed member runs");
                while hub.catch_up().expect("history can be read") {}
                let before = watcher.responses.len();
                self.take(watcher, at, stream, usize::MAX);
                if watcher.responses.len() == before {
                    break;
                }
            }
            let canceled = watcher.responses.last().is_some_and(|last| last.canceled);
            watcher.disconnected(self.now, self.compacted, (!canceled).then_some(newest));
        }
        watchers.into_iter().flat_map(|watcher| watcher.chains.into_iter().chain([watcher.chain])).collect()
    }
}
