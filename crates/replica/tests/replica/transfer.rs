//! A state that another member sends replaces a member's own, with any pair of engines, and wherever the power is lost.

use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_replica::{Output, Replica};

use crate::machine::{EngineKind, Machine};
use crate::script::{mix, random_group, run};
use crate::world::{Reference, Sent, State, Stopped, World, advance, crashed_restarts, open, paths, put, settings};

const SEED: u64 = 4;
/// The part of the log that the follower has when it falls behind, in groups of commands.
const FEW_ROUNDS: u64 = 4;
const MANY_ROUNDS: u64 = 30;
/// Groups of commands after the state was installed, with restarts between them.
const ROUNDS_AFTER: u64 = 12;
/// Neither a part nor a multiple of any length in the stream.
const PIECE_BYTES: usize = 777;

/// A member with many entries, and its state.
fn leader(engine: EngineKind) -> (World, Sent) {
    let mut world = World::new(engine);
    run(&mut world, SEED, MANY_ROUNDS).unwrap();
    let sent = Sent::by(&mut world);
    (world, sent)
}

/// A member that has the beginning of the same log.
fn new_follower(engine: EngineKind) -> World {
    let mut world = World::new(engine);
    run(&mut world, SEED, FEW_ROUNDS).unwrap();
    world
}

fn states_on_disk(machine: &Machine) -> Vec<String> {
    let names = machine.list(&paths().member()).unwrap();
    names.into_iter().filter(|name| name.starts_with("rocksdb")).collect()
}

#[test]
fn a_state_goes_from_any_engine_to_any_engine() {
    for (from, to) in
        [EngineKind::Memory, EngineKind::RocksDb].into_iter().flat_map(|from| [(from, from), (from, from.other())])
    {
        let context = format!("{from:?} to {to:?}");
        let (mut leader, sent) = leader(from);
        // A received state has a high-water mark of its own, which starts at the size of the state.
        leader.defragment().unwrap();
        let expected = State::of(leader.replica().store());
        let mut follower = new_follower(to);
        follower.receive(&sent, PIECE_BYTES).unwrap();
        let replica = follower.replica();
        assert_eq!(State::of(replica.store()), expected, "{context}");
        let metadata = sent.message.snapshot.as_ref().unwrap().metadata.as_ref().unwrap();
        assert_eq!(replica.store().applied().index, metadata.index() + 1, "{context}: it leads, and has said so");
        // The log continues after the state, here and after restarts.
        for round in 0..ROUNDS_AFTER {
            random_group(&mut follower, mix(SEED, 1000 + round)).unwrap();
            if round % 3 == 1 {
                follower.start().unwrap();
            }
        }
        let told = follower.told.clone();
        let reference = Reference::lowered(&told.proposed, sent.held.len());
        told.check_outcomes(&reference, &context);
        let crashed = follower.disk.fork().crash(CrashPolicy::DropUnsynced);
        told.check(&crashed, &reference, &context);
        told.check(&follower.stop(), &reference, &context);
    }
}

/// The script of the follower in the tests that cut its power.
fn fall_behind_and_recover(world: &mut World, sent: &Sent) -> Result<(), Stopped> {
    world.receive(sent, PIECE_BYTES)?;
    for round in 0..3 {
        random_group(world, mix(SEED, 2000 + round))?;
    }
    world.start()?;
    random_group(world, mix(SEED, 3000))
}

each_engine!(old_state_and_log_or_new_ones_wherever_the_power_goes);

/// The old state never meets the new log, nor the reverse: the restarted member holds either what it had before, or
/// everything that it was sent.
fn old_state_and_log_or_new_ones_wherever_the_power_goes(engine: EngineKind) {
    let (_, sent) = leader(engine.other());
    let mut whole = new_follower(engine);
    let (before, few) = (whole.disk.operations(), whole.told.proposed.len());
    fall_behind_and_recover(&mut whole, &sent).unwrap();
    let reference = Reference::lowered(&whole.told.proposed, sent.held.len());
    let (mut old, mut new) = (0, 0);
    for n in before..whole.disk.operations() {
        let mut world = new_follower(engine);
        assert_eq!(world.disk.operations(), before, "the same script takes as many operations");
        world.disk.crash_after(n);
        fall_behind_and_recover(&mut world, &sent).unwrap_err();
        world.told.check_outcomes(&reference, "before the crash");
        for policy in policies(engine, n, n - before) {
            let context = format!("crash after {n} operations, {policy:?}");
            let after = world.disk.crash(policy);
            let started = after.fork();
            drop(open(&started).unwrap_or_else(|error| panic!("{context}: {error}")));
            leaves_nothing(&started, &context);
            let (held, _) = world.told.check(&after, &reference, &context);
            assert!(held == few || held >= sent.held.len(), "{context}: {held} of {few} or {}", sent.held.len());
            (old, new) = (old + u64::from(held == few), new + u64::from(held > few));
        }
    }
    // RocksDB's own writes while it receives a state are not operations of the disk.
    let least = if engine == EngineKind::Memory { 10 } else { 4 };
    assert!(old >= least && new >= 10, "{old} times the old state, {new} times the new one");
}

