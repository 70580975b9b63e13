//! Log entries made from arbitrary bytes, and the checks that must hold for all of them. The fuzz target `apply`
//! includes this file, so that the fuzzer and the plain tests make the same checks.

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Applied, Engine, Memory};
use metastore_proto::authpb::Permission;
use metastore_proto::etcdserverpb::compare::TargetUnion;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{
    AlarmRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, CompactionRequest, Compare, DeleteRangeRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use metastore_proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use metastore_store::command::{Caller, Command, Kind};
use metastore_store::mvcc::RangeQuery;
use metastore_store::snapshot::{Incoming, SnapshotError, Source};
use metastore_store::{Halt, Store};

/// The largest number of entries made from one input.
const MOST_ENTRIES: usize = 64;
/// The largest number of operations, and of comparisons, in one list.
const MOST_OPS: u8 = 4;
/// The largest depth of nested transactions.
const MOST_DEPTH: u8 = 6;

/// Applies entries in order, up to the first one that halts the member.
///
/// # Panics
/// If the store breaks a promise: the revision decreases, events do not match the revisions, a halt does not name its
/// entry, or the state cannot be read, hashed, or moved by a snapshot.
pub fn apply_all(entries: &[Bytes]) -> Result<Store, Halt> {
    apply_all_on(entries, || Arc::new(Memory::new()))
}

/// [`apply_all`] on an engine from `make`, which also makes the empty engine for the snapshot.
pub fn apply_all_on(entries: &[Bytes], mut make: impl FnMut() -> Arc<dyn Engine>) -> Result<Store, Halt> {
    let mut store = Store::open(make()).expect("an empty engine");
    for (index, entry) in (1..).zip(entries) {
        let before = store.revision();
        match store.apply(index, 1, entry.clone()) {
            Ok(None) => assert!(entry.is_empty(), "an entry without an outcome"),
            Ok(Some(outcome)) => {
                assert_eq!(outcome.revision, store.revision());
                let events = store.publish().expect("the engine does not fail");
                assert_eq!(events.len() as i64, outcome.revision - before, "a revision is what makes events");
                assert!(outcome.reply.is_ok() || events.is_empty(), "a refusal changes nothing");
            }
            Err(halt) => {
                assert_eq!(halt.index, index);
                assert!(halt.to_string().contains(&format!("entry {index} ")), "{halt}");
                return Err(halt);
            }
        }
        // Some compactions compute their hash, others do not.
        if let Some(job) = store.take_compaction_hash().filter(|_| entry.len() % 2 == 0) {
            job.run().expect("the engine does not fail");
        }
        if entry.len() % 3 == 0 {
            store.compact_step().expect("the engine does not fail");
        }
    }
    check_state(&store, make());
    Ok(store)
}

fn check_state(store: &Store, empty: Arc<dyn Engine>) {
    let view = store.view();
    for revision in 0..=store.revision() {
        let everything = RangeQuery { key: b"", range_end: b"\0", revision, ..RangeQuery::default() };
        let read = view.range(&everything).is_ok();
        assert_eq!(read, revision == 0 || revision >= view.compact_revision(), "revision {revision}");
        assert!(view.hash_kv(revision).is_ok() || !read, "what can be read can be hashed");
    }
    let written = snapshot_of(store);
    let applied = load(&written, empty.clone()).expect("what was written");
    assert_eq!(applied, store.view().published().applied);
    let loaded = Store::open(empty).expect("a loaded state");
    assert!(snapshot_of(&loaded) == written, "the loaded state is written as it was");
    assert_eq!(loaded.view().hash().expect("hash"), view.hash().expect("hash"));
    assert!(loaded.leases().iter().eq(store.leases().iter()));
    for id in store.leases().ids() {
        assert_eq!(loaded.lease_keys(id).expect("keys"), store.lease_keys(id).expect("keys"), "lease {id}");
    }
}

/// The store's state as a stream of bytes.
pub fn snapshot_of(store: &Store) -> Vec<u8> {
    bytes_of(&store.snapshot().expect("the engine does not fail"))
}

/// A state as a stream of bytes.
pub fn bytes_of(source: &Source) -> Vec<u8> {
    let mut written = Vec::new();
    let write = |bytes: &[u8]| {
        written.extend_from_slice(bytes);
        Ok(())
    };
    source.write(write).expect("a vector takes everything");
    written
}

/// The size of a piece: a prime, so that pieces end in the middle of parts.
const PIECE_BYTES: usize = 1009;

/// Loads a snapshot into an empty engine; returns the log position of the snapshot.
///
/// # Errors
/// The snapshot is damaged.
pub fn load(snapshot: &[u8], empty: Arc<dyn Engine>) -> Result<Applied, SnapshotError> {
    let mut incoming = Incoming::new(empty);
    // Pieces end at any position.
    snapshot.chunks(PIECE_BYTES).try_for_each(|piece| incoming.take(piece))?;
    incoming.finish()
}

/// Makes entries from arbitrary bytes: well-formed commands with odd values, damaged commands, and other bytes.
pub fn from_bytes(bytes: &[u8]) -> Vec<Bytes> {
    let mut input = Input(bytes);
    let mut entries = Vec::new();
    while !input.0.is_empty() && entries.len() < MOST_ENTRIES {
        entries.push(input.entry());
    }
    entries
}

/// The bytes that choose everything; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }

    fn bit(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn bytes(&mut self) -> Bytes {
        let len = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        Bytes::copy_from_slice(taken)
    }

    fn number(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => i64::from(i32::MAX) + 1,
            small => i64::from(small) - 4,
        }
    }

    fn id(&mut self) -> i64 {
        i64::from(self.byte() % 4)
    }

    fn key(&mut self) -> Bytes {
        const KEYS: [&[u8]; 7] = [b"", b"a", b"a\0", b"ab", b"b", b"\0", b"\xff\xff"];
        match self.byte() {
            0 => self.bytes(),
            choice => Bytes::from_static(KEYS[usize::from(choice) % KEYS.len()]),
        }
    }

    fn entry(&mut self) -> Bytes {
        match self.byte() % 16 {
            0 => self.bytes(),
            1 => {
                let kind = Kind::ALL[usize::from(self.byte()) % Kind::ALL.len()];
                let body = self.bytes();
                wrapped(kind, &body)
            }
            2 => {
                let mut entry = self.command().to_vec();
                let at = usize::from(self.byte()) % entry.len();
                entry[at] = self.byte();
                entry.into()
            }
            3 => {
                let entry = self.command();
                entry.slice(..usize::from(self.byte()) % entry.len())
            }
            _ => self.command(),
        }
    }

    fn command(&mut self) -> Bytes {
        let id = u64::from(self.byte());
        match self.byte() {
            224.. => self.fact(id),
            choice => self.frequent(choice, id),
        }
    }

    fn frequent(&mut self, choice: u8, id: u64) -> Bytes {
        match choice % 12 {
            0..3 => Command::encode(id, Kind::Put, &self.put()),
            3..5 => Command::encode(id, Kind::DeleteRange, &self.delete()),
            5..8 => Command::encode(id, Kind::Txn, &self.txn(0)),
            8 => {
                let request = CompactionRequest { revision: self.number(), physical: self.bit() };
                Command::encode(id, Kind::Compaction, &request)
            }
            9 => Command::encode(id, Kind::LeaseGrant, &LeaseGrantRequest { ttl: self.number(), id: self.id() }),
            10 => Command::encode(id, Kind::LeaseRevoke, &LeaseRevokeRequest { id: self.id() }),
            _ => self.cluster(id),
        }
    }

    /// A name that users and roles can have.
    fn name(&mut self) -> String {
        const NAMES: [&str; 4] = ["", "root", "a", "b"];
        NAMES[usize::from(self.byte()) % NAMES.len()].to_owned()
    }

    /// A command about alarms, users, roles or a downgrade, in the name of a user that may exist.
    fn fact(&mut self, id: u64) -> Bytes {
        let caller = Caller { user: self.name().into(), auth_revision: u64::from(self.byte() % 16) };
        let (name, role) = (self.name(), self.name());
        match self.byte() % 13 {
            0 => Command::encode_as(&caller, id, Kind::AuthEnable, &()),
            1 => Command::encode_as(&caller, id, Kind::AuthDisable, &()),
            2 => {
                let request = AuthUserAddRequest { name, ..AuthUserAddRequest::default() };
                Command::encode_as(&caller, id, Kind::AuthUserAdd, &request)
            }
            3 => Command::encode_as(&caller, id, Kind::AuthUserDelete, &AuthUserDeleteRequest { name }),
            4 => {
                let hashed_password = String::from_utf8_lossy(&self.bytes()).into_owned();
                let request = AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() };
                Command::encode_as(&caller, id, Kind::AuthUserChangePassword, &request)
            }
            5 => {
                let request = AuthUserGrantRoleRequest { user: name, role };
                Command::encode_as(&caller, id, Kind::AuthUserGrantRole, &request)
            }
            6 => {
                let request = AuthUserRevokeRoleRequest { name, role };
                Command::encode_as(&caller, id, Kind::AuthUserRevokeRole, &request)
            }
            7 => Command::encode_as(&caller, id, Kind::AuthRoleAdd, &AuthRoleAddRequest { name: role }),
            8 => Command::encode_as(&caller, id, Kind::AuthRoleDelete, &AuthRoleDeleteRequest { role }),
            9 => {
                let perm_type = i32::from(self.byte() % 4);
                let perm = Permission { perm_type, key: self.key(), range_end: self.key() };
                let request = AuthRoleGrantPermissionRequest { name: role, perm: self.bit().then_some(perm) };
                Command::encode_as(&caller, id, Kind::AuthRoleGrantPermission, &request)
            }
            10 => {
                let request = AuthRoleRevokePermissionRequest { role, key: self.key(), range_end: self.key() };
                Command::encode_as(&caller, id, Kind::AuthRoleRevokePermission, &request)
            }
            11 => {
                let request = DowngradeInfoSetRequest { enabled: self.bit(), ver: name };
                Command::encode_as(&caller, id, Kind::DowngradeInfoSet, &request)
            }
            _ => {
                let (action, alarm) = (i32::from(self.byte() % 4), i32::from(self.byte() % 4));
                let request = AlarmRequest { action, member_id: u64::from(self.byte()), alarm };
                Command::encode_as(&caller, id, Kind::Alarm, &request)
            }
        }
    }

    fn cluster(&mut self, id: u64) -> Bytes {
        if self.bit() {
            let ver = String::from_utf8_lossy(&self.bytes()).into_owned();
            return Command::encode(id, Kind::ClusterVersionSet, &ClusterVersionSetRequest { ver });
        }
        let name = String::from_utf8_lossy(&self.bytes()).into_owned();
        let member_attributes = self.bit().then_some(Attributes { name, client_urls: Vec::new() });
        let request = ClusterMemberAttrSetRequest { member_id: u64::from(self.byte()), member_attributes };
        Command::encode(id, Kind::ClusterMemberAttrSet, &request)
    }

    fn put(&mut self) -> PutRequest {
        PutRequest {
            key: self.key(),
            value: self.bytes(),
            lease: self.id(),
            prev_kv: self.bit(),
            ignore_value: self.byte() > 200,
            ignore_lease: self.byte() > 200,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.key(), prev_kv: self.bit() }
    }

    fn range(&mut self) -> RangeRequest {
        RangeRequest {
            key: self.key(),
            range_end: self.key(),
            limit: self.number(),
            revision: self.number(),
            sort_order: i32::from(self.byte()) - 1,
            sort_target: i32::from(self.byte()) - 1,
            keys_only: self.bit(),
            count_only: self.bit(),
            min_mod_revision: self.number(),
            max_create_revision: self.number(),
            ..RangeRequest::default()
        }
    }

    fn compare(&mut self) -> Compare {
        Compare {
            result: i32::from(self.byte()) - 1,
            target: i32::from(self.byte() % 8) - 1,
            key: self.key(),
            range_end: self.key(),
            target_union: match self.byte() % 6 {
                0 => None,
                1 => Some(TargetUnion::Version(self.number())),
                2 => Some(TargetUnion::CreateRevision(self.number())),
                3 => Some(TargetUnion::ModRevision(self.number())),
                4 => Some(TargetUnion::Value(self.bytes())),
                _ => Some(TargetUnion::Lease(self.number())),
            },
        }
    }

    fn txn(&mut self, depth: u8) -> TxnRequest {
        TxnRequest {
            compare: (0..self.byte() % MOST_OPS).map(|_| self.compare()).collect(),
            success: (0..self.byte() % MOST_OPS).map(|_| self.operation(depth)).collect(),
            failure: (0..self.byte() % MOST_OPS).map(|_| self.operation(depth)).collect(),
        }
    }

    fn operation(&mut self, depth: u8) -> RequestOp {
        let request = match self.byte() {
            255 => None,
            choice if choice % 4 == 0 => Some(Request::RequestRange(self.range())),
            choice if choice % 4 == 1 => Some(Request::RequestPut(self.put())),
            choice if choice % 4 == 2 || depth == MOST_DEPTH => Some(Request::RequestDeleteRange(self.delete())),
            _ => Some(Request::RequestTxn(self.txn(depth + 1))),
        };
        RequestOp { request }
    }
}

/// An entry of this kind with these bytes as its message, whatever they are.
pub fn wrapped(kind: Kind, body: &[u8]) -> Bytes {
    let mut entry = Vec::new();
    metastore_proto::prost::encoding::bytes::encode(kind as u32, &body.to_vec(), &mut entry);
    entry.into()
}
