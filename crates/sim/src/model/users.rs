//! A model of etcd's users, roles and permissions (etcd: `server/auth`), as plain as the model of the keys. Its changes
//! and its refusals are those of a store in which authentication may be on or off.
//!
//! Deliberately absent: passwords, and several permissions of a role that begin at the same key. Clients of the
//! simulated world use neither. Nor has the model a rule for ranges that end before they begin; checks leave them out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use crate::history::Request;

pub const ROOT: &str = "root";

/// etcd's texts of the refusals for lack of permission.
pub const NO_USER: &str = "etcdserver: user name is empty";
pub const OLD_REVISION: &str = "etcdserver: revision of auth store is old";
pub const DENIED: &str = "etcdserver: permission denied";

/// All of these texts.
pub const REFUSALS: [&str; 3] = [NO_USER, OLD_REVISION, DENIED];

/// A moment in the life of the users: each change makes a later one. As in etcd, only some changes make a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub revision: u64,
    pub enabled: bool,
}

impl At {
    /// The users of an empty store.
    pub const FIRST: Self = Self { revision: 1, enabled: false };
}

/// The user in whose name a request is made, and the auth revision at its login. Both are empty if it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub user: &'static str,
    pub auth_revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Both,
}

/// A range of keys as in etcd's requests.
pub type Keys = (&'static str, &'static str);

