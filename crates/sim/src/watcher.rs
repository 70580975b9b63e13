//! A client that watches: one watcher at a time, on any member. When its connection ends, it resumes where it was.

use bytes::Bytes;
use metastore_proto::etcdserverpb::watch_create_request::FilterType;
use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use metastore_store::watch::{StreamId, WatchSpec};

use crate::clients::Workload;
use crate::history::Watch;
use crate::invariants::watch;
use crate::random::Random;

/// Moments until a client connects again, at most.
const RECONNECT_MOMENTS: u64 = 40;
pub struct Watcher {
    pub client: usize,
    pub random: Random,
    pub request: WatchCreateRequest,
    /// The member and the stream to which it is connected.
    pub at: Option<(usize, StreamId)>,
    pub responses: Vec<WatchResponse>,
    pub next_try: u64,
    /// How often the client takes the responses that have arrived, in thousandths per moment.
    pub zeal: u64,
    /// The ended connections of the current watch; and the watches that are over.
    pub chain: Vec<Watch>,
    pub chains: Vec<Vec<Watch>>,
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
    pub fn disconnected(&mut self, now: u64, compacted: i64, complete_to: Option<i64>) {
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

    pub fn spec(&self) -> WatchSpec<'_> {
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
