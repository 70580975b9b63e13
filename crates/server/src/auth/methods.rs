//! The permission table: what each method asks of its caller while authentication is enabled.
//!
//! A method without a row cannot be registered. The rules are etcd's, except where a comment says otherwise.

/// The requirement of a method on its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing, and a token is not looked at.
    Nothing,
    /// A token that is valid, if there is one.
    ValidToken,
    /// A user.
    User,
    /// Permissions on the keys that the request names; the handler checks them.
    Keys,
    /// A user with the role root, or the user or role that the request asks for; the handler checks which.
    RootOrOwn,
    /// A user with the role root. Other members take part in what is done, so the member first makes sure that it
    /// knows all changes of users; an etcd does not.
    Root,
    /// As [`Need::Root`], for what this member does alone, and also without a quorum.
    RootHere,
}

/// Whether a method changes anything, as the audit log tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Reads,
    Writes,
}

/// A row of the permission table.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The full name: `etcdserverpb.KV/Put`.
    pub name: &'static str,
    pub need: Need,
    pub effect: Effect,
}

use Effect::{Reads, Writes};
use Need::{Keys, Nothing, Root, RootHere, RootOrOwn, User, ValidToken};

const METHODS: &[(&str, Need, Effect)] = &[
    ("etcdserverpb.KV/Range", Keys, Reads),
    ("etcdserverpb.KV/RangeStream", Keys, Reads),
    ("etcdserverpb.KV/Put", Keys, Writes),
    ("etcdserverpb.KV/DeleteRange", Keys, Writes),
    // A transaction without operations asks for nothing.
    ("etcdserverpb.KV/Txn", Keys, Writes),
    ("etcdserverpb.KV/Compact", Root, Writes),
    ("etcdserverpb.Watch/Watch", Keys, Reads),
    ("etcdserverpb.Lease/LeaseGrant", User, Writes),
    ("etcdserverpb.Lease/LeaseRevoke", User, Writes),
    ("etcdserverpb.Lease/LeaseKeepAlive", User, Reads),
    ("etcdserverpb.Lease/LeaseTimeToLive", User, Reads),
    ("etcdserverpb.Lease/LeaseLeases", User, Reads),
    ("etcdserverpb.Cluster/MemberList", User, Reads),
    ("etcdserverpb.Cluster/MemberAdd", Root, Writes),
    ("etcdserverpb.Cluster/MemberRemove", Root, Writes),
    ("etcdserverpb.Cluster/MemberUpdate", Root, Writes),
    ("etcdserverpb.Cluster/MemberPromote", Root, Writes),
    ("etcdserverpb.Maintenance/Status", User, Reads),
    // To raise or clear an alarm asks for the role root.
    ("etcdserverpb.Maintenance/Alarm", User, Writes),
    ("etcdserverpb.Maintenance/Defragment", RootHere, Writes),
    ("etcdserverpb.Maintenance/Hash", RootHere, Reads),
    ("etcdserverpb.Maintenance/HashKV", RootHere, Reads),
    ("etcdserverpb.Maintenance/Snapshot", RootHere, Reads),
    ("etcdserverpb.Maintenance/MoveLeader", Root, Writes),
    ("etcdserverpb.Maintenance/Downgrade", Root, Writes),
    ("etcdserverpb.Auth/AuthEnable", Root, Writes),
    ("etcdserverpb.Auth/AuthDisable", Root, Writes),
    ("etcdserverpb.Auth/AuthStatus", ValidToken, Reads),
    ("etcdserverpb.Auth/Authenticate", Nothing, Writes),
    ("etcdserverpb.Auth/UserAdd", Root, Writes),
    ("etcdserverpb.Auth/UserGet", RootOrOwn, Reads),
    ("etcdserverpb.Auth/UserList", Root, Reads),
    ("etcdserverpb.Auth/UserDelete", Root, Writes),
    ("etcdserverpb.Auth/UserChangePassword", Root, Writes),
    ("etcdserverpb.Auth/UserGrantRole", Root, Writes),
    ("etcdserverpb.Auth/UserRevokeRole", Root, Writes),
    ("etcdserverpb.Auth/RoleAdd", Root, Writes),
    ("etcdserverpb.Auth/RoleGet", RootOrOwn, Reads),
    ("etcdserverpb.Auth/RoleList", Root, Reads),
    ("etcdserverpb.Auth/RoleDelete", Root, Writes),
    ("etcdserverpb.Auth/RoleGrantPermission", Root, Writes),
    ("etcdserverpb.Auth/RoleRevokePermission", Root, Writes),
    // The calls of other methods that these make are checked, in the name of their caller.
    ("v3lockpb.Lock/Lock", Nothing, Writes),
    ("v3lockpb.Lock/Unlock", Nothing, Writes),
    ("v3electionpb.Election/Campaign", Nothing, Writes),
    ("v3electionpb.Election/Proclaim", Nothing, Writes),
    ("v3electionpb.Election/Leader", Nothing, Reads),
    ("v3electionpb.Election/Observe", Nothing, Reads),
    ("v3electionpb.Election/Resign", Nothing, Writes),
    ("grpc.health.v1.Health/Check", Nothing, Reads),
    ("grpc.health.v1.Health/List", Nothing, Reads),
    ("grpc.health.v1.Health/Watch", Nothing, Reads),
];

/// The paths of all methods that have a row.
#[cfg(test)]
pub fn paths() -> impl Iterator<Item = String> {
    METHODS.iter().map(|(name, ..)| format!("/{name}"))
}

/// The row of a method.
///
/// # Panics
/// If the table has no row for the method.
pub fn method(service: &str, method: &str) -> Method {
    let is_it = |name: &str| name.strip_prefix(service).and_then(|rest| rest.strip_prefix('/')) == Some(method);
    let row = METHODS.iter().find(|(name, ..)| is_it(name));
    let (name, need, effect) = row.unwrap_or_else(|| panic!("{service}/{method} has no row in the permission table"));
    Method { name, need: *need, effect: *effect }
}
