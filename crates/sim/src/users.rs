//! The users of the simulated cluster: an administrator who founds them, then changes their permissions, and the names
//! in which clients call.
//!
//! Some clients call with a signed token, which carries the auth revision of its login; they log in again once a member
//! calls it old. The others have a simple token, with the current revision of the member that they call. Clients that
//! hold leases call as root, and so does the administrator.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use metastore_proto::authpb::permission::Type;
use metastore_proto::authpb::{Permission, UserAddOptions};
use metastore_proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
};
use metastore_store::command::{self, Command, Kind};
use metastore_store::{Auth, Refusal, Reply};

use crate::clients::{Workload, is_leaseholder};
use crate::model::users::{Access, At, Caller, Change, Keys, ROOT};
use crate::random::Random;

/// The stream of random choices about users.
const STREAM: u64 = 70;
/// The share of seeds with users, in thousandths.
const PERMILLE: u64 = 250;
/// Moments between two changes, at most.
const PAUSE: u64 = 60;
/// Moments for which the administrator waits for an outcome.
const PATIENCE: u64 = 100;
/// How often a client calls without a token, in thousandths.
const NOBODY_PERMILLE: u64 = 30;
/// How often a read takes so long that its member works meanwhile, in thousandths.
const LONG_READ_PERMILLE: u64 = 300;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const ROLES: [&str; 3] = ["first", "second", "third"];
/// All keys.
const ALL: Keys = ("\0", "\0");
/// Ranges that begin at different keys, so that a role has one permission for each.
const RANGES: &[Keys] = &[("k", "k4"), ("k2", ""), ("k4", "l"), ("k3", "\0"), ALL];
const REGISTRY_RANGES: &[Keys] = &[
    ("/registry/", "/registry/pods/p3"),
    ("/registry/pods/p2", ""),
    ("/registry/pods/p3", "/registry0"),
    ("/registry/pods/p1", "\0"),
    ALL,
];

pub struct Users {
    pub random: Random,
    ranges: &'static [Keys],
    clients: Vec<Client>,
    /// Changes that are still to be made, one after the other.
    due: VecDeque<Change>,
    waiting: Option<Waiting>,
    /// Changes whose outcomes the administrator did not wait for. They may still be made.
    unknown: BTreeSet<u64>,
    /// The moment of the next change.
    next: u64,
    /// Whether no further changes are made.
    ends: bool,
}

struct Client {
    user: &'static str,
    /// The auth revision of its signed token, 0 before its login; `None`: it has a simple token.
    signed: Option<u64>,
}

/// A change without an outcome.
struct Waiting {
    id: u64,
    until: u64,
    change: Change,
}

impl Users {
    /// The users of a seed, if it has any.
    pub fn draw(seed: u64, workload: Workload, clients: u64) -> Option<Self> {
        let mut random = Random::new(seed, STREAM);
        if !random.permille(PERMILLE) {
            return None;
        }
        let ranges = if workload == Workload::Kubernetes { REGISTRY_RANGES } else { RANGES };
        let mut client = |number| {
            let user = if number == 0 || is_leaseholder(workload, number) { ROOT } else { USERS[number as usize % 3] };
            Client { user, signed: random.permille(500).then_some(0) }
        };
        let clients = (0..clients).map(&mut client).collect();
        let (due, unknown) = (founded(), BTreeSet::new());
        Some(Self { random, ranges, clients, due, waiting: None, unknown, next: 0, ends: false })
    }

    /// The caller of a client's next request to a member with these users; `None`: authentication is disabled there.
    pub fn caller(&mut self, client: usize, auth: Option<&Auth>) -> Caller {
        let nobody = !self.ends && self.random.permille(NOBODY_PERMILLE);
        let Some(auth) = auth.filter(|_| !nobody) else { return Caller::default() };
        let Client { user, signed } = &mut self.clients[client];
        if *signed == Some(0) {
            *signed = Some(auth.revision());
        }
        Caller { user, auth_revision: signed.unwrap_or(auth.revision()) }
    }

    /// A member calls the token of a client old.
    pub fn log_in_again(&mut self, client: usize) {
        let signed = &mut self.clients[client].signed;
        *signed = signed.map(|_| 0);
    }

    /// Whether a read takes so long that its member works meanwhile.
    pub fn reads_long(&mut self) -> bool {
        !self.ends && self.random.permille(LONG_READ_PERMILLE)
    }

