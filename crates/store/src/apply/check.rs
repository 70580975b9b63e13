//! Whether a command can be applied at all, checked before it becomes an entry.
//!
//! A member that cannot apply a committed entry stops, and stops again after every restart. The members' own API
//! proposes no such command. A command that another member forwards for its clients is checked here, by the leader that
//! would append it.

use bytes::Bytes;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    AlarmRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, CompactionRequest, DeleteRangeRequest,
    InternalAuthenticateRequest, LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use metastore_proto::membershippb::{ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest};

use super::command::{Command, Kind, changes_nothing};
use super::flat_txn::FlatTxn;
use super::{HaltCause, cause_of};

/// Whether a command can be applied to every state: it may be refused, but it halts no member whose medium works. An
/// entry without data comes from a new leader, and changes nothing.
///
/// # Errors
/// The cause for which a member would halt.
pub fn check_command(data: Bytes) -> Result<(), HaltCause> {
    if data.is_empty() {
        return Ok(());
    }
    let Command { kind, body, .. } = Command::decode(data).map_err(cause_of)?;
    match kind {
        Kind::Put => readable::<PutRequest>(body),
        Kind::DeleteRange => readable::<DeleteRangeRequest>(body),
        Kind::Txn => FlatTxn::decode(body).map(drop),
        Kind::Compaction => readable::<CompactionRequest>(body),
        Kind::LeaseGrant => readable::<LeaseGrantRequest>(body),
        Kind::LeaseRevoke => readable::<LeaseRevokeRequest>(body),
        Kind::LeaseCheckpoint => readable::<LeaseCheckpointRequest>(body),
        Kind::ClusterVersionSet => readable::<ClusterVersionSetRequest>(body),
        Kind::ClusterMemberAttrSet => readable::<ClusterMemberAttrSetRequest>(body),
        Kind::DowngradeInfoSet => readable::<DowngradeInfoSetRequest>(body),
        Kind::Alarm => readable::<AlarmRequest>(body),
        Kind::Authenticate => readable::<InternalAuthenticateRequest>(body),
        Kind::AuthUserAdd => readable::<AuthUserAddRequest>(body),
        Kind::AuthUserDelete => readable::<AuthUserDeleteRequest>(body),
        Kind::AuthUserChangePassword => readable::<AuthUserChangePasswordRequest>(body),
        Kind::AuthUserGrantRole => readable::<AuthUserGrantRoleRequest>(body),
        Kind::AuthUserRevokeRole => readable::<AuthUserRevokeRoleRequest>(body),
        Kind::AuthRoleAdd => readable::<AuthRoleAddRequest>(body),
        Kind::AuthRoleDelete => readable::<AuthRoleDeleteRequest>(body),
        Kind::AuthRoleGrantPermission => readable::<AuthRoleGrantPermissionRequest>(body),
        Kind::AuthRoleRevokePermission => readable::<AuthRoleRevokePermissionRequest>(body),
        // The bodies of these commands are never read.
        Kind::AuthEnable | Kind::AuthDisable | changes_nothing!() => Ok(()),
    }
}

fn readable<M: Message + Default>(body: Bytes) -> Result<(), HaltCause> {
    M::decode(body)?;
    Ok(())
}
