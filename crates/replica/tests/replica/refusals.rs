//! Directories on which a member does not start: it names the file and the reason, and changes no file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_proto::{Message, raftpb};
use metastore_replica::disk::{CrashPolicy, Disk, SimulatedDisk};
use metastore_replica::wal::{Entry, Options, Wal};
use metastore_replica::{Bootstrap, OpenError, Output, Paths, Replica, Settings};

use crate::machine::{EngineKind, Machine};
use crate::script::run;
use crate::world::{Answered, World, founding, open, open_with, paths, put, settings};

/// A member with several log segments and a snapshot.
fn member(engine: EngineKind) -> Machine {
    let mut world = World::new(engine);
    run(&mut world, 3, 50).unwrap();
    assert!(world.snapshots > 2);
    world.disk.fork()
}

/// The content of all files except RocksDB's, which writes files of its own at each start.
pub fn files(disk: &SimulatedDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(disk: &SimulatedDisk, path: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        match disk.list(path) {
            Ok(names) => names.iter().for_each(|name| walk(disk, &path.join(name), found)),
            Err(_) => drop(found.insert(path.to_owned(), disk.read(path).unwrap())),
        }
    }
    let mut found = BTreeMap::new();
    walk(disk, Path::new("/"), &mut found);
    found
}

fn file(disk: &Machine, directory: &Path, end: &str) -> PathBuf {
    let names = disk.list(directory).unwrap();
    directory.join(names.iter().find(|name| name.ends_with(end)).unwrap())
}

