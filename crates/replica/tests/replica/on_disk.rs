//! A member whose engine keeps the state on disk: the parts that a start takes from the state and from the log, and the
//! refusal of a state and a log that do not belong together.

use std::path::PathBuf;

use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_replica::{Output, SnapshotJob};

use crate::machine::{EngineKind, Machine};
use crate::refusals::files;
use crate::script::run;
use crate::world::{Answered, Reference, State, World, advance, open, open_with, paths, put, settings};

const SEED: u64 = 3;

/// A member that was killed after so many groups of commands.
fn member(rounds: u64) -> (Machine, Answered) {
    let mut world = World::new(EngineKind::RocksDb);
    run(&mut world, SEED, rounds).unwrap();
    (world.disk.fork(), world.told)
}

/// The directory of the state on the real file system.
fn state(machine: &Machine) -> PathBuf {
    machine.real(&paths().engine()).unwrap()
}

fn replace_state(of: &Machine, by: &Machine) {
    std::fs::remove_dir_all(state(of)).unwrap();
    std::fs::rename(state(by), state(of)).unwrap();
}

fn replace_log(of: &Machine, by: &Machine) {
    for name in of.list(&paths().wal()).unwrap() {
        of.remove_file(&paths().wal().join(name)).unwrap();
    }
    for name in by.list(&paths().wal()).unwrap() {
        let file = of.create(&paths().wal().join(&name)).unwrap();
        file.write_at(0, &by.read(&paths().wal().join(&name)).unwrap()).unwrap();
    }
}

/// Expects that a start is refused with these words, changes no file, and makes no state.
fn refused(machine: &Machine, says: &[&str]) {
    let (before, directories) = (files(machine), machine.directories());
    let error = open(machine).err().expect("it is refused").to_string();
    for says in says {
        assert!(error.contains(says), "{says:?} is not in: {error}");
    }
    assert_eq!((files(machine), machine.directories()), (before, directories), "{error}");
}

/// Runs the member until a flush is due.
fn until_flush(replica: &mut metastore_replica::Replica, value: &str) -> SnapshotJob {
    for id in 1.. {
        replica.propose(put(id, "k", value)).unwrap();
        let mut output = Output::default();
        advance(replica, &mut output).unwrap();
        if let Some(job) = output.snapshot {
            return job;
        }
    }
    unreachable!()
}

#[test]
fn what_is_flushed_is_not_applied_again() {
    let machine = Machine::new(EngineKind::RocksDb);
    let (mut replica, _) = open(&machine).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let written = until_flush(&mut replica, "v").run().unwrap();
    for id in 1000..1007 {
        replica.propose(put(id, "k", "w")).unwrap();
    }
    advance(&mut replica, &mut Output::default()).unwrap();
    let (state, commit) = (State::of(replica.store()), replica.standing().commit);
    let after = machine.crash(CrashPolicy::DropUnsynced);
    let (mut replica, _) = open(&after).unwrap();
    assert_eq!(replica.store().applied(), written.applied, "it is there before anything is applied");
    let mut output = Output::default();
    advance(&mut replica, &mut output).unwrap();
    assert_eq!(output.outcomes.iter().map(|outcome| outcome.id).collect::<Vec<_>>(), (1000..1007).collect::<Vec<_>>());
    assert_eq!(State::of(replica.store()), state);
    assert!(replica.standing().commit > commit && replica.standing().sole_leader);
}

#[test]
fn the_log_that_was_not_released_counts_after_a_restart() {
    let machine = Machine::new(EngineKind::RocksDb);
    let mut many = settings(EngineKind::RocksDb);
    many.flush_log_bytes = u64::MAX;
    let (mut replica, _) = open_with(many, &machine, paths()).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    for id in 1..200 {
        replica.propose(put(id, "k", "v")).unwrap();
        advance(&mut replica, &mut Output::default()).unwrap();
    }
    // The member is closed properly: the state holds all entries, and no part of the log was released.
    drop(replica);
    let segments = machine.list(&paths().wal()).unwrap();
    let (mut replica, _) = open(&machine).unwrap();
    assert!(replica.store().applied().index >= 200);
    let mut output = Output::default();
    advance(&mut replica, &mut output).unwrap();
    assert!(output.outcomes.is_empty(), "nothing was applied again");
    replica.snapshot_written(output.snapshot.expect("the log is long").run().unwrap()).unwrap();
    let left = machine.list(&paths().wal()).unwrap();
    assert!(segments.len() > 4 && left.len() <= 2, "{segments:?}, then {left:?}");
}

