//! The calls of the walk, and who may make each: the table of etcd 3.7.
//!
//! Every method that the server registers is in the list at least once. A method whose answer depends on the keys, the
//! lease or the user that the request names is there more often.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::*;
use metastore_proto::health::HealthCheckRequest;
use metastore_proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use metastore_proto::v3lockpb::{LockRequest, UnlockRequest};
use metastore_tests::auth::{Done, permission};
use metastore_tests::grpc::Client;
use metastore_tests::lease::KeepAliveStream;
use metastore_tests::paths;
use metastore_tests::watch::WatchStream;
use prost::Message;
use tonic::{Code, Status};

/// How long a server may take to answer on a watch stream.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leases: with a key outside of alice's range, with one inside, with one inside that alice revokes, without keys, and
/// one that does not exist.
pub const FOREIGN: i64 = 1;
pub const OWN: i64 = 2;
pub const OWN_TOO: i64 = 3;
pub const EMPTY: i64 = 4;
const UNKNOWN: i64 = 5;
/// The granted time of each, which a renewal gives again.
pub const TTL_S: i64 = 600;

/// Answers. A success of a call without an answer of interest is "OK".
pub const OK: &str = "OK";
pub const NO_NAME: &str = "InvalidArgument etcdserver: user name is empty";
pub const BAD_TOKEN: &str = "Unauthenticated etcdserver: invalid auth token";
pub const DENIED: &str = "PermissionDenied etcdserver: permission denied";
pub const OLD_REVISION: &str = "InvalidArgument etcdserver: revision of auth store is old";
const NO_MEMBER: &str = "NotFound etcdserver: member not found";
const NO_LEASE: &str = "NotFound etcdserver: requested lease not found";
const FUTURE: &str = "OutOfRange etcdserver: mvcc: required revision is a future revision";
const NO_KEY: &str = "InvalidArgument etcdserver: key is not provided";

