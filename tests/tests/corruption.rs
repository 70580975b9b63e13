//! A member whose stored data were changed behind its back is found by each of the three checks, in clusters of both
//! engines and beside real etcds; and sound members raise no alarm, whatever happens to them.
//!
//! A value is changed in the files of a stopped member, with the right checksums, so that nothing but the comparison
//! with the other members can notice it.

use std::path::Path;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::{Cluster, RARE_ELECTIONS};
use metastore_tests::load::Load;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};
use tonic::{Code, Status};

use crate::bad_days::engines::convert;
use crate::bad_days::observe;

/// The value that is changed, and what it becomes.
const SOUND: &str = "a value that is as it was written";
const CORRUPT: &str = "a value that is as it was wr1tten";
const PERIODIC: &[&str] = &[RARE_ELECTIONS, "--corrupt-check-time=300ms"];
const WITHOUT_PERIODIC: &str = "--corrupt-check-time=0s";
const COMPACTIONS: &[&str] =
    &[RARE_ELECTIONS, "--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=300ms"];
const ALL: &[&str] = &[
    "--corrupt-check-time=50ms",
    "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true",
    "--compact-hash-check-time=50ms",
];
const INITIAL: &str = "--feature-gates=InitialCorruptCheck=true";
const INCONSISTENT: &str = "found data inconsistency with peers";
const PASSED: &str = "initial corruption checking passed; no corruption";
/// Entries, compactions and restarts under which sound members are compared.
const ROUNDS: usize = 6;
const WRITES: usize = 300;
const KEPT: i64 = 50;

each_engine!(
    a_corrupt_member_is_found_at_its_start,
    a_corrupt_member_is_found_by_the_leader,
    a_corrupt_member_is_found_by_a_compaction,
    a_corrupt_leader_is_found_by_a_compaction,
);

fn three(test: &str, engine: EngineKind) -> Option<Vec<Server>> {
    programs::or_skip(test, (0..3).map(|_| programs::subject(engine)).collect())
}

/// Three members: an etcd where `etcds` says so, otherwise one of MetaStore, with both engines in turn.
fn mixed(test: &str, etcds: [bool; 3]) -> Option<Vec<Server>> {
    let server = |(node, is_etcd): (usize, bool)| match is_etcd {
        true => Ok(Server::etcd(&programs::etcd("newest")?)),
        false => programs::subject(if node.is_multiple_of(2) { EngineKind::Memory } else { EngineKind::RocksDb }),
    };
    programs::or_skip(test, etcds.into_iter().enumerate().map(server).collect())
}

/// A cluster that holds the value on all members. A part of its history is compacted.
fn cluster(servers: &[Server], flags: &[&str]) -> Cluster {
    let cluster = Cluster::start(servers, flags);
    let node = cluster.leader();
    cluster.put(node, "corruptible", SOUND).expect("a write");
    cluster.put(node, "other", "1").expect("a write");
    let revision = cluster.put(node, "other", "2").expect("a write");
    compact(&cluster, node, revision).expect("a compaction");
    cluster.agree();
    cluster
}

fn compact(cluster: &Cluster, node: usize, revision: i64) -> Result<CompactionResponse, Status> {
    cluster.call(node, paths::COMPACT, CompactionRequest { revision, physical: true })
}

/// Stops a member, changes the value in its files, and leaves it stopped.
fn corrupt(cluster: &mut Cluster, node: usize) {
    cluster.stop(node);
    let member = cluster.member(node);
    let (server, directory) = (member.server().clone(), member.data_directory().join("member/snap"));
    if server.is_etcd() {
        // Pages of bbolt have no checksums.
        let database = directory.join("db");
        return change(&database, replace);
    }
    let to = |engine: EngineKind| {
        let output = convert(&server, cluster.member(node), engine);
        assert!(output.status.success(), "{output:?}");
    };
    // The state becomes a file without the log, and then what the engine makes of that file.
    let in_memory = server.flags.iter().any(|flag| flag == "--engine=memory");
    if in_memory {
        to(EngineKind::RocksDb);
    }
    to(EngineKind::Memory);
    let states = std::fs::read_dir(&directory).expect("readable").map(|entry| entry.expect("readable").path());
    let newest = states.filter(|path| path.extension().is_some_and(|end| end == "state")).max().expect("a state");
    change(&newest, corrupt_state);
    if !in_memory {
        to(EngineKind::RocksDb);
    }
}

fn change(path: &Path, by: impl FnOnce(&mut [u8]) -> usize) {
    let mut bytes = std::fs::read(path).expect("readable");
    assert!(by(&mut bytes) > 0, "the value is not in {}", path.display());
    std::fs::write(path, bytes).expect("writable");
}

/// Changes the value wherever it stands; returns how often that is.
fn replace(bytes: &mut [u8]) -> usize {
    let sound: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(SOUND.as_bytes())).collect();
    sound.iter().for_each(|at| bytes[*at..*at + SOUND.len()].copy_from_slice(CORRUPT.as_bytes()));
    sound.len()
}

