//! Every proposer against every way in which applying an entry halts a member: no request of a client and no message of
//! another member becomes an entry that a member cannot apply. Such an entry would stop every member, at every start.
//!
//! Both lists are matches without a wildcard, and the proposers in the code are counted. So a new cause, kind of
//! command or proposer must be entered here, with how it fits.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Engine, Memory};
use metastore_proto::Message;
use metastore_proto::authpb::{Permission, UserAddOptions};
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::{
    AlarmRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, CompactionRequest, Compare, DeleteRangeRequest, DowngradeRequest, LeaseGrantRequest,
    LeaseRevokeRequest, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest,
};
use metastore_proto::raftpb::{self, ConfChange, ConfChangeType, Entry, EntryType, MessageType};
use metastore_replica::disk::SimulatedDisk;
use metastore_replica::{Bootstrap, Founder, OpenEngine, Output, Paths, Rejected, Replica, Settings, Timing};
use metastore_store::command::{Command, Kind};
use metastore_store::{HaltCause, Store};

use super::{Member, ops, put, then};

/// The causes for which applying an entry halts, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    UnknownKind,
    OldRequest,
    Malformed,
    Engine,
    Gap,
}

const CAUSES: [Cause; 5] = [Cause::UnknownKind, Cause::OldRequest, Cause::Malformed, Cause::Engine, Cause::Gap];

fn cause(of: &HaltCause) -> Cause {
    match of {
        HaltCause::UnknownKind(_) => Cause::UnknownKind,
        HaltCause::OldRequest(_) => Cause::OldRequest,
        HaltCause::Malformed(_) => Cause::Malformed,
        HaltCause::Engine(_) => Cause::Engine,
        HaltCause::Gap { .. } => Cause::Gap,
    }
}

/// The places where the members' code proposes: file, and how often.
const PROPOSERS: [(&str, usize); 6] = [
    // Put, DeleteRange, Txn, Compact, LeaseGrant, LeaseRevoke, alarms, logins and changes of users of the API go
    // through one function: `client_commands`.
    ("server/src/member.rs", 1),
    // Only the check of the permissions of a transaction that reads, which is not proposed.
    ("server/src/member/permission.rs", 1),
    // Changes of the members by the API, and promotions that another member forwards: `client_changes`.
    ("server/src/member/membership.rs", 1),
    // A member's own attributes and the cluster's version: no bytes of clients, except the names in flags.
    ("server/src/driver/group.rs", 2),
    // Revocations of expired leases, checkpoints, and those that renewals take back: ids, times, and this member as
    // the caller.
    ("replica/src/leases.rs", 3),
    // The first entries of a log: the founders that the flags name.
    ("replica/src/entry.rs", 1),
];
/// Code that makes an entry out of something else.
const MAKES_AN_ENTRY: [&str; 4] =
    ["Command::encode(", "Command::encode_as(", "    ConfChange {", "(raftpb::ConfChange {"];

/// Commands whose own message no member reads when it applies them, so that nothing in that message can halt a member.
const UNREAD: [Kind; 9] = [
    Kind::Range,
    Kind::AuthEnable,
    Kind::AuthDisable,
    Kind::AuthStatus,
    Kind::AuthUserGet,
    Kind::AuthUserList,
    Kind::AuthRoleGet,
    Kind::AuthRoleList,
    Kind::DowngradeVersionTest,
];

/// Entries that halt for this cause. Entries that other members forward (`MsgProp`) go into the log unchanged.
fn hostile_entries(cause: Cause) -> Vec<Entry> {
    let sound = Command::encode(1, Kind::Put, &PutRequest::default());
    match cause {
        // A command in a field that no version of etcd has.
        Cause::UnknownKind => vec![command([0xea, 0x04, 0x00])],
        Cause::OldRequest => vec![command(b"\x08\x01\x12\x04SYNC".to_vec())],
        Cause::Malformed => {
            let nothing = TxnRequest { success: vec![RequestOp { request: None }], ..TxnRequest::default() };
            let commands = [
                [&sound[..], &sound[..]].concat(),
                sound[..sound.len() - 1].to_vec(),
                // A header without a command.
                b"\xa2\x06\x02\x08\x01".to_vec(),
                Command::encode(1, Kind::Txn, &nothing).to_vec(),
            ];
            let damaged = Kind::ALL.into_iter().filter(|kind| !UNREAD.contains(kind)).map(damaged_body);
            commands.into_iter().map(command).chain(damaged.map(command)).chain(hostile_changes()).collect()
        }
        // A disk that fails and a log with a gap are faults of one member, not of an entry.
        Cause::Engine | Cause::Gap => Vec::new(),
    }
}