each_engine!(old_state_and_log_or_new_ones_whatever_fails);

/// One operation fails, and the disk goes on: the writes of the member while it stops must do no harm.
fn old_state_and_log_or_new_ones_whatever_fails(engine: EngineKind) {
    let (_, sent) = leader(engine.other());
    for nth in 1.. {
        let mut world = new_follower(engine);
        world.disk.fail_operation(nth);
        let done = world.receive(&sent, PIECE_BYTES).is_ok();
        let (told, context) = (world.told.clone(), format!("operation {nth} fails"));
        let reference = Reference::lowered(&told.proposed, sent.held.len());
        let machine = world.stop();
        drop(open(&machine.fork()).unwrap_or_else(|error| panic!("{context}: {error}")));
        told.check(&machine.fork(), &reference, &context);
        if done {
            assert!(nth > 10, "{nth} operations");
            return;
        }
    }
}

/// The ways in which unsynced writes survive a power loss after `n` operations, `since` of them since the state was
/// sent.
fn policies(engine: EngineKind, n: u64, since: u64) -> Vec<CrashPolicy> {
    let random = [CrashPolicy::Random(n), CrashPolicy::Random(n + 1)];
    let all = [&[CrashPolicy::DropUnsynced, CrashPolicy::KeepUnsynced, CrashPolicy::Kill][..], &random].concat();
    // Opening a RocksDB takes time, so with it only the crash points near the change of states are tried in all ways.
    if engine == EngineKind::Memory || since < 12 { all } else { vec![all[n as usize % all.len()]] }
}

/// Checks that after a start there is one state, and no file of a half-received one.
fn leaves_nothing(machine: &Machine, context: &str) {
    let states = states_on_disk(machine);
    assert_eq!(states.len(), usize::from(machine.engine == EngineKind::RocksDb), "{context}: {states:?}");
    let snapshots = machine.list(&paths().snap()).unwrap();
    let strange = snapshots.iter().find(|name| !name.ends_with(".state") && !name.ends_with(".snap"));
    assert_eq!(strange, None, "{context}");
    assert!(snapshots.len() <= 2, "{context}: {snapshots:?}");
}

each_engine!(a_crash_while_the_start_finishes_the_install_is_recovered_from);

fn a_crash_while_the_start_finishes_the_install_is_recovered_from(engine: EngineKind) {
    let (_, sent) = leader(engine.other());
    let mut whole = new_follower(engine);
    let before = whole.disk.operations();
    fall_behind_and_recover(&mut whole, &sent).unwrap();
    let reference = Reference::lowered(&whole.told.proposed, sent.held.len());
    let every = if engine == EngineKind::Memory { 1 } else { 5 };
    for n in (before..whole.disk.operations()).step_by(every) {
        let mut world = new_follower(engine);
        world.disk.crash_after(n);
        fall_behind_and_recover(&mut world, &sent).unwrap_err();
        for policy in [CrashPolicy::Random(n), CrashPolicy::Kill] {
            let after = world.disk.fork().crash(policy);
            for (m, restart) in crashed_restarts(&after, &world.told) {
                let context = format!("{policy:?} after {n} operations, and a power loss after {m} of the restart");
                restart.told.check(&restart.disk.crash(CrashPolicy::DropUnsynced), &reference, &context);
            }
        }
    }
}

each_engine!(readers_keep_the_old_state_and_its_files_until_they_are_done);

fn readers_keep_the_old_state_and_its_files_until_they_are_done(engine: EngineKind) {
    let (mut leader, sent) = leader(engine);
    let mut follower = new_follower(engine);
    let replica = follower.replica();
    let views = replica.store().views().clone();
    let (old, revision) = (views.now(), replica.store().revision());
    let hash = old.hash_kv(0).unwrap();
    let received = sent.receive(replica, PIECE_BYTES).unwrap();
    replica.state_received(received).unwrap();
    let mut output = Output::default();
    advance(replica, &mut output).unwrap();
    assert!(output.state_replaced && output.retired.len() == 1);
    assert_eq!(views.now().revision(), leader.replica().store().revision(), "whoever asks now reads the new state");
    assert_eq!((old.revision(), old.hash_kv(0).unwrap()), (revision, hash), "whoever began reads the old one");
    let retired = output.retired.pop().unwrap();
    assert!(!retired.is_unused());
    drop(old);
    assert!(retired.is_unused());
    retired.remove().unwrap();
    leaves_nothing(&follower.disk, "removed");
}

each_engine!(a_snapshot_of_the_old_state_that_ends_later_changes_nothing);

