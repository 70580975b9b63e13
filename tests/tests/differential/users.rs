//! A world with users: random users, roles, permissions and logins, and the calls of the grammar in anybody's name.
//!
//! Tokens stay in a few slots until another login replaces them, so many of them are of users that were deleted, have
//! another password, or lost a role since then. In the end both servers must have stored the same, users and roles
//! included. Two things differ until then, and are made equal: hashes of passwords are salted, so all passwords are
//! taken away; and a command that its user may not give takes a place in the log of etcd, but not in that of MetaStore,
//! so the shorter log gets as many commands without effect.
//!
//! Not compared here: events (the other worlds do), signed tokens, hashes of compactions.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use metastore_proto::authpb::UserAddOptions;
use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{CHEAP_PASSWORDS, HeaderOnly, permission};
use metastore_tests::grpc::Client;
use metastore_tests::member::{FOUNDING_ENTRIES, Member, SAME_IDENTITY};
use metastore_tests::paths;
use metastore_tests::programs::Server;
use metastore_tests::random::Random;
use metastore_tests::watch::WatchStream;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::call::{Answer, Call, Side};
use super::grammar::{Grammar, MAX_REQUEST_BYTES, MAX_TXN_OPS, NO_SUCH_ENUM, Seen};
use super::normalise::{header, normalise};

const PATIENCE: Duration = Duration::from_secs(20);
/// The number of steps that a report shows before a difference.
const REMEMBERED: usize = 20;
/// Steps without authentication, until it is enabled again.
const OPEN_STEPS: usize = 25;
/// The slot of root's token. The others hold the token of any user.
const ROOTS: usize = 0;
const SLOTS: usize = 9;
/// The slot of alice's token while she asks for ranges that end before they begin, and how many she asks for.
const ALICES: usize = 1;
const INVERTED: usize = 6;
const USERS: [&str; 5] = ["root", "alice", "bob", "carol", ""];
const ROLES: [&str; 5] = ["root", "one", "two", "three", ""];
const PASSWORDS: [&str; 3] = ["p", "q", ""];
const WRONG_TOKEN: &str = "noSuchTokenAtAll.1";
const NO_LEASE: i64 = 4_712;

/// Answers that a run must contain, each this often.
const ENOUGH: usize = 10;
const WANTED: [&str; 17] = [
    "etcdserver: permission denied",
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: authentication is not enabled",
    "etcdserver: user name already exists",
    "etcdserver: user name not found",
    "etcdserver: role name already exists",
    "etcdserver: role name not found",
    "etcdserver: role is not granted to the user",
    "etcdserver: permission is not granted to the role",
    "etcdserver: invalid auth management",
    "a watch",
    "a refused watch",
    READ_INVERTED,
    REFUSED_INVERTED,
    KEY_WITHOUT_INVERTED,
];
/// Reads of a range that ends before it begins. The last kind is refused although the same user has just read the key
/// with which it begins: etcd's tree of permissions has decided by its shape.
const READ_INVERTED: &str = "an inverted range";
const REFUSED_INVERTED: &str = "a refused inverted range";
const KEY_WITHOUT_INVERTED: &str = "a refused inverted range of a permitted key";

/// The caller of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    Wrong,
    Slot(usize),
}

#[derive(Clone, Debug)]
enum Act {
    Store(Call),
    Watch(WatchCreateRequest),
    LogIn(usize, AuthenticateRequest),
    Enable,
    Disable,
    Status,
    UserAdd(AuthUserAddRequest),
    UserGet(AuthUserGetRequest),
    UserList,
    UserDelete(AuthUserDeleteRequest),
    ChangePassword(AuthUserChangePasswordRequest),
    GrantRole(AuthUserGrantRoleRequest),
    RevokeRole(AuthUserRevokeRoleRequest),
    RoleAdd(AuthRoleAddRequest),
    RoleGet(AuthRoleGetRequest),
    RoleList,
    RoleDelete(AuthRoleDeleteRequest),
    Permit(AuthRoleGrantPermissionRequest),
    Forbid(AuthRoleRevokePermissionRequest),
}

