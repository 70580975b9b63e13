//! Any bytes as input from a client: a method, and a message in gRPC's frame, again and again. Requests that pass the
//! checks are read from a store, or applied to it: no request of a client may stop the members. The fuzz target
//! `request` includes this file, so that a fuzzer and the plain tests check the same.

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::Memory;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberAddRequest, MemberUpdateRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
};
use metastore_server::api::check;
use metastore_server::grpc::frame::{Cutter, PREFIX_BYTES};
use metastore_server::grpc::{Frame, Status};
use metastore_store::Store;
use metastore_store::apply::range_query;
use metastore_store::command::{Command, Kind};
use metastore_store::lease::{Expiry, MAX_TTL_S};
use metastore_store::watch::{Hub, Limits, WatchSpec};

/// etcd's limits.
const MAX_REQUEST_BYTES: usize = 3 << 19;
const MAX_TXN_OPS: usize = 128;
const MIN_TTL_S: i64 = 2;
/// At most this many requests of one input are used.
const MOST_REQUESTS: usize = 64;
/// At most this many bounded steps in which a watcher reads history, or a compaction drops it.
const MOST_STEPS: usize = 20;

/// The check of requests that have none of their own.
const UNCHECKED: Result<(), Status> = Ok(());

/// The body of the fuzz target.
///
/// # Panics
/// If a request that passes the checks stops the members, or something panics.
pub fn attempt(bytes: &[u8]) {
    _ = revision_after(bytes);
}

/// The revision that the store reaches.
pub fn revision_after(bytes: &[u8]) -> i64 {
    let mut server = Server::new();
    let mut rest = Bytes::copy_from_slice(bytes);
    for _ in 0..MOST_REQUESTS {
        if rest.is_empty() {
            break;
        }
        let method = rest.split_to(1)[0];
        let mut cutter = Cutter::new(MAX_REQUEST_BYTES);
        // The prefix may arrive alone.
        cutter.push(rest.slice(..rest.len().min(PREFIX_BYTES)));
        if rest.len() > PREFIX_BYTES {
            cutter.push(rest.slice(PREFIX_BYTES..));
        }
        let Ok(Some(message)) = cutter.cut_next() else { break };
        rest = rest.slice(PREFIX_BYTES + message.len()..);
        server.serve(method, message);
    }
    server.store.revision()
}

/// The parts of a server that deal with data.
struct Server {
    store: Store,
    expiry: Expiry,
    hub: Hub,
    index: u64,
}

impl Server {
    fn new() -> Self {
        let store = Store::open(Arc::new(Memory::new())).expect("an empty engine");
        let hub = Hub::new(Arc::new(store.views().clone()), Limits::new(MAX_REQUEST_BYTES, 1000));
        let mut expiry = Expiry::default();
        expiry.promote(0, [], 0);
        Self { store, expiry, hub, index: 0 }
    }

    /// Answers a request, or refuses it.
    fn serve(&mut self, method: u8, message: Bytes) {
        match method % 13 {
            0 => self.with(message, Self::range),
            1 => self.with(message, |server, put: PutRequest| server.write(check::put(&put), Kind::Put, &put)),
            2 => self.with(message, |server, delete: DeleteRangeRequest| {
                server.write(check::delete_range(&delete), Kind::DeleteRange, &delete);
            }),
            3 => self.with(message, Self::txn),
            4 => self.with(message, |server, at: CompactionRequest| server.write(UNCHECKED, Kind::Compaction, &at)),
            5 => self.with(message, Self::grant),
            6 => self.with(message, |server, lease: LeaseRevokeRequest| {
                server.write(UNCHECKED, Kind::LeaseRevoke, &lease);
            }),
            7 => self.with(message, |server, lease: LeaseKeepAliveRequest| _ = server.expiry.renew(lease.id, 1000)),
            8 => self.with(message, |server, lease: LeaseTimeToLiveRequest| {
                _ = server.store.lease_keys(lease.id).expect("the engine does not fail");
            }),
            9 => self.with(message, Self::watch),
            10 => self.with(message, |server, at: HashKvRequest| _ = server.store.view().hash_kv(at.revision)),
            11 => self.with(message, |_, add: MemberAddRequest| _ = check::peer_urls(&add.peer_ur_ls)),
            _ => self.with(message, |_, update: MemberUpdateRequest| _ = check::peer_urls(&update.peer_ur_ls)),
        }
    }

    fn with<T: Message + Default>(&mut self, message: Bytes, serve: impl FnOnce(&mut Self, T)) {
        if let Ok(request) = T::decode(message) {
            serve(self, request);
        }
    }

    fn range(&mut self, request: RangeRequest) {
        if check::range(&request).is_ok() {
            let view = self.store.view();
            let (at_once, in_steps) = (view.range(&range_query(&request)), view.cursor(&range_query(&request)));
            let rows = in_steps.and_then(|mut cursor| cursor.next_rows(view, 10)).map(|rows| rows.len());
            assert_eq!(at_once.is_ok(), rows.is_ok());
        }
    }

    fn txn(&mut self, request: TxnRequest) {
        let reads = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
        let checked = check::txn(&request, MAX_TXN_OPS);
        if checked.is_ok() && request.success.iter().chain(&request.failure).all(reads) {
            _ = self.store.view().read_txn(&request);
        }
        self.write(checked, Kind::Txn, &request);
    }