fn a_snapshot_of_the_old_state_that_ends_later_changes_nothing(engine: EngineKind) {
    let (_, sent) = leader(engine);
    for written_before in [true, false] {
        let machine = Machine::new(engine);
        let (mut replica, _) = open(&machine).unwrap();
        let job = until_job(&mut replica);
        let (mut job, mut written) = (Some(job), None);
        if written_before {
            written = job.take().map(|job| job.run().unwrap());
        }
        let received = sent.receive(&replica, PIECE_BYTES).unwrap();
        replica.state_received(received).unwrap();
        let mut output = Output::default();
        replica.process(&mut output).unwrap();
        assert!(output.state_replaced);
        let written = written.unwrap_or_else(|| job.unwrap().run().unwrap());
        replica.snapshot_written(written).unwrap();
        output.retired.clear();
        advance(&mut replica, &mut output).unwrap();
        let state = State::of(replica.store());
        let (mut replica, _) = open(&machine.crash(CrashPolicy::DropUnsynced)).unwrap();
        advance(&mut replica, &mut Output::default()).unwrap();
        assert_eq!(State::of(replica.store()), state, "{written_before}");
    }
}

/// Runs the member until a snapshot or flush of its state is due.
fn until_job(replica: &mut Replica) -> metastore_replica::SnapshotJob {
    advance(replica, &mut Output::default()).unwrap();
    for id in 1.. {
        replica.propose(put(id, "k", &"v".repeat(300))).unwrap();
        let mut output = Output::default();
        advance(replica, &mut output).unwrap();
        if let Some(job) = output.snapshot {
            return job;
        }
    }
    unreachable!()
}

each_engine!(a_state_that_consensus_does_not_want_is_let_go);

fn a_state_that_consensus_does_not_want_is_let_go(engine: EngineKind) {
    let (_, mut sent) = leader(engine);
    let mut follower = new_follower(engine);
    // The follower has learned of a later term since the state was sent.
    sent.message.term = sent.message.snapshot.as_ref().unwrap().metadata.as_ref().unwrap().term;
    for _ in 0..5 {
        follower.start().unwrap();
    }
    let replica = follower.replica();
    let state = State::of(replica.store());
    let received = sent.receive(replica, PIECE_BYTES).unwrap();
    let error = sent.receive(replica, PIECE_BYTES).err().expect("one at a time").to_string();
    assert!(error.contains("another state is being received"), "{error}");
    replica.state_received(received).unwrap();
    let mut output = Output::default();
    replica.process(&mut output).unwrap();
    assert!(!output.state_replaced);
    for retired in output.retired {
        assert!(retired.is_unused());
        retired.remove().unwrap();
    }
    assert_eq!(State::of(replica.store()), state);
    drop(sent.receive(replica, PIECE_BYTES).expect("there is room for another one"));
    leaves_nothing(&follower.disk, "let go");
}

/// A conversion knows where the state is, and does not mistake it for the remains of another engine. That holds without
/// a crash, and also after a power loss between the record in the log and the change of the name.
#[test]
fn who_was_sent_its_state_is_converted_as_any_other() {
    let (_, sent) = leader(EngineKind::Memory);
    for engine in [EngineKind::Memory, EngineKind::RocksDb] {
        let mut whole = new_follower(engine);
        let before = whole.disk.operations();
        whole.receive(&sent, PIECE_BYTES).unwrap();
        for n in (before..whole.disk.operations()).step_by(3).chain([u64::MAX]) {
            let mut world = new_follower(engine);
            world.disk.crash_after(n);
            _ = world.receive(&sent, PIECE_BYTES);
            let told = world.told.clone();
            let reference = Reference::lowered(&told.proposed, sent.held.len());
            let machine = world.disk.crash(CrashPolicy::KeepUnsynced);
            drop(world);
            let same = convert_to(&machine, engine);
            assert!(same.is_none(), "{engine:?}, crash after {n}: nothing to convert");
            told.check(&machine.fork(), &reference, &format!("{engine:?}, crash after {n}, not converted"));
            assert!(convert_to(&machine, engine.other()).is_some());
            let converted = machine.with(engine.other());
            told.check(&converted.fork(), &reference, &format!("{engine:?}, crash after {n}, converted"));
            assert!(convert_to(&machine, engine).is_some());
            told.check(&machine, &reference, &format!("{engine:?}, crash after {n}, and back"));
        }
    }
}

fn convert_to(machine: &Machine, to: EngineKind) -> Option<metastore_replica::Converted> {
    let (disk, opened): (std::sync::Arc<dyn Disk>, _) = (std::sync::Arc::new(machine.clone()), machine.clone());
    let open = move |name: &str, path: &std::path::Path| {
        let engine = if name == to.name() { to } else { to.other() };
        opened.open_engine(engine, path)
    };
    metastore_replica::convert(settings(to), disk, paths(), open, &mut |_, _| ()).unwrap()
}
