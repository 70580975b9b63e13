//! A disk that is full without a warning, because it takes no more files: writes end in an error, no acknowledged write
//! is lost, and with new space the member goes on. (A member that sees its space run out raises an alarm instead: the
//! tests of the quota.)

use std::time::Duration;

use metastore_tests::grpc::never_taken;
use metastore_tests::member::Member;
use metastore_tests::mount::Mount;
use metastore_tests::programs::{self, EngineKind};
use tonic::Status;

use super::block_on;
use super::ledger::Ledger;

/// The number of writes that need new files on any of the disks: some hundred MiB. The Memory engine writes its state
/// once the log has 256 MiB.
const WRITES: usize = 8_000;
/// The number of writes that are made when there is space again.
const MORE_WRITES: usize = 1000;
/// The size of the disks.
const MIB: u32 = 4096;
/// How long a stopping member may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// The answer to all requests that the member has taken up.
const STOPPED: &str = "etcdserver: server stopped";
/// The text of ENOSPC.
const FULL: &str = "No space left on device";

each_engine!(a_full_disk, a_full_disk_of_the_log, a_full_disk_of_the_state);

fn a_full_disk(engine: EngineKind) {
    fill(engine, "a full disk", |mount| vec![format!("--data-dir={mount}/data")]);
}

fn a_full_disk_of_the_log(engine: EngineKind) {
    let test = "a full disk of the log";
    let refused = fill(engine, test, |mount| vec![format!("--wal-dir={mount}/wal")]);
    // A write that cannot be logged has a client that waits for its answer.
    assert!(refused.is_none_or(|refused| refused.iter().any(is_told)), "{test}: nobody was told");
}

fn a_full_disk_of_the_state(engine: EngineKind) {
    let log = metastore_tests::member::Directory::new("log");
    let log = log.path().display();
    fill(engine, "a full disk of the state", |mount| {
        vec![format!("--data-dir={mount}/data"), format!("--wal-dir={log}/wal")]
    });
}

/// Whether the member itself refused a write.
fn is_told(status: &Status) -> bool {
    status.message() == STOPPED
}

/// Fills the file system that the flags name, then makes room. Returns the refusals that the clients got, if the test
/// can run here.
fn fill(engine: EngineKind, test: &str, flags: impl FnOnce(String) -> Vec<String>) -> Option<Vec<Status>> {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, Mount::in_memory(MIB)?)));
    let (subject, mount) = programs::or_skip(test, found)?;
    let flags = flags(mount.path().display().to_string());
    let mut member = Member::start(&subject, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let address = member.client_address().to_string();
    mount.use_up_files();
    let mut ledger = Ledger::new(3);
    let refused = block_on(ledger.write_some(&address, WRITES));
    let first = refused.first().unwrap_or_else(|| panic!("the disk is not full after {WRITES} writes"));
    println!("{test}: {} clients were refused: {first:?}", refused.len());
    assert!(refused.iter().all(|status| is_told(status) || never_taken(status)), "{refused:#?}");
    let status = member.wait_exit(STOP_PATIENCE).expect("a member that cannot write stops");
    expect_explained(&member, status.code());

    // While there is no space the member may fail to start, but it must log the reason.
    match member.try_restart() {
        Ok(()) => member.kill(),
        Err(_) => {
            let status = member.wait_exit(STOP_PATIENCE).expect("a member that cannot start ends");
            expect_explained(&member, status.code());
        }
    }

    mount.remove_files();
    member.restart();
    block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("{test}, with room again: {reason}"));
    let late = block_on(ledger.write_some(&address, MORE_WRITES));
    assert!(late.is_empty(), "{test}, with room again: {late:#?}");
    member.kill();
    member.restart();
    block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("{test}, after a restart: {reason}"));
    Some(refused)
}

/// The member ended with an exit code and a log line that explain the cause.
fn expect_explained(member: &Member, code: Option<i32>) {
    let log = member.log();
    assert_eq!(code, Some(1), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("\"level\":\"error\"") && line.contains(FULL)), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
}
