//! No entry in a log makes a member panic or skip it: every entry is applied or refused, or the member halts.

use std::path::Path;

use bytes::Bytes;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestOp, TxnRequest};
use metastore_proto::prost::encoding;
use metastore_store::apply::HaltCause;
use metastore_store::command::{Command, Kind};
use metastore_store::{Halt, Store, check_command};
use proptest::prelude::*;

use crate::engines::{Home, Medium, cases_on_disk};
use crate::entries::{apply_all, apply_all_on, from_bytes, wrapped};

/// The depth of nested messages that the protobuf library decodes; etcd's library has no such limit.
const MOST_MESSAGES: usize = 100;

fn only(entry: Bytes) -> Result<Store, Halt> {
    apply_all(&[entry])
}

#[test]
fn the_corpus_is_applied_or_halts() {
    the_corpus_is_applied_or_halts_on(Medium::Memory);
}

#[test]
fn the_corpus_is_applied_or_halts_on_disk() {
    the_corpus_is_applied_or_halts_on(Medium::RocksDb);
    the_corpus_is_applied_or_halts_on(Medium::Both);
}

/// [`apply_all`] on an engine of this kind.
fn ended_on(medium: Medium, entries: &[Bytes]) -> Result<(), Halt> {
    let mut homes = Vec::new();
    let make = || {
        homes.push(Home::new(medium));
        homes[homes.len() - 1].open()
    };
    apply_all_on(entries, make).map(drop)
}

fn the_corpus_is_applied_or_halts_on(medium: Medium) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/apply");
    let mut files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "the corpus is there: {files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        let ended = ended_on(medium, &from_bytes(&bytes));
        assert_eq!(ended.is_err(), name.starts_with("halts-"), "{name}: {:?}", ended.err());
    }
}

/// Every field of etcd's `InternalRaftRequest` is either applied, or halts the member with an error that names it.
#[test]
fn every_kind_that_is_not_applied_halts_by_name() {
    let applied = Kind::ALL.map(|kind| kind as u32);
    // The id, a request of etcd's v2 API, and the header.
    let beside = [1, 2, 100];
    for kind in (1..2000).chain([9900]).filter(|kind| !applied.contains(kind) && !beside.contains(kind)) {
        let mut entry = Vec::new();
        encoding::bytes::encode(kind, &b"x".to_vec(), &mut entry);
        let halt = only(entry.into()).err().expect("an unknown kind halts");
        assert!(matches!(halt.cause, HaltCause::UnknownKind(_)), "{halt}");
        assert!(halt.to_string().starts_with(&format!("cannot apply entry 1 (kind {kind})")), "{halt}");
    }
}

/// An unknown kind beside a known one: nothing of the entry is applied.
#[test]
fn a_known_kind_does_not_hide_an_unknown_one() {
    let put = Command::encode(1, Kind::Put, &PutRequest { key: "k".into(), ..Default::default() });
    // An empty message of kind 1303.
    for entry in [[b"\xba\x51\0", &put[..]].concat(), [&put[..], b"\xba\x51\0"].concat()] {
        let halt = only(entry.into()).err().expect("an unknown kind halts");
        assert!(matches!(halt.cause, HaltCause::UnknownKind(_)), "{halt}");
    }
}

fn nested(levels: usize) -> TxnRequest {
    let put = PutRequest { key: "k".into(), value: levels.to_string().into(), ..Default::default() };
    let mut op = RequestOp { request: Some(Request::RequestPut(put)) };
    for _ in 1..levels {
        let txn = TxnRequest { success: vec![op], ..Default::default() };
        op = RequestOp { request: Some(Request::RequestTxn(txn)) };
    }
    TxnRequest { success: vec![op], ..Default::default() }
}

/// The API proposes every transaction that it can decode, so every member must be able to apply it. Members of etcd
/// propose deeper ones.
#[test]
fn transactions_are_applied_as_deep_as_they_can_be_decoded_and_deeper() {
    // Each level consists of two messages, a transaction and an operation; the put inside is one more message.
    let deepest = MOST_MESSAGES / 2;
    for levels in 1..=deepest + 2 {
        let bytes = nested(levels).encode_to_vec();
        assert_eq!(TxnRequest::decode(&bytes[..]).is_ok(), levels <= deepest, "{levels} levels");
        assert_eq!(only(wrapped(Kind::Txn, &bytes)).unwrap().revision(), 2);
    }
}

/// The library decodes an operation that shares its message with other fields, as deep as it can. No member writes such
/// an operation.
#[test]
fn odd_transactions_halt_at_the_depth_of_the_library() {
    let nest = |levels: usize| {
        let mut body = nested(1).encode_to_vec();
        for _ in 1..levels {
            let mut op = Vec::new();
            encoding::bytes::encode(4, &body, &mut op);
            encoding::uint64::encode(1000, &1, &mut op);
            body.clear();
            encoding::bytes::encode(2, &op, &mut body);
        }
        only(wrapped(Kind::Txn, &body))
    };
    assert_eq!(nest(30).unwrap().revision(), 2);
    let halt = nest(2_000).err().expect("it cannot be decoded");
    assert!(halt.to_string().contains("recursion limit"), "{halt}");
}