/// One server with the tokens that it gave.
struct Tokens {
    plain: Client,
    side: Side,
    tokens: [Option<String>; SLOTS],
}

struct World {
    seed: u64,
    servers: [Tokens; 2],
    random: Random,
    grammar: Grammar,
    seen: Seen,
    /// Steps that must come next.
    next: VecDeque<(Who, Act)>,
    enabled: bool,
    open_steps: usize,
    /// The passwords that were set last.
    passwords: BTreeMap<String, String>,
    answers: BTreeMap<String, usize>,
    /// The key that the step before has read, if it was permitted, and its caller.
    read: Option<(Who, bytes::Bytes)>,
    /// Differences that were excused.
    earlier_refusals: usize,
    step: usize,
    recent: VecDeque<String>,
}

/// Makes `steps` random steps on two new servers. The error describes the difference, and how to reproduce it.
pub fn run(subject: &Server, reference: &Server, seed: u64, steps: usize) -> Result<(), String> {
    let [max_ops, max_bytes] = [MAX_TXN_OPS, MAX_REQUEST_BYTES].map(|limit| limit.to_string());
    let own = ["--unsafe-no-fsync", CHEAP_PASSWORDS, "--max-txn-ops", &max_ops, "--max-request-bytes", &max_bytes];
    let flags = [&SAME_IDENTITY[..], &own].concat();
    let members = std::thread::scope(|scope| {
        let subject = scope.spawn(|| Member::start(subject, &flags));
        let reference = Member::start(reference, &flags);
        [subject.join().expect("the subject starts"), reference]
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let connect = async |member: &Member| {
            let plain = Client::new(member.client_address());
            let side = Side::connect(member.client_address()).await.map_err(|status| status.to_string())?;
            Ok::<_, String>(Tokens { plain, side, tokens: Default::default() })
        };
        let servers = [connect(&members[0]).await?, connect(&members[1]).await?];
        let mut world = World::new(seed, servers);
        let result = world.run(steps).await;
        result.map_err(|reason| world.report(&reason))
    })
}

impl World {
    fn new(seed: u64, servers: [Tokens; 2]) -> World {
        World {
            seed,
            servers,
            random: Random::new(seed),
            grammar: Grammar::new(seed + 1, false),
            seen: Seen { current: 1, compacted: -1, keys: BTreeMap::new(), chosen_leases: 0 },
            next: VecDeque::new(),
            enabled: false,
            open_steps: OPEN_STEPS,
            passwords: BTreeMap::new(),
            answers: BTreeMap::new(),
            read: None,
            earlier_refusals: 0,
            step: 0,
            recent: VecDeque::new(),
        }
    }

    async fn run(&mut self, steps: usize) -> Result<(), String> {
        self.founded().await?;
        while self.step < steps {
            let (who, act) = self.draw();
            self.make(who, act).await?;
        }
        self.finish().await?;
        println!("differential, users: {steps} steps, {} excused: {:#?}", self.earlier_refusals, self.answers);
        let rare = |wanted: &&&str| self.answers.get(**wanted).is_none_or(|hits| *hits < ENOUGH);
        let rare: Vec<_> = WANTED.iter().filter(rare).collect();
        if rare.is_empty() { Ok(()) } else { Err(format!("seen less than {ENOUGH} times: {rare:?}")) }
    }