/// Changes the value in a state file: a header, and blocks of a length, a checksum and rows (docs/formats.md).
fn corrupt_state(bytes: &mut [u8]) -> usize {
    const HEADER_BYTES: usize = 36;
    let (mut rest, mut count) = (&mut bytes[HEADER_BYTES..], 0);
    loop {
        let (head, after) = rest.split_at_mut(8);
        let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        if length == 0 {
            return count;
        }
        let (rows, next) = after.split_at_mut(length);
        count += replace(rows);
        head[4..].copy_from_slice(&crc32c::crc32c(rows).to_le_bytes());
        rest = next;
    }
}

fn alarms(cluster: &Cluster, node: usize) -> Vec<AlarmMember> {
    let list: Result<AlarmResponse, _> = cluster.call(node, paths::ALARM, AlarmRequest::default());
    list.map(|list| list.alarms).unwrap_or_default()
}

/// Waits until every running member knows the alarm, and no other.
fn named(cluster: &Cluster, member_id: u64) {
    let expected = [AlarmMember { member_id, alarm: AlarmType::Corrupt.into() }];
    for node in cluster.running() {
        cluster.eventually(&format!("member {member_id:x} is named"), |cluster| {
            let alarms = alarms(cluster, node);
            assert!(alarms.is_empty() || alarms == expected, "{alarms:x?}, not {expected:x?}");
            (!alarms.is_empty()).then_some(())
        });
    }
}

fn says(cluster: &Cluster, node: usize, text: &str) -> bool {
    cluster.member(node).log().iter().any(|line| line.contains(text))
}

fn a_corrupt_member_is_found_at_its_start(engine: EngineKind) {
    let Some(servers) = three("corruption at the start", engine) else { return };
    found_at_its_start(&servers, 2);
}

#[test]
fn a_corrupt_member_beside_etcds_is_found_at_its_start() {
    let Some(servers) = mixed("corruption beside etcds", [true, true, false]) else { return };
    found_at_its_start(&servers, 2);
}

#[test]
fn a_corrupt_etcd_is_found_at_its_start() {
    let Some(servers) = mixed("corruption of an etcd", [false, false, true]) else { return };
    found_at_its_start(&servers, 2);
}

fn found_at_its_start(servers: &[Server], node: usize) {
    let mut cluster = cluster(servers, &[]);
    cluster.add_flag(node, INITIAL);
    // A sound member passes the check, and so it does if it lacks what the others have got meanwhile.
    cluster.end(node);
    cluster.put_many(cluster.leader(), WRITES, 1);
    cluster.restart(node);
    assert!(says(&cluster, node, PASSED), "{:#?}", cluster.member(node).log());
    cluster.agree();

    corrupt(&mut cluster, node);
    cluster.launch(node);
    let log = cluster.wait_exit(node);
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(said("found different hash values from remote peer"), 2, "{log:#?}");
    assert!(said(INCONSISTENT) > 0, "{log:#?}");
    assert_eq!(said("panicked"), 0, "{log:#?}");
    cluster.put(cluster.leader(), "the others", "go on").expect("a write");
    assert_eq!(alarms(&cluster, cluster.leader()), [], "a member that ends needs no alarm");
}

fn a_corrupt_member_is_found_by_the_leader(engine: EngineKind) {
    let Some(servers) = three("corruption found by the leader", engine) else { return };
    found_by_the_leader(&servers, 0, 2);
}

#[test]
fn a_corrupt_member_is_found_by_an_etcd_that_leads() {
    let Some(servers) = mixed("corruption found by an etcd", [true, true, false]) else { return };
    found_by_the_leader(&servers, 0, 2);
}

#[test]
fn a_corrupt_etcd_is_found_by_the_leader() {
    let Some(servers) = mixed("an etcd found by the leader", [false, true, true]) else { return };
    found_by_the_leader(&servers, 0, 2);
}

fn found_by_the_leader(servers: &[Server], leader: usize, node: usize) {
    let mut cluster = cluster(servers, PERIODIC);
    corrupt(&mut cluster, node);
    cluster.move_leader(leader);
    cluster.restart(node);
    let id = cluster.id(node);
    named(&cluster, id);
    assert!(says(&cluster, leader, "same compact revision then hashes must match"));
    refuses_changes(&cluster);

    // The alarm survives restarts, and is taken back by an operator only.
    for node in 0..3 {
        cluster.end(node);
        // A corrupt leader would name another member.
        cluster.add_flag(node, WITHOUT_PERIODIC);
    }
    (0..3).for_each(|node| cluster.launch(node));
    (0..3).for_each(|node| cluster.wait_until_ready(node));
    named(&cluster, id);
    refuses_changes(&cluster);
}