    /// The change that the administrator asks a member for now.
    pub fn next_change(&mut self, now: u64, id: impl FnOnce() -> u64) -> Option<(u64, Change)> {
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.until <= now) {
            self.unknown.insert(waiting.id);
            self.next = now;
        }
        if self.waiting.is_some() || now < self.next || self.is_done() {
            return None;
        }
        let change = self.due.front().copied().unwrap_or_else(|| self.draw_change());
        let id = id();
        self.waiting = Some(Waiting { id, until: now + PATIENCE, change });
        Some((id, change))
    }

    /// A change has an outcome. One that was refused is not tried again if it had been made before. A late change may
    /// undo what was restored.
    pub fn made(&mut self, id: u64, outcome: &Result<Reply, Refusal>, now: u64) {
        if self.unknown.remove(&id) && self.ends && outcome.is_ok() {
            self.due = founded();
        }
        let Some(Waiting { change, .. }) = self.waiting.take_if(|waiting| waiting.id == id) else { return };
        let made_before = matches!(outcome, Err(Refusal::UserExists | Refusal::RoleExists));
        if self.due.front() == Some(&change) && (outcome.is_ok() || made_before) {
            self.due.pop_front();
        }
        self.next = now + if self.due.is_empty() { 1 + self.random.below(PAUSE) } else { 0 };
    }

    /// From now on every user may do everything, once the changes are made that this needs.
    pub fn restore(&mut self) {
        (self.ends, self.next, self.due) = (true, 0, founded());
    }

    /// Whether the users change no more.
    pub fn is_done(&self) -> bool {
        self.ends && self.due.is_empty()
    }

    fn draw_change(&mut self) -> Change {
        let random = &mut self.random;
        let role = *random.pick(&ROLES).unwrap_or(&ROLES[0]);
        let user = *random.pick(&USERS).unwrap_or(&USERS[0]);
        let keys = *random.pick(self.ranges).unwrap_or(&ALL);
        match random.below(100) {
            0..35 => {
                let access = *random.pick(&[Access::Read, Access::Write, Access::Both]).unwrap_or(&Access::Both);
                Change::Grant { role, keys, access }
            }
            35..65 => Change::Revoke { role, keys },
            65..80 => Change::GrantRole { user, role },
            80..88 => Change::RevokeRole { user, role },
            88..90 => Change::DeleteRole(role),
            90..94 => Change::AddRole(role),
            94..96 => Change::Disable,
            _ => Change::Enable,
        }
    }
}

/// The changes after which authentication is enabled and every user may do everything, whatever was before.
fn founded() -> VecDeque<Change> {
    let role = ROLES[0];
    let all = Change::Grant { role, keys: ALL, access: Access::Both };
    let mut changes = VecDeque::from([Change::AddUser(ROOT), Change::GrantRole { user: ROOT, role: ROOT }]);
    changes.extend(USERS.map(Change::AddUser));
    changes.extend(ROLES.map(Change::AddRole));
    changes.push_back(all);
    changes.extend(USERS.map(|user| Change::GrantRole { user, role }));
    changes.push_back(Change::Enable);
    changes
}

/// The command of a change, in the name of `caller`.
pub fn command_of(change: Change, id: u64, caller: &Caller) -> Bytes {
    let caller = caller_in_log(caller);
    let text = str::to_owned;
    match change {
        Change::Enable => Command::encode_as(&caller, id, Kind::AuthEnable, &AuthEnableRequest {}),
        Change::Disable => Command::encode_as(&caller, id, Kind::AuthDisable, &AuthDisableRequest {}),
        Change::AddUser(name) => {
            let options = Some(UserAddOptions { no_password: true });
            let request = AuthUserAddRequest { name: text(name), options, ..AuthUserAddRequest::default() };
            Command::encode_as(&caller, id, Kind::AuthUserAdd, &request)
        }
        Change::AddRole(name) => {
            Command::encode_as(&caller, id, Kind::AuthRoleAdd, &AuthRoleAddRequest { name: text(name) })
        }
        Change::DeleteRole(role) => {
            Command::encode_as(&caller, id, Kind::AuthRoleDelete, &AuthRoleDeleteRequest { role: text(role) })
        }
        Change::GrantRole { user, role } => {
            let request = AuthUserGrantRoleRequest { user: text(user), role: text(role) };
            Command::encode_as(&caller, id, Kind::AuthUserGrantRole, &request)
        }
        Change::RevokeRole { user, role } => {
            let request = AuthUserRevokeRoleRequest { name: text(user), role: text(role) };
            Command::encode_as(&caller, id, Kind::AuthUserRevokeRole, &request)
        }
        Change::Grant { role, keys: (key, range_end), access } => {
            let perm_type = match access {
                Access::Read => Type::Read,
                Access::Write => Type::Write,
                Access::Both => Type::Readwrite,
            };
            let perm = Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() };
            let request = AuthRoleGrantPermissionRequest { name: text(role), perm: Some(perm) };
            Command::encode_as(&caller, id, Kind::AuthRoleGrantPermission, &request)
        }
        Change::Revoke { role, keys: (key, range_end) } => {
            let request =
                AuthRoleRevokePermissionRequest { role: text(role), key: key.into(), range_end: range_end.into() };
            Command::encode_as(&caller, id, Kind::AuthRoleRevokePermission, &request)
        }
    }
}

/// A caller as the log names it.
pub fn caller_in_log(caller: &Caller) -> command::Caller {
    command::Caller { user: Bytes::from_static(caller.user.as_bytes()), auth_revision: caller.auth_revision }
}

/// The moment in the life of the users that a member knows.
pub fn moment_of(auth: &Auth) -> At {
    At { revision: auth.revision(), enabled: auth.enabled() }
}
