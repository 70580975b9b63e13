//! From a path to a method: the table that etcd's `.proto` files give its gateway.

use std::collections::HashMap;

use super::schema::Schema;
use crate::grpc::Router;

/// A path and the method behind it.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The path of the method: `/etcdserverpb.KV/Put`.
    pub method: &'static str,
    pub shape: Shape,
    /// Places in the schema.
    pub request: usize,
    pub response: usize,
}

/// The sides of a method that stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Unary,
    ServerStream,
    Bidi,
}

use Shape::{Bidi, ServerStream, Unary};

/// After `/v3/`: the path, the method, its shape, and the names of its messages without `Request` and `Response`.
const ROUTES: &[(&str, &str, Shape, &str)] = &[
    ("kv/range", "/etcdserverpb.KV/Range", Unary, "Range"),
    ("kv/put", "/etcdserverpb.KV/Put", Unary, "Put"),
    ("kv/deleterange", "/etcdserverpb.KV/DeleteRange", Unary, "DeleteRange"),
    ("kv/txn", "/etcdserverpb.KV/Txn", Unary, "Txn"),
    ("kv/compaction", "/etcdserverpb.KV/Compact", Unary, "Compaction"),
    ("watch", "/etcdserverpb.Watch/Watch", Bidi, "Watch"),
    ("lease/grant", "/etcdserverpb.Lease/LeaseGrant", Unary, "LeaseGrant"),
    ("lease/revoke", "/etcdserverpb.Lease/LeaseRevoke", Unary, "LeaseRevoke"),
    ("kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke", Unary, "LeaseRevoke"),
    ("lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive", Bidi, "LeaseKeepAlive"),
    ("lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive", Unary, "LeaseTimeToLive"),
    ("kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive", Unary, "LeaseTimeToLive"),
    ("lease/leases", "/etcdserverpb.Lease/LeaseLeases", Unary, "LeaseLeases"),
    ("kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases", Unary, "LeaseLeases"),
    ("cluster/member/add", "/etcdserverpb.Cluster/MemberAdd", Unary, "MemberAdd"),
    ("cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove", Unary, "MemberRemove"),
    ("cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate", Unary, "MemberUpdate"),
    ("cluster/member/list", "/etcdserverpb.Cluster/MemberList", Unary, "MemberList"),
    ("cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote", Unary, "MemberPromote"),
    ("maintenance/alarm", "/etcdserverpb.Maintenance/Alarm", Unary, "Alarm"),
    ("maintenance/status", "/etcdserverpb.Maintenance/Status", Unary, "Status"),
    ("maintenance/defragment", "/etcdserverpb.Maintenance/Defragment", Unary, "Defragment"),
    ("maintenance/hash", "/etcdserverpb.Maintenance/Hash", Unary, "Hash"),
    ("maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV", Unary, "HashKV"),
    ("maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot", ServerStream, "Snapshot"),
    ("maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader", Unary, "MoveLeader"),
    ("maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade", Unary, "Downgrade"),
    ("auth/enable", "/etcdserverpb.Auth/AuthEnable", Unary, "AuthEnable"),
    ("auth/disable", "/etcdserverpb.Auth/AuthDisable", Unary, "AuthDisable"),
    ("auth/status", "/etcdserverpb.Auth/AuthStatus", Unary, "AuthStatus"),
    ("auth/authenticate", "/etcdserverpb.Auth/Authenticate", Unary, "Authenticate"),
    ("auth/user/add", "/etcdserverpb.Auth/UserAdd", Unary, "AuthUserAdd"),
    ("auth/user/get", "/etcdserverpb.Auth/UserGet", Unary, "AuthUserGet"),
    ("auth/user/list", "/etcdserverpb.Auth/UserList", Unary, "AuthUserList"),
    ("auth/user/delete", "/etcdserverpb.Auth/UserDelete", Unary, "AuthUserDelete"),
    ("auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword", Unary, "AuthUserChangePassword"),
    ("auth/user/grant", "/etcdserverpb.Auth/UserGrantRole", Unary, "AuthUserGrantRole"),
    ("auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole", Unary, "AuthUserRevokeRole"),
    ("auth/role/add", "/etcdserverpb.Auth/RoleAdd", Unary, "AuthRoleAdd"),
    ("auth/role/get", "/etcdserverpb.Auth/RoleGet", Unary, "AuthRoleGet"),
    ("auth/role/list", "/etcdserverpb.Auth/RoleList", Unary, "AuthRoleList"),
    ("auth/role/delete", "/etcdserverpb.Auth/RoleDelete", Unary, "AuthRoleDelete"),
    ("auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission", Unary, "AuthRoleGrantPermission"),
    ("auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission", Unary, "AuthRoleRevokePermission"),
    ("lock/lock", "/v3lockpb.Lock/Lock", Unary, "Lock"),
    ("lock/unlock", "/v3lockpb.Lock/Unlock", Unary, "Unlock"),
    ("election/campaign", "/v3electionpb.Election/Campaign", Unary, "Campaign"),
    ("election/proclaim", "/v3electionpb.Election/Proclaim", Unary, "Proclaim"),
    ("election/leader", "/v3electionpb.Election/Leader", Unary, "Leader"),
    ("election/observe", "/v3electionpb.Election/Observe", ServerStream, "Leader"),
    ("election/resign", "/v3electionpb.Election/Resign", Unary, "Resign"),
];

