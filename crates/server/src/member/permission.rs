//! The callers of this member's methods, and their permissions.

use bytes::Bytes;
use metastore_proto::etcdserverpb::{RangeRequest, TxnRequest};
use metastore_store::command::{Caller, Command, Kind};
use metastore_store::lease::keys_of;
use metastore_store::mvcc::View;
use metastore_store::{Access, Auth, Refusal, may_propose};

use super::{MemberHandle, errors};
use crate::auth::Identity;
use crate::auth::methods::Need;
use crate::grpc::{Call, Status};

impl MemberHandle {
    /// The caller of a call, who has what the method asks for, as far as the request does not matter.
    pub async fn caller_of(&self, call: &Call, need: Need) -> Result<Caller, Status> {
        let caller = self.identify(call, need).await?;
        self.meets(&caller, need)?;
        Ok(caller)
    }

    /// Finds out the caller of a call; an empty one while authentication is disabled, and if the client does not say.
    pub(super) async fn identify(&self, call: &Call, need: Need) -> Result<Caller, Status> {
        if need == Need::Nothing || !self.shared.auth_enabled() {
            return Ok(Caller::default());
        }
        if need == Need::Root {
            self.read_barrier(call).await?;
        }
        let Some(mut auth) = self.view().auth() else { return Ok(Caller::default()) };
        let mut identity = self.auth.identify(call, &auth, self.shared.applied());
        if identity == Identity::Ahead {
            // The login was acknowledged, so it is applied here once this has passed.
            self.read_barrier(call).await?;
            let Some(newer) = self.view().auth() else { return Ok(Caller::default()) };
            identity = self.auth.identify(call, &newer, u64::MAX);
            auth = newer;
        }
        match identity {
            Identity::User(caller) if caller.auth_revision < auth.revision() && need != Need::ValidToken => {
                Err(errors::refused(Refusal::AuthOldRevision))
            }
            Identity::User(caller) => Ok(caller),
            Identity::Nobody => Ok(Caller::default()),
            Identity::Invalid | Identity::Ahead => Err(errors::invalid_auth_token()),
        }
    }

    /// Whether a caller has what a method asks for.
    pub(super) fn meets(&self, caller: &Caller, need: Need) -> Result<(), Status> {
        if !self.shared.auth_enabled() {
            return Ok(());
        }
        let auth = || self.view().auth();
        let met = match need {
            Need::Nothing | Need::ValidToken | Need::Keys | Need::RootOrOwn => Ok(()),
            Need::User if *caller == Caller::default() && auth().is_some() => Err(Refusal::UserEmpty),
            Need::User => Ok(()),
            Need::Root | Need::RootHere => auth().map_or(Ok(()), |auth| auth.admin(caller)),
        };
        met.map_err(errors::refused)
    }

    /// Checks the permissions that a command needs before it takes a place in the log.
    pub(super) fn may_propose(&self, command: &Bytes) -> Result<(), Status> {
        if !self.shared.auth_enabled() {
            return Ok(());
        }
        self.view().auth().map_or(Ok(()), |auth| check(&auth, command.clone()))
    }
}

fn check(auth: &Auth, command: Bytes) -> Result<(), Status> {
    may_propose(auth, command).map_err(|cause| Status::internal(cause.to_string()))?.map_err(errors::refused)
}

/// Whether a caller may read a range.
pub fn may_range(auth: &Auth, caller: &Caller, request: &RangeRequest) -> Result<(), Status> {
    auth.permits(caller, Access::Read, &request.key, &request.range_end).map_err(errors::refused)
}

/// Whether a caller may read all that a transaction reads.
pub fn may_read(auth: &Auth, caller: &Caller, txn: &TxnRequest) -> Result<(), Status> {
    check(auth, Command::encode_as(caller, 0, Kind::Txn, txn))
}

/// Checks every key of some leases. There may be any number of them: to be called on the pool.
pub fn permit_keys_of(
    view: &View,
    caller: &Caller,
    access: Access,
    leases: impl IntoIterator<Item = i64>,
) -> Result<(), Status> {
    let Some(auth) = view.auth() else { return Ok(()) };
    if auth.admin(caller).is_ok() {
        return Ok(());
    }
    for lease in leases {
        let keys = keys_of(view.engine(), lease);
        for key in keys.map_err(|error| Status::unknown(error.to_string()))? {
            auth.permits(caller, access, &key, b"").map_err(errors::refused)?;
        }
    }
    Ok(())
}