    fn draw(&mut self) -> (Who, Act) {
        if let Some(next) = self.next.pop_front() {
            return next;
        }
        if !self.enabled {
            self.open_steps = self.open_steps.saturating_sub(1);
            if self.open_steps == 0 {
                self.open_steps = OPEN_STEPS;
                self.enable();
            }
        }
        let slot = self.random.between(1, SLOTS as i64 - 1) as usize;
        let who = match self.random.below(100) {
            0..35 => Who::Slot(ROOTS),
            35..85 => Who::Slot(slot),
            85..95 => Who::Nobody,
            _ => Who::Wrong,
        };
        match self.random.below(100) {
            0..49 => (who, self.store_call()),
            49 => self.ask_for_inverted(),
            50..56 => (who, self.watch()),
            56..68 => (if self.random.one_in(12) { who } else { Who::Nobody }, self.log_in(slot)),
            68..70 => (Who::Nobody, self.log_in_root()),
            _ => (who, self.change()),
        }
    }

    /// Enables authentication, whatever happened to root.
    fn enable(&mut self) {
        let name = || "root".to_string();
        let add = AuthUserAddRequest { name: name(), password: "p".into(), ..Default::default() };
        let password = AuthUserChangePasswordRequest { name: name(), password: "p".into(), ..Default::default() };
        let grant = AuthUserGrantRoleRequest { user: name(), role: name() };
        let log_in = AuthenticateRequest { name: name(), password: "p".into() };
        let all = [
            Act::UserAdd(add),
            Act::ChangePassword(password),
            Act::GrantRole(grant),
            Act::Enable,
            Act::LogIn(ROOTS, log_in),
        ];
        self.next.extend(all.map(|act| (Who::Nobody, act)));
    }

    fn store_call(&mut self) -> Act {
        loop {
            match self.grammar.call(&self.seen) {
                // The events of watchers and the hashes of compactions are compared in the other worlds.
                Call::Watch(_) | Call::HashKv(_) => {}
                // An id that a server chooses, or an end at a time of its choice, would be stored.
                Call::Grant(LeaseGrantRequest { id, ttl }) if id == 0 || (0..1000).contains(&ttl) || ttl < 0 => {}
                Call::Compact(request) => {
                    break Act::Store(Call::Compact(CompactionRequest { physical: true, ..request }));
                }
                call => break Act::Store(call),
            }
        }
    }

    /// New permissions of a user, and this user's ranges that end before they begin. Returns the first step.
    fn ask_for_inverted(&mut self) -> (Who, Act) {
        let (user, role) = (|| "alice".to_string(), || "three".to_string());
        let password = self.passwords.get("alice").cloned().unwrap_or("p".into());
        self.next.extend(
            [
                Act::RoleDelete(AuthRoleDeleteRequest { role: role() }),
                Act::RoleAdd(AuthRoleAddRequest { name: role() }),
                Act::UserAdd(AuthUserAddRequest { name: user(), password: password.clone(), ..Default::default() }),
                Act::GrantRole(AuthUserGrantRoleRequest { user: user(), role: role() }),
            ]
            .map(|act| (Who::Slot(ROOTS), act)),
        );
        for _ in 0..self.random.between(2, 8) {
            let mut perm = permission(Type::Readwrite, "", "");
            perm.key = self.grammar.key();
            perm.range_end = self.grammar.range_end(&perm.key);
            let permit = Act::Permit(AuthRoleGrantPermissionRequest { name: role(), perm: Some(perm) });
            self.next.push_back((Who::Slot(ROOTS), permit));
        }
        self.next.push_back((Who::Nobody, Act::LogIn(ALICES, AuthenticateRequest { name: user(), password })));
        for _ in 0..INVERTED {
            let acts = self.inverted().map(|call| (Who::Slot(ALICES), Act::Store(call)));
            self.next.extend(acts);
        }
        (Who::Nobody, self.log_in_root())
    }

