//! Methods of etcd's API that this version does not have: they answer with an error that says so
//! (`docs/limitations.md`), rather than as if the service were unknown.

use crate::grpc::{Frame, Router, Status};

const METHODS: [(&str, &[&str]); 5] = [
    ("Cluster", &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberPromote"]),
    ("Maintenance", &["Snapshot", "MoveLeader", "Downgrade"]),
    ("Auth", &["AuthEnable", "AuthDisable", "AuthStatus", "Authenticate"]),
    (
        "Auth",
        &["UserAdd", "UserGet", "UserList", "UserDelete", "UserChangePassword", "UserGrantRole", "UserRevokeRole"],
    ),
    ("Auth", &["RoleAdd", "RoleGet", "RoleList", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission"]),
];

/// The answer of a method that is not there yet.
pub fn unimplemented(service: &str, what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: {service}: {what} is not implemented by this version of MetaStore"))
}

pub fn register(router: &mut Router) {
    for (service, methods) in METHODS {
        for method in methods {
            let path = match service {
                "Cluster" => "etcdserverpb.Cluster",
                "Maintenance" => "etcdserverpb.Maintenance",
                _ => "etcdserverpb.Auth",
            };
            router.unary(
                path,
                method,
                move |_call, (): ()| async move { Err::<Frame, _>(unimplemented(service, method)) },
            );
        }
    }
}
