//! Damage that an open refuses, without changing a file.

use crate::disk::{Disk, append, name, publish};
use metastore_engine::{Engine, Revision};
use std::fs;

/// The number of keys in each table file.
const KEYS: i64 = 200;

/// A closed database of several flushes.
fn filled() -> Disk {
    let disk = Disk::new();
    let engine = disk.open();
    for revision in 1..=3 {
        for sub in 0..KEYS {
            append(&engine, format!("key{sub}").as_bytes(), Revision::new(revision, sub), false);
        }
        publish(&engine, revision);
        engine.flush().expect("flush");
    }
    drop(engine);
    disk
}

/// The open must be refused. The error must contain all of `words`, and no file may change.
fn refused(disk: &Disk, words: &[&str]) {
    let before = disk.contents();
    let error = disk.try_open().err().unwrap_or_else(|| panic!("opened, without {words:?}")).to_string();
    assert!(before == disk.contents(), "files were changed by an opening that was refused");
    let path = disk.path().display().to_string();
    for word in [&path[..], "Restore the directory from a copy, or replace this member"].iter().chain(words) {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn a_directory_without_the_file_that_names_the_others() {
    let disk = filled();
    fs::remove_file(disk.path().join("CURRENT")).unwrap();
    refused(&disk, &["CURRENT is missing"]);
}

#[test]
fn a_garbled_name_of_the_manifest() {
    let disk = filled();
    fs::write(disk.path().join("CURRENT"), "MANIFEST").unwrap();
    refused(&disk, &["CURRENT"]);
}

#[test]
fn a_missing_manifest() {
    let disk = filled();
    let manifest = disk.manifest();
    fs::remove_file(&manifest).unwrap();
    refused(&disk, &[&name(&manifest)]);
}

#[test]
fn a_garbled_manifest() {
    let disk = filled();
    let manifest = disk.manifest();
    let bytes = fs::read(&manifest).unwrap();
    // The length of a record is at offset 404. If it is wrong, RocksDB takes the rest of the file for torn off.
    for at in (0..bytes.len()).step_by(bytes.len() / 23).chain([404]) {
        let mut garbled = bytes.clone();
        garbled[at] ^= 0x10;
        fs::write(&manifest, garbled).unwrap();
        refused(&disk, &[]);
    }
}

/// RocksDB alone would open an older state, or an empty one, and delete the files of the newer state.
#[test]
fn a_manifest_that_was_cut_short() {
    let disk = filled();
    let manifest = disk.manifest();
    let bytes = fs::read(&manifest).unwrap();
    for length in (0..bytes.len()).step_by(bytes.len() / 23) {
        fs::write(&manifest, &bytes[..length]).unwrap();
        refused(&disk, &[]);
    }
    fs::write(&manifest, bytes).unwrap();
    assert_eq!(disk.open().published().revision, 3);
}

#[test]
fn a_garbled_note_of_the_last_flush() {
    let disk = filled();
    fs::write(disk.path().join("FLUSHED"), "3O").unwrap();
    refused(&disk, &["FLUSHED", "3O"]);
}

#[test]
fn a_missing_table_file() {
    let disk = filled();
    for file in disk.tables() {
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        refused(&disk, &[&name(&file)]);
        fs::write(&file, bytes).unwrap();
    }
    assert_eq!(disk.open().published().revision, 3);
}

#[test]
fn a_truncated_table_file() {
    let disk = filled();
    for file in disk.tables() {
        let bytes = fs::read(&file).unwrap();
        for length in [0, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&file, &bytes[..length]).unwrap();
            refused(&disk, &[&name(&file)]);
        }
        fs::write(&file, bytes).unwrap();
    }
    assert_eq!(disk.open().published().revision, 3);
}

#[test]
fn a_file_where_the_directory_should_be() {
    let disk = Disk::new();
    fs::write(disk.path(), "a file").unwrap();
    let error = disk.try_open().err().expect("refused").to_string();
    assert!(error.contains("no directory"), "{error}");
    assert_eq!(fs::read(disk.path()).unwrap(), b"a file");
}
