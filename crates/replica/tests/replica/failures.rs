//! The disk fails: a write, a sync, or no space. The member stops, and all its earlier answers stay true.

use metastore_replica::Output;
use metastore_replica::disk::CrashPolicy;

use crate::machine::{EngineKind, Machine};
use crate::script::{mix, run};
use crate::world::{Answered, Reference, World, put};

const SEED: u64 = 5;
const ROUNDS: u64 = 24;

fn reference() -> Reference {
    let mut world = World::new(EngineKind::Memory);
    run(&mut world, SEED, ROUNDS).unwrap();
    Reference::of(&world.told.proposed)
}

/// Runs the script on a disk with a fault. Returns false if the script ended before the fault occurred.
fn runs_into(
    engine: EngineKind,
    fault: impl FnOnce(&Machine),
    heal: impl FnOnce(&Machine),
    reference: &Reference,
    context: &str,
) -> bool {
    let disk = Machine::new(engine);
    fault(&disk);
    let mut world = World::on(disk, Answered::default());
    let Err(stopped) = run(&mut world, SEED, ROUNDS) else { return false };
    let context = format!("{context}: {stopped}");
    heal(&world.disk);
    world.told.check_outcomes(reference, &context);
    stays_stopped(&mut world, &context);
    let random = CrashPolicy::Random(mix(SEED, 9));
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepUnsynced, CrashPolicy::Kill, random] {
        world.told.check(&world.disk.crash(policy), reference, &format!("{context}, {policy:?}"));
    }
    true
}

/// A member whose own call failed answers every later call with the error, and no longer touches the disk. (A snapshot
/// that fails on its own thread stops the member through its owner.)
fn stays_stopped(world: &mut World, context: &str) {
    if !world.failed_itself {
        return;
    }
    let operations = world.disk.operations();
    let mut output = Output::default();
    for _ in 0..3 {
        world.replica().tick();
        assert!(world.replica().propose(put(1, "late", "x")).is_err(), "{context}");
        let error = world.replica().process(&mut output).unwrap_err().to_string();
        assert!(error.starts_with("the member has stopped: "), "{error}");
        assert!(world.replica().compact_step().is_err(), "{context}");
    }
    assert!(output.outcomes.is_empty() && output.events.is_empty() && output.snapshot.is_none(), "{context}");
    assert_eq!(world.disk.operations(), operations, "{context}: the disk is left alone");
}

/// Runs the script once for each fault, until one no longer occurs; returns the number of faults that did.
fn each(engine: EngineKind, fault: impl Fn(&Machine, u64), name: &str) -> u64 {
    let reference = reference();
    let runs =
        (1..).take_while(|k| runs_into(engine, |disk| fault(disk, *k), |_| {}, &reference, &format!("{name} {k}")));
    runs.count() as u64
}

each_engine!(a_failed_sync_stops_the_member_and_nothing_acknowledged_is_lost);

fn a_failed_sync_stops_the_member_and_nothing_acknowledged_is_lost(engine: EngineKind) {
    let failures = each(engine, |disk, k| disk.fail_sync(k), "sync");
    assert!(failures > 30, "{failures}");
}

each_engine!(a_failed_write_stops_the_member_and_nothing_acknowledged_is_lost);

fn a_failed_write_stops_the_member_and_nothing_acknowledged_is_lost(engine: EngineKind) {
    let failures = each(engine, |disk, k| disk.fail_write(k), "write");
    assert!(failures > 30, "{failures}");
}

each_engine!(a_full_disk_stops_the_member_which_starts_again_when_there_is_space);

fn a_full_disk_stops_the_member_which_starts_again_when_there_is_space(engine: EngineKind) {
    let reference = reference();
    let sizes = (0..20_000).step_by(if engine == EngineKind::Memory { 61 } else { 251 });
    let full = sizes.filter(|bytes| {
        let heal = |disk: &Machine| disk.limit_bytes(u64::MAX);
        runs_into(engine, |disk| disk.limit_bytes(*bytes), heal, &reference, &format!("room for {bytes} bytes"))
    });
    let full = full.count();
    assert!(full > if engine == EngineKind::Memory { 50 } else { 12 }, "{full}");
}
