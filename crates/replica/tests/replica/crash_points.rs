//! The power is lost after every single disk operation of a fixed script.

use metastore_replica::disk::{CrashPolicy, Disk};

use crate::machine::{EngineKind, Machine};
use crate::script::{mix, run};
use crate::world::{Answered, Reference, World, crashed_restarts, open, paths};

/// Number of random power losses at each crash point; each keeps another part of the unsynced writes.
const RANDOM_LOSSES: u64 = 8;
const ROUNDS: u64 = 48;
const SEED: u64 = 1;

/// The ways in which unsynced writes survive a power loss after `n` operations. Opening a RocksDB takes time, so with
/// it each crash point is tried with one way, in turn.
fn policies(engine: EngineKind, n: u64) -> Vec<CrashPolicy> {
    let random = (0..RANDOM_LOSSES).map(CrashPolicy::Random);
    let certain = [CrashPolicy::DropUnsynced, CrashPolicy::KeepUnsynced, CrashPolicy::Kill];
    let all: Vec<_> = certain.into_iter().chain(random).collect();
    match engine {
        EngineKind::Memory => all,
        EngineKind::RocksDb => vec![all[n as usize % all.len()]],
    }
}

/// The script without a crash: the commands, the resulting states, and the number of operations.
fn whole_script(engine: EngineKind) -> (World, Reference) {
    let mut world = World::new(engine);
    run(&mut world, SEED, ROUNDS).unwrap();
    let reference = Reference::of(&world.told.proposed);
    world.told.check_outcomes(&reference, "no crash");
    assert_eq!(world.told.acknowledged, world.told.proposed.len());
    (world, reference)
}

/// The world after a power loss that follows `n` operations of the script.
fn crashed(engine: EngineKind, n: u64, reference: &Reference) -> World {
    let disk = Machine::new(engine);
    disk.crash_after(n);
    let mut world = World::on(disk, Answered::default());
    run(&mut world, SEED, ROUNDS).unwrap_err();
    world.told.check_outcomes(reference, "before the crash");
    world
}

each_engine!(the_script_does_what_it_is_for);

fn the_script_does_what_it_is_for(engine: EngineKind) {
    let (world, _) = whole_script(engine);
    assert!(world.snapshots >= 4, "snapshots: {}", world.snapshots);
    let segments = world.disk.list(&paths().wal()).unwrap();
    let first = segments.iter().find(|name| name.ends_with(".wal")).unwrap();
    assert!(!first.starts_with("0000000000000000-"), "segments were released: {segments:?}");
    let states = world.disk.list(&paths().snap()).unwrap();
    let most = if engine == EngineKind::Memory { 4 } else { 0 };
    assert!(states.len() <= most, "snapshots were purged: {states:?}");
    assert!(world.disk.operations() > 200, "operations: {}", world.disk.operations());
}

each_engine!(nothing_acknowledged_is_lost_wherever_the_power_goes);

fn nothing_acknowledged_is_lost_wherever_the_power_goes(engine: EngineKind) {
    let (whole, reference) = whole_script(engine);
    let (mut cuts, mut beyond) = (0, 0);
    // The step is coprime to the number of policies, so that all of them are used.
    for n in (0..whole.disk.operations()).step_by(if engine == EngineKind::Memory { 1 } else { 3 }) {
        let world = crashed(engine, n, &reference);
        for policy in policies(engine, n) {
            let context = format!("crash after {n} operations, {policy:?}");
            let (held, cut) = world.told.check(&world.disk.crash(policy), &reference, &context);
            cuts += usize::from(cut);
            beyond += usize::from(held > world.told.acknowledged);
        }
    }
    let least = if engine == EngineKind::Memory { 20 } else { 5 };
    assert!(cuts > least, "the crashes tear writes: {cuts}");
    assert!(beyond > least, "some of what was under way is found: {beyond}");
}

each_engine!(a_crash_during_the_restart_is_recovered_from);

/// The power is lost again at each operation of the restart.
fn a_crash_during_the_restart_is_recovered_from(engine: EngineKind) {
    let (whole, reference) = whole_script(engine);
    let every = if engine == EngineKind::Memory { 9 } else { 60 };
    for n in (0..whole.disk.operations()).filter(|n| *n < 12 || mix(7, *n).is_multiple_of(every)) {
        let world = crashed(engine, n, &reference);
        let after = world.disk.crash(CrashPolicy::Random(n));
        for (m, restart) in crashed_restarts(&after, &world.told) {
            let context = format!("crash after {n} operations, and after {m} of the restart");
            restart.told.check(&restart.disk.crash(CrashPolicy::DropUnsynced), &reference, &context);
            restart.told.check(&restart.disk.crash(CrashPolicy::Random(n + m)), &reference, &context);
        }
    }
}

each_engine!(what_a_restarted_member_has_shown_survives_the_power);

/// The process is killed, and the page cache survives. A member starts on it and shows readers the state that it finds.
/// Then the power is lost: the shown state must be there.
fn what_a_restarted_member_has_shown_survives_the_power(engine: EngineKind) {
    let (whole, reference) = whole_script(engine);
    for n in (0..whole.disk.operations()).step_by(if engine == EngineKind::Memory { 1 } else { 7 }) {
        let world = crashed(engine, n, &reference);
        let disk = world.disk.fork();
        let context = format!("killed after {n} operations");
        let (mut replica, _) = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        let mut told = world.told;
        told.acknowledged = told.held(&mut replica, &reference, &context);
        told.proposed.truncate(told.acknowledged);
        told.check(&disk.crash(CrashPolicy::DropUnsynced), &reference, &context);
    }
}