/// The answers without a token, with a token that nobody was given, to the user nobody (who has no role), to alice (who
/// may read and write the keys from a to b), and to root.
pub type Answers = [&'static str; 5];

/// No token is looked at.
pub const UNASKED: Answers = [OK; 5];
/// A token must be valid, if there is one.
const OPEN: Answers = [OK, BAD_TOKEN, OK, OK, OK];
const USERS: Answers = users(OK);
const ALICES: Answers = alices(OK);
const ROOTS: Answers = roots(OK);

const fn users(answer: &'static str) -> Answers {
    [NO_NAME, BAD_TOKEN, answer, answer, answer]
}

const fn alices(answer: &'static str) -> Answers {
    [NO_NAME, BAD_TOKEN, DENIED, answer, answer]
}

const fn roots(answer: &'static str) -> Answers {
    [NO_NAME, BAD_TOKEN, DENIED, DENIED, answer]
}

/// One member, as one caller sees it.
#[derive(Clone)]
pub struct At {
    pub client: Client,
    pub member_id: u64,
    pub peer_url: String,
}

type Answering = Pin<Box<dyn Future<Output = String>>>;
type Encoding = dyn Fn(&At) -> Vec<u8>;

/// One call of the walk.
pub struct Row {
    pub path: &'static str,
    /// The distinction from other calls of the method.
    pub what: &'static str,
    pub answers: Answers,
    make: Box<dyn Fn(At) -> Answering>,
    request: Box<Encoding>,
}

impl Row {
    fn new<Q: Message>(
        (path, what, answers): (&'static str, &'static str, Answers),
        request: impl Fn(&At) -> Q + 'static,
        make: impl Fn(At) -> Answering + 'static,
    ) -> Row {
        let request = move |at: &At| request(at).encode_to_vec();
        Row { path, what, answers, make: Box::new(make), request: Box::new(request) }
    }

    /// The encoded request; the first one of a client that streams.
    pub fn request(&self, at: &At) -> Vec<u8> {
        (self.request)(at)
    }

    /// Makes the call, and shows its answer.
    pub async fn make(&self, at: At) -> String {
        (self.make)(at).await
    }

    pub fn name(&self) -> String {
        format!("{} {}", self.path, self.what)
    }
}

/// All calls. Those at the end take away what others need.
pub fn rows() -> Vec<Row> {
    [kv(), leases(), watches(), cluster(), maintenance(), users_and_roles(), recipes(), health(), last()]
        .into_iter()
        .flatten()
        .collect()
}

fn kv() -> Vec<Row> {
    use paths::{COMPACT, DELETE_RANGE, PUT, RANGE, RANGE_STREAM, TXN};
    let serializable = RangeRequest { serializable: true, ..range("zz", "") };
    let with_previous = |put: PutRequest| PutRequest { prev_kv: true, ..put };
    let leased = |put: PutRequest| PutRequest { lease: FOREIGN, ..put };
    let only = |request: Request| txn(vec![], vec![request], vec![]);
    vec![
        unary(RANGE, "a1", ALICES, range("a1", "")),
        unary(RANGE, "zz", ROOTS, range("zz", "")),
        unary(RANGE, "zz serializable", ROOTS, serializable.clone()),
        unary(RANGE, "zz in the future", roots(FUTURE), RangeRequest { revision: 1 << 40, ..range("zz", "") }),
        unary(RANGE, "a to b", ALICES, range("a", "b")),
        unary(RANGE, "a to c", ROOTS, range("a", "c")),
        unary(RANGE, "from a on", ROOTS, range("a", "\0")),
        unary(RANGE, "end before the key", ALICES, range("a5", "a1")),
        unary(RANGE, "a1 to a1", ALICES, range("a1", "a1")),
        unary(RANGE, "no key", [NO_KEY; 5], range("", "")),
        stream(RANGE_STREAM, "a1", ALICES, range("a1", "")),
        stream(RANGE_STREAM, "zz", ROOTS, range("zz", "")),
        stream(RANGE_STREAM, "zz in the future", roots(FUTURE), RangeRequest { revision: 1 << 40, ..range("zz", "") }),
        stream(RANGE_STREAM, "zz serializable", ROOTS, serializable),
        unary(PUT, "a1", ALICES, put("a1")),
        unary(PUT, "zy", ROOTS, put("zy")),
        unary(PUT, "a1 prev_kv", ALICES, with_previous(put("a1"))),
        unary(PUT, "a2 with a lease of zz", ROOTS, leased(put("a2"))),
        unary(PUT, "no key", [NO_KEY; 5], put("")),
        unary(DELETE_RANGE, "a9", ALICES, delete("a9", "")),
        unary(DELETE_RANGE, "zx", ROOTS, delete("zx", "")),
        unary(DELETE_RANGE, "a8 to c", ROOTS, delete("a8", "c")),
        unary(TXN, "empty", OPEN, TxnRequest::default()),
        unary(TXN, "compare a1 only", ALICES, txn(vec![exists("a1")], vec![], vec![])),
        unary(TXN, "compare zz only", ROOTS, txn(vec![exists("zz")], vec![], vec![])),
        unary(TXN, "range a1", ALICES, only(Request::RequestRange(range("a1", "")))),
        unary(TXN, "range zz", ROOTS, only(Request::RequestRange(range("zz", "")))),
        unary(TXN, "put a1", ALICES, only(Request::RequestPut(put("a1")))),
        unary(TXN, "put a2 with a lease of zz", ROOTS, only(Request::RequestPut(leased(put("a2"))))),
        unary(TXN, "delete zx", ROOTS, only(Request::RequestDeleteRange(delete("zx", "")))),
        unary(TXN, "else put zz", ROOTS, txn(vec![exists("a1")], vec![], vec![Request::RequestPut(put("zz"))])),
        unary(TXN, "nested put zy", ROOTS, only(Request::RequestTxn(only(Request::RequestPut(put("zy")))))),
        unary(COMPACT, "2", ROOTS, CompactionRequest { revision: 2, physical: true }),
        unary(COMPACT, "in the future", roots(FUTURE), CompactionRequest { revision: 1 << 40, physical: false }),
    ]
}

fn leases() -> Vec<Row> {
    use paths::{LEASE_GRANT, LEASE_LEASES, LEASE_REVOKE, LEASE_TIME_TO_LIVE};
    let time = |what, answers, id, keys| unary(LEASE_TIME_TO_LIVE, what, answers, LeaseTimeToLiveRequest { id, keys });
    let revoke = |what, answers, id| unary(LEASE_REVOKE, what, answers, LeaseRevokeRequest { id });
    vec![
        unary(LEASE_GRANT, "", USERS, LeaseGrantRequest { id: 0, ttl: TTL_S }),
        time("of a foreign one", USERS, FOREIGN, false),
        time("with keys of a foreign one", ROOTS, FOREIGN, true),
        time("with keys of an own one", ALICES, OWN, true),
        time("with keys of one without keys", USERS, EMPTY, true),
        unary(LEASE_LEASES, "one of them foreign", ROOTS, LeaseLeasesRequest {}),
        keep_alive("a foreign one", roots("TTL=600"), FOREIGN),
        keep_alive("an own one", alices("TTL=600"), OWN),
        keep_alive("one without keys", users("TTL=600"), EMPTY),
        keep_alive("an unknown one", users("TTL=0"), UNKNOWN),
        revoke("an unknown one", users(NO_LEASE), UNKNOWN),
        revoke("an own one", [NO_NAME, BAD_TOKEN, DENIED, OK, NO_LEASE], OWN_TOO),
    ]
}

fn watches() -> Vec<Row> {
    let from = |key: &'static str, end: &'static str, start_revision| WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        start_revision,
        ..Default::default()
    };
    vec![
        watch("a1", ALICES, from("a1", "", 0)),
        watch("zz", ROOTS, from("zz", "", 0)),
        watch("a to b", ALICES, from("a", "b", 0)),
        watch("a to c", ROOTS, from("a", "c", 0)),
        watch("everything", ROOTS, from("", "\0", 0)),
    ]
}