#[test]
fn a_flush_that_fails_stops_the_member_and_loses_nothing() {
    let machine = Machine::new(EngineKind::RocksDb);
    let (mut replica, _) = open(&machine).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let job = until_flush(&mut replica, "v");
    let expected = State::of(replica.store());
    let away = state(&machine).with_file_name("away");
    let log = machine.list(&paths().wal()).unwrap();
    // RocksDB cannot create its file.
    std::fs::rename(state(&machine), &away).unwrap();
    let error = job.run().unwrap_err().to_string();
    assert!(error.contains("storage engine: ") && error.contains("rocksdb"), "{error}");
    std::fs::rename(&away, state(&machine)).unwrap();
    assert_eq!(machine.list(&paths().wal()).unwrap(), log, "nothing was released");
    let after = machine.crash(CrashPolicy::DropUnsynced);
    let (mut replica, _) = open(&after).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    assert_eq!(State::of(replica.store()), expected);
}

#[test]
fn a_missing_state_is_made_from_a_log_that_is_whole() {
    let (machine, told) = member(3);
    assert!(machine.list(&paths().wal()).unwrap().iter().any(|name| name.starts_with("0000000000000000-")));
    std::fs::remove_dir_all(state(&machine)).unwrap();
    told.check(&machine, &Reference::of(&told.proposed), "from the log");
}

#[test]
fn a_missing_or_emptied_state_is_refused_once_the_log_was_released() {
    let (machine, _) = member(50);
    let path = paths().engine();
    let path = path.to_str().unwrap();
    let missing = machine.fork();
    std::fs::remove_dir_all(state(&missing)).unwrap();
    refused(&missing, &[path, "the directory is missing, but the log may begin only behind entry "]);
    let emptied = machine.fork();
    for name in std::fs::read_dir(state(&emptied)).unwrap() {
        std::fs::remove_file(name.unwrap().path()).unwrap();
    }
    refused(&emptied, &["rocksdb", "CURRENT is missing"]);
    replace_state(&machine, &member(0).0);
    refused(&machine, &[path, "holds the state at entry 0, but the log may begin only behind entry ", "newer copy"]);
}

#[test]
fn an_old_copy_of_the_state_is_refused() {
    let (machine, _) = member(50);
    replace_state(&machine, &member(20).0);
    refused(&machine, &["/data/member/rocksdb: holds the state at entry ", "entries between are missing"]);
}

#[test]
fn a_log_that_ends_before_the_state_is_refused() {
    let (machine, _) = member(50);
    replace_log(&machine, &member(2).0);
    let says = ["/data/member/rocksdb: holds the state at entry ", "(/data/member/wal) ends at entry ", "are missing"];
    refused(&machine, &says);
}

#[test]
fn the_log_of_another_history_is_refused() {
    // The log has as many entries, but of later terms.
    let mut world = World::new(EngineKind::RocksDb);
    for _ in 0..5 {
        world.start().unwrap();
    }
    while world.told.proposed.len() < 40 {
        world.group([|id| put(id, "k", "v")]).unwrap();
    }
    let other = world.disk.fork();
    let mut world = World::new(EngineKind::RocksDb);
    world.start().unwrap();
    for _ in 0..20 {
        world.group([|id| put(id, "k", "v")]).unwrap();
    }
    let machine = world.stop();
    replace_log(&machine, &other);
    refused(&machine, &["of term 2, but in the log (/data/member/wal) that entry is of term ", "another history"]);
}

#[test]
fn a_state_without_identity_is_refused() {
    let (machine, _) = member(50);
    let identity = paths().member().join("identity.json");
    machine.remove_file(&identity).unwrap();
    refused(&machine, &[identity.to_str().unwrap(), "the file is missing, but there is state"]);
}
