//! Random calls, from a grammar in which three keys in four collide.
//!
//! The generator uses the state that earlier answers showed (current and compacted revision, keys as last seen) for its
//! aims: a read at the revision just compacted, a compare that holds. It must not use anything that depends on time, or
//! a seed would not give the same calls again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::KeyValue;
use metastore_tests::random::Random;

use super::call::{Call, FIRST_CHOSEN, WatchCall};
use super::txns::Txns;

/// Server flags with low limits, so that calls reach them easily.
pub const MAX_TXN_OPS: usize = 16;
pub const MAX_REQUEST_BYTES: usize = 65_536;
/// The largest message that a server receives: etcd adds half a MiB to the limit on requests.
const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + 512 * 1024;
/// An enum number that the protocol does not have.
pub const NO_SUCH_ENUM: i32 = 7;
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;
/// The number of watch streams that may be open at once.
pub const WATCH_STREAMS: usize = 3;
/// The number of lease ids that clients use most; they rarely use 99, so that it often does not exist.
pub const CLIENT_LEASES: i64 = 6;

const KEYS: [&[u8]; 12] =
    [b"a", b"a\0", b"aa", b"ab", b"a\xff", b"b", b"\0", b"\xff", b"\xff\xff", b"k/1", b"k/2", b"k/\x80"];
const ENDS: [&[u8]; 9] = [b"\0", b"b", b"c", b"a\0", b"ab", b"\xff", b"\xff\xff", b"k0", b"a"];
/// A method that does not exist in its service, and a service that does not exist.
const UNKNOWN_PATHS: [&str; 2] = ["/etcdserverpb.KV/Nothing", "/no.Such/Method"];
const VALUES: [&[u8]; 6] = [b"", b"1", b"2", b"value", b"\0\xff\xfe", b"{\"a\": 1}"];

/// Cells of the coverage table that stay empty against 3.5.1: see [`Grammar::spare_old`].
pub const SPARED: [&str; 2] = ["watch: from the compacted revision", "watch: negative start"];

#[derive(Clone, Copy)]
enum RequestKind {
    Range,
    RangeStream,
    Put,
    Delete,
    Txn,
    Compact,
    HashKv,
    Grant,
    Revoke,
    KeepAlive,
    TimeToLive,
    Leases,
    Status,
    Unknown,
    WatchCreate,
    WatchCancel,
    WatchProgress,
    WatchClose,
}

const WEIGHTS: [(usize, RequestKind); 18] = [
    (300, RequestKind::Range),
    (70, RequestKind::RangeStream),
    (170, RequestKind::Put),
    (50, RequestKind::Delete),
    (230, RequestKind::Txn),
    (16, RequestKind::Compact),
    (30, RequestKind::HashKv),
    (35, RequestKind::Grant),
    (18, RequestKind::Revoke),
    (25, RequestKind::KeepAlive),
    (25, RequestKind::TimeToLive),
    (5, RequestKind::Leases),
    (5, RequestKind::Status),
    (4, RequestKind::Unknown),
    (50, RequestKind::WatchCreate),
    (22, RequestKind::WatchCancel),
    (16, RequestKind::WatchProgress),
    (3, RequestKind::WatchClose),
];

/// The state of the servers, as the answers so far have shown it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub current: i64,
    /// -1 before the first compaction.
    pub compacted: i64,
    /// Keys as the last answer with them showed them; they may be outdated.
    pub keys: BTreeMap<Bytes, KeyValue>,
    /// The number of leases whose ids the servers have chosen.
    pub chosen_leases: i64,
}

pub struct Grammar {
    pub random: Random,
    /// Calls that must follow an earlier call.
    next: VecDeque<Call>,
    /// The reference is 3.5.1, and calls that it cannot answer properly are not sent. It does not check sort options.
    /// It treats a watch from a negative revision like one from now on. It loses the deletes of the compacted revision,
    /// so that a watch from there misses them.
    pub spare_old: bool,
}

impl Grammar {
    pub fn new(seed: u64, spare_old: bool) -> Grammar {
        Grammar { random: Random::new(seed), next: VecDeque::new(), spare_old }
    }

    pub fn call(&mut self, seen: &Seen) -> Call {
        if let Some(call) = self.next.pop_front() {
            return call;
        }
        match self.random.weighted(&WEIGHTS) {
            RequestKind::Range => Call::Range(self.range(seen)),
            RequestKind::RangeStream => Call::RangeStream(self.range_stream(seen)),
            RequestKind::Put => Call::Put(self.lone_put()),
            RequestKind::Delete => Call::Delete(self.delete()),
            RequestKind::Txn => Call::Txn(Txns::new(self, seen).txn()),
            RequestKind::Compact => Call::Compact(self.compaction(seen)),
            RequestKind::HashKv => Call::HashKv(HashKvRequest { revision: self.revision(seen) }),
            RequestKind::Grant => self.grant(),
            RequestKind::Revoke => Call::Revoke(LeaseRevokeRequest { id: self.lease(seen) }),
            RequestKind::KeepAlive => Call::KeepAlive(LeaseKeepAliveRequest { id: self.lease(seen) }),
            RequestKind::TimeToLive => {
                Call::TimeToLive(LeaseTimeToLiveRequest { id: self.lease(seen), keys: self.random.one_in(2) })
            }
            RequestKind::Leases => Call::Leases(LeaseLeasesRequest {}),
            RequestKind::Status => Call::Status(StatusRequest {}),
            RequestKind::Unknown => Call::Unknown(self.random.any(&UNKNOWN_PATHS)),
            watch => Call::Watch(self.watch(watch, seen)),
        }
    }

