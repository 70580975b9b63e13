//! The errors that only the server can return, as a client sees them: code and text, which clients compare word for
//! word. The errors of the state machine are shown by the scripts of `metastore-store`; here each is caused once, for
//! its code.

mod walk;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, MemberAddRequest,
    MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use metastore_server::config::{self, Invocation};
use metastore_server::grpc::Frame;
use metastore_server::start::{Running, start};

/// Nothing in these tests takes longer unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

const UNKNOWN: &str = "2";
const INVALID_ARGUMENT: &str = "3";
const NOT_FOUND: &str = "5";
const FAILED_PRECONDITION: &str = "9";
const OUT_OF_RANGE: &str = "11";
const UNIMPLEMENTED: &str = "12";

/// A body that does not end after its frames.
struct Open(VecDeque<Bytes>);

impl hyper::body::Body for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        match self.0.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(hyper::body::Frame::data(frame)))),
            None => Poll::Pending,
        }
    }
}

/// A member on a free port and a directory of its own.
struct Member {
    running: Option<Running>,
    directory: PathBuf,
    flags: Vec<String>,
    sender: hyper::client::conn::http2::SendRequest<BoxBody<Bytes, Infallible>>,
}

impl Member {
    async fn start(name: &str, flags: &[&str]) -> Self {
        let directory = std::env::temp_dir().join(format!("metastore-{name}-{}", std::process::id()));
        Self::start_in(directory, flags.iter().map(|flag| flag.to_string()).collect()).await
    }

    /// Stops it, and starts it again on its directory.
    async fn restart(&mut self) {
        let running = self.running.take().expect("it runs");
        tokio::task::spawn_blocking(move || running.stop().wait()).await.unwrap();
        let started = Self::start_in(std::mem::take(&mut self.directory), self.flags.clone()).await;
        *self = started;
    }

    async fn start_in(directory: PathBuf, flags: Vec<String>) -> Self {
        let usual = [
            "--listen-client-urls=http://127.0.0.1:0",
            "--advertise-client-urls=http://127.0.0.1:1",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--io-threads=1",
        ];
        let data_dir = format!("--data-dir={}", directory.display());
        let arguments = usual.iter().map(|flag| flag.to_string()).chain(flags.clone()).chain([data_dir]);
        let Ok(Invocation::Start(config, _)) = config::load(arguments, []) else { panic!("the flags are good") };
        let running = tokio::task::spawn_blocking(move || start(&config).unwrap()).await.unwrap();
        let stream = tokio::net::TcpStream::connect(running.client_addresses[0]).await.unwrap();
        let io = TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self { running: Some(running), directory, flags, sender }
    }

    /// The code and text with which a call ends.
    async fn call(&mut self, path: &str, message: &impl Message) -> (String, String) {
        self.call_with(path, message.encode_to_vec()).await
    }

    /// The same for a message in encoded form.
    async fn call_with(&mut self, path: &str, message: Vec<u8>) -> (String, String) {
        let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        let body = Full::new(Bytes::from(frame)).boxed();
        let uri = format!("http://member/etcdserverpb.{path}");
        let request = Request::post(uri).header("content-type", "application/grpc").body(body).unwrap();
        let end = async {
            let response = self.sender.send_request(request).await.unwrap();
            let headers = response.headers().clone();
            let body = response.into_body().collect().await.unwrap();
            let trailers = body.trailers().cloned().unwrap_or(headers);
            let text = |map: &HeaderMap, name| map.get(name).map_or(String::new(), |v| v.to_str().unwrap().to_owned());
            (text(&trailers, "grpc-status"), text(&trailers, "grpc-message"))
        };
        tokio::time::timeout(PATIENCE, end).await.expect("stuck")
    }

    async fn members(&mut self) -> Vec<metastore_proto::etcdserverpb::Member> {
        let body = Full::new(Frame::of(&MemberListRequest { linearizable: true }).unwrap().into_bytes()).boxed();
        let uri = "http://member/etcdserverpb.Cluster/MemberList";
        let request = Request::post(uri).header("content-type", "application/grpc").body(body).unwrap();
        let body = self.sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        MemberListResponse::decode(&body[5..]).unwrap().members
    }

    /// The first `count` answers of a watch stream that creates `watches`.
    async fn watch(&mut self, watches: Vec<WatchCreateRequest>, count: usize) -> Vec<WatchResponse> {
        let request = |create| WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let frames = watches.into_iter().map(|create| Frame::of(&request(create)).unwrap().into_bytes());
        let body = Open(frames.collect()).boxed();
        let uri = "http://member/etcdserverpb.Watch/Watch";
        let request = Request::post(uri).header("content-type", "application/grpc").body(body).unwrap();
        let answers = async {
            let mut body = self.sender.send_request(request).await.unwrap().into_body();
            let (mut bytes, mut answers) = (BytesMut::new(), Vec::new());
            while answers.len() < count {
                let frame = body.frame().await.expect("the stream stays open").unwrap();
                bytes.extend_from_slice(&frame.into_data().expect("no trailers yet"));
                while bytes.len() >= 5 && bytes.len() - 5 >= (&bytes[1..5]).get_u32() as usize {
                    let len = (&bytes[1..5]).get_u32() as usize;
                    answers.push(WatchResponse::decode(&bytes.split_to(5 + len)[5..]).unwrap());
                }
            }
            answers
        };
        tokio::time::timeout(PATIENCE, answers).await.expect("stuck")
    }

