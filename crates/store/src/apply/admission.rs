//! Temporary refusals (etcd: `server/etcdserver/apply`): commands that need space while the NOSPACE alarm stands,
//! commands that change keys or leases while the CORRUPT alarm stands, and commands that their caller may not give.
//!
//! etcd's members check this when they apply a command, and so must this one: otherwise the same log would give
//! different states. None of these checks runs while no alarm stands and authentication is disabled.

use metastore_proto::Message;
use metastore_proto::etcdserverpb::{AlarmType, Compare, DeleteRangeRequest, LeaseRevokeRequest, PutRequest};

use super::Applying;
use super::command::{Caller, Command, Kind, changes_nothing, changes_users};
use super::flat_txn::{FlatTxn, Level, Op};
use crate::auth::Access;
use crate::lease::keys;
use crate::{Refusal, Store};

impl Store {
    /// Whether [`Store::admits`] can refuse anything now.
    pub(super) fn is_restricted(&self) -> bool {
        !self.alarms.is_empty() || self.auth.enabled()
    }

    /// Whether a command may be applied now.
    pub(super) fn admits(&self, command: &Command) -> Applying<()> {
        let Command { kind, caller, body, .. } = command;
        let body = body.clone();
        match kind {
            Kind::Put => {
                let request = PutRequest::decode(body)?;
                self.has_room(true)?;
                self.may_put(caller, &request)?;
            }
            Kind::DeleteRange => {
                let request = DeleteRangeRequest::decode(body)?;
                self.is_sound()?;
                self.may_delete(caller, &request)?;
            }
            Kind::Txn => {
                let txn = FlatTxn::decode(body)?;
                self.has_room(puts(&txn))?;
                self.may_run(caller, &txn)?;
            }
            Kind::Compaction => self.is_sound()?,
            Kind::LeaseGrant => self.has_room(true)?,
            Kind::LeaseRevoke => {
                let LeaseRevokeRequest { id } = LeaseRevokeRequest::decode(body)?;
                self.is_sound()?;
                self.may_change_keys_of(caller, id)?;
            }
            changes_users!() => self.auth.admin(caller)?,
            Kind::Alarm
            | Kind::LeaseCheckpoint
            | Kind::ClusterVersionSet
            | Kind::ClusterMemberAttrSet
            | Kind::DowngradeInfoSet
            | changes_nothing!() => {}
        }
        Ok(())
    }

    /// Whether the state is known to equal that of the other members: no CORRUPT alarm stands.
    fn is_sound(&self) -> Result<(), Refusal> {
        if self.alarms.stands(AlarmType::Corrupt) { Err(Refusal::Corrupt) } else { Ok(()) }
    }

    /// As [`Store::is_sound`]; also checks that there is space, if the command takes some.
    fn has_room(&self, takes_room: bool) -> Result<(), Refusal> {
        self.is_sound()?;
        if takes_room && self.alarms.stands(AlarmType::Nospace) { Err(Refusal::NoSpace) } else { Ok(()) }
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
        if !self.leases.contains(lease) || self.auth.admin(caller).is_ok() {
            return Ok(());
        }
        let keys = keys::keys_of(self.engine.as_ref(), lease)?;
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
    txn.levels().iter().flat_map(Level::ops).any(|op| matches!(op, Op::Put(_)))
}