fn cluster() -> Vec<Row> {
    use paths::{MEMBER_ADD, MEMBER_LIST, MEMBER_PROMOTE, MEMBER_REMOVE, MEMBER_UPDATE};
    let exists = roots("FailedPrecondition etcdserver: Peer URLs already exists");
    let update = MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://127.0.0.1:1".into()] };
    vec![
        unary(MEMBER_LIST, "", USERS, MemberListRequest { linearizable: false }),
        unary(MEMBER_LIST, "linearizable", USERS, MemberListRequest { linearizable: true }),
        unary_at(MEMBER_ADD, "with URLs that exist", exists, |at: &At| MemberAddRequest {
            peer_ur_ls: vec![at.peer_url.clone()],
            is_learner: false,
        }),
        unary(MEMBER_REMOVE, "an unknown one", roots(NO_MEMBER), MemberRemoveRequest { id: 1 }),
        unary(MEMBER_UPDATE, "an unknown one", roots(NO_MEMBER), update),
        unary(MEMBER_PROMOTE, "an unknown one", roots(NO_MEMBER), MemberPromoteRequest { id: 1 }),
    ]
}

fn maintenance() -> Vec<Row> {
    use paths::{ALARM, DEFRAGMENT, DOWNGRADE, HASH, HASH_KV, MOVE_LEADER, SNAPSHOT, STATUS};
    let alarm = |action: AlarmAction| AlarmRequest { action: action.into(), ..Default::default() };
    let downgrade = |action, version: &str| DowngradeRequest { action, version: version.into() };
    let bad_target = roots("FailedPrecondition etcdserver: bad leader transferee");
    vec![
        unary(STATUS, "", USERS, StatusRequest {}),
        unary(ALARM, "get", USERS, alarm(AlarmAction::Get)),
        unary(ALARM, "activate none", ROOTS, alarm(AlarmAction::Activate)),
        unary(ALARM, "deactivate", ROOTS, alarm(AlarmAction::Deactivate)),
        unary(DEFRAGMENT, "", ROOTS, DefragmentRequest {}),
        unary(HASH, "", ROOTS, HashRequest {}),
        unary(HASH_KV, "", ROOTS, HashKvRequest { revision: 0 }),
        stream(SNAPSHOT, "", ROOTS, Done {}),
        unary_at(MOVE_LEADER, "to itself", ROOTS, |at: &At| MoveLeaderRequest { target_id: at.member_id }),
        unary(MOVE_LEADER, "to an unknown one", bad_target, MoveLeaderRequest { target_id: 1 }),
        unary(
            DOWNGRADE,
            "validate a bad version",
            roots("InvalidArgument etcdserver: invalid downgrade target version"),
            downgrade(0, "3.0"),
        ),
        unary(DOWNGRADE, "cancel", ROOTS, downgrade(2, "")),
    ]
}

