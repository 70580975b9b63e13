//! A disk that is full: writes end in an error, nothing acknowledged is lost, and with room the member goes on.

use std::time::Duration;

use metastore_tests::grpc::never_taken;
use metastore_tests::member::Member;
use metastore_tests::mount::Mount;
use metastore_tests::programs::{self, Engine};
use tonic::Status;

use super::block_on;
use super::ledger::Ledger;

/// Writes that fill any of the disks: more than 300 MiB. The Memory engine stores its state once the log has 256 MiB.
const WRITES: usize = 8_000;
/// Writes that are made when there is room again.
const MORE_WRITES: usize = 1000;
/// What the log needs at the least is one segment of 64 MiB and the next one.
const SMALL_MIB: u32 = 192;
/// A state that is no larger than this would not have been written out yet.
const SMALL_STATE_MIB: u32 = 64;
const LARGE_MIB: u32 = 2048;
/// How long a member that stops may take to do so.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// What everybody is told whose request the member has taken up.
const STOPPED: &str = "etcdserver: server stopped";
/// ENOSPC in words.
const FULL: &str = "No space left on device";

each_engine!(a_full_disk, a_full_disk_of_the_log, a_full_disk_of_the_state);

fn a_full_disk(engine: Engine) {
    fill(engine, "a full disk", SMALL_MIB, |mount| vec![format!("--data-dir={mount}/data")]);
}

fn a_full_disk_of_the_log(engine: Engine) {
    let test = "a full disk of the log";
    let refused = fill(engine, test, SMALL_MIB, |mount| vec![format!("--wal-dir={mount}/wal")]);
    // A write that cannot be logged has somebody who waits for it.
    assert!(refused.is_none_or(|refused| refused.iter().any(is_told)), "{test}: nobody was told");
}

fn a_full_disk_of_the_state(engine: Engine) {
    let log = metastore_tests::member::Directory::new("log");
    let log = log.path().display();
    fill(engine, "a full disk of the state", SMALL_STATE_MIB, |mount| {
        vec![format!("--data-dir={mount}/data"), format!("--wal-dir={log}/wal")]
    });
}

/// Whether the member itself has refused a write.
fn is_told(status: &Status) -> bool {
    status.message() == STOPPED
}

/// Fills the file system that the flags name; then makes it larger. How the clients were refused, if the test can run here.
fn fill(engine: Engine, test: &str, mib: u32, flags: impl FnOnce(String) -> Vec<String>) -> Option<Vec<Status>> {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, Mount::in_memory(mib)?)));
    let (subject, mount) = programs::or_skip(test, found)?;
    let flags = flags(mount.path().display().to_string());
    let mut member = Member::start(&subject, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let address = member.client_address().to_string();
    let mut ledger = Ledger::new(3);
    let refused = block_on(ledger.write_some(&address, WRITES));
    let first = refused.first().unwrap_or_else(|| panic!("the disk is not full after {WRITES} writes"));
    println!("{test}: {} clients were refused: {first:?}", refused.len());
    assert!(refused.iter().all(|status| is_told(status) || never_taken(status)), "{refused:#?}");
    let status = member.wait_exit(STOP_PATIENCE).expect("a member that cannot write stops");
    expect_explained(&member, status.code());

    // As long as there is no room it may not start, but it says why.
    match member.try_restart() {
        Ok(()) => member.kill(),
        Err(_) => {
            let status = member.wait_exit(STOP_PATIENCE).expect("a member that cannot start ends");
            expect_explained(&member, status.code());
        }
    }

    mount.grow(LARGE_MIB);
    member.restart();
    block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("{test}, with room again: {reason}"));
    let late = block_on(ledger.write_some(&address, MORE_WRITES));
    assert!(late.is_empty(), "{test}, with room again: {late:#?}");
    member.kill();
    member.restart();
    block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("{test}, after a restart: {reason}"));
    Some(refused)
}

/// The member ended as one that says what went wrong.
fn expect_explained(member: &Member, code: Option<i32>) {
    let log = member.log();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("\"level\":\"error\"") && line.contains(FULL)), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
}