    async fn refuses(&mut self, path: &str, message: &impl Message, code: &str, text: &str) {
        let (status, message) = self.call(path, message).await;
        assert_eq!((&status[..], &message[..]), (code, text), "{path}");
    }

    async fn accepts(&mut self, path: &str, message: &impl Message) {
        self.refuses(path, message, "0", "").await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), ..Default::default() }
}

fn ops(puts: &[&'static str]) -> Vec<RequestOp> {
    puts.iter().map(|key| RequestOp { request: Some(Op::RequestPut(put(key))) }).collect()
}

fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

#[tokio::test]
async fn what_a_request_lacks_or_has_too_much() {
    let mut member = Member::start("errors-of-requests", &["--max-txn-ops=3", "--max-request-bytes=2000"]).await;
    let no_key = "etcdserver: key is not provided";
    member.refuses("KV/Put", &PutRequest::default(), INVALID_ARGUMENT, no_key).await;
    member.refuses("KV/Range", &RangeRequest::default(), INVALID_ARGUMENT, no_key).await;
    member.refuses("KV/DeleteRange", &DeleteRangeRequest::default(), INVALID_ARGUMENT, no_key).await;
    let nameless = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    member.refuses("KV/Txn", &nameless, INVALID_ARGUMENT, no_key).await;
    member.refuses("KV/Txn", &then(ops(&[""])), INVALID_ARGUMENT, no_key).await;

    let value = PutRequest { value: "v".into(), ignore_value: true, ..put("k") };
    member.refuses("KV/Put", &value, INVALID_ARGUMENT, "etcdserver: value is provided").await;
    let lease = PutRequest { lease: 7, ignore_lease: true, ..put("k") };
    member.refuses("KV/Put", &lease, INVALID_ARGUMENT, "etcdserver: lease is provided").await;

    let too_many = "etcdserver: too many operations in txn request";
    member.accepts("KV/Txn", &then(ops(&["a", "b", "c"]))).await;
    member.refuses("KV/Txn", &then(ops(&["a", "b", "c", "d"])), INVALID_ARGUMENT, too_many).await;
    let nested = RequestOp { request: Some(Op::RequestTxn(then(ops(&["a", "b", "c"])))) };
    member.refuses("KV/Txn", &then(vec![nested]), INVALID_ARGUMENT, too_many).await;
    let twice = "etcdserver: duplicate key given in txn request";
    member.refuses("KV/Txn", &then(ops(&["a", "a"])), INVALID_ARGUMENT, twice).await;
    let nothing = then(vec![RequestOp { request: None }]);
    member.refuses("KV/Txn", &nothing, INVALID_ARGUMENT, "etcdserver: key not found").await;

    let order = RangeRequest { key: "k".into(), sort_order: 3, ..Default::default() };
    let target = RangeRequest { key: "k".into(), sort_target: -1, ..Default::default() };
    for request in [order, target] {
        member.refuses("KV/Range", &request, INVALID_ARGUMENT, "etcdserver: invalid sort option").await;
    }
    let large = PutRequest { value: vec![b'x'; 2000].into(), ..put("k") };
    member.refuses("KV/Put", &large, INVALID_ARGUMENT, "etcdserver: request is too large").await;
}

#[tokio::test]
async fn what_a_stream_of_ranges_does_not_do() {
    let mut member = Member::start("errors-of-streams", &[]).await;
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    member.accepts("KV/RangeStream", &all).await;
    let sorted = RangeRequest { sort_order: 2, ..all.clone() };
    let text = "RangeStream does not support custom sort orders";
    member.refuses("KV/RangeStream", &sorted, UNIMPLEMENTED, text).await;
    let bounded = RangeRequest { min_mod_revision: 1, ..all.clone() };
    let text = "RangeStream does not support revision filters";
    member.refuses("KV/RangeStream", &bounded, UNIMPLEMENTED, text).await;
    let unsorted = RangeRequest { sort_order: 9, ..all };
    member.refuses("KV/RangeStream", &unsorted, INVALID_ARGUMENT, "etcdserver: invalid sort option").await;
}

#[tokio::test]
async fn codes_of_what_the_state_machine_refuses() {
    let mut member = Member::start("errors-of-state", &[]).await;
    for _ in 0..3 {
        member.accepts("KV/Put", &put("k")).await;
    }
    let compact = |revision| CompactionRequest { revision, physical: false };
    member.accepts("KV/Compact", &compact(3)).await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    let at = |revision| RangeRequest { key: "k".into(), revision, ..Default::default() };
    member.refuses("KV/Compact", &compact(3), OUT_OF_RANGE, compacted).await;
    member.refuses("KV/Compact", &compact(9), OUT_OF_RANGE, future).await;
    member.refuses("KV/Range", &at(2), OUT_OF_RANGE, compacted).await;
    member.refuses("KV/Range", &at(9), OUT_OF_RANGE, future).await;
    let keep = PutRequest { ignore_value: true, ..put("absent") };
    member.refuses("KV/Put", &keep, INVALID_ARGUMENT, "etcdserver: key not found").await;
    let no_lease = "etcdserver: requested lease not found";
    member.refuses("KV/Put", &PutRequest { lease: 7, ..put("k") }, NOT_FOUND, no_lease).await;
    member.refuses("Lease/LeaseRevoke", &LeaseRevokeRequest { id: 7 }, NOT_FOUND, no_lease).await;
    member.accepts("Lease/LeaseGrant", &LeaseGrantRequest { id: 7, ttl: 60 }).await;
    let again = LeaseGrantRequest { id: 7, ttl: 60 };
    member.refuses("Lease/LeaseGrant", &again, FAILED_PRECONDITION, "etcdserver: lease already exists").await;
    let long = LeaseGrantRequest { id: 8, ttl: 9_000_000_001 };
    member.refuses("Lease/LeaseGrant", &long, OUT_OF_RANGE, "etcdserver: too large lease TTL").await;
}

#[tokio::test]
async fn what_the_members_do_not_allow() {
    let mut member = Member::start("errors-of-members", &[]).await;
    let add = |url: &str, is_learner| MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    let bad = "etcdserver: given member URLs are invalid";
    member.refuses("Cluster/MemberAdd", &add("127.0.0.1:1", true), INVALID_ARGUMENT, bad).await;
    member.refuses("Cluster/MemberAdd", &MemberAddRequest::default(), INVALID_ARGUMENT, bad).await;
    let moved = |id, url: &str| MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
    member.refuses("Cluster/MemberUpdate", &moved(5, "x"), INVALID_ARGUMENT, bad).await;
    member.accepts("Cluster/MemberAdd", &add("http://127.0.0.1:1", true)).await;
    let exists = "etcdserver: Peer URLs already exists";
    member.refuses("Cluster/MemberAdd", &add("http://localhost:2380", true), FAILED_PRECONDITION, exists).await;
    let full = "etcdserver: too many learner members in cluster";
    member.refuses("Cluster/MemberAdd", &add("http://127.0.0.1:2", true), FAILED_PRECONDITION, full).await;

    let not_found = "etcdserver: member not found";
    member.refuses("Cluster/MemberUpdate", &moved(5, "http://127.0.0.1:9"), NOT_FOUND, not_found).await;
    member.refuses("Cluster/MemberRemove", &MemberRemoveRequest { id: 5 }, NOT_FOUND, not_found).await;
    member.refuses("Cluster/MemberPromote", &MemberPromoteRequest { id: 5 }, NOT_FOUND, not_found).await;
    let members = member.members().await;
    let id = |learner| members.iter().find(|member| member.is_learner == learner).unwrap().id;
    let behind = "etcdserver: can only promote a learner member which is in sync with leader";
    let promote = |id| MemberPromoteRequest { id };
    member.refuses("Cluster/MemberPromote", &promote(id(true)), FAILED_PRECONDITION, behind).await;
    let voter = "etcdserver: can only promote a learner member";
    member.refuses("Cluster/MemberPromote", &promote(id(false)), FAILED_PRECONDITION, voter).await;
    let last = "etcdserver: re-configuration failed due to not enough started members";
    member.refuses("Cluster/MemberRemove", &MemberRemoveRequest { id: id(false) }, UNKNOWN, last).await;

    let to = "etcdserver: bad leader transferee";
    for target_id in [5, id(true)] {
        member.refuses("Maintenance/MoveLeader", &MoveLeaderRequest { target_id }, FAILED_PRECONDITION, to).await;
    }
    member.accepts("Maintenance/MoveLeader", &MoveLeaderRequest { target_id: id(false) }).await;
    member.accepts("Cluster/MemberRemove", &MemberRemoveRequest { id: id(true) }).await;
    assert_eq!(member.members().await.len(), 1);
}

/// A watch is refused inside its stream, which goes on: the other watches on it are not harmed.
#[tokio::test]
async fn watches_are_refused_in_their_stream() {
    let mut member = Member::start("errors-of-watches", &[]).await;
    let create = |key: &'static str| WatchCreateRequest { key: key.into(), ..Default::default() };
    let watches = vec![
        WatchCreateRequest { range_end: "a".into(), ..create("b") },
        WatchCreateRequest { start_revision: -1, ..create("a") },
        WatchCreateRequest { watch_id: 5, ..create("a") },
        WatchCreateRequest { watch_id: 5, ..create("a") },
        create("a"),
    ];
    let answers = member.watch(watches, 5).await;
    let ends: Vec<_> = answers.iter().map(|a| (a.watch_id, a.created, a.canceled, &a.cancel_reason[..])).collect();
    let expected = [
        (-1, true, true, "mvcc: watcher range is empty"),
        (-1, true, true, "etcdserver: mvcc: required revision has been compacted"),
        (5, true, false, ""),
        (-1, true, true, "mvcc: duplicate watch ID provided on the WatchStream"),
        (0, true, false, ""),
    ];
    assert_eq!(ends, expected);
}
