//! A defragmentation lowers the member's high-water mark, and it stays lowered wherever the power is lost.
//!
//! All other tests check that the high-water mark is right after each crash without a defragmentation: it is part of
//! [`State`].

use metastore_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest};
use metastore_replica::Output;
use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_store::command::{Command, Kind};

use crate::machine::{EngineKind, Machine};
use crate::script::{mix, random_group};
use crate::world::{Answered, Reference, State, Stopped, World, open, paths, put, take_up};

/// Number of groups of commands before and after.
const GROUPS: u64 = 10;
/// Bytes of a value that exists for a while: more than all other values together.
const LARGE: usize = 9000;

/// The progress of a script.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Defragmented {
    /// Number of commands proposed before the defragmentation; `None` if it was not requested.
    after: Option<usize>,
    answered: bool,
}

fn run(world: &mut World, seed: u64, done: &mut Defragmented) -> Result<(), Stopped> {
    world.start()?;
    for round in 0..GROUPS {
        random_group(world, mix(seed, round))?;
    }
    world.group([|id| put(id, "large", &"x".repeat(LARGE))])?;
    let delete = DeleteRangeRequest { key: "large".into(), ..DeleteRangeRequest::default() };
    world.group([|id| Command::encode(id, Kind::DeleteRange, &delete)])?;
    let compaction = CompactionRequest { revision: world.replica().store().revision(), physical: false };
    world.group([|id| Command::encode(id, Kind::Compaction, &compaction)])?;
    done.after = Some(world.told.proposed.len());
    world.defragment()?;
    done.answered = true;
    for round in GROUPS..2 * GROUPS {
        random_group(world, mix(seed, round))?;
        if round % 9 == 8 {
            world.start()?;
        }
    }
    Ok(())
}

/// The states that a member may be in.
struct Possible(Vec<State>);

impl Possible {
    fn of(told: &Answered, done: Defragmented) -> Self {
        let fallen = done.after.map(|after| Reference::lowered(&told.proposed, after));
        let unfallen = (!done.answered).then(|| Reference::of(&told.proposed));
        let states = |reference: Reference| reference.states.into_iter().skip(told.acknowledged);
        Self(fallen.into_iter().chain(unfallen).flat_map(states).collect())
    }

    /// Starts a member on the disk that the crash left; returns its state.
    fn check(&self, machine: &Machine, context: &str) -> State {
        let (mut replica, _) = open(machine).unwrap_or_else(|error| panic!("{context}: {error}"));
        take_up(&mut replica, &mut Output::default()).unwrap_or_else(|error| panic!("{context}: {error}"));
        let state = State::of(replica.store());
        assert!(self.0.contains(&state), "{context}: {state:?} is none of {:?}", self.0);
        state
    }
}

each_engine!(the_mark_stays_where_it_fell_wherever_the_power_goes);

fn the_mark_stays_where_it_fell_wherever_the_power_goes(engine: EngineKind) {
    let every = if engine == EngineKind::Memory { 1 } else { 3 };
    let mut answered = 0;
    for n in (0..).step_by(every) {
        let disk = Machine::new(engine);
        disk.crash_after(n);
        let (mut world, mut done) = (World::on(disk, Answered::default()), Defragmented::default());
        let through = run(&mut world, 5, &mut done).is_ok();
        answered += usize::from(done.answered);
        let possible = Possible::of(&world.told, done);
        for policy in [CrashPolicy::DropUnsynced, CrashPolicy::Random(n)] {
            let context = format!("crash after {n} operations, {policy:?}");
            let after = world.disk.crash(policy);
            let state = possible.check(&after, &context);
            assert_eq!(possible.check(&after, &context), state, "{context}: a second start");
        }
        if through {
            break;
        }
    }
    assert!(answered > 40 / every, "the power goes after it, too: {answered}");
}

each_engine!(the_mark_falls_amid_everything);

/// Snapshots, flushes and compactions are under way, in as many ways as there are seeds.
fn the_mark_falls_amid_everything(engine: EngineKind) {
    for seed in 0..if engine == EngineKind::Memory { 100 } else { 12 } {
        let (mut world, mut done) = (World::new(engine), Defragmented::default());
        run(&mut world, seed, &mut done).unwrap();
        let possible = Possible::of(&world.told, done);
        let state = possible.check(&world.disk.crash(CrashPolicy::DropUnsynced), &format!("seed {seed}"));
        assert_ne!(Reference::of(&world.told.proposed).states.last(), Some(&state), "it fell");
    }
}

#[test]
fn notes_of_where_the_mark_fell_go_with_the_log() {
    let mut world = World::new(EngineKind::Memory);
    world.start().unwrap();
    let notes = |world: &World| {
        let names = world.disk.list(&paths().snap()).unwrap();
        names.into_iter().filter(|name| name.ends_with(".defragment")).count()
    };
    for round in 0..20 {
        random_group(&mut world, round).unwrap();
        world.defragment().unwrap();
    }
    assert!((1..20).contains(&notes(&world)), "{}", notes(&world));
    let before = world.snapshots;
    for round in 0.. {
        random_group(&mut world, round).unwrap();
        if world.snapshots > before + 1 {
            break;
        }
    }
    assert_eq!(notes(&world), 0);
}

each_engine!(more_compactions_than_may_wait_are_applied_again);

/// Each compaction is complete before the next one, as it was the first time. So the rows stored between them count for
/// the high-water mark.
fn more_compactions_than_may_wait_are_applied_again(engine: EngineKind) {
    let machine = Machine::new(engine);
    let (mut replica, _) = open(&machine).unwrap();
    take_up(&mut replica, &mut Output::default()).unwrap();
    for id in (0..200).step_by(2) {
        let value = "x".repeat(if id == 2 { LARGE } else { 1 });
        replica.propose(put(id, "key", &value)).unwrap();
        take_up(&mut replica, &mut Output::default()).unwrap();
        let compaction = CompactionRequest { revision: replica.store().revision(), physical: false };
        replica.propose(Command::encode(id + 1, Kind::Compaction, &compaction)).unwrap();
        take_up(&mut replica, &mut Output::default()).unwrap();
    }
    let state = State::of(replica.store());
    let (mut again, _) = open(&machine.crash(CrashPolicy::DropUnsynced)).unwrap();
    take_up(&mut again, &mut Output::default()).unwrap();
    assert_eq!(State::of(again.store()), state);
}
