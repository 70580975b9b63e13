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

use Need::{Keys, Nothing, Root, RootHere, RootOrOwn, User, ValidToken};

const METHODS: &[(&str, &[(&str, Need)])] = &[
    (
        "etcdserverpb.KV",
        &[
            ("Range", Keys),
            ("RangeStream", Keys),
            ("Put", Keys),
            ("DeleteRange", Keys),
            // A transaction without operations asks for nothing.
            ("Txn", Keys),
            ("Compact", Root),
        ],
    ),
    ("etcdserverpb.Watch", &[("Watch", Keys)]),
    (
        "etcdserverpb.Lease",
        &[
            ("LeaseGrant", User),
            ("LeaseRevoke", User),
            ("LeaseKeepAlive", User),
            ("LeaseTimeToLive", User),
            ("LeaseLeases", User),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("MemberList", User),
            ("MemberAdd", Root),
            ("MemberRemove", Root),
            ("MemberUpdate", Root),
            ("MemberPromote", Root),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("Status", User),
            // To raise or clear an alarm asks for the role root.
            ("Alarm", User),
            ("Defragment", RootHere),
            ("Hash", RootHere),
            ("HashKV", RootHere),
            ("Snapshot", RootHere),
            ("MoveLeader", Root),
            ("Downgrade", Root),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("AuthEnable", Root),
            ("AuthDisable", Root),
            ("AuthStatus", ValidToken),
            ("Authenticate", ValidToken),
            ("UserAdd", Root),
            ("UserGet", RootOrOwn),
            ("UserList", Root),
            ("UserDelete", Root),
            ("UserChangePassword", Root),
            ("UserGrantRole", Root),
            ("UserRevokeRole", Root),
            ("RoleAdd", Root),
            ("RoleGet", RootOrOwn),
            ("RoleList", Root),
            ("RoleDelete", Root),
            ("RoleGrantPermission", Root),
            ("RoleRevokePermission", Root),
        ],
    ),
    ("grpc.health.v1.Health", &[("Check", Nothing), ("Watch", Nothing)]),
];

/// The requirement of a method.
///
/// # Panics
/// If the table has no row for the method.
pub fn need_of(service: &str, method: &str) -> Need {
    let methods = METHODS.iter().find(|(name, _)| *name == service).map(|(_, methods)| *methods);
    let row = methods.and_then(|methods| methods.iter().find(|(name, _)| *name == method));
    row.map_or_else(|| panic!("{service}/{method} has no row in the permission table"), |(_, need)| *need)
}