    fn grant(&mut self, request: LeaseGrantRequest) {
        if request.ttl <= MAX_TTL_S {
            let id = if request.id == 0 { 7 } else { request.id };
            let granted = LeaseGrantRequest { id, ttl: request.ttl.max(MIN_TTL_S) };
            self.write(UNCHECKED, Kind::LeaseGrant, &granted);
            self.expiry.granted(id, granted.ttl, 0);
            _ = self.expiry.take_expired(1_000_000, 10, 10);
        }
    }

    /// Applies a request that passed its checks.
    fn write(&mut self, checked: Result<(), Status>, kind: Kind, request: &impl Message) {
        let data = Command::encode(1, kind, request);
        if checked.is_err() || data.len() > MAX_REQUEST_BYTES {
            return;
        }
        self.index += 1;
        let before = self.store.revision();
        let applied = self.store.apply(self.index, 1, data).expect("what was let in stops no member");
        let outcome = applied.expect("a command has an outcome");
        let events = self.store.publish().expect("the engine does not fail");
        assert_eq!(events.len() as i64, self.store.revision() - before);
        assert!(outcome.reply.is_ok() || events.is_empty(), "a refusal changes nothing");
        events.iter().for_each(|events| self.hub.publish(events));
        if let Some(job) = self.store.take_compaction_hash() {
            job.run().expect("the engine does not fail");
        }
        (0..MOST_STEPS).for_each(|_| _ = self.store.compact_step().expect("the engine does not fail"));
    }

    fn watch(&mut self, request: WatchRequest) {
        let stream = self.hub.open_stream(0);
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let spec = WatchSpec {
                    key: &create.key,
                    range_end: &create.range_end,
                    start_revision: create.start_revision,
                    prev_kv: create.prev_kv,
                    no_put: create.filters.contains(&0),
                    no_delete: create.filters.contains(&1),
                    fragment: create.fragment,
                    progress_notify: create.progress_notify,
                    watch_id: create.watch_id,
                };
                self.hub.create(stream, &spec);
            }
            Some(RequestUnion::CancelRequest(cancel)) => self.hub.cancel(stream, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.hub.progress(stream),
            None => {}
        }
        for _ in 0..MOST_STEPS {
            _ = self.hub.catch_up().expect("the engine does not fail");
            while self.hub.take(stream).is_some() {}
        }
        self.hub.close_stream(stream);
    }
}

/// A request as [`attempt`] takes it.
fn asked(method: u8, request: &impl Message) -> Vec<u8> {
    let frame = Frame::of(request).expect("a short message").into_bytes();
    [&[method][..], &frame].concat()
}

/// The inputs of the corpus.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let put = |key: &'static str, value: &'static str, lease| PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: true,
        ..PutRequest::default()
    };
    let (grant, revoke) = (asked(5, &LeaseGrantRequest { ttl: 10, id: 7 }), asked(6, &LeaseRevokeRequest { id: 7 }));
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), limit: 2, ..RangeRequest::default() };
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: true };
    let create = WatchCreateRequest { key: "a".into(), start_revision: 1, prev_kv: true, ..Default::default() };
    let watch = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let puts =
        [grant.clone(), asked(1, &put("a", "1", 7)), asked(1, &put("a", "2", 0)), asked(1, &put("b", "", 0))].concat();
    let txn = asked(3, &transaction(put("c", "3", 0), all.clone(), delete.clone()));
    let compact = asked(4, &CompactionRequest { revision: 3, physical: true });
    let members = MemberAddRequest { peer_ur_ls: vec!["http://10.0.0.1:2380".into()], is_learner: true };
    let moved = MemberUpdateRequest { id: 7, peer_ur_ls: vec!["https://[::1]:1".into(), "unix://x".into()] };
    let leases = [asked(7, &LeaseKeepAliveRequest { id: 7 }), asked(8, &LeaseTimeToLiveRequest { id: 7, keys: true })];
    let whole = [&puts[..], &txn, &asked(9, &watch), &compact, &asked(2, &delete), &revoke].concat();
    vec![
        ("puts-on-a-lease", [&puts[..], &leases.concat(), &revoke].concat()),
        ("ranges", [&puts[..], &asked(0, &all), &asked(0, &RangeRequest { revision: 2, ..all.clone() })].concat()),
        ("transaction", [&puts[..], &txn].concat()),
        (
            "compacted-and-watched",
            [&puts[..], &compact, &asked(9, &watch), &asked(10, &HashKvRequest { revision: 3 })].concat(),
        ),
        ("members", [asked(11, &members), asked(12, &moved)].concat()),
        ("all-together", whole.clone()),
        ("nothing", Vec::new()),
        ("cut-in-a-prefix", whole[..3].to_vec()),
        ("cut-in-a-message", whole[..whole.len() - 1].to_vec()),
        ("compressed", [&[1, 1][..], &grant[2..]].concat()),
        ("length-of-all-ones", [&[1, 0, 0xff, 0xff, 0xff, 0xff][..], &puts].concat()),
        ("method-of-another-message", [&[3][..], &puts[1..]].concat()),
    ]
}

fn transaction(put: PutRequest, range: RangeRequest, delete: DeleteRangeRequest) -> TxnRequest {
    let op = |request| RequestOp { request: Some(request) };
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: "a".into(),
        range_end: "b".into(),
        target_union: Some(TargetUnion::Value("2".into())),
    };
    let inner = TxnRequest { failure: vec![op(Request::RequestDeleteRange(delete))], ..TxnRequest::default() };
    TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put)), op(Request::RequestRange(range))],
        failure: vec![op(Request::RequestTxn(inner))],
    }
}