    /// A read of a key, and the range from there to a lesser key: read, or also deleted in a transaction, so that it
    /// becomes a command if it is permitted.
    fn inverted(&mut self) -> [Call; 2] {
        let mut keys = [self.grammar.key(), self.grammar.key()];
        keys.sort();
        let [range_end, key] = keys;
        let first = Call::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        let read = RangeRequest { key: key.clone(), range_end: range_end.clone(), ..RangeRequest::default() };
        if self.random.below(3) > 0 {
            return [first, Call::Range(read)];
        }
        let delete = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
        let both = [request_op::Request::RequestRange(read), request_op::Request::RequestDeleteRange(delete)];
        let success = both.map(|request| RequestOp { request: Some(request) }).into();
        [first, Call::Txn(TxnRequest { success, ..TxnRequest::default() })]
    }

    fn watch(&mut self) -> Act {
        let key = self.grammar.key();
        let range_end = self.grammar.range_end(&key);
        Act::Watch(WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() })
    }

    fn log_in(&mut self, slot: usize) -> Act {
        let name = self.random.any(&USERS).to_string();
        let known = self.passwords.get(&name).cloned();
        let password = known.filter(|_| !self.random.one_in(5));
        let password = password.unwrap_or_else(|| self.random.any(&PASSWORDS).to_string());
        Act::LogIn(slot, AuthenticateRequest { name, password })
    }

    fn log_in_root(&mut self) -> Act {
        let password = self.passwords.get("root").cloned().unwrap_or_default();
        Act::LogIn(ROOTS, AuthenticateRequest { name: "root".into(), password })
    }

    /// Any other user than root is chosen more often, and so is any other role.
    fn user(&mut self) -> String {
        if self.random.one_in(2) { "alice".into() } else { self.random.any(&USERS).into() }
    }

    fn role(&mut self) -> String {
        if self.random.one_in(2) { "one".into() } else { self.random.any(&ROLES).into() }
    }

    fn change(&mut self) -> Act {
        let (user, role) = (self.user(), self.role());
        match self.random.below(100) {
            0..2 => Act::Enable,
            2..4 => Act::Disable,
            4..8 => Act::Status,
            8..18 => {
                let options = self.random.one_in(6).then_some(UserAddOptions { no_password: true });
                let password = self.random.any(&PASSWORDS).into();
                Act::UserAdd(AuthUserAddRequest { name: user, password, options, ..Default::default() })
            }
            18..24 => Act::UserGet(AuthUserGetRequest { name: user }),
            24..27 => Act::UserList,
            27..32 => Act::UserDelete(AuthUserDeleteRequest { name: user }),
            32..37 => {
                let password = self.random.any(&PASSWORDS).into();
                Act::ChangePassword(AuthUserChangePasswordRequest { name: user, password, ..Default::default() })
            }
            37..50 => Act::GrantRole(AuthUserGrantRoleRequest { user, role }),
            50..56 => Act::RevokeRole(AuthUserRevokeRoleRequest { name: user, role }),
            56..65 => Act::RoleAdd(AuthRoleAddRequest { name: role }),
            65..71 => Act::RoleGet(AuthRoleGetRequest { role }),
            71..73 => Act::RoleList,
            73..77 => Act::RoleDelete(AuthRoleDeleteRequest { role }),
            77..93 => {
                let (key, range_end) = self.keys();
                let kind = if self.random.one_in(40) { NO_SUCH_ENUM } else { self.random.between(0, 2) as i32 };
                let mut perm = permission(Default::default(), "", "");
                (perm.perm_type, perm.key, perm.range_end) = (kind, key, range_end);
                let perm = (!self.random.one_in(60)).then_some(perm);
                Act::Permit(AuthRoleGrantPermissionRequest { name: role, perm })
            }
            _ => {
                let (key, range_end) = self.keys();
                Act::Forbid(AuthRoleRevokePermissionRequest { role, key, range_end })
            }
        }
    }

    /// A range, or a key. Half of them are of a few, so that they meet again.
    fn keys(&mut self) -> (bytes::Bytes, bytes::Bytes) {
        if self.random.one_in(2) {
            let (key, end): (&'static str, &'static str) =
                self.random.any(&[("a", ""), ("a", "b"), ("a", "\0"), ("\0", "\0"), ("aa", "c"), ("k/1", "")]);
            return (key.into(), end.into());
        }
        let key = self.grammar.key();
        let end = self.grammar.range_end(&key);
        (key, end)
    }

    async fn make(&mut self, who: Who, act: Act) -> Result<String, String> {
        self.step += 1;
        let mut shown = format!("{}: {who:?} {act:?}", self.step);
        shown.truncate(shown.char_indices().nth(600).map_or(shown.len(), |(end, _)| end));
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(shown);
        let [subject, reference] = &mut self.servers;
        let both = async { tokio::join!(subject.take(who, &act), reference.take(who, &act)) };
        let both = timeout(PATIENCE, both).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        if both.0 != both.1 {
            // etcd looks at the arguments of some requests before it looks at the token.
            let earlier = both.0.refused == Some("etcdserver: invalid auth token".into())
                && both.1.refused.as_ref().is_some_and(|text| ARGUMENTS.iter().any(|known| text.starts_with(known)));
            if !earlier {
                return Err(format!("the answers differ\n  subject:   {:?}\n  reference: {:?}", both.0, both.1));
            }
            self.earlier_refusals += 1;
        }
        let answer = both.1;
        self.learn(&act, &answer);
        let kind = self.kind(who, &act, &answer);
        *self.answers.entry(kind).or_default() += 1;
        self.read = match act {
            Act::Store(Call::Range(range)) if answer.refused.is_none() && range.range_end.is_empty() => {
                Some((who, range.key))
            }
            _ => None,
        };
        Ok(answer.text)
    }

    /// The name under which an answer is counted. `self.read` is still that of the step before.
    fn kind(&self, who: Who, act: &Act, answer: &Shown) -> String {
        let kind = match (act, &answer.refused) {
            (Act::Watch(_), _) if answer.text.contains("canceled: true") => "a refused watch",
            (Act::Watch(_), None) => "a watch",
            (Act::Store(Call::Range(RangeRequest { key, range_end, .. })), refused)
                if !matches!(range_end[..], [] | [0]) && range_end < key =>
            {
                let may_read = self.read.as_ref().is_some_and(|(by, read)| (by, read) == (&who, key));
                match refused.as_deref() {
                    None => READ_INVERTED,
                    Some("etcdserver: permission denied") if may_read => KEY_WITHOUT_INVERTED,
                    Some("etcdserver: permission denied") => REFUSED_INVERTED,
                    Some(text) => text,
                }
            }
            (_, Some(text)) => text,
            _ => "accepted",
        };
        kind.into()
    }

    fn learn(&mut self, act: &Act, answer: &Shown) {
        if answer.refused.is_some() {
            return;
        }
        self.seen.current = self.seen.current.max(answer.revision);
        match act {
            Act::Enable => self.enabled = true,
            Act::Disable => self.enabled = false,
            Act::UserAdd(request) => drop(self.passwords.insert(request.name.clone(), request.password.clone())),
            Act::ChangePassword(request) => {
                self.passwords.insert(request.name.clone(), request.password.clone());
            }
            Act::Store(Call::Compact(request)) => self.seen.compacted = request.revision,
            _ => {}
        }
    }

    /// Waits until both clusters have their version.
    async fn founded(&mut self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for server in &self.servers {
            while server.index().await? < FOUNDING_ENTRIES {
                if tokio::time::Instant::now() > deadline {
                    return Err("a member does not become known to its cluster".into());
                }
            }
        }
        Ok(())
    }

    /// Takes away what must differ, and compares everything that is stored.
    async fn finish(&mut self) -> Result<(), String> {
        let slot = Who::Slot(ROOTS);
        if self.enabled {
            let log_in = self.log_in_root();
            self.make(Who::Nobody, log_in).await?;
        }
        let all = bytes::Bytes::from_static(b"\0");
        let range = RangeRequest { key: all.clone(), range_end: all, ..RangeRequest::default() };
        self.make(slot, Act::Store(Call::Range(range))).await?;
        self.make(slot, Act::Disable).await?;
        for name in USERS {
            let name = name.to_string();
            self.make(slot, Act::ChangePassword(AuthUserChangePasswordRequest { name, ..Default::default() })).await?;
        }
        for act in [Act::Status, Act::UserList, Act::RoleList] {
            self.make(slot, act).await?;
        }
        let indexes = [self.servers[0].index().await?, self.servers[1].index().await?];
        let most = indexes[0].max(indexes[1]);
        for (server, index) in self.servers.iter().zip(indexes) {
            for _ in index..most {
                let revoke = LeaseRevokeRequest { id: NO_LEASE };
                let refused = server.plain.unary::<_, LeaseRevokeResponse>(paths::LEASE_REVOKE, revoke).await;
                refused.err().filter(|status| status.code() == Code::NotFound).ok_or("there is such a lease")?;
            }
        }
        let indexes = [self.servers[0].index().await?, self.servers[1].index().await?];
        let hash_kv = HashKvRequest { revision: self.seen.current };
        let mut hashes = Vec::new();
        for server in &self.servers {
            let kv = server.plain.unary::<_, HashKvResponse>(paths::HASH_KV, hash_kv).await;
            let all = server.plain.unary::<_, HashResponse>(paths::HASH, HashRequest {}).await;
            let kv = kv.map_err(|status| status.to_string())?;
            hashes.push((kv.hash, kv.compact_revision, all.map_err(|status| status.to_string())?.hash));
        }
        if hashes[0] == hashes[1] {
            return Ok(());
        }
        Err(format!("what is stored differs: {hashes:?} with the logs at {indexes:?} (HashKV, compacted, Hash)"))
    }

    fn report(&self, reason: &str) -> String {
        let recent: Vec<&str> = self.recent.iter().map(String::as_str).collect();
        format!("users, seed {}\nThe last steps:\n  {}\nStep {}: {reason}", self.seed, recent.join("\n  "), self.step)
    }
}

