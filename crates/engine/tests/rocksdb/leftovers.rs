//! Files that a crash leaves beside the database.

use crate::disk::{Disk, append, publish};
use metastore_engine::{Engine, Revision};
use std::fs;

#[test]
fn what_a_crash_left_beside_the_database_is_removed_and_nothing_else() {
    let disk = Disk::new();
    let engine = disk.open();
    append(&engine, b"a", Revision::new(1, 0), false);
    publish(&engine, 1);
    let checkpoint = engine.checkpoint().unwrap();
    drop(engine);
    let beside = |name: &str| disk.path().with_file_name(name);
    for name in
        ["state.new", "state.checkpoint-1-2", "state.checkpoint-3-4.tmp", "state.backup", "state2.new", "statenew"]
    {
        fs::create_dir(beside(name)).unwrap();
        fs::write(beside(name).join("CURRENT"), "MANIFEST-000001\n").unwrap();
    }
    fs::write(beside("state.checkpoint-notes"), "a file").unwrap();
    let engine = disk.open();
    assert_eq!(engine.published().revision, 1);
    let mut left: Vec<_> =
        fs::read_dir(disk.path().parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["state", "state.backup", "state.checkpoint-notes", "state2.new", "statenew"]);
    // Its files were removed while it was open, which only this test does.
    drop(checkpoint);
}

#[test]
fn a_database_that_was_not_finished_is_made_anew() {
    let disk = Disk::new();
    let unfinished = disk.path().with_file_name("state.new");
    // At each stage of its creation: an empty directory, and one with the files of a database.
    fs::create_dir(&unfinished).unwrap();
    drop(disk.open());
    let other = Disk::new();
    drop(other.open());
    fs::rename(other.path(), &unfinished).unwrap();
    fs::remove_dir_all(disk.path()).unwrap();
    let engine = disk.open();
    assert!(!unfinished.exists());
    assert_eq!(engine.published(), Default::default());
}

#[test]
fn a_checkpoint_takes_its_directory_with_it() {
    let disk = Disk::new();
    let engine = disk.open();
    let names = || fs::read_dir(disk.path().parent().unwrap()).unwrap().count();
    let checkpoints = [engine.checkpoint().unwrap(), engine.checkpoint().unwrap()];
    assert_eq!(names(), 3);
    drop(checkpoints);
    assert_eq!(names(), 1);
}
