//! A stopped member is converted to the other engine, and the power is lost during the conversion.

use std::path::Path;
use std::sync::{Arc, Mutex};

use metastore_replica::disk::{CrashPolicy, Disk};
use metastore_replica::{ConvertError, Converted, convert};

use crate::machine::{EngineKind, Machine};
use crate::script::{mix, run};
use crate::world::{Answered, Reference, World, open, paths, settings};

const SEED: u64 = 3;
const ROUNDS: u64 = 50;

fn convert_with(
    machine: &Machine,
    to: EngineKind,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<Converted>, ConvertError> {
    convert_holding(machine, to, progress, None)
}

/// Engines that a test keeps open.
type Held = Arc<Mutex<Vec<Arc<dyn metastore_engine::Engine>>>>;

/// Puts the member's present engine into `held`. Until `held` is dropped, the engine is not closed, so nothing is
/// flushed.
fn convert_holding(
    machine: &Machine,
    to: EngineKind,
    progress: &mut dyn FnMut(u64, u64),
    held: Option<Held>,
) -> Result<Option<Converted>, ConvertError> {
    let disk: Arc<dyn Disk> = Arc::new(machine.clone());
    let machine = machine.clone();
    let open = move |name: &str, path: &Path| {
        let engine = if name == to.name() { to } else { to.other() };
        assert_eq!(engine.name(), name);
        let opened = machine.open_engine(engine, path)?;
        if let (true, Some(held)) = (engine != to, &held) {
            held.lock().unwrap().push(opened.clone());
        }
        Ok(opened)
    };
    convert(settings(to), disk, paths(), open, progress)
}

/// A stopped member, its commands and answers, and the states that follow from them.
fn member(engine: EngineKind) -> (Machine, Answered, Reference) {
    let mut world = World::new(engine);
    run(&mut world, SEED, ROUNDS).unwrap();
    assert!(world.snapshots > 1, "{}", world.snapshots);
    let reference = Reference::of(&world.told.proposed);
    let machine = world.disk.fork();
    (machine, world.told, reference)
}

/// The engine that the identity names.
fn recorded(machine: &Machine) -> EngineKind {
    let json = machine.read(&paths().member().join("identity.json")).unwrap();
    let json = String::from_utf8(json).unwrap();
    if json.contains("\"memory\"") { EngineKind::Memory } else { EngineKind::RocksDb }
}

/// Checks that the member has the engine and the expected state, and that no file of the other engine is left.
fn check(machine: &Machine, engine: EngineKind, told: &Answered, reference: &Reference, context: &str) {
    assert_eq!(recorded(machine), engine, "{context}");
    let machine = machine.with(engine).fork();
    told.check(&machine.fork(), reference, context);
    drop(open(&machine).unwrap());
    let states: Vec<_> = machine.list(&paths().snap()).unwrap();
    match engine {
        EngineKind::Memory => assert_eq!(machine.directories(), Vec::<String>::new(), "{context}"),
        EngineKind::RocksDb => {
            assert_eq!(machine.directories(), ["rocksdb"], "{context}");
            assert_eq!(states, Vec::<String>::new(), "{context}");
        }
    }
}

each_engine!(a_member_is_converted_and_back);

fn a_member_is_converted_and_back(engine: EngineKind) {
    let (machine, told, reference) = member(engine);
    let mut reports = Vec::new();
    let converted = convert_with(&machine, engine.other(), &mut |done, total| reports.push((done, total)));
    let converted = converted.unwrap().expect("it had the other engine");
    assert_eq!(converted.from, engine.name());
    assert!(converted.applied.index as usize > told.acknowledged);
    let (done, total) = *reports.last().unwrap();
    assert!(done <= total && done * 10 > total * 9, "{reports:?}");
    assert!(reports.is_sorted());
    check(&machine, engine.other(), &told, &reference, "once");
    assert_eq!(convert_with(&machine, engine.other(), &mut |_, _| ()).unwrap(), None, "nothing is left to do");
    convert_with(&machine, engine, &mut |_, _| ()).unwrap().unwrap();
    check(&machine, engine, &told, &reference, "there and back");
    let again = convert_with(&machine, engine.other(), &mut |_, _| ()).unwrap().unwrap();
    assert!(again.applied.index > converted.applied.index, "each start begins a term");
    check(&machine, engine.other(), &told, &reference, "a third time");
}

each_engine!(a_crash_leaves_a_member_of_one_engine);

fn a_crash_leaves_a_member_of_one_engine(engine: EngineKind) {
    let (machine, told, reference) = member(engine);
    let to = engine.other();
    let (mut old, mut new) = (0, 0);
    for n in 0.. {
        let mut fork = machine.fork();
        fork.crash_after(n);
        let result = convert_with(&fork, to, &mut |_, _| ());
        let held = Held::default();
        if recorded(&fork.crash(CrashPolicy::DropUnsynced)) == engine {
            // Once more, without the flush that closing the engine does. (Once the member is converted, the engine must
            // be closed, because its files are removed.)
            fork = machine.fork();
            fork.crash_after(n);
            convert_holding(&fork, to, &mut |_, _| (), Some(held.clone())).unwrap_err();
        }
        for policy in [CrashPolicy::DropUnsynced, CrashPolicy::Random(n)] {
            let context = format!("crash after {n} operations, {policy:?}");
            let after = fork.crash(policy);
            let found = recorded(&after);
            if found == engine {
                old += 1
            } else {
                new += 1
            };
            check(&after, found, &told, &reference, &context);
            convert_with(&after, to, &mut |_, _| ()).unwrap_or_else(|error| panic!("{context}, again: {error}"));
            check(&after, to, &told, &reference, &format!("{context}, again"));
        }
        drop(held);
        if result.is_ok() {
            break;
        }
    }
    assert!(old > 10 && new > 2, "{old} and {new}");
}

each_engine!(a_kill_while_the_state_is_copied_leaves_the_member_as_it_was);

fn a_kill_while_the_state_is_copied_leaves_the_member_as_it_was(engine: EngineKind) {
    let (machine, told, reference) = member(engine);
    let to = engine.other();
    let mut killed = Vec::new();
    convert_with(&machine, to, &mut |_, _| killed.push(machine.fork())).unwrap();
    assert!(killed.len() > 2, "{}", killed.len());
    for (k, killed) in killed.into_iter().enumerate().filter(|(k, _)| mix(1, *k as u64).is_multiple_of(2)) {
        let context = format!("killed at piece {k}");
        check(&killed, engine, &told, &reference, &context);
        convert_with(&killed, to, &mut |_, _| ()).unwrap();
        check(&killed, to, &told, &reference, &format!("{context}, again"));
    }
}

#[test]
fn what_is_no_member_is_not_converted() {
    let machine = Machine::new(EngineKind::Memory);
    let error = convert_with(&machine, EngineKind::RocksDb, &mut |_, _| ()).unwrap_err().to_string();
    assert_eq!(error, "/data/member: there is no member here to convert; check --data-dir");
    assert!(!machine.exists(&paths().data_dir).unwrap(), "nothing was made");
    let mut world = World::new(EngineKind::Memory);
    world.start().unwrap();
    let error = convert_with(&world.disk, EngineKind::RocksDb, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("another process uses this directory"), "{error}");
}