#[test]
fn a_halt_leaves_nothing_behind_that_readers_could_see() {
    let put = |key: &'static str| Command::encode(1, Kind::Put, &PutRequest { key: key.into(), ..Default::default() });
    let engine: std::sync::Arc<dyn metastore_engine::Engine> = std::sync::Arc::new(metastore_engine::Memory::new());
    let mut store = Store::open(engine.clone()).unwrap();
    store.apply(1, 1, put("a")).unwrap();
    store.publish().unwrap();
    let txn = TxnRequest { success: vec![RequestOp { request: None }], ..Default::default() };
    let halt = store.apply(2, 1, Command::encode(2, Kind::Txn, &txn)).expect_err("an operation is missing");
    assert!(halt.to_string().starts_with("cannot apply entry 2 (Txn)"), "{halt}");
    drop(store);
    let store = Store::open(engine).unwrap();
    assert_eq!((store.applied().index, store.revision()), (1, 2), "the entry is still to be applied");
}

/// A leader appends no command of another member without this check. So a checked command must not halt a member,
/// whatever its state is.
fn what_is_checked_is_applied(entries: &[Bytes]) {
    let checked: Result<Vec<_>, _> = entries.iter().map(|entry| check_command(entry.clone())).collect();
    match (checked, apply_all(entries)) {
        (Ok(_), Err(halt)) => panic!("{halt}: {entries:?}"),
        (Err(_), Ok(_)) => assert!(entries.iter().any(|entry| !entry.is_empty()), "{entries:?}"),
        _ => {}
    }
}

/// Which branch a transaction takes depends on the state, so both are looked at, at every depth.
#[test]
fn an_operation_that_is_missing_anywhere_is_found_before_it_is_an_entry() {
    let missing = || vec![RequestOp { request: None }];
    let within = |txn: TxnRequest| vec![RequestOp { request: Some(Request::RequestTxn(txn)) }];
    let success = |success| TxnRequest { success, ..TxnRequest::default() };
    let failure = |failure| TxnRequest { failure, ..TxnRequest::default() };
    for inner in [success(missing()), failure(missing())] {
        for txn in [inner.clone(), success(within(inner.clone())), failure(within(inner.clone()))] {
            assert!(check_command(Command::encode(1, Kind::Txn, &txn)).is_err(), "{txn:?}");
        }
    }
    let sound = success(within(failure(within(TxnRequest::default()))));
    assert_eq!(check_command(Command::encode(1, Kind::Txn, &sound)).map_err(|cause| cause.to_string()), Ok(()));
}

proptest! {
    #[test]
    fn arbitrary_bytes(entry in prop::collection::vec(any::<u8>(), 0..120)) {
        what_is_checked_is_applied(&[entry.into()]);
    }

    #[test]
    fn arbitrary_bodies(kind in 0..Kind::ALL.len(), body in prop::collection::vec(any::<u8>(), 0..120)) {
        what_is_checked_is_applied(&[wrapped(Kind::ALL[kind], &body)]);
    }

    #[test]
    fn odd_and_damaged_commands(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        what_is_checked_is_applied(&from_bytes(&bytes));
    }

    /// The command agrees with etcd's own message where the message holds a command of a known kind.
    #[test]
    fn commands_are_those_of_the_protobuf_library(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for entry in from_bytes(&bytes) {
            let Ok(command) = Command::decode(entry.clone()) else { continue };
            let Ok(library) = InternalRaftRequest::decode(entry) else { continue };
            let present = [
                (Kind::Put, library.put.map(|m| m.encode_to_vec())),
                (Kind::DeleteRange, library.delete_range.map(|m| m.encode_to_vec())),
                (Kind::Txn, library.txn.map(|m| m.encode_to_vec())),
                (Kind::Compaction, library.compaction.map(|m| m.encode_to_vec())),
                (Kind::LeaseGrant, library.lease_grant.map(|m| m.encode_to_vec())),
                (Kind::LeaseRevoke, library.lease_revoke.map(|m| m.encode_to_vec())),
                (Kind::LeaseCheckpoint, library.lease_checkpoint.map(|m| m.encode_to_vec())),
                (Kind::Alarm, library.alarm.map(|m| m.encode_to_vec())),
                (Kind::AuthUserAdd, library.auth_user_add.map(|m| m.encode_to_vec())),
                (Kind::AuthRoleGrantPermission, library.auth_role_grant_permission.map(|m| m.encode_to_vec())),
            ];
            let (kinds, messages) = present.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
            let present: Vec<_> = kinds.iter().zip(&messages).filter(|(_, message)| message.is_some()).collect();
            if kinds.contains(&command.kind) {
                prop_assert_eq!(present.len(), 1);
                prop_assert_eq!(*present[0].0, command.kind);
            } else {
                prop_assert!(present.is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(cases_on_disk())]

    #[test]
    fn odd_and_damaged_commands_on_disk(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = ended_on(Medium::Both, &from_bytes(&bytes));
    }
}