fn users_and_roles() -> Vec<Row> {
    use paths::*;
    let no_user = roots("FailedPrecondition etcdserver: user name not found");
    let no_role = roots("FailedPrecondition etcdserver: role name not found");
    let get = |name: &str| AuthUserGetRequest { name: name.into() };
    let get_role = |role: &str| AuthRoleGetRequest { role: role.into() };
    let log_in = |password: &str| AuthenticateRequest { name: "alice".into(), password: password.into() };
    let wrong = "InvalidArgument etcdserver: authentication failed, invalid user ID or password";
    let (name, password, role) = (|| "new".to_string(), || "new".to_string(), || "new".to_string());
    let perm = || permission(Type::Read, "n", "");
    vec![
        unary(AUTH_STATUS, "", OPEN, AuthStatusRequest {}),
        unary(AUTHENTICATE, "alice", UNASKED, log_in("alice's")),
        unary(AUTHENTICATE, "alice, wrong password", [wrong; 5], log_in("wrong")),
        unary(AUTH_ENABLE, "", ROOTS, AuthEnableRequest {}),
        unary(USER_GET, "alice", ALICES, get("alice")),
        unary(USER_GET, "root", ROOTS, get("root")),
        unary(USER_GET, "missing", no_user, get("missing")),
        unary(USER_LIST, "", ROOTS, AuthUserListRequest {}),
        unary(ROLE_GET, "r", ALICES, get_role("r")),
        unary(ROLE_GET, "missing", no_role, get_role("missing")),
        unary(ROLE_GET, "root", no_role, get_role("root")),
        unary(ROLE_LIST, "", ROOTS, AuthRoleListRequest {}),
        unary(ROLE_ADD, "", ROOTS, AuthRoleAddRequest { name: role() }),
        unary(USER_ADD, "", ROOTS, AuthUserAddRequest { name: name(), password: password(), ..Default::default() }),
        unary(USER_GRANT_ROLE, "", ROOTS, AuthUserGrantRoleRequest { user: name(), role: role() }),
        unary(ROLE_GRANT_PERMISSION, "", ROOTS, AuthRoleGrantPermissionRequest { name: role(), perm: Some(perm()) }),
        unary(
            ROLE_REVOKE_PERMISSION,
            "",
            ROOTS,
            AuthRoleRevokePermissionRequest { role: role(), key: perm().key, range_end: Bytes::new() },
        ),
        unary(USER_REVOKE_ROLE, "", ROOTS, AuthUserRevokeRoleRequest { name: name(), role: role() }),
        unary(ROLE_DELETE, "", ROOTS, AuthRoleDeleteRequest { role: role() }),
        unary(
            USER_CHANGE_PASSWORD,
            "",
            ROOTS,
            AuthUserChangePasswordRequest { name: name(), password: password(), ..Default::default() },
        ),
        unary(
            USER_CHANGE_PASSWORD,
            "of a missing one",
            no_user,
            AuthUserChangePasswordRequest { name: "missing".into(), password: password(), ..Default::default() },
        ),
        unary(USER_DELETE, "", ROOTS, AuthUserDeleteRequest { name: name() }),
        unary(
            USER_DELETE,
            "root",
            roots("InvalidArgument etcdserver: invalid auth management"),
            AuthUserDeleteRequest { name: "root".into() },
        ),
    ]
}

/// Errors of the calls that these make have another code.
fn recipes() -> Vec<Row> {
    use paths::{CAMPAIGN, LEADER, LOCK, OBSERVE, PROCLAIM, RESIGN, UNLOCK};
    let alices = recipe(OK);
    let name = |name: &'static str| Bytes::from(name);
    let leader = |key: &'static str| Some(LeaderKey { key: key.into(), rev: 1, ..Default::default() });
    let not_leader = recipe("Unknown election: not leader");
    vec![
        unary(LOCK, "", alices, LockRequest { name: name("a1"), lease: EMPTY }),
        unary(UNLOCK, "", alices, UnlockRequest { key: name("a1/x") }),
        unary(CAMPAIGN, "", alices, CampaignRequest { name: name("a2"), lease: EMPTY, value: Bytes::new() }),
        unary(LEADER, "", alices, LeaderRequest { name: name("a2") }),
        stream(OBSERVE, "", UNASKED, LeaderRequest { name: name("a2") }),
        unary(PROCLAIM, "", not_leader, ProclaimRequest { leader: leader("a9"), value: Bytes::new() }),
        unary(RESIGN, "", alices, ResignRequest { leader: leader("a9") }),
    ]
}

const fn recipe(answer: &'static str) -> Answers {
    let no_name = "Unknown etcdserver: user name is empty";
    let bad_token = "Unknown etcdserver: invalid auth token";
    [no_name, bad_token, "Unknown etcdserver: permission denied", answer, answer]
}