    pub fn key(&mut self) -> Bytes {
        match self.random.below(40) {
            0 => Bytes::new(),
            1..10 => Bytes::from(format!("x/{:03}", self.random.below(200))),
            _ => Bytes::from_static(self.random.any(&KEYS)),
        }
    }

    /// The end of a range that begins at `key`: usually after it, sometimes before it.
    pub fn range_end(&mut self, key: &[u8]) -> Bytes {
        match self.random.below(12) {
            0..4 => Bytes::new(),
            4 | 5 => Bytes::from_static(b"\0"),
            6 | 7 => prefix_end(key),
            _ => Bytes::from_static(self.random.any(&ENDS)),
        }
    }

    pub fn value(&mut self) -> Bytes {
        match self.random.below(30) {
            0 => Bytes::from(vec![b'v'; 300]),
            1..8 => Bytes::from(self.random.below(1000).to_string()),
            _ => Bytes::from_static(self.random.any(&VALUES)),
        }
    }

    /// A revision of any kind: none, the current one, a past one, compacted ones and the compacted revision itself,
    /// future and negative ones.
    pub fn revision(&mut self, seen: &Seen) -> i64 {
        match self.random.below(16) {
            0..5 => 0,
            5 => seen.current,
            6 => seen.compacted,
            7 => seen.compacted - 1,
            8 => seen.current + 1,
            9 => seen.current + self.random.between(2, 1000),
            10 => -self.random.between(1, 3),
            11 => self.random.between(0, seen.compacted.max(1)),
            _ => self.random.between(seen.compacted.max(1), seen.current),
        }
    }

    pub fn range(&mut self, seen: &Seen) -> RangeRequest {
        let (key, range_end) = self.keys_to_read();
        let mut request = RangeRequest { key, range_end, ..RangeRequest::default() };
        if self.random.one_in(2) {
            request.revision = self.revision(seen);
        }
        if self.random.one_in(3) {
            request.limit = self.random.between(-1, 6);
        }
        if self.random.one_in(2) {
            request.sort_order = self.random.between(0, 2) as i32;
            request.sort_target = self.random.between(0, 4) as i32;
        }
        match self.random.below(50) {
            0 => request.sort_order = NO_SUCH_ENUM,
            1 if !self.spare_old => request.sort_target = NO_SUCH_ENUM,
            2 if !self.spare_old => request.sort_target = -1,
            _ => {}
        }
        request.serializable = self.random.one_in(4);
        request.keys_only = self.random.one_in(6);
        request.count_only = self.random.one_in(10);
        if self.random.one_in(4) {
            self.revision_filter(&mut request, seen);
        }
        request
    }

    /// One key, all keys, or a range of keys.
    fn keys_to_read(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        match self.random.below(4) {
            0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            1 => (Bytes::from_static(b"a"), Bytes::from_static(b"\0")),
            _ => {
                let end = self.range_end(&key);
                (key, end)
            }
        }
    }

    fn revision_filter(&mut self, request: &mut RangeRequest, seen: &Seen) {
        let bound = self.random.between((seen.current - 40).max(0), seen.current + 1);
        match self.random.below(5) {
            0 => request.min_mod_revision = bound,
            1 => request.max_mod_revision = bound,
            2 => request.min_create_revision = bound,
            3 => request.max_create_revision = bound,
            _ => {
                request.min_mod_revision = bound - 30;
                request.max_mod_revision = bound;
                request.max_create_revision = bound - 5;
            }
        }
    }

    /// Like a range, but half of them without the options that a stream refuses. A target without an order gets a limit
    /// that etcd's first message reaches: etcd 3.7.3 sorts each message separately, together with one key of the next.
    /// Its longer answers therefore lack some keys and have others twice.
    fn range_stream(&mut self, seen: &Seen) -> RangeRequest {
        let mut request = self.range(seen);
        if request.sort_order == 0 && request.sort_target != 0 {
            request.limit = self.random.between(1, 10);
        }
        if self.random.one_in(2) {
            (request.sort_order, request.sort_target) = self.random.any(&[(0, 0), (1, 0)]);
            (request.min_mod_revision, request.max_mod_revision) = (0, 0);
            (request.min_create_revision, request.max_create_revision) = (0, 0);
        }
        request
    }

