//! The commands that the members of these tests are given.

use bytes::Bytes;
use metastore_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RequestOp,
    TxnRequest, compare, request_op,
};
use metastore_store::command::{Command, Kind};

use crate::world::{Stopped, World};

/// Few keys, so that commands often meet the same one.
const KEYS: u64 = 6;
const LEASES: u64 = 3;

/// A well-mixed function of two numbers (the finaliser of splitmix64).
pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn key(choice: u64) -> Bytes {
    format!("key{}", choice % KEYS).into()
}

fn put(choice: u64) -> PutRequest {
    let value = [(choice % 255) as u8 + 1].repeat((choice >> 8) as usize % 400);
    let lease = if choice.is_multiple_of(4) { (choice >> 20) % LEASES + 1 } else { 0 };
    PutRequest { key: key(choice), value: value.into(), lease: lease as i64, ..PutRequest::default() }
}

/// Puts a key if it is new; otherwise deletes it and puts another one.
fn txn(choice: u64) -> TxnRequest {
    let is_new = Compare {
        key: key(choice),
        target: compare::CompareTarget::Create as i32,
        target_union: Some(compare::TargetUnion::CreateRevision(0)),
        ..Compare::default()
    };
    let op = |request| RequestOp { request: Some(request) };
    let without_lease = |choice| request_op::Request::RequestPut(PutRequest { lease: 0, ..put(choice) });
    let delete = DeleteRangeRequest { key: key(choice), ..DeleteRangeRequest::default() };
    TxnRequest {
        compare: vec![is_new],
        success: vec![op(without_lease(choice))],
        failure: vec![op(request_op::Request::RequestDeleteRange(delete)), op(without_lease(choice + 1))],
    }
}

/// A command chosen by `choice`. `revision` is the store's, for compactions.
pub fn command(choice: u64, revision: i64) -> impl FnOnce(u64) -> Bytes {
    let what = mix(choice, 1);
    move |id| match choice % 20 {
        0..=9 => Command::encode(id, Kind::Put, &put(what)),
        10..=12 => Command::encode(id, Kind::Txn, &txn(what)),
        13 => {
            let range = DeleteRangeRequest { key: key(what), range_end: "key9".into(), ..Default::default() };
            Command::encode(id, Kind::DeleteRange, &range)
        }
        14 | 15 => {
            let grant = LeaseGrantRequest { id: (what % LEASES) as i64 + 1, ttl: 60 + (what >> 32) as i64 % 60 };
            Command::encode(id, Kind::LeaseGrant, &grant)
        }
        16 => Command::encode(id, Kind::LeaseRevoke, &LeaseRevokeRequest { id: (what % LEASES) as i64 + 1 }),
        _ => {
            // Not at 0: then HashKV of revision 0 would be, as in etcd, the hash that this compaction left, not that of
            // the newest state.
            let at = (revision - (what % 3) as i64).max(1);
            let compaction = CompactionRequest { revision: at, physical: what.is_multiple_of(2) };
            Command::encode(id, Kind::Compaction, &compaction)
        }
    }
}

/// Proposes a group of up to five random commands.
pub fn random_group(world: &mut World, seed: u64) -> Result<(), Stopped> {
    let revision = world.replica().store().revision();
    world.group((0..mix(seed, 0) % 5 + 1).map(|i| command(mix(seed, i + 1), revision)))
}

/// First start; commands of every kind in groups; cuts; snapshots at once and beside the writes; purges; restarts.
pub fn run(world: &mut World, seed: u64, rounds: u64) -> Result<(), Stopped> {
    world.start()?;
    for round in 0..rounds {
        random_group(world, mix(seed, round))?;
        if round % 11 == 10 {
            world.start()?;
        }
    }
    Ok(())
}
