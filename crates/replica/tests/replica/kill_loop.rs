//! Random commands; the power is lost at a random operation, the member restarts on the same disk, and so on.

use metastore_replica::disk::CrashPolicy;

use crate::machine::{EngineKind, Machine};
use crate::script::{mix, random_group};
use crate::world::{Answered, Reference, World};

/// Number of members, each with a disk of its own.
const LIVES: u64 = 12;
/// Number of power losses for each member.
const LOSSES: u64 = 25;
/// Maximum number of operations before a power loss.
const MAX_OPERATIONS: u64 = 60;

fn policy(choice: u64) -> CrashPolicy {
    match choice % 6 {
        0 => CrashPolicy::DropUnsynced,
        1 => CrashPolicy::KeepUnsynced,
        2 => CrashPolicy::Kill,
        _ => CrashPolicy::Random(choice),
    }
}

/// Lets a member work until the power is lost.
fn work(world: &mut World, seed: u64) {
    if world.start().is_err() {
        return;
    }
    for round in 0.. {
        if random_group(world, mix(seed, round)).is_err() {
            return;
        }
    }
}

each_engine!(nothing_acknowledged_is_lost_however_often_the_power_goes);

fn nothing_acknowledged_is_lost_however_often_the_power_goes(engine: EngineKind) {
    let (mut acknowledged, mut snapshots) = (0, 0);
    for life in 0..LIVES {
        let (mut disk, mut told) = (Machine::new(engine), Answered::default());
        for loss in 0..LOSSES {
            let seed = mix(life, loss);
            let context = format!("life {life}, loss {loss}");
            disk.crash_after(mix(seed, 1) % MAX_OPERATIONS);
            let mut world = World::on(disk, told);
            work(&mut world, seed);
            let reference = Reference::of(&world.told.proposed);
            world.told.check_outcomes(&reference, &context);
            acknowledged += world.told.outcomes.len();
            snapshots += world.snapshots;
            let policy = policy(mix(seed, 2));
            disk = world.disk.crash(policy);
            let (held, _) = world.told.check(&disk.fork(), &reference, &context);
            // Lost commands are lost for good. The others may be relied on, unless only the page cache holds them.
            let acknowledged = if policy == CrashPolicy::Kill { world.told.acknowledged } else { held };
            told = Answered { acknowledged, ..Answered::default() };
            told.proposed = world.told.proposed[..held].to_vec();
        }
    }
    assert!(acknowledged > 2000 && snapshots > 50, "the members work: {acknowledged} commands, {snapshots} snapshots");
}