    /// A put outside a transaction, which may also be too large.
    fn lone_put(&mut self) -> PutRequest {
        let mut request = self.put();
        match self.random.below(120) {
            0 | 1 => request.value = Bytes::from(vec![b'r'; MAX_REQUEST_BYTES]),
            2 => request.value = Bytes::from(vec![b'm'; MAX_MESSAGE_BYTES]),
            _ => {}
        }
        request
    }

    pub fn put(&mut self) -> PutRequest {
        let mut request = PutRequest { key: self.key(), value: self.value(), ..PutRequest::default() };
        request.prev_kv = self.random.one_in(2);
        if self.random.one_in(4) {
            request.lease = self.client_lease();
        }
        match self.random.below(24) {
            0 => request.ignore_value = true,
            1 => (request.ignore_value, request.value) = (true, Bytes::new()),
            2 => request.ignore_lease = true,
            3 => (request.ignore_lease, request.lease) = (true, 0),
            4 => {
                (request.ignore_value, request.value) = (true, Bytes::new());
                (request.ignore_lease, request.lease) = (true, 0);
            }
            _ => {}
        }
        request
    }

    pub fn delete(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        // Mostly one key, because an empty store would test nothing.
        let range_end = if self.random.one_in(4) { self.range_end(&key) } else { Bytes::new() };
        DeleteRangeRequest { key, range_end, prev_kv: self.random.one_in(2) }
    }

    fn compaction(&mut self, seen: &Seen) -> CompactionRequest {
        let revision = match self.random.below(10) {
            0 => seen.compacted,
            1 => seen.current + self.random.between(1, 3),
            2 => self.random.between(-1, seen.compacted),
            3 => seen.current,
            4 => seen.current - 1,
            _ => self.random.between(seen.compacted.max(1), seen.current),
        };
        CompactionRequest { revision, physical: self.random.one_in(3) }
    }

    /// A lease id that clients or a server chose, or one that does not exist, 0 among them.
    fn lease(&mut self, seen: &Seen) -> i64 {
        match self.random.below(8) {
            0 | 1 if seen.chosen_leases > 0 => FIRST_CHOSEN + self.random.between(0, seen.chosen_leases - 1),
            2 => self.random.between(-1, 0),
            _ => self.client_lease(),
        }
    }

    fn client_lease(&mut self) -> i64 {
        if self.random.one_in(12) { 99 } else { self.random.between(1, CLIENT_LEASES) }
    }

    fn grant(&mut self) -> Call {
        let id = if self.random.one_in(4) { 0 } else { self.client_lease() };
        let ttl = match self.random.below(10) {
            0 => self.random.any(&[MAX_LEASE_TTL + 1, i64::MAX]),
            1 => MAX_LEASE_TTL,
            2 => {
                // The TTL is raised to the shortest one, about 2 s. The revoke comes before the lease can expire at a
                // time that each server chooses.
                let id = 90;
                self.next.push_back(Call::Revoke(LeaseRevokeRequest { id }));
                return Call::Grant(LeaseGrantRequest { id, ttl: self.random.between(-1, 1) });
            }
            _ => self.random.between(1000, 5000),
        };
        Call::Grant(LeaseGrantRequest { id, ttl })
    }

    fn watch(&mut self, kind: RequestKind, seen: &Seen) -> WatchCall {
        let stream = self.random.below(WATCH_STREAMS);
        match kind {
            RequestKind::WatchCancel => WatchCall::Cancel { stream, nth: self.random.below(8) },
            RequestKind::WatchProgress => WatchCall::Progress { stream },
            RequestKind::WatchClose => WatchCall::Close { stream },
            _ => WatchCall::Create { stream, request: self.watch_create(seen) },
        }
    }

    fn watch_create(&mut self, seen: &Seen) -> WatchCreateRequest {
        let (key, range_end) = self.keys_to_read();
        let mut request = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
        request.start_revision = match self.random.below(12) {
            0..3 => 0,
            3 => seen.current + 1,
            4 => seen.current + self.random.between(2, 8),
            5 => seen.compacted.max(0),
            6 => (seen.compacted - 1).max(0),
            7 => self.random.between(0, seen.compacted.max(0)),
            8 if self.random.one_in(2) && !self.spare_old => -self.random.between(1, 2),
            _ => self.random.between(seen.compacted.max(0), seen.current),
        };
        if self.spare_old && request.start_revision == seen.compacted {
            request.start_revision += 1;
        }
        request.prev_kv = self.random.one_in(2);
        request.progress_notify = self.random.one_in(4);
        request.fragment = self.random.one_in(4);
        if self.random.one_in(3) {
            request.watch_id = self.random.between(1, 5);
        }
        if self.random.one_in(3) {
            let mut filters = vec![self.random.between(0, 1) as i32];
            match self.random.below(5) {
                0 => filters.push(1 - filters[0]),
                1 => filters.push(NO_SUCH_ENUM),
                _ => {}
            }
            request.filters = filters;
        }
        request
    }
}

/// The end of the range of all keys that begin with `prefix`, as clients compute it.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    match kept {
        None => Bytes::from_static(b"\0"),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
    }
}