/// Refusals of arguments, which etcd finds before it looks at the token.
const ARGUMENTS: [&str; 9] = [
    "etcdserver: key is not provided",
    "etcdserver: value is provided",
    "etcdserver: lease is provided",
    "etcdserver: too many operations in txn request",
    "etcdserver: duplicate key given in txn request",
    "etcdserver: invalid sort option",
    "etcdserver: key not found",
    "RangeStream does not support",
    "etcdserver: invalid auth management",
];

/// An answer as it is compared.
#[derive(Debug, PartialEq)]
struct Shown {
    text: String,
    refused: Option<String>,
    revision: i64,
}

impl Shown {
    fn refusal(code: Code, text: &str) -> Shown {
        Shown { text: format!("{code:?} {text}"), refused: Some(text.into()), revision: 0 }
    }
}

/// Makes a call of the Auth service, and shows its answer without the ids of the server.
macro_rules! ask {
    ($client:expr, $path:expr, $request:expr, $response:ty) => {
        match $client.unary::<_, $response>($path, $request).await {
            Ok(mut answer) => {
                let revision = answer.header.take().unwrap_or_default().revision;
                Shown { text: format!("{revision} {answer:?}"), refused: None, revision }
            }
            Err(status) => Shown::refusal(status.code(), status.message()),
        }
    };
}

