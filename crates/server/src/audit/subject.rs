//! The keys, users, roles and leases that a request names.

use std::fmt::Write as _;

use metastore_proto::etcdserverpb::*;
use serde::Serialize;

/// At most this many bytes of a key or a name are shown.
pub const SHOWN_BYTES: usize = 256;
/// At most this many operations of a transaction are shown.
const SHOWN_OPERATIONS: usize = 16;

/// At most this many leases that are renewed together are shown.
const SHOWN_LEASES: usize = 16;

/// The fields of a line about the request.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    range_end: String,
    /// The comparisons and operations of a transaction, those of nested ones included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<Operation>,
    /// Operations that are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    further_operations: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    role: String,
    /// The id of a lease or a member, as etcdctl shows it; of several leases, with spaces between them.
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Operation {
    kind: &'static str,
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    range_end: String,
}

impl Subject {
    pub fn key(key: &[u8]) -> Self {
        Self { key: shown(key), ..Self::default() }
    }

    /// Leases that are renewed together.
    pub fn leases(ids: &[i64]) -> Self {
        let mut shown: Vec<_> = ids.iter().take(SHOWN_LEASES).map(|id| format!("{id:x}")).collect();
        if ids.len() > SHOWN_LEASES {
            shown.push(format!("... ({} leases)", ids.len()));
        }
        Self { id: shown.join(" "), ..Self::default() }
    }

    /// The bytes of all fields.
    pub fn bytes(&self) -> usize {
        let Self { key, range_end, operations, further_operations: _, name, role, id } = self;
        let own: usize = [key, range_end, name, role, id].into_iter().map(String::len).sum();
        let of = |operation: &Operation| size_of::<Operation>() + operation.key.len() + operation.range_end.len();
        own + operations.iter().map(of).sum::<usize>()
    }

    fn range(key: &[u8], range_end: &[u8]) -> Self {
        Self { key: shown(key), range_end: shown(range_end), ..Self::default() }
    }

    fn name(name: &str) -> Self {
        Self { name: shown_name(name), ..Self::default() }
    }

    fn role(role: &str) -> Self {
        Self { role: shown_name(role), ..Self::default() }
    }

    fn id(id: u64) -> Self {
        Self { id: format!("{id:x}"), ..Self::default() }
    }
}

/// A request, as the audit log sees it.
pub trait Subjects {
    fn subject(&self) -> Subject {
        Subject::default()
    }
}

macro_rules! subjects {
    ($($request:ty => |$it:ident| $subject:expr;)*) => {
        $(impl Subjects for $request {
            fn subject(&self) -> Subject {
                let $it = self;
                $subject
            }
        })*
    };
}

subjects! {
    RangeRequest => |it| Subject::range(&it.key, &it.range_end);
    PutRequest => |it| Subject::key(&it.key);
    DeleteRangeRequest => |it| Subject::range(&it.key, &it.range_end);
    TxnRequest => |it| operations(it);
    WatchCreateRequest => |it| Subject::range(&it.key, &it.range_end);
    LeaseGrantRequest => |it| Subject::id(it.id as u64);
    LeaseRevokeRequest => |it| Subject::id(it.id as u64);
    LeaseTimeToLiveRequest => |it| Subject::id(it.id as u64);
    MemberRemoveRequest => |it| Subject::id(it.id);
    MemberUpdateRequest => |it| Subject::id(it.id);
    MemberPromoteRequest => |it| Subject::id(it.id);
    MoveLeaderRequest => |it| Subject::id(it.target_id);
    AuthenticateRequest => |it| Subject::name(&it.name);
    AuthUserAddRequest => |it| Subject::name(&it.name);
    AuthUserGetRequest => |it| Subject::name(&it.name);
    AuthUserDeleteRequest => |it| Subject::name(&it.name);
    AuthUserChangePasswordRequest => |it| Subject::name(&it.name);
    AuthUserGrantRoleRequest => |it| Subject { role: shown_name(&it.role), ..Subject::name(&it.user) };
    AuthUserRevokeRoleRequest => |it| Subject { role: shown_name(&it.role), ..Subject::name(&it.name) };
    AuthRoleAddRequest => |it| Subject::role(&it.name);
    AuthRoleGetRequest => |it| Subject::role(&it.role);
    AuthRoleDeleteRequest => |it| Subject::role(&it.role);
    AuthRoleGrantPermissionRequest => |it| {
        let permission = it.perm.clone().unwrap_or_default();
        Subject { role: shown_name(&it.name), ..Subject::range(&permission.key, &permission.range_end) }
    };
    AuthRoleRevokePermissionRequest => |it| Subject {
        role: shown_name(&it.role),
        ..Subject::range(&it.key, &it.range_end)
    };
}

