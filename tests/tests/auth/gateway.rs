//! The calls of the walk through the JSON gateway. Another library than the server's turns the requests into JSON.

use std::sync::LazyLock;

use metastore_proto::DESCRIPTORS;
use metastore_tests::paths::*;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tonic::Code;

use super::calls::{At, OK, Row, refusal};
use crate::gateway::Connection;

/// The methods that etcd's gateway serves, the path of each after `/v3/`, and its request.
const ROUTES: [(&str, &str, &str); 48] = [
    (RANGE, "kv/range", "RangeRequest"),
    (PUT, "kv/put", "PutRequest"),
    (DELETE_RANGE, "kv/deleterange", "DeleteRangeRequest"),
    (TXN, "kv/txn", "TxnRequest"),
    (COMPACT, "kv/compaction", "CompactionRequest"),
    (WATCH, "watch", "WatchRequest"),
    (LEASE_GRANT, "lease/grant", "LeaseGrantRequest"),
    (LEASE_REVOKE, "lease/revoke", "LeaseRevokeRequest"),
    (LEASE_KEEP_ALIVE, "lease/keepalive", "LeaseKeepAliveRequest"),
    (LEASE_TIME_TO_LIVE, "lease/timetolive", "LeaseTimeToLiveRequest"),
    (LEASE_LEASES, "lease/leases", "LeaseLeasesRequest"),
    (MEMBER_LIST, "cluster/member/list", "MemberListRequest"),
    (MEMBER_ADD, "cluster/member/add", "MemberAddRequest"),
    (MEMBER_REMOVE, "cluster/member/remove", "MemberRemoveRequest"),
    (MEMBER_UPDATE, "cluster/member/update", "MemberUpdateRequest"),
    (MEMBER_PROMOTE, "cluster/member/promote", "MemberPromoteRequest"),
    (STATUS, "maintenance/status", "StatusRequest"),
    (ALARM, "maintenance/alarm", "AlarmRequest"),
    (DEFRAGMENT, "maintenance/defragment", "DefragmentRequest"),
    (HASH, "maintenance/hash", "HashRequest"),
    (HASH_KV, "maintenance/hashkv", "HashKVRequest"),
    (SNAPSHOT, "maintenance/snapshot", "SnapshotRequest"),
    (MOVE_LEADER, "maintenance/transfer-leadership", "MoveLeaderRequest"),
    (DOWNGRADE, "maintenance/downgrade", "DowngradeRequest"),
    (AUTH_ENABLE, "auth/enable", "AuthEnableRequest"),
    (AUTH_DISABLE, "auth/disable", "AuthDisableRequest"),
    (AUTH_STATUS, "auth/status", "AuthStatusRequest"),
    (AUTHENTICATE, "auth/authenticate", "AuthenticateRequest"),
    (USER_ADD, "auth/user/add", "AuthUserAddRequest"),
    (USER_GET, "auth/user/get", "AuthUserGetRequest"),
    (USER_LIST, "auth/user/list", "AuthUserListRequest"),
    (USER_DELETE, "auth/user/delete", "AuthUserDeleteRequest"),
    (USER_CHANGE_PASSWORD, "auth/user/changepw", "AuthUserChangePasswordRequest"),
    (USER_GRANT_ROLE, "auth/user/grant", "AuthUserGrantRoleRequest"),
    (USER_REVOKE_ROLE, "auth/user/revoke", "AuthUserRevokeRoleRequest"),
    (ROLE_ADD, "auth/role/add", "AuthRoleAddRequest"),
    (ROLE_GET, "auth/role/get", "AuthRoleGetRequest"),
    (ROLE_LIST, "auth/role/list", "AuthRoleListRequest"),
    (ROLE_DELETE, "auth/role/delete", "AuthRoleDeleteRequest"),
    (ROLE_GRANT_PERMISSION, "auth/role/grant", "AuthRoleGrantPermissionRequest"),
    (ROLE_REVOKE_PERMISSION, "auth/role/revoke", "AuthRoleRevokePermissionRequest"),
    (LOCK, "lock/lock", "LockRequest"),
    (UNLOCK, "lock/unlock", "UnlockRequest"),
    (CAMPAIGN, "election/campaign", "CampaignRequest"),
    (PROCLAIM, "election/proclaim", "ProclaimRequest"),
    (LEADER, "election/leader", "LeaderRequest"),
    (OBSERVE, "election/observe", "LeaderRequest"),
    (RESIGN, "election/resign", "ResignRequest"),
];

pub fn served() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|(method, ..)| *method)
}

pub fn is_served(path: &str) -> bool {
    served().any(|method| method == path)
}

/// Makes a call, and shows its answer as [`Row::make`] does.
pub fn make(address: &str, row: &Row, at: &At, token: Option<&str>) -> String {
    let (method, path, message) = ROUTES.iter().find(|(method, ..)| *method == row.path).expect("it is served");
    let (path, body) = (format!("/v3/{path}"), json(method, message, &row.request(at)));
    let headers: Vec<_> = token.iter().map(|token| ("Authorization", *token)).collect();
    if row.path == WATCH {
        return watch(address, &path, &headers, &body);
    }
    let mut connection = Connection::open(address);
    connection.send("POST", &path, &headers, body.as_bytes());
    // An observer is answered for ever, and by etcd not at all if it is refused.
    let (status, Some(first)) = connection.beginning() else { return OK.to_string() };
    let json: Value = serde_json::from_str(&first).expect("JSON");
    let error = json.get("error").unwrap_or(&json);
    match (status, json["result"]["ID"].as_str()) {
        (200, Some(_)) => format!("TTL={}", json["result"]["TTL"].as_str().unwrap_or("0")),
        (200, None) => OK.to_string(),
        _ => {
            let code = error["code"].as_i64().expect("a code");
            format!("{:?} {}", Code::from_i32(code as i32), error["message"].as_str().expect("a message"))
        }
    }
}

fn watch(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut connection = Connection::open(address);
    connection.send("POST", path, headers, body.as_bytes());
    assert_eq!(connection.head().status, 200);
    let first: Value = serde_json::from_str(&connection.chunk().expect("an answer")).expect("JSON");
    let result = &first["result"];
    assert_eq!(result["created"], true, "{first}");
    match result.get("canceled") {
        None => OK.to_string(),
        Some(_) => refusal(result["cancel_reason"].as_str().expect("a reason")),
    }
}

fn json(method: &str, message: &str, encoded: &[u8]) -> String {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("descriptors"));
    let (package, _) = method[1..].split_once('.').expect("a package");
    let descriptor = POOL.get_message_by_name(&format!("{package}.{message}")).expect("a message");
    let message = DynamicMessage::decode(descriptor, encoded).expect("an encoded message");
    serde_json::to_string(&message).expect("JSON")
}
