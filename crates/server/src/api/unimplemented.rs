//! Unimplemented methods of etcd's API: they answer with an error that says so (`docs/limitations.md`), rather than as
//! if the service were unknown.

use std::rc::Rc;

use super::MemberHandle;
use crate::grpc::{Frame, Router, Status};

/// The only one of these methods that a learner would serve.
const SNAPSHOT: &str = "Snapshot";

const METHODS: [(&str, &[&str]); 4] = [
    ("Maintenance", &[SNAPSHOT, "Downgrade"]),
    ("Auth", &["AuthEnable", "AuthDisable", "AuthStatus", "Authenticate"]),
    (
        "Auth",
        &["UserAdd", "UserGet", "UserList", "UserDelete", "UserChangePassword", "UserGrantRole", "UserRevokeRole"],
    ),
    ("Auth", &["RoleAdd", "RoleGet", "RoleList", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission"]),
];

/// The answer of an unimplemented method.
pub fn unimplemented(service: &str, what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: {service}: {what} is not implemented by this version of MetaStore"))
}

/// The answer to every call while authentication is enabled, which only a member that runs etcd can do. This version
/// cannot check users, so it serves no client.
pub fn no_authentication() -> Status {
    Status::unimplemented(
        "etcdserver: authentication is enabled in this cluster, and this version of MetaStore cannot check users: it \
         serves no client until authentication is disabled (auth disable, at a member of etcd)",
    )
}

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    for (service, methods) in METHODS {
        for &method in methods {
            let path = match service {
                "Maintenance" => "etcdserverpb.Maintenance",
                _ => "etcdserverpb.Auth",
            };
            let member = member.clone();
            router.unary(path, method, move |call, (): ()| {
                let admitted = if method == SNAPSHOT { member.admit_anywhere(&call) } else { member.admit(&call) };
                async move { Err::<Frame, _>(admitted.err().unwrap_or_else(|| unimplemented(service, method))) }
            });
        }
    }
}