impl Tokens {
    fn client(&self, who: Who) -> Client {
        match who {
            Who::Nobody => self.plain.clone(),
            Who::Wrong => self.plain.with_token(WRONG_TOKEN),
            Who::Slot(slot) => {
                self.tokens[slot].as_ref().map_or_else(|| self.plain.clone(), |token| self.plain.with_token(token))
            }
        }
    }

    async fn index(&self) -> Result<u64, String> {
        let status = self.plain.unary::<_, StatusResponse>(paths::STATUS, StatusRequest {}).await;
        status.map(|status| status.raft_applied_index).map_err(|status| status.to_string())
    }

    async fn take(&mut self, who: Who, act: &Act) -> Shown {
        let client = self.client(who);
        match act.clone() {
            Act::Store(call) => {
                self.side.speak_as(client);
                let mut answer = self.side.execute(&call).await;
                let revision = header(&mut answer).map_or(0, |header| header.revision);
                normalise(&call, &mut answer, &self.side);
                match answer {
                    Answer::Error(code, text) => Shown::refusal(code, &text),
                    answer => Shown { text: format!("{answer:?}"), refused: None, revision },
                }
            }
            Act::Watch(request) => watch(&client, request).await,
            Act::LogIn(slot, request) => {
                match client.unary::<_, AuthenticateResponse>(paths::AUTHENTICATE, request).await {
                    Ok(AuthenticateResponse { header, token }) => {
                        self.tokens[slot] = Some(token);
                        let revision = header.unwrap_or_default().revision;
                        Shown { text: format!("{revision} a token"), refused: None, revision }
                    }
                    Err(status) => Shown::refusal(status.code(), status.message()),
                }
            }
            act => auth(&client, act).await,
        }
    }
}