/// The table for the methods of `router`.
///
/// # Panics
/// If the router or the schema does not know a name in it.
pub fn table(router: &Router) -> HashMap<&'static str, Route> {
    let schema = Schema::get();
    let find = |package: &str, base: &str, kind: &str| {
        let name = format!("{package}.{base}{kind}");
        schema.find(&name).unwrap_or_else(|| panic!("there is no message {name}"))
    };
    let route = |&(path, method, shape, base): &(&'static str, &'static str, Shape, &str)| {
        assert!(router.serves(method), "no handler for {method}");
        let package = method[1..].split_once('.').map_or("", |(package, _)| package);
        let (request, response) = (find(package, base, "Request"), find(package, base, "Response"));
        (path, Route { method, shape, request, response })
    };
    ROUTES.iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::rc::Weak;

    use metastore_store::watch::Limits;
    use tokio::sync::watch;

    use super::super::schema::Kind;
    use super::*;
    use crate::api::{self, Watchers};
    use crate::auth::methods;
    use crate::grpc::Ledger;
    use crate::member::fake_engine::FakeEngine;

    /// All methods of the client API, in a router without a member that answers.
    fn router() -> Router {
        let member = FakeEngine::new(&["http://127.0.0.1:1"]).member;
        let watchers = Watchers::new(member.shared.views.clone(), Limits::new(1, 1), Default::default());
        let mut router = Router::new(1, Ledger::default(), watch::channel(false).1);
        api::register(&mut router, &member, &watchers, &Weak::new());
        router
    }

    #[tokio::test(flavor = "local")]
    async fn every_method_that_etcds_gateway_serves_has_a_path() {
        let table = table(&router());
        let routed: BTreeSet<_> = table.values().map(|route| route.method.to_owned()).collect();
        let without = |path: &String| path.starts_with("/grpc.health.") || path == "/etcdserverpb.KV/RangeStream";
        assert_eq!(routed, methods::paths().filter(|path| !without(path)).collect());
    }

    #[tokio::test(flavor = "local")]
    async fn every_field_of_their_messages_has_a_kind() {
        let schema = Schema::get();
        let mut open: Vec<usize> =
            table(&router()).values().flat_map(|route| [route.request, route.response]).collect();
        let mut known = BTreeSet::new();
        while let Some(place) = open.pop() {
            if !known.insert(place) {
                continue;
            }
            for field in schema.message(place).fields() {
                assert_ne!(field.kind, Kind::Other, "{}", field.key);
                if let Kind::Message(place) = field.kind {
                    open.push(place);
                }
            }
        }
        assert!(known.len() > 80, "only {} messages", known.len());
    }
}