/// A change of the users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Enable,
    Disable,
    AddUser(&'static str),
    AddRole(&'static str),
    DeleteRole(&'static str),
    GrantRole { user: &'static str, role: &'static str },
    RevokeRole { user: &'static str, role: &'static str },
    Grant { role: &'static str, keys: Keys, access: Access },
    Revoke { role: &'static str, keys: Keys },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    at: At,
    /// The roles of each user.
    users: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// The permissions of each role.
    roles: BTreeMap<&'static str, BTreeMap<Keys, Access>>,
}

impl Default for Users {
    fn default() -> Self {
        Self { at: At::FIRST, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl Users {
    pub fn at(&self) -> At {
        self.at
    }

    /// The users after a change that `caller` has asked for; `None` if it is refused.
    pub fn after(&self, caller: &Caller, change: Change) -> Option<Self> {
        let is_root = self.users.get(caller.user).is_some_and(|roles| roles.contains(ROOT));
        if self.at.enabled && !is_root {
            return None;
        }
        let mut after = self.clone();
        if after.make(change)? {
            after.at.revision += 1;
        }
        Some(after)
    }

    /// Makes a change. Returns whether it makes a revision; `None` if it is refused.
    fn make(&mut self, change: Change) -> Option<bool> {
        let Self { at, users, roles } = self;
        Some(match change {
            Change::Enable => {
                let is_possible = at.enabled || users.get(ROOT)?.contains(ROOT);
                at.enabled = is_possible;
                return is_possible.then_some(false);
            }
            Change::Disable => std::mem::take(&mut at.enabled),
            Change::AddUser(name) if users.contains_key(name) => return None,
            Change::AddUser(name) => users.insert(name, BTreeSet::new()).is_none(),
            Change::AddRole(name) if roles.contains_key(name) => return None,
            Change::AddRole(name) => roles.insert(name, BTreeMap::new()).is_none(),
            Change::DeleteRole(name) => {
                roles.remove(name)?;
                users.values_mut().for_each(|roles| _ = roles.remove(name));
                true
            }
            Change::GrantRole { role, .. } if role != ROOT && !roles.contains_key(role) => return None,
            Change::GrantRole { user, role } => users.get_mut(user)?.insert(role),
            Change::RevokeRole { user, role } => users.get_mut(user)?.remove(role).then_some(true)?,
            Change::Grant { role, keys, access } => {
                roles.get_mut(role)?.insert(keys, access);
                true
            }
            Change::Revoke { role, keys } => roles.get_mut(role)?.remove(&keys).is_some().then_some(true)?,
        })
    }

    /// The refusal of a request; `None` if it is permitted. Requests about leases and compactions are always permitted:
    /// their rules are no part of this model.
    pub fn refusal(&self, caller: &Caller, request: &Request) -> Option<&'static str> {
        let asks = asks_of(request);
        if !self.at.enabled || asks.is_empty() {
            return None;
        }
        if caller.auth_revision == 0 {
            return Some(NO_USER);
        }
        if caller.auth_revision < self.at.revision {
            return Some(OLD_REVISION);
        }
        let Some(roles) = self.users.get(caller.user) else { return Some(DENIED) };
        let may = |(access, key, end): &(Access, &Bytes, &Bytes)| self.covers(roles, *access, key, end);
        (!roles.contains(ROOT) && !asks.iter().all(may)).then_some(DENIED)
    }

    /// Whether the permissions of some roles together cover a range.
    fn covers(&self, roles: &BTreeSet<&str>, access: Access, key: &[u8], end: &[u8]) -> bool {
        let permissions = roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        let ranges: Vec<_> = permissions
            .filter(|(_, granted)| **granted == access || **granted == Access::Both)
            .map(|((key, end), _)| (key.as_bytes().to_vec(), end_of(key.as_bytes(), end.as_bytes())))
            .collect();
        // `None` stands for the end of all keys.
        let (mut reached, end) = (Some(key.to_vec()), end_of(key, end));
        while let Some(from) = reached.clone().filter(|from| end.as_ref().is_none_or(|end| from < end)) {
            let goes_on = |(begin, end): &&(Vec<u8>, Option<Vec<u8>>)| {
                *begin <= from && end.as_ref().is_none_or(|end| *end > from)
            };
            let Some((_, next)) = ranges.iter().find(goes_on) else { return false };
            reached = next.clone();
        }
        true
    }
}

/// The exclusive end of a range; `None` if it has none. A single key ends before its successor.
fn end_of(key: &[u8], end: &[u8]) -> Option<Vec<u8>> {
    match end {
        [] => Some([key, b"\0"].concat()),
        [0] => None,
        _ => Some(end.to_vec()),
    }
}

/// Accesses that a request makes, each with a key and the end of a range.
type Asks<'a> = Vec<(Access, &'a Bytes, &'a Bytes)>;

static NO_END: Bytes = Bytes::new();

/// The accesses of a request, in any order; none for requests about leases and compactions.
pub fn asks_of(request: &Request) -> Asks<'_> {
    let mut asks = Vec::new();
    match request {
        Request::Put(put) => asks_of_put(put, &mut asks),
        Request::DeleteRange(delete) => asks_of_delete(delete, &mut asks),
        Request::Txn(txn) => asks_of_txn(txn, &mut asks),
        Request::Range(range) => asks.push((Access::Read, &range.key, &range.range_end)),
        Request::Compact(_) | Request::LeaseGrant(_) | Request::LeaseRevoke(_) => {}
    }
    asks
}

fn asks_of_put<'a>(put: &'a PutRequest, asks: &mut Asks<'a>) {
    asks.push((Access::Write, &put.key, &NO_END));
    if put.prev_kv {
        asks.push((Access::Read, &put.key, &NO_END));
    }
}

fn asks_of_delete<'a>(delete: &'a DeleteRangeRequest, asks: &mut Asks<'a>) {
    asks.push((Access::Write, &delete.key, &delete.range_end));
    if delete.prev_kv {
        asks.push((Access::Read, &delete.key, &delete.range_end));
    }
}

/// Both branches count, whichever one is taken.
fn asks_of_txn<'a>(txn: &'a TxnRequest, asks: &mut Asks<'a>) {
    asks.extend(txn.compare.iter().map(|compare| (Access::Read, &compare.key, &compare.range_end)));
    for RequestOp { request } in txn.success.iter().chain(&txn.failure) {
        match request {
            Some(Op::RequestRange(range)) => asks.push((Access::Read, &range.key, &range.range_end)),
            Some(Op::RequestPut(put)) => asks_of_put(put, asks),
            Some(Op::RequestDeleteRange(delete)) => asks_of_delete(delete, asks),
            Some(Op::RequestTxn(txn)) => asks_of_txn(txn, asks),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::RangeRequest;

    use super::*;

    const NOBODY: Caller = Caller { user: "", auth_revision: 0 };

    /// Root, and alice with the role `some`, which may read from a to c and write from b to the end.
    fn users() -> Users {
        let changes = [
            Change::AddUser(ROOT),
            Change::GrantRole { user: ROOT, role: ROOT },
            Change::AddUser("alice"),
            Change::AddRole("some"),
            Change::GrantRole { user: "alice", role: "some" },
            Change::Grant { role: "some", keys: ("a", "b"), access: Access::Read },
            Change::Grant { role: "some", keys: ("b", "c"), access: Access::Both },
            Change::Grant { role: "some", keys: ("c", "\0"), access: Access::Write },
            Change::Enable,
        ];
        changes.iter().fold(Users::default(), |users, change| users.after(&NOBODY, *change).unwrap())
    }

    fn caller(user: &'static str) -> Caller {
        Caller { user, auth_revision: users().at.revision }
    }

    fn read(key: &'static str, range_end: &'static str) -> Request {
        Request::Range(RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() })
    }

    #[test]
    fn changes_need_root_and_make_revisions() {
        let users = users();
        assert_eq!(users.at, At { revision: 9, enabled: true });
        let add = Change::AddUser("bob");
        assert_eq!(users.after(&NOBODY, add), None);
        assert_eq!(users.after(&caller("alice"), add), None);
        assert_eq!(users.after(&caller(ROOT), add).unwrap().at.revision, 10);
        assert_eq!(users.after(&caller(ROOT), Change::AddUser("alice")), None);
        let again = Change::GrantRole { user: "alice", role: "some" };
        assert_eq!(users.after(&caller(ROOT), again), Some(users.clone()), "nothing changes");
        let off = users.after(&caller(ROOT), Change::Disable).unwrap();
        assert_eq!(off.at, At { revision: 10, enabled: false });
        assert_eq!(off.refusal(&NOBODY, &read("x", "")), None);
        assert_eq!(Users::default().after(&NOBODY, Change::Enable), None, "there is no root");
    }

    #[test]
    fn a_request_needs_permission_on_all_that_it_touches() {
        let users = users();
        let of = |request: &Request| users.refusal(&caller("alice"), request);
        assert_eq!(of(&read("a", "c")), None);
        assert_eq!(of(&read("a", "c\0")), Some(DENIED));
        assert_eq!(of(&read("c", "")), Some(DENIED));
        let put = |key: &'static str, prev_kv| PutRequest { key: key.into(), prev_kv, ..Default::default() };
        assert_eq!(of(&Request::Put(put("c", false))), None);
        assert_eq!(of(&Request::Put(put("c", true))), Some(DENIED));
        assert_eq!(of(&Request::Put(put("b", true))), None);
        let delete = DeleteRangeRequest { key: "b".into(), range_end: "\0".into(), prev_kv: false };
        assert_eq!(of(&Request::DeleteRange(delete)), None);
        let op = |put| vec![RequestOp { request: Some(Op::RequestPut(put)) }];
        let txn = |key| TxnRequest { success: op(put("b", false)), failure: op(put(key, false)), ..Default::default() };
        assert_eq!(of(&Request::Txn(txn("b"))), None);
        assert_eq!(of(&Request::Txn(txn("a"))), Some(DENIED));
    }

    #[test]
    fn a_caller_needs_a_user_of_the_current_revision() {
        let users = users();
        assert_eq!(users.refusal(&NOBODY, &read("a", "")), Some(NO_USER));
        let old = Caller { auth_revision: 8, ..caller(ROOT) };
        assert_eq!(users.refusal(&old, &read("a", "")), Some(OLD_REVISION));
        assert_eq!(users.refusal(&caller("bob"), &read("a", "")), Some(DENIED));
        assert_eq!(users.refusal(&caller(ROOT), &read("x", "\0")), None);
        let gone = users.after(&caller(ROOT), Change::DeleteRole("some")).unwrap();
        let alice = Caller { auth_revision: 10, ..caller("alice") };
        assert_eq!(gone.refusal(&alice, &read("a", "")), Some(DENIED));
    }
}