/// The alarm has the same effect on every member, and in etcd.
fn refuses_changes(cluster: &Cluster) {
    for node in cluster.running() {
        let refused = cluster.put(node, "k", "v").expect_err("a write is refused");
        assert_eq!((refused.code(), refused.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
        let refused = compact(cluster, node, 5).expect_err("a compaction is refused");
        assert_eq!(refused.code(), Code::DataLoss);
        cluster.get(node, "other").expect("a read is served");
        assert!(observe::http_get(cluster.address(node), "/health").contains("ALARM CORRUPT"));
        let status = cluster.status(node).expect("a status");
        assert!(status.errors.iter().any(|error| error.contains("CORRUPT")), "{:?}", status.errors);
    }
}

fn a_corrupt_member_is_found_by_a_compaction(engine: EngineKind) {
    let Some(servers) = three("corruption found by a compaction", engine) else { return };
    found_by_a_compaction(&servers, 0, 2);
}

/// The majority decides, and not the leader.
fn a_corrupt_leader_is_found_by_a_compaction(engine: EngineKind) {
    let Some(servers) = three("a corrupt leader", engine) else { return };
    found_by_a_compaction(&servers, 2, 2);
}

#[test]
fn a_corrupt_member_is_found_by_a_compaction_that_an_etcd_compares() {
    let Some(servers) = mixed("compactions compared by an etcd", [true, false, false]) else { return };
    found_by_a_compaction(&servers, 0, 2);
}

#[test]
fn a_corrupt_etcd_is_found_by_a_compaction() {
    let Some(servers) = mixed("an etcd found by a compaction", [false, true, true]) else { return };
    found_by_a_compaction(&servers, 0, 2);
}

fn found_by_a_compaction(servers: &[Server], leader: usize, node: usize) {
    let mut cluster = cluster(servers, COMPACTIONS);
    corrupt(&mut cluster, node);
    cluster.restart(node);
    cluster.move_leader(leader);
    let revision = cluster.put(leader, "other", "3").expect("a write");
    assert_eq!(alarms(&cluster, leader), [], "nothing was compacted yet");
    compact(&cluster, leader, revision).expect("a compaction");
    let id = cluster.id(node);
    named(&cluster, id);
    assert!(says(&cluster, leader, "Detected compaction hash mismatch"));
    // An alarm that is taken back comes again: the member is still another one.
    let disarm =
        AlarmRequest { action: AlarmAction::Deactivate.into(), member_id: id, alarm: AlarmType::Corrupt.into() };
    let _: AlarmResponse = cluster.call(leader, paths::ALARM, disarm).expect("the alarm is taken back");
    named(&cluster, id);
}

#[test]
fn of_two_members_that_differ_none_is_named() {
    let servers = [EngineKind::Memory, EngineKind::RocksDb].map(programs::subject).into_iter().collect();
    let Some(servers) = programs::or_skip("two members that differ", servers) else { return };
    let servers: Vec<Server> = servers;
    let mut cluster = cluster(&servers, COMPACTIONS);
    corrupt(&mut cluster, 1);
    cluster.restart(1);
    let revision = cluster.put(cluster.leader(), "other", "3").expect("a write");
    compact(&cluster, cluster.leader(), revision).expect("a compaction");
    named(&cluster, 0);
}

#[test]
fn sound_members_raise_no_alarm() {
    let Some(servers) = mixed("sound members", [false; 3]) else { return };
    no_alarm(&servers);
}

#[test]
fn sound_members_beside_an_etcd_raise_no_alarm() {
    let Some(servers) = mixed("sound members beside an etcd", [false, false, true]) else { return };
    no_alarm(&servers);
}

/// Members write, compact, lag, restart and lead in turn, while all checks run again and again.
fn no_alarm(servers: &[Server]) {
    let mut cluster = cluster(servers, ALL);
    for round in 0..ROUNDS {
        let node = round % 3;
        let load = Load::start(&cluster.addresses());
        let compacting = |cluster: &Cluster, node: usize| {
            load.progress(WRITES);
            let revision = cluster.revision(node).expect("a read");
            compact(cluster, node, revision - KEPT).expect("a compaction");
        };
        let other = (node + 1) % 3;
        compacting(&cluster, node);
        cluster.kill(node);
        compacting(&cluster, other);
        cluster.restart(node);
        assert!(says(&cluster, node, PASSED), "{:#?}", cluster.member(node).log());
        compacting(&cluster, node);
        let delete = DeleteRangeRequest { key: "other".into(), ..DeleteRangeRequest::default() };
        let _: DeleteRangeResponse = cluster.call(other, paths::DELETE_RANGE, delete).expect("a delete");
        cluster.put(other, "other", "again").expect("a write");
        cluster.move_leader(other);
        compacting(&cluster, other);
        // The history, which the check of a load reads, is compacted: the states are compared instead.
        assert!(load.stop().acknowledged() > 0);
        cluster.agree();
        cluster.eventually("all members are compared", |cluster| {
            ["finished peer corruption check", "successfully checked hash on whole cluster"]
                .iter()
                .all(|text| (0..3).any(|node| says(cluster, node, text)))
                .then_some(())
        });
        assert_eq!(alarms(&cluster, other), []);
    }
}
