//! The keys, users, roles and leases that a request names.

use std::fmt::Write as _;

use metastore_proto::etcdserverpb::*;
use serde::Serialize;

/// At most this many bytes of a key are shown.
pub const SHOWN_BYTES: usize = 256;
/// At most this many keys of a transaction are shown.
const SHOWN_KEYS: usize = 16;

/// The fields of a line about the request.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    range_end: String,
    /// The keys of a transaction, with the kind of each operation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    role: String,
    /// The id of a lease or a member, as etcdctl shows it.
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
}

impl Subject {
    pub fn key(key: &[u8]) -> Self {
        Self { key: shown(key), ..Self::default() }
    }

    fn range(key: &[u8], range_end: &[u8]) -> Self {
        Self { key: shown(key), range_end: shown(range_end), ..Self::default() }
    }

    fn name(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
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
    TxnRequest => |it| Subject { operations: operations(it), ..Subject::default() };
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
    AuthUserGrantRoleRequest => |it| Subject { role: it.role.clone(), ..Subject::name(&it.user) };
    AuthUserRevokeRoleRequest => |it| Subject { role: it.role.clone(), ..Subject::name(&it.name) };
    AuthRoleAddRequest => |it| Subject { role: it.name.clone(), ..Subject::default() };
    AuthRoleGetRequest => |it| Subject { role: it.role.clone(), ..Subject::default() };
    AuthRoleDeleteRequest => |it| Subject { role: it.role.clone(), ..Subject::default() };
    AuthRoleGrantPermissionRequest => |it| {
        let permission = it.perm.clone().unwrap_or_default();
        Subject { role: it.name.clone(), ..Subject::range(&permission.key, &permission.range_end) }
    };
    AuthRoleRevokePermissionRequest => |it| Subject {
        role: it.role.clone(),
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

/// The operations of both branches, without nested transactions, which are only counted.
fn operations(txn: &TxnRequest) -> Vec<String> {
    use request_op::Request;
    let all = txn.success.iter().chain(&txn.failure);
    let shown = |op: &RequestOp| match &op.request {
        Some(Request::RequestRange(range)) => format!("range {}", shown(&range.key)),
        Some(Request::RequestPut(put)) => format!("put {}", shown(&put.key)),
        Some(Request::RequestDeleteRange(delete)) => format!("delete {}", shown(&delete.key)),
        Some(Request::RequestTxn(txn)) => format!("txn of {}", txn.success.len() + txn.failure.len()),
        None => String::new(),
    };
    let mut operations: Vec<String> = all.clone().take(SHOWN_KEYS).map(shown).collect();
    let left = all.count().saturating_sub(SHOWN_KEYS);
    if left > 0 {
        operations.push(format!("... and {left} more"));
    }
    operations
}