fn health() -> Vec<Row> {
    vec![
        unary(paths::HEALTH_CHECK, "", UNASKED, HealthCheckRequest::default()),
        unary(paths::HEALTH_LIST, "", UNASKED, Done {}),
        stream(paths::HEALTH_WATCH, "", UNASKED, HealthCheckRequest::default()),
    ]
}

/// These take away what other calls need.
fn last() -> Vec<Row> {
    vec![
        unary(paths::LEASE_REVOKE, "a foreign one", ROOTS, LeaseRevokeRequest { id: FOREIGN }),
        unary(paths::AUTH_DISABLE, "", ROOTS, AuthDisableRequest {}),
    ]
}

fn unary<Q: Message + Clone + 'static>(path: &'static str, what: &'static str, answers: Answers, request: Q) -> Row {
    unary_at(path, what, answers, move |_| request.clone())
}

fn unary_at<Q: Message + 'static>(
    path: &'static str,
    what: &'static str,
    answers: Answers,
    request: impl Fn(&At) -> Q + Clone + 'static,
) -> Row {
    Row::new((path, what, answers), request.clone(), move |at| {
        let request = request(&at);
        Box::pin(async move { show(at.client.unary::<_, Done>(path, request).await) })
    })
}

/// Takes the first message of the stream, if it has one.
fn stream<Q: Message + Clone + 'static>(path: &'static str, what: &'static str, answers: Answers, request: Q) -> Row {
    let message = request.clone();
    Row::new(
        (path, what, answers),
        move |_| message.clone(),
        move |at| {
            let request = request.clone();
            Box::pin(async move {
                show(async { at.client.open_server_stream::<_, Done>(path, request).await?.message().await }.await)
            })
        },
    )
}

fn keep_alive(what: &'static str, answers: Answers, id: i64) -> Row {
    Row::new(
        (paths::LEASE_KEEP_ALIVE, what, answers),
        move |_| LeaseKeepAliveRequest { id },
        move |at| {
            Box::pin(async move {
                match KeepAliveStream::open(&at.client, id).await {
                    Ok((_, answer)) => format!("TTL={}", answer.ttl),
                    Err(status) => of(&status),
                }
            })
        },
    )
}

/// The refusal of a watcher is its cancellation: the stream goes on.
fn watch(what: &'static str, answers: Answers, request: WatchCreateRequest) -> Row {
    let create = RequestUnion::CreateRequest(request.clone());
    let message = WatchRequest { request_union: Some(create) };
    Row::new(
        (paths::WATCH, what, answers),
        move |_| message.clone(),
        move |at| {
            let request = request.clone();
            Box::pin(async move {
                let first = async { WatchStream::open(&at.client, request).await?.next(PATIENCE).await }.await;
                match first {
                    Ok(Some(WatchResponse { created: true, canceled: false, watch_id: 0, .. })) => OK.to_string(),
                    Ok(Some(WatchResponse { created: true, canceled: true, watch_id: -1, cancel_reason, .. })) => {
                        refusal(&cancel_reason)
                    }
                    Ok(other) => format!("{other:?}"),
                    Err(status) => of(&status),
                }
            })
        },
    )
}

/// The answer in the reason of a cancellation, which shows a status as Go prints it.
pub fn refusal(reason: &str) -> String {
    let status = reason.strip_prefix("rpc error: code = ").and_then(|reason| reason.split_once(" desc = "));
    status.map_or_else(|| reason.to_string(), |(code, text)| format!("{code} {text}"))
}

fn show<T>(answer: Result<T, Status>) -> String {
    answer.map_or_else(|status| of(&status), |_| OK.to_string())
}

fn of(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message())
}

/// Whether an answer refuses the token itself.
pub fn refuses_the_token(answer: &str) -> bool {
    answer.starts_with(&format!("{:?} ", Code::Unauthenticated))
}

fn range(key: &'static str, range_end: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: range_end.into(), ..RangeRequest::default() }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() }
}

fn delete(key: &'static str, range_end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false }
}

fn exists(key: &'static str) -> Compare {
    Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: key.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Compare::default()
    }
}

fn txn(compare: Vec<Compare>, success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
    let ops = |requests: Vec<Request>| requests.into_iter().map(|request| RequestOp { request: Some(request) });
    TxnRequest { compare, success: ops(success).collect(), failure: ops(failure).collect() }
}