impl Subjects for () {}
impl Subjects for AlarmRequest {}
impl Subjects for AuthDisableRequest {}
impl Subjects for AuthEnableRequest {}
impl Subjects for AuthRoleListRequest {}
impl Subjects for AuthStatusRequest {}
impl Subjects for AuthUserListRequest {}
impl Subjects for CompactionRequest {}
impl Subjects for DefragmentRequest {}
impl Subjects for DowngradeRequest {}
impl Subjects for HashKvRequest {}
impl Subjects for HashRequest {}
impl Subjects for LeaseLeasesRequest {}
impl Subjects for MemberAddRequest {}
impl Subjects for MemberListRequest {}
impl Subjects for SnapshotRequest {}
impl Subjects for StatusRequest {}

fn shown(key: &[u8]) -> String {
    let cut = &key[..key.len().min(SHOWN_BYTES)];
    let mut shown = cut.escape_ascii().to_string();
    if cut.len() < key.len() {
        let _ = write!(shown, "... ({} bytes)", key.len());
    }
    shown
}

/// A name as it is, and only its beginning if it is long: a queue of names is bounded.
fn shown_name(name: &str) -> String {
    let boundary = (0..=SHOWN_BYTES.min(name.len())).rev().find(|&at| name.is_char_boundary(at));
    let cut = &name[..boundary.unwrap_or(0)];
    if cut.len() == name.len() { cut.to_owned() } else { format!("{cut}... ({} bytes)", name.len()) }
}

fn operations(txn: &TxnRequest) -> Subject {
    let mut subject = Subject::default();
    add_operations(txn, &mut subject);
    subject
}

/// Adds the comparisons, then the operations of both branches. The decoder bounds the depth of nested transactions.
fn add_operations(txn: &TxnRequest, to: &mut Subject) {
    use request_op::Request;
    let mut add = |kind, key: &[u8], range_end: &[u8]| {
        if to.operations.len() < SHOWN_OPERATIONS {
            to.operations.push(Operation { kind, key: shown(key), range_end: shown(range_end) });
        } else {
            to.further_operations += 1;
        }
    };
    txn.compare.iter().for_each(|compare| add("compare", &compare.key, &compare.range_end));
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => add("range", &range.key, &range.range_end),
            Some(Request::RequestPut(put)) => add("put", &put.key, &[]),
            Some(Request::RequestDeleteRange(delete)) => add("delete", &delete.key, &delete.range_end),
            Some(Request::RequestTxn(_)) | None => {}
        }
    }
    for op in txn.success.iter().chain(&txn.failure) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            add_operations(nested, to);
        }
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::request_op::Request;
    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put(key: &'static str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.into(), value: "secret".into(), ..Default::default() }))
    }

    #[test]
    fn a_transaction_names_what_it_compares_reads_and_changes_however_deep() {
        let delete = DeleteRangeRequest { key: "a".into(), range_end: "z".into(), ..Default::default() };
        let inner = TxnRequest { failure: vec![op(Request::RequestDeleteRange(delete))], ..Default::default() };
        let compare = Compare { key: "c".into(), range_end: "d".into(), ..Default::default() };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![op(Request::RequestTxn(inner)), put("p")],
            ..Default::default()
        };
        let expected = serde_json::json!({ "operations": [
            { "kind": "compare", "key": "c", "range_end": "d" },
            { "kind": "put", "key": "p" },
            { "kind": "delete", "key": "a", "range_end": "z" },
        ] });
        assert_eq!(serde_json::to_value(txn.subject()).unwrap(), expected);
        let many = TxnRequest { success: (0..20).map(|_| put("p")).collect(), ..Default::default() };
        let subject = many.subject();
        assert_eq!((subject.operations.len(), subject.further_operations), (16, 4));
    }

    #[test]
    fn only_the_beginning_of_a_long_name_or_key_is_kept() {
        let name = "ü".repeat(1 << 20);
        let user = AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() };
        let permission = metastore_proto::authpb::Permission {
            key: name.clone().into(),
            range_end: name.clone().into(),
            ..Default::default()
        };
        let role = AuthRoleGrantPermissionRequest { name: name.clone(), perm: Some(permission) };
        let login = AuthenticateRequest { name, password: "secret".into() };
        for subject in [user.subject(), role.subject(), login.subject()] {
            let line = serde_json::to_string(&subject).unwrap();
            assert!(line.len() < 16 * SHOWN_BYTES && line.contains("... (2097152 bytes)"), "{line}");
        }
        assert_eq!(AuthUserGetRequest { name: "älice".into() }.subject().name, "älice");
    }
}