/// The first answer of a new stream with this watcher.
async fn watch(client: &Client, request: WatchCreateRequest) -> Shown {
    let first = async { WatchStream::open(client, request).await?.next(PATIENCE).await }.await;
    match first.and_then(|answer| answer.ok_or_else(|| Status::deadline_exceeded("no answer on a watch stream"))) {
        Ok(mut answer) => {
            let revision = answer.header.take().unwrap_or_default().revision;
            Shown { text: format!("{revision} {answer:?}"), refused: None, revision }
        }
        Err(status) => Shown::refusal(status.code(), status.message()),
    }
}

async fn auth(client: &Client, act: Act) -> Shown {
    use paths::*;
    match act {
        Act::Enable => ask!(client, AUTH_ENABLE, AuthEnableRequest {}, HeaderOnly),
        Act::Disable => ask!(client, AUTH_DISABLE, AuthDisableRequest {}, HeaderOnly),
        Act::Status => ask!(client, AUTH_STATUS, AuthStatusRequest {}, AuthStatusResponse),
        Act::UserAdd(request) => ask!(client, USER_ADD, request, HeaderOnly),
        Act::UserGet(request) => ask!(client, USER_GET, request, AuthUserGetResponse),
        Act::UserList => ask!(client, USER_LIST, AuthUserListRequest {}, AuthUserListResponse),
        Act::UserDelete(request) => ask!(client, USER_DELETE, request, HeaderOnly),
        Act::ChangePassword(request) => ask!(client, USER_CHANGE_PASSWORD, request, HeaderOnly),
        Act::GrantRole(request) => ask!(client, USER_GRANT_ROLE, request, HeaderOnly),
        Act::RevokeRole(request) => ask!(client, USER_REVOKE_ROLE, request, HeaderOnly),
        Act::RoleAdd(request) => ask!(client, ROLE_ADD, request, HeaderOnly),
        Act::RoleGet(request) => ask!(client, ROLE_GET, request, AuthRoleGetResponse),
        Act::RoleList => ask!(client, ROLE_LIST, AuthRoleListRequest {}, AuthRoleListResponse),
        Act::RoleDelete(request) => ask!(client, ROLE_DELETE, request, HeaderOnly),
        Act::Permit(request) => ask!(client, ROLE_GRANT_PERMISSION, request, HeaderOnly),
        Act::Forbid(request) => ask!(client, ROLE_REVOKE_PERMISSION, request, HeaderOnly),
        Act::Store(_) | Act::Watch(_) | Act::LogIn(..) => unreachable!("no call of this service: {act:?}"),
    }
}