fn write(disk: &Machine, path: &Path, bytes: &[u8]) {
    disk.create_dir_all(path.parent().unwrap()).unwrap();
    let file = disk.create(path).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

fn identity() -> PathBuf {
    paths().member().join("identity.json")
}

/// Expects a refusal whose text contains all of `names` and that changes no file.
fn refused_with(settings: Settings, disk: &Machine, paths: Paths, names: &[&str]) {
    let before = files(disk);
    let error = open_with(settings, disk, paths).err().expect("it is refused").to_string();
    for name in names {
        assert!(error.contains(name), "{name:?} is not in: {error}");
    }
    let after = files(disk);
    assert!(before == after, "changed by a refusal ({error}): {:?} and {:?}", before.keys(), after.keys());
}

fn refused(disk: &Machine, names: &[&str]) {
    refused_with(settings(disk.engine), disk, paths(), names);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Flips a bit of each of the first `len` bytes of a file; each time the start must be refused and name the file.
fn every_flip_is_refused(disk: &Machine, path: &Path, len: usize) {
    for offset in 0..len {
        // All eight bits are flipped in turn, but only one in each byte.
        let bit = (offset % 5 + offset / 8) % 8;
        let damaged = disk.fork();
        damaged.flip_bit(path, offset as u64, bit as u8).unwrap();
        assert!(open(&damaged.fork()).is_err(), "bit {bit} of byte {offset} of {}", path.display());
        refused(&damaged, &[text(path)]);
    }
}

each_engine!(a_damaged_log_is_refused);

fn a_damaged_log_is_refused(engine: EngineKind) {
    let disk = member(engine);
    let segments = disk.list(&paths().wal()).unwrap();
    assert!(segments.len() > 1, "{segments:?}");
    for name in segments {
        let path = paths().wal().join(name);
        let written = disk.read(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        every_flip_is_refused(&disk, &path, written);
    }
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let engine = EngineKind::Memory;
    let disk = member(engine);
    for end in [".snap", ".state"] {
        let path = file(&disk, &paths().snap(), end);
        let len = disk.read(&path).unwrap().len();
        every_flip_is_refused(&disk, &path, len);
        let short = disk.fork();
        short.open(&path).unwrap().set_len(len as u64 - 1).unwrap();
        refused(&short, &[text(&path)]);
        let missing = disk.fork();
        missing.remove_file(&path).unwrap();
        refused(&missing, &[text(&path)]);
    }
}

#[test]
fn another_ones_snapshot_is_refused() {
    let engine = EngineKind::Memory;
    let disk = member(engine);
    let snap = file(&disk, &paths().snap(), ".snap");
    let state = file(&disk, &paths().snap(), ".state");
    let record = |index| {
        let conf_state = (index > 0).then(raftpb::ConfState::default);
        let metadata = raftpb::SnapshotMetadata { conf_state, index: Some(index), term: Some(1) };
        let data = raftpb::Snapshot { data: None, metadata: Some(metadata) }.encode_to_vec();
        let crc = Some(crc32c::crc32c(&data));
        metastore_proto::walpb::SnapshotFile { crc, data: Some(data.into()) }.encode_to_vec()
    };
    let foreign = disk.fork();
    write(&foreign, &snap, &record(9999));
    refused(&foreign, &[text(&snap), "describes entry 9999"]);
    let mut world = World::new(engine);
    run(&mut world, 3, 20).unwrap();
    let older = file(&world.disk, &paths().snap(), ".state");
    assert_ne!(older, state);
    write(&disk, &state, &world.disk.read(&older).unwrap());
    refused(&disk, &[text(&state), "holds the state at entry"]);
}

each_engine!(an_identity_that_does_not_fit_is_refused);

fn an_identity_that_does_not_fit_is_refused(engine: EngineKind) {
    let disk = member(engine);
    let json = String::from_utf8(disk.read(&identity()).unwrap()).unwrap();
    let other = format!("written by engine {:?}, but --engine is {:?}", engine.other().name(), engine.name());
    let command = format!("metastore convert --data-dir /data --engine {}", engine.name());
    let cases = [
        (json.replace(engine.name(), engine.other().name()), other.as_str()),
        (json.replace(engine.name(), engine.other().name()), command.as_str()),
        (json.replace("\"format\": 1", "\"format\": 2"), "format 2, but this version reads format 1"),
        (json.replace('{', "["), "damaged"),
        (json.replace("\"format\": 1,", ""), "damaged"),
        (String::new(), "damaged"),
    ];
    for (json, why) in cases {
        write(&disk, &identity(), json.as_bytes());
        refused(&disk, &[text(&identity()), why]);
    }
    disk.remove_file(&identity()).unwrap();
    refused(&disk, &[text(&identity()), "missing, but there "]);
}

/// The disk of a member after a crash that left a torn tail, so that a start would change the log.
fn torn(engine: EngineKind) -> Machine {
    for n in 40.. {
        let disk = Machine::new(engine);
        disk.crash_after(n);
        let mut world = World::on(disk, Answered::default());
        run(&mut world, 3, 50).unwrap_err();
        let after = world.disk.crash(CrashPolicy::Random(n));
        if open(&after.fork()).unwrap().1.is_some() {
            return after;
        }
    }
    unreachable!("some crash tears a write")
}

each_engine!(a_torn_tail_is_cut_and_reported_unless_the_member_is_refused);

fn a_torn_tail_is_cut_and_reported_unless_the_member_is_refused(engine: EngineKind) {
    let disk = torn(engine);
    let before = files(&disk);
    let cut = open(&disk.fork()).unwrap().1.unwrap();
    assert!(cut.file.starts_with(paths().wal()) && cut.offset > 0 && cut.dropped_bytes > 0, "{cut:?}");
    assert_eq!(files(&disk), before);
    let json = String::from_utf8(disk.read(&identity()).unwrap()).unwrap();
    let id = json.split('"').find(|word| word.len() > 8 && word.chars().all(|c| c.is_ascii_hexdigit())).unwrap();
    write(&disk, &identity(), json.replace(id, "abc").as_bytes());
    refused(&disk, &[text(&paths().wal()), "but the state is that of member abc"]);
}

fn other_bootstrap() -> Bootstrap {
    founding("another")
}

fn open_other(disk: &Machine, paths: Paths) -> Result<Replica, OpenError> {
    let engine = disk.engine;
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Replica::open(settings(engine), shared, paths, || Ok(other_bootstrap()), disk.opener(engine))
        .map(|(replica, _)| replica)
}

each_engine!(the_log_of_another_member_is_refused);

fn the_log_of_another_member_is_refused(engine: EngineKind) {
    let (disk, other) = (member(engine), Machine::new(engine));
    open_other(&other, paths()).unwrap();
    for name in disk.list(&paths().wal()).unwrap() {
        disk.remove_file(&paths().wal().join(name)).unwrap();
    }
    let first = file(&other, &paths().wal(), ".wal");
    write(&disk, &first, &other.read(&first).unwrap());
    refused(&disk, &[text(&paths().wal()), "the log is that of member", "--wal-dir"]);
    // The same, on a directory that has no state yet.
    let fresh = Machine::new(engine);
    write(&fresh, &first, &other.read(&first).unwrap());
    refused(&fresh, &[text(&paths().wal()), "there is no state, and the settings are those of member"]);
}

fn separate() -> Paths {
    Paths { wal_dir: Some("/log/one".into()), ..paths() }
}

each_engine!(state_without_its_log_is_refused);

fn state_without_its_log_is_refused(engine: EngineKind) {
    let disk = member(engine);
    refused_with(settings(disk.engine), &disk, separate(), &["/log/one", "--wal-dir"]);
    disk.create_dir_all(Path::new("/log/one")).unwrap();
    refused_with(settings(disk.engine), &disk, separate(), &["/log/one", "--wal-dir"]);
    for name in disk.list(&paths().wal()).unwrap() {
        disk.remove_file(&paths().wal().join(name)).unwrap();
    }
    refused(&disk, &[text(&paths().wal()), "acknowledged writes would be lost"]);
    // The same without the identity.
    disk.remove_file(&identity()).unwrap();
    refused(&disk, &[text(&paths().wal()), "acknowledged writes would be lost"]);
}

#[test]
fn a_log_that_ends_before_the_snapshot_is_refused() {
    let engine = EngineKind::Memory;
    let disk = member(engine);
    let mut early = World::new(engine);
    run(&mut early, 3, 2).unwrap();
    for name in disk.list(&paths().wal()).unwrap() {
        disk.remove_file(&paths().wal().join(name)).unwrap();
    }
    for name in early.disk.list(&paths().wal()).unwrap() {
        let path = paths().wal().join(name);
        write(&disk, &path, &early.disk.read(&path).unwrap());
    }
    let snap = file(&disk, &paths().snap(), ".snap");
    refused(&disk, &[text(&snap), "acknowledged entries are missing"]);
}

each_engine!(a_directory_that_a_tool_has_not_finished_is_refused);

fn a_directory_that_a_tool_has_not_finished_is_refused(engine: EngineKind) {
    let disk = Machine::new(engine);
    let partial = paths().data_dir.join(metastore_replica::PARTIAL);
    write(&disk, &partial.join("member/wal/half.wal"), b"half");
    refused(&disk, &[text(&partial), "metactl that was interrupted", "repeat the run"]);
    assert!(!disk.exists(&paths().member()).unwrap(), "the refusal made a directory");
    // A run that ended has only its own directory left.
    let whole = member(engine);
    write(&whole, &partial.join("left"), b"over");
    assert!(open(&whole).is_ok());
}

each_engine!(the_directory_of_an_etcd_is_refused);

fn the_directory_of_an_etcd_is_refused(engine: EngineKind) {
    let disk = Machine::new(engine);
    let db = paths().snap().join("db");
    write(&disk, &db, b"bolt");
    refused(&disk, &[text(&db), "the data directory of an etcd"]);
    write(&disk, &paths().wal().join("0000000000000000-0000000000000000.wal"), b"log");
    refused(&disk, &[text(&db), "the data directory of an etcd"]);
}

each_engine!(a_log_directory_that_holds_something_else_is_refused);

fn a_log_directory_that_holds_something_else_is_refused(engine: EngineKind) {
    let disk = Machine::new(engine);
    write(&disk, &paths().wal().join("notes"), b"mine");
    refused(&disk, &[text(&paths().wal()), "it holds notes"]);
}

each_engine!(settings_that_describe_no_member_make_none);

fn settings_that_describe_no_member_make_none(engine: EngineKind) {
    let disk = Machine::new(engine);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let none = || Err("no URL for member one".to_owned());
    let error = Replica::open(settings(disk.engine), shared, paths(), none, disk.opener(disk.engine)).err().unwrap();
    assert_eq!(error.to_string(), "no URL for member one");
    assert_eq!(files(&disk), BTreeMap::new());
}

each_engine!(a_directory_has_one_member_at_a_time);

fn a_directory_has_one_member_at_a_time(engine: EngineKind) {
    let disk = Machine::new(engine);
    let first = open_with(settings(disk.engine), &disk, separate()).unwrap();
    refused_with(settings(disk.engine), &disk, separate(), &["/data/member", "another process uses this directory"]);
    let beside = Paths { data_dir: "/data2".into(), ..separate() };
    refused_with(settings(disk.engine), &disk, beside.clone(), &["/log/one", "another process uses this directory"]);
    drop(first);
    let error = open_other(&disk, beside).err().unwrap().to_string();
    assert!(error.contains("/log/one") && error.contains("there is no state"), "{error}");
    open_with(settings(disk.engine), &disk, separate()).unwrap();
}

/// Appends a committed entry to the log of a closed member, and returns its index.
fn append(disk: &Machine, kind: i32, data: Vec<u8>) -> u64 {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options: Options = settings(disk.engine).log;
    let (mut wal, replay) = Wal::open_with(options, shared, &paths().wal(), (0, 0)).unwrap();
    let last = replay.entries.last().unwrap();
    let (index, term) = (last.index + 1, last.term);
    let state = raftpb::HardState { commit: Some(index), ..replay.hard_state };
    wal.append(Some(&state), [Entry { kind, term, index, data: data.into() }], true).unwrap();
    index
}

fn young_member(engine: EngineKind) -> Machine {
    let mut world = World::new(engine);
    run(&mut world, 3, 2).unwrap();
    world.disk.fork()
}

each_engine!(an_entry_that_this_version_does_not_know_is_refused);

fn an_entry_that_this_version_does_not_know_is_refused(engine: EngineKind) {
    let change = |kind| {
        let change = raftpb::ConfChange { r#type: Some(kind), node_id: Some(7), ..raftpb::ConfChange::default() };
        change.encode_to_vec()
    };
    let cases = [
        (raftpb::EntryType::EntryConfChangeV2 as i32, vec![8, 0], "kind 2, which this version does not know"),
        (1, change(77), "membership change 77, which this version does not know"),
        (1, vec![0xff], "a membership change that cannot be read"),
    ];
    for (kind, data, why) in cases {
        let disk = young_member(engine);
        let index = append(&disk, kind, data);
        refused(&disk, &[text(&paths().wal()), &format!("entry {index}: "), why]);
    }
}

each_engine!(a_command_that_this_version_does_not_know_stops_the_member_each_time);

fn a_command_that_this_version_does_not_know_stops_the_member_each_time(engine: EngineKind) {
    let disk = young_member(engine);
    // Field 1303, which etcd's InternalRaftRequest does not have.
    let index = append(&disk, 0, vec![0xba, 0x51, 0]);
    for _ in 0..2 {
        let (mut replica, _) = open(&disk).unwrap();
        let mut output = Output::default();
        let error = replica.process(&mut output).unwrap_err().to_string();
        assert!(error.contains(&format!("entry {index} (kind 1303)")), "{error}");
        assert!(output.outcomes.is_empty(), "readers do not see this batch");
        assert!(replica.propose(put(1, "k", "v")).is_err());
        let again = replica.process(&mut output).unwrap_err().to_string();
        assert_eq!(again, format!("the member has stopped: {error}"));
        assert!(replica.store().view().published().applied.index < index);
    }
}

each_engine!(a_member_that_was_added_without_a_description_stops_the_member);

fn a_member_that_was_added_without_a_description_stops_the_member(engine: EngineKind) {
    let disk = young_member(engine);
    let change = raftpb::ConfChange { r#type: Some(0), node_id: Some(7), ..raftpb::ConfChange::default() };
    let index = append(&disk, 1, change.encode_to_vec());
    let (mut replica, _) = open(&disk).unwrap();
    let error = replica.process(&mut Output::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("entry {index} (membership change)")), "{error}");
}
