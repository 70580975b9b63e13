//! Unimplemented methods of etcd's API: they answer with an error that says so (`docs/limitations.md`), rather than as
//! if the service were unknown.

use std::rc::Rc;

use crate::grpc::{Frame, Router, Status};
use crate::member::MemberHandle;

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
