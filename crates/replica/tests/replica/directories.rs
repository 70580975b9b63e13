//! The name of a data directory: drawn once, kept by restarts and conversions, and shared by copies.

use metastore_replica::disk::{Disk, LOST_AND_FOUND};
use metastore_replica::{Paths, Settings, convert};

use crate::machine::{EngineKind, Machine};
use crate::world::{open_with, paths, settings};

/// The settings of a start that drew `name` in case the directory has none.
fn drew(name: u64, engine: EngineKind) -> Settings {
    Settings { new_directory: Some(name), ..settings(engine) }
}

/// The name of the directory after one start.
fn start(machine: &Machine, settings: Settings) -> Option<u64> {
    let (replica, _) = open_with(settings, machine, paths()).unwrap();
    replica.directory()
}

each_engine!(a_directory_and_its_copies_have_one_name_for_good);

fn a_directory_and_its_copies_have_one_name_for_good(engine: EngineKind) {
    let machine = Machine::new(engine);
    assert_eq!(start(&machine, drew(7, engine)), Some(7));
    assert_eq!(start(&machine.fork(), drew(8, engine)), Some(7), "a copy");
    assert_eq!(start(&machine, drew(9, engine)), Some(7), "a restart");
    let other = engine.other();
    let (disk, opened) = (machine.clone(), machine.clone());
    let open = move |name: &str, path: &std::path::Path| {
        opened.open_engine(if name == other.name() { other } else { engine }, path)
    };
    convert(settings(other), std::sync::Arc::new(disk), paths(), open, &mut |_, _| {}).unwrap().expect("converted");
    assert_eq!(start(&machine.with(other), drew(10, other)), Some(7), "another engine");
    assert_eq!(start(&Machine::new(engine), drew(11, engine)), Some(11), "founded with the same settings elsewhere");
}

each_engine!(a_directory_without_a_name_gets_one_at_its_next_start);

fn a_directory_without_a_name_gets_one_at_its_next_start(engine: EngineKind) {
    let machine = Machine::new(engine);
    assert_eq!(start(&machine, settings(engine)), None);
    assert_eq!(start(&machine, drew(8, engine)), Some(8));
    assert_eq!(start(&machine, drew(9, engine)), Some(8));
}

each_engine!(a_directory_whose_name_is_damaged_is_refused);

/// Under another name it would be no copy of what it is a copy of.
fn a_directory_whose_name_is_damaged_is_refused(engine: EngineKind) {
    let machine = Machine::new(engine);
    assert_eq!(start(&machine, drew(7, engine)), Some(7));
    let path = paths().member().join("identity.json");
    let text = String::from_utf8(machine.read(&path).unwrap()).unwrap();
    let at = text.find("0000000000000007").expect("the name stands there");
    // The first digit becomes a p.
    machine.flip_bit(&path, at as u64, 6).unwrap();
    let refused = open_with(drew(8, engine), &machine, paths()).err().expect("it is damaged");
    assert!(refused.to_string().contains("is not a hexadecimal number"), "{refused}");
}

each_engine!(directories_may_be_the_roots_of_fresh_file_systems);

fn directories_may_be_the_roots_of_fresh_file_systems(engine: EngineKind) {
    let machine = Machine::new(engine);
    let separate = Paths { wal_dir: Some("/log".into()), ..paths() };
    for root in [paths().data_dir, paths().member(), paths().snap(), separate.wal()] {
        machine.create_dir_all(&root.join(LOST_AND_FOUND)).unwrap();
    }
    for _ in 0..2 {
        open_with(settings(engine), &machine, separate.clone()).expect("a start");
    }
}