/// A command whose own message ends in the middle.
fn damaged_body(kind: Kind) -> Vec<u8> {
    let mut bytes = Vec::new();
    metastore_proto::prost::encoding::encode_varint(u64::from(kind as u32) << 3 | 2, &mut bytes);
    bytes.extend([1, 0x0a]);
    bytes
}

/// Membership changes that cannot be read, or that contradict themselves.
fn hostile_changes() -> Vec<Entry> {
    let add = ConfChangeType::ConfChangeAddNode as i32;
    let known = || format!(r#"{{"id":{KNOWN},"peerURLs":["http://a:9"]}}"#);
    [
        b"\xff".to_vec(),
        change(9, 7, &known()),
        change(add, 7, "{"),
        change(add, 0, r#"{"id":0,"peerURLs":["http://b:1"]}"#),
        change(add, 7, r#"{"id":8,"peerURLs":["http://b:1"]}"#),
        change(add, 7, r#"{"id":"seven"}"#),
        change(ConfChangeType::ConfChangeAddLearnerNode as i32, 7, ""),
        change(ConfChangeType::ConfChangeUpdateNode as i32, KNOWN, r#"{"id":8}"#),
        change(ConfChangeType::ConfChangeUpdateNode as i32, KNOWN, "[]"),
    ]
    .map(|data| Entry { r#type: Some(EntryType::EntryConfChange as i32), data: Some(data.into()), ..Entry::default() })
    .into()
}

/// The only member of the cluster.
const KNOWN: u64 = 0x51;

fn change(kind: i32, id: u64, context: &str) -> Vec<u8> {
    let context = Some(Bytes::copy_from_slice(context.as_bytes()));
    ConfChange { id: Some(1), r#type: Some(kind), node_id: Some(id), context }.encode_to_vec()
}

fn command(data: impl Into<Vec<u8>>) -> Entry {
    let data: Vec<u8> = data.into();
    Entry { r#type: Some(EntryType::EntryNormal as i32), data: Some(data.into()), ..Entry::default() }
}

/// A store whose only member is [`KNOWN`].
fn store() -> Store {
    let mut store = Store::open(Arc::new(Memory::new())).unwrap();
    let json = format!(r#"{{"id":{KNOWN},"peerURLs":["http://known:1"],"name":"known"}}"#);
    let add = ConfChange::decode(&change(0, KNOWN, &json)[..]).unwrap();
    let checked = store.check_member_change(1, &add, 1).unwrap();
    let voters = raftpb::ConfState { voters: vec![KNOWN], ..raftpb::ConfState::default() };
    store.apply_member_change(1, 1, 1, checked, &voters).unwrap();
    store
}

/// The cause for which the entry halts a member that applies it.
fn halts(entry: &Entry) -> Cause {
    let (mut store, data) = (store(), entry.data.clone().unwrap_or_default());
    if entry.r#type == Some(EntryType::EntryNormal as i32) {
        return cause(&store.apply(2, 1, data).expect_err("it can be applied").cause);
    }
    match ConfChange::decode(data) {
        // Consensus cannot read it, and halts as well.
        Err(_) => Cause::Malformed,
        Ok(change) => cause(&store.check_member_change(2, &change, 1).expect_err("it can be applied").cause),
    }
}

/// A member that leads alone.
fn leader() -> Replica {
    let settings = Settings::new("memory", Timing { election_ticks: 10, pre_vote: true }, 8);
    let founder = Founder { name: "one".into(), peer_urls: vec!["http://one:1".into()] };
    let found = || Ok(Bootstrap::Found { members: vec![founder], own: "one".into(), cluster_token: "t".into() });
    let engine: OpenEngine = Arc::new(|_| Ok(Arc::new(Memory::new()) as Arc<dyn Engine>));
    let paths = Paths { data_dir: "/data".into(), wal_dir: None };
    let (mut replica, _) = Replica::open(settings, Arc::new(SimulatedDisk::new()), paths, found, engine).unwrap();
    replica.process(&mut Output::default()).unwrap();
    assert!(replica.standing().sole_leader);
    replica
}

/// Takes entries that another member forwards for its clients.
fn sent_on(replica: &mut Replica, entries: Vec<Entry>) -> Result<(), Rejected> {
    let (kind, to) = (Some(MessageType::MsgProp as i32), Some(replica.id()));
    let message = raftpb::Message { r#type: kind, to, from: Some(7), entries, ..raftpb::Message::default() };
    let stepped = replica.step(message).expect("a message stops nobody");
    replica.process(&mut Output::default()).expect("every entry can be applied");
    stepped
}

/// Strange requests of the API that become commands of this kind; none if clients cannot cause this kind.
fn client_commands(kind: Kind) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |path, requests: Vec<Vec<u8>>| requests.into_iter().map(|request| (path, request)).collect();
    match kind {
        Kind::Put => {
            let requests = [
                PutRequest::default(),
                PutRequest { lease: i64::MIN, ..put("k") },
                PutRequest { ignore_value: true, ignore_lease: true, prev_kv: true, ..put("absent") },
                PutRequest { key: vec![0xff; 1 << 20].into(), ..PutRequest::default() },
                PutRequest { key: vec![0].into(), prev_kv: true, ..PutRequest::default() },
            ];
            bytes("KV/Put", requests.iter().map(Message::encode_to_vec).collect())
        }
        Kind::DeleteRange => {
            let delete = |key: &'static [u8], end: &'static [u8]| {
                DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true }.encode_to_vec()
            };
            bytes(
                "KV/DeleteRange",
                vec![delete(b"", b""), delete(b"z", b"a"), delete(b"\0", b"\0"), delete(b"a", b"\0")],
            )
        }
        Kind::Txn => bytes("KV/Txn", strange_txns().iter().map(Message::encode_to_vec).collect()),
        Kind::Compaction => {
            let compact = |revision| CompactionRequest { revision, physical: true }.encode_to_vec();
            bytes("KV/Compact", [i64::MIN, -1, 0, 2, 2, i64::MAX].map(compact).to_vec())
        }
        Kind::LeaseGrant => {
            let grant = |(id, ttl)| LeaseGrantRequest { id, ttl }.encode_to_vec();
            let requests = [(0, 0), (-1, i64::MIN), (i64::MIN, 1), (i64::MAX, i64::MAX), (5, -1), (5, 9_000_000_000)];
            bytes("Lease/LeaseGrant", requests.map(grant).to_vec())
        }
        Kind::LeaseRevoke => {
            let revoke = |id| LeaseRevokeRequest { id }.encode_to_vec();
            bytes("Lease/LeaseRevoke", [0, -1, 5, 5, i64::MIN, i64::MAX].map(revoke).to_vec())
        }
        Kind::Alarm => {
            let alarm = |action, alarm| AlarmRequest { action, member_id: u64::MAX, alarm }.encode_to_vec();
            bytes("Maintenance/Alarm", vec![alarm(1, 7), alarm(2, 7), alarm(7, 1), alarm(1, 0)])
        }
        Kind::DowngradeInfoSet => {
            let ask = |action, version: &str| DowngradeRequest { action, version: version.into() }.encode_to_vec();
            bytes("Maintenance/Downgrade", vec![ask(1, "\0"), ask(1, "3.6"), ask(7, "3.6"), ask(2, "\0")])
        }
        Kind::AuthUserAdd
        | Kind::AuthUserChangePassword
        | Kind::AuthRoleAdd
        | Kind::AuthRoleGrantPermission
        | Kind::AuthRoleRevokePermission
        | Kind::AuthUserGrantRole
        | Kind::AuthUserRevokeRole
        | Kind::AuthUserDelete
        | Kind::AuthRoleDelete
        | Kind::AuthEnable
        | Kind::AuthDisable
        | Kind::Authenticate => user_commands(kind),
        // Members propose these by themselves, or members that run etcd do.
        Kind::LeaseCheckpoint
        | Kind::ClusterVersionSet
        | Kind::ClusterMemberAttrSet
        | Kind::DowngradeVersionTest
        | Kind::Range
        | Kind::AuthStatus
        | Kind::AuthUserGet
        | Kind::AuthUserList
        | Kind::AuthRoleList
        | Kind::AuthRoleGet => Vec::new(),
    }
}

/// Strange requests about users and roles.
fn user_commands(kind: Kind) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |path, requests: Vec<Vec<u8>>| requests.into_iter().map(|request| (path, request)).collect();
    match kind {
        Kind::AuthUserAdd => {
            let add = |name: &str, no_password| {
                let options = Some(UserAddOptions { no_password });
                AuthUserAddRequest { name: name.into(), options, hashed_password: "?".into(), ..Default::default() }
            };
            let requests = [add("", true), add("a", true), add("a", false), add(&"x".repeat(1 << 20), true)];
            bytes("Auth/UserAdd", requests.iter().map(Message::encode_to_vec).collect())
        }
        Kind::AuthUserChangePassword => {
            let request = AuthUserChangePasswordRequest { name: "a".into(), ..Default::default() };
            bytes("Auth/UserChangePassword", vec![Vec::new(), request.encode_to_vec()])
        }
        Kind::AuthRoleAdd => {
            let add = |name: &str| AuthRoleAddRequest { name: name.into() }.encode_to_vec();
            bytes("Auth/RoleAdd", vec![add(""), add("r"), add("root")])
        }
        Kind::AuthRoleGrantPermission => {
            let grant = |key: &'static str, range_end: &'static str, perm_type| {
                let perm = Some(Permission { perm_type, key: key.into(), range_end: range_end.into() });
                AuthRoleGrantPermissionRequest { name: "r".into(), perm }.encode_to_vec()
            };
            let nothing = AuthRoleGrantPermissionRequest { name: "r".into(), perm: None }.encode_to_vec();
            let requests = vec![nothing, grant("", "", 9), grant("b", "a", 0), grant("b", "a", 9), grant("a", "\0", 9)];
            bytes("Auth/RoleGrantPermission", requests)
        }
        Kind::AuthRoleRevokePermission => bytes("Auth/RoleRevokePermission", vec![Vec::new()]),
        Kind::AuthUserGrantRole => bytes("Auth/UserGrantRole", vec![Vec::new()]),
        Kind::AuthUserRevokeRole => bytes("Auth/UserRevokeRole", vec![Vec::new()]),
        Kind::AuthUserDelete => bytes("Auth/UserDelete", vec![Vec::new()]),
        Kind::AuthRoleDelete => bytes("Auth/RoleDelete", vec![Vec::new()]),
        Kind::AuthEnable => bytes("Auth/AuthEnable", vec![Vec::new()]),
        Kind::AuthDisable => bytes("Auth/AuthDisable", vec![Vec::new()]),
        Kind::Authenticate => bytes("Auth/Authenticate", vec![Vec::new()]),
        _ => Vec::new(),
    }
}

fn strange_txns() -> Vec<TxnRequest> {
    let op = |op| RequestOp { request: Some(op) };
    let range =
        |revision, limit| Op::RequestRange(RangeRequest { key: "k".into(), revision, limit, ..Default::default() });
    let compare = |target, result| Compare { target, result, key: "k".into(), ..Compare::default() };
    let mut nested = then(ops(&["k"]));
    (0..40).for_each(|_| nested = then(vec![op(Op::RequestTxn(std::mem::take(&mut nested)))]));
    vec![
        TxnRequest::default(),
        then(vec![RequestOp { request: None }]),
        then(vec![op(range(i64::MIN, i64::MIN)), op(range(i64::MAX, 0)), op(range(1, -1))]),
        then([ops(&["k"]), vec![op(range(0, 1)), op(range(2, 1))]].concat()),
        then(vec![op(Op::RequestPut(PutRequest { lease: 12, ..put("k") }))]),
        then(vec![op(Op::RequestPut(PutRequest { ignore_lease: true, ..put("absent") }))]),
        TxnRequest { compare: vec![compare(99, 0), compare(0, 99), compare(-1, -1)], ..then(ops(&["k"])) },
        TxnRequest { compare: vec![Compare { range_end: "a".into(), ..compare(3, 1) }], ..then(ops(&["k"])) },
        nested,
    ]
}

/// Strange requests of the API that become changes of this kind. A client that leaves out the id names member 0.
fn client_changes(kind: ConfChangeType, own: u64) -> Vec<(&'static str, Vec<u8>)> {
    let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    match kind {
        ConfChangeType::ConfChangeAddNode => {
            let promote = |id| ("Cluster/MemberPromote", MemberPromoteRequest { id }.encode_to_vec());
            let add = MemberAddRequest { peer_ur_ls: urls(&["http://a:1", "http://a:1/x"]), is_learner: false };
            vec![promote(0), promote(7), promote(own), ("Cluster/MemberAdd", add.encode_to_vec())]
        }
        ConfChangeType::ConfChangeAddLearnerNode => {
            let add = |peer_urls| MemberAddRequest { peer_ur_ls: peer_urls, is_learner: true }.encode_to_vec();
            vec![("Cluster/MemberAdd", add(urls(&[]))), ("Cluster/MemberAdd", add(urls(&["http://b:1"])))]
        }
        ConfChangeType::ConfChangeRemoveNode => {
            let remove = |id| ("Cluster/MemberRemove", MemberRemoveRequest { id }.encode_to_vec());
            vec![remove(0), remove(u64::MAX), remove(own)]
        }
        ConfChangeType::ConfChangeUpdateNode => {
            let update = |id, to: &[&str]| {
                ("Cluster/MemberUpdate", MemberUpdateRequest { id, peer_ur_ls: urls(to) }.encode_to_vec())
            };
            vec![
                update(0, &["http://127.0.0.1:1"]),
                update(u64::MAX, &["http://c:1"]),
                update(own, &["http://127.0.0.1:1", "http://127.0.0.1:1"]),
            ]
        }
    }
}

#[tokio::test]
async fn no_proposer_makes_an_entry_that_halts_a_member() {
    proposers_are_those_listed();
    let mut replica = leader();
    for cause in CAUSES {
        for entry in hostile_entries(cause) {
            assert_eq!(halts(&entry), cause, "{entry:?} is not what it is to show");
            let refused = sent_on(&mut replica, vec![command(Command::encode(1, Kind::Put, &put("k"))), entry.clone()]);
            assert!(
                matches!(refused, Err(Rejected::Impossible { .. } | Rejected::Unreadable { .. })),
                "{entry:?}: {refused:?}"
            );
        }
    }
    // A change that is refused when it is applied does no harm, and its sender waits for the answer.
    let nobody =
        change(ConfChangeType::ConfChangeUpdateNode as i32, 0, r#"{"id":0,"peerURLs":["http://127.0.0.1:1"]}"#);
    let nobody =
        Entry { r#type: Some(EntryType::EntryConfChange as i32), data: Some(nobody.into()), ..Entry::default() };
    let before = replica.standing().applied;
    for entry in [nobody, command(Vec::new()), command(Command::encode(1, Kind::Put, &put("k")))] {
        sent_on(&mut replica, vec![entry]).unwrap();
    }
    assert_eq!(replica.standing().applied, before + 3);

    for engine in ["memory", "rocksdb"] {
        let mut member = Member::start(&format!("walk-{engine}"), &[&format!("--engine={engine}")]).await;
        let own = member.members().await[0].id;
        let changes = [0, 1, 2, 3].map(|number| ConfChangeType::try_from(number).unwrap());
        let commands = Kind::ALL.into_iter().flat_map(client_commands);
        for (path, request) in commands.chain(changes.into_iter().flat_map(|kind| client_changes(kind, own))) {
            member.call_with(path, request).await;
            member.accepts("KV/Put", &put("after")).await;
        }
        member.restart().await;
        member.accepts("KV/Put", &put("after")).await;
    }
}

/// The code proposes where [`PROPOSERS`] says, and nowhere else.
fn proposers_are_those_listed() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for room in ["server/src", "replica/src"] {
        count_proposers(crates, &crates.join(room), &mut found);
    }
    found.sort();
    let mut listed = PROPOSERS.map(|(file, count)| (file.to_owned(), count)).to_vec();
    listed.sort();
    assert_eq!(found, listed, "a proposer came or went: say above what it may propose");
}

fn count_proposers(crates: &Path, directory: &Path, found: &mut Vec<(String, usize)>) {
    for file in std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()) {
        if file.is_dir() {
            count_proposers(crates, &file, found);
        } else if !file.ends_with("tests.rs") && !file.ends_with("fake_engine.rs") {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let made = MAKES_AN_ENTRY.iter().map(|word| code.matches(word).count()).sum();
            if made > 0 {
                found.push((file.strip_prefix(crates).unwrap().to_string_lossy().into_owned(), made));
            }
        }
    }
}
