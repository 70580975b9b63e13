//! Files that are no backups, and directories that are not empty: a clear error, and nothing is left behind.

use std::path::{Path, PathBuf};

use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::programs::EngineKind;

use super::content::change;
use super::{Programs, shown};

/// A backup, and its directory.
fn backup(programs: &Programs, name: &str) -> (Directory, PathBuf) {
    let directory = Directory::new(name);
    let file = directory.path().join("backup");
    let saved = Member::start(&programs.subject, &[]);
    block_on(async { change(&Client::new(saved.client_address()), 8).await });
    programs.metactl.run(&["snapshot", "save", &shown(&file), "--endpoints", saved.client_address()]);
    (directory, file)
}

/// Restores a file, which must fail with this text and leave no directory.
fn refused(programs: &Programs, file: &Path, more: &[&str], text: &str) {
    let new = file.with_extension("restored");
    let (from, to) = (shown(file), shown(&new));
    let said = programs.metactl.fails(1, &[&["snapshot", "restore", &from, "--data-dir", &to][..], more].concat());
    assert!(said.contains(text), "{said}");
    assert!(!new.exists(), "{text}: something is left");
}

#[test]
fn a_file_that_is_no_whole_backup_is_refused() {
    let Some(programs) = Programs::find("bad backups", EngineKind::Memory, "newest") else { return };
    let (directory, file) = backup(&programs, "bad backups");
    let bytes = std::fs::read(&file).expect("the backup");
    let damaged = directory.path().join("damaged");
    let write = |bytes: &[u8]| std::fs::write(&damaged, bytes).expect("a file");
    let unchecked = &["--skip-hash-check"][..];
    refused(&programs, &directory.path().join("nothing"), &[], "No such file or directory");
    write(&bytes[..bytes.len() - 32]);
    refused(&programs, &damaged, &[], "snapshot missing hash but --skip-hash-check=false");
    write(&[&bytes[..4096 * 3], &bytes[bytes.len() - 32..]].concat());
    refused(&programs, &damaged, &[], "expected sha256");
    refused(&programs, &damaged, unchecked, "the database was cut off");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    write(&flipped);
    refused(&programs, &damaged, &[], "expected sha256");
    write(&[b"no database, whatever its name says".repeat(200), vec![0; 32]].concat());
    refused(&programs, &damaged, unchecked, "this is no database of bbolt");
    write(b"");
    refused(&programs, &damaged, unchecked, "this is no database of bbolt");
    // Without a digest the pages themselves are checked; a damaged row is named by its place.
    let mut lost = bytes.clone();
    let page = 4096 * 5;
    lost[page..page + 4096].fill(0);
    write(&lost);
    refused(&programs, &damaged, unchecked, "the database is damaged at page 5");
}

#[test]
fn a_directory_with_something_in_it_is_not_restored_into() {
    let Some(programs) = Programs::find("restore into a directory", EngineKind::Memory, "newest") else { return };
    let (directory, file) = backup(&programs, "full directories");
    let full = directory.path().join("full");
    std::fs::create_dir(&full).expect("a directory");
    std::fs::write(full.join("precious"), "data").expect("a file");
    let (from, to) = (shown(&file), shown(&full));
    let said = programs.metactl.fails(1, &["snapshot", "restore", &from, "--data-dir", &to]);
    assert!(said.contains("not empty or could not be read"), "{said}");
    assert_eq!(std::fs::read(full.join("precious")).expect("it is there"), b"data");
    let new = shown(&directory.path().join("new"));
    let said = programs.metactl.fails(1, &["snapshot", "restore", &from, "--data-dir", &new, "--wal-dir", &to]);
    assert!(said.contains("wal-dir") && !Path::new(&new).exists(), "{said}");
    let said = programs.metactl.fails(
        1,
        &["snapshot", "restore", &from, "--data-dir", &new, "--name", "x", "--initial-cluster", "y=http://a:1"],
    );
    assert!(said.contains("couldn't find local name \"x\""), "{said}");
    assert!(!Path::new(&new).exists());
}
