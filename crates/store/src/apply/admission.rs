//! Temporary refusals (etcd: `server/etcdserver/apply`): commands that need space while the NOSPACE alarm stands,
//! commands that change keys or leases while the CORRUPT alarm stands, and commands that their caller may not give.
//!
//! etcd's members check this when they apply a command, and so must this one: otherwise the same log would give
//! different states. None of these checks runs while no alarm stands and authentication is disabled.
//!
//! A member also checks the permissions of a command before it proposes it ([`may_propose`]), so that a command without
//! permission takes no place in the log.

use bytes::Bytes;
use metastore_engine::Engine;
use metastore_mutants::{Mutant, mutant};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{AlarmType, Compare, DeleteRangeRequest, LeaseRevokeRequest, PutRequest};

use super::Applying;
use super::command::{Caller, Command, Kind, changes_nothing, changes_users};
use super::flat_txn::{FlatTxn, Level, Op};
use crate::auth::{Access, Auth};
use crate::lease::keys;
use crate::not_done::separate;
use crate::{HaltCause, Refusal, Store};

/// Whether a command may be proposed: the permissions of its caller, but those on the keys of a lease, of which there
/// may be any number. They are checked when the command is applied, as all others are again.
///
/// # Errors
/// The outer error: the bytes are no command that can be applied. The inner one: the refusal.
pub fn may_propose(auth: &Auth, command: Bytes) -> Result<Result<(), Refusal>, HaltCause> {
    let command = Command::decode(command).map_err(super::cause_of)?;
    separate(Permissions { auth, leases: None }.allow(&command))
}

impl Store {
    /// Whether [`Store::admits`] can refuse anything now.
    pub(super) fn is_restricted(&self) -> bool {
        !self.alarms.is_empty() || self.auth.enabled()
    }

    /// Whether a command may be applied now. As in etcd, alarms come before permissions.
    pub(super) fn admits(&self, command: &Command) -> Applying<()> {
        match command.kind {
            Kind::Put | Kind::LeaseGrant => self.has_room(|| Ok(true))?,
            Kind::Txn => self.has_room(|| Ok(puts(&FlatTxn::decode(command.body.clone())?)))?,
            Kind::DeleteRange | Kind::LeaseRevoke | Kind::Compaction => self.is_sound()?,
            changes_users!()
            | Kind::Alarm
            | Kind::Authenticate
            | Kind::LeaseCheckpoint
            | Kind::ClusterVersionSet
            | Kind::ClusterMemberAttrSet
            | Kind::DowngradeInfoSet
            | changes_nothing!() => {}
        }
        if mutant(Mutant::PermissionsNotApplied) {
            return Ok(());
        }
        Permissions { auth: &self.auth, leases: Some(self.engine.as_ref()) }.allow(command)
    }

    /// Whether the state is known to equal that of the other members: no CORRUPT alarm stands.
    fn is_sound(&self) -> Result<(), Refusal> {
        if self.alarms.stands(AlarmType::Corrupt) { Err(Refusal::Corrupt) } else { Ok(()) }
    }

    /// As [`Store::is_sound`]; also checks that there is space, if the command takes some.
    fn has_room(&self, takes_room: impl FnOnce() -> Applying<bool>) -> Applying<()> {
        self.is_sound()?;
        if self.alarms.stands(AlarmType::Nospace) && takes_room()? {
            return Err(Refusal::NoSpace.into());
        }
        Ok(())
    }
}

/// The permissions of callers.
struct Permissions<'a> {
    auth: &'a Auth,
    /// The engine that holds the keys of leases; `None` if permissions on them are not checked.
    leases: Option<&'a dyn Engine>,
}

impl Permissions<'_> {
    fn allow(&self, command: &Command) -> Applying<()> {
        if !self.auth.enabled() {
            return Ok(());
        }
        let Command { kind, caller, body, .. } = command;
        let body = body.clone();
        match kind {
            Kind::Put => self.may_put(caller, &PutRequest::decode(body)?)?,
            Kind::DeleteRange => self.may_delete(caller, &DeleteRangeRequest::decode(body)?)?,
            Kind::Txn => self.may_run(caller, &FlatTxn::decode(body)?)?,
            Kind::LeaseRevoke => self.may_change_keys_of(caller, LeaseRevokeRequest::decode(body)?.id)?,
            changes_users!() => self.auth.admin(caller)?,
            // As in etcd, members check these before they propose them, not when they apply them.
            Kind::Compaction
            | Kind::LeaseGrant
            | Kind::Alarm
            | Kind::Authenticate
            | Kind::LeaseCheckpoint
            | Kind::ClusterVersionSet
            | Kind::ClusterMemberAttrSet
            | Kind::DowngradeInfoSet
            | changes_nothing!() => {}
        }
        Ok(())
    }

    fn may_put(&self, caller: &Caller, request: &PutRequest) -> Applying<()> {
        let PutRequest { key, lease, prev_kv, .. } = request;
        self.auth.permits(caller, Access::Write, key, b"")?;
        self.may_change_keys_of(caller, *lease)?;
        if *prev_kv {
            self.auth.permits(caller, Access::Read, key, b"")?;
        }
        Ok(())
    }

    fn may_delete(&self, caller: &Caller, request: &DeleteRangeRequest) -> Result<(), Refusal> {
        let DeleteRangeRequest { key, range_end, prev_kv } = request;
        self.auth.permits(caller, Access::Write, key, range_end)?;
        if *prev_kv { self.auth.permits(caller, Access::Read, key, range_end) } else { Ok(()) }
    }

    /// Attaching a key to a lease and revoking the lease require write permission on all keys of the lease: the end of
    /// the lease deletes them all.
    fn may_change_keys_of(&self, caller: &Caller, lease: i64) -> Applying<()> {
        let Some(engine) = self.leases else { return Ok(()) };
        if lease == 0 || self.auth.admin(caller).is_ok() {
            return Ok(());
        }
        let keys = keys::keys_of(engine, lease)?;
        Ok(keys.iter().try_for_each(|key| self.auth.permits(caller, Access::Write, key, b""))?)
    }

    /// Both branches are checked, whichever one is taken.
    fn may_run(&self, caller: &Caller, txn: &FlatTxn) -> Applying<()> {
        let read = |compare: &Compare| self.auth.permits(caller, Access::Read, &compare.key, &compare.range_end);
        for level in txn.levels() {
            level.compare.iter().try_for_each(read)?;
            for op in level.ops() {
                self.may_do(caller, op)?;
            }
        }
        Ok(())
    }

    fn may_do(&self, caller: &Caller, op: &Op) -> Applying<()> {
        match op {
            Op::Range(range) => self.auth.permits(caller, Access::Read, &range.key, &range.range_end)?,
            Op::Put(put) => self.may_put(caller, put)?,
            Op::DeleteRange(delete) => self.may_delete(caller, delete)?,
            // One of the other levels.
            Op::Txn(_) => {}
        }
        Ok(())
    }
}

/// Whether a transaction may write a key, in any branch.
fn puts(txn: &FlatTxn) -> bool {
    if mutant(Mutant::ElseBranchUnchecked) {
        return txn.levels().iter().flat_map(|level| level.branch(true)).any(|op| matches!(op, Op::Put(_)));
    }
    txn.levels().iter().flat_map(Level::ops).any(|op| matches!(op, Op::Put(_)))
}
