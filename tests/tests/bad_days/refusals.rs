//! Starts that must fail: each names the problem, ends with code 1, and leaves the disk unchanged.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metastore_proto::etcdserverpb::PutResponse;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::mount::is_root;
use metastore_tests::programs::{EngineKind, Server};
use metastore_tests::{paths, programs};

use super::observe::tree;
use super::{block_on, put_request, subject};

/// How long a start that must fail may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// A user without rights, for tests that run as root.
const NOBODY: &str = "65534";

/// Starts `member`, and expects it to end with code 1. One line of its log must contain all of `texts`.
pub fn expect_refusal(member: &mut Member, texts: &[&str]) {
    assert!(member.try_restart().is_err(), "it must not start; wanted: {texts:?}");
    let status = member.wait_exit(PATIENCE).expect("it ends");
    let log = member.log();
    assert_eq!(status.code(), Some(1), "{log:#?}");
    let says = log.iter().any(|line| texts.iter().all(|text| line.contains(text)));
    assert!(says, "no line with {texts:?} in {log:#?}");
}

/// A member on the directory `data_dir`.
fn on_directory_of(server: &Server, data_dir: &Path) -> Member {
    Member::new(server, &["--data-dir", &data_dir.to_string_lossy()])
}

pub fn put_some(member: &Member) {
    block_on(async {
        let client = Client::new(member.client_address());
        for number in 0..50 {
            let put = put_request(&format!("key {number}"), &"value".repeat(20));
            let _: PutResponse = client.unary(paths::PUT, put).await.expect("a Put is answered");
        }
    });
}

#[test]
fn a_port_in_use_is_named_and_no_directory_is_made() {
    let Some(subject) = subject("port in use", EngineKind::Memory) else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    for flag in ["--listen-client-urls", "--listen-peer-urls"] {
        let mut member = Member::new(&subject, &[flag, &format!("http://{address}")]);
        expect_refusal(&mut member, &[&format!("listen tcp {address}: bind: Address already in use"), "\"error\""]);
        assert!(!member.data_directory().exists(), "{flag}: a directory was made");
    }
}

#[test]
fn an_unwritable_directory_is_named() {
    let Some(subject) = subject("unwritable directory", EngineKind::Memory) else { return };
    let directory = Directory::new("unwritable");
    let file = directory.path().join("file");
    std::fs::write(&file, "a file").expect("writable");
    let below = file.join("data");
    expect_refusal(
        &mut on_directory_of(&subject, &below),
        &["cannot create directory", &file.to_string_lossy(), "\"error\""],
    );

    let Some(setpriv) = programs::or_skip("unwritable directory", programs::tool("setpriv")) else { return };
    let read_only = directory.path().join("read-only");
    std::fs::create_dir(&read_only).expect("writable");
    for path in [directory.path(), &read_only] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o555)).expect("it is ours");
    }
    let wanted = read_only.join("data");
    let mut member = on_directory_of(&subject, &wanted);
    // The binary may be in a directory that only its owner can read.
    let copy = directory.path().join("metastore");
    std::fs::copy(&subject.binary, &copy).expect("the binary can be copied");
    if is_root() {
        let flags = [&*setpriv.to_string_lossy(), "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        member = on_directory_of(&Server { binary: copy, ..subject }, &wanted);
        member.wrap_in(&flags.map(String::from));
    }
    expect_refusal(&mut member, &[&wanted.to_string_lossy(), "Permission denied"]);
    assert!(!wanted.exists());
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
}

each_engine!(
    an_etcd_does_not_start_on_the_directory_of_a_running_member,
    a_second_process_is_kept_out,
    a_damaged_log_is_named_and_kept,
    state_without_its_log_is_refused
);

fn a_second_process_is_kept_out(engine: EngineKind) {
    let Some(subject) = subject("second process", engine) else { return };
    let first = Member::start(&subject, &[]);
    put_some(&first);
    let data = first.data_directory();
    let before = tree(&data);
    let texts = [&*data.to_string_lossy(), "another process uses this directory"];
    expect_refusal(&mut on_directory_of(&subject, &data), &texts);
    assert_eq!(tree(&data), before, "changed below {}", data.display());
    put_some(&first);
}

#[test]
fn the_directory_of_an_etcd_is_left_alone() {
    let found = programs::subject(EngineKind::Memory)
        .and_then(|subject| Ok((subject, programs::etcd(&programs::reference_flavor())?)));
    let Some((subject, etcd)) = programs::or_skip("directory of an etcd", found) else { return };
    let mut reference = Member::start(&Server::etcd(&etcd), &[]);
    put_some(&reference);
    reference.terminate();
    let data = reference.data_directory();
    let before = tree(&data);
    let file = data.join("member/snap/db");
    let texts = ["this is the data directory of an etcd", &file.to_string_lossy()];
    expect_refusal(&mut on_directory_of(&subject, &data), &texts);
    assert_eq!(tree(&data), before, "changed below {}", data.display());
    reference.restart();
}

/// It would append to the member's log, beside the member.
fn an_etcd_does_not_start_on_the_directory_of_a_running_member(engine: EngineKind) {
    let found =
        programs::subject(engine).and_then(|subject| Ok((subject, programs::etcd(&programs::reference_flavor())?)));
    let Some((subject, etcd)) = programs::or_skip("an etcd beside a member", found) else { return };
    let mut member = Member::start(&subject, &[]);
    put_some(&member);
    let mut intruder = on_directory_of(&Server::etcd(&etcd), &member.data_directory());
    assert!(intruder.try_restart().is_err(), "an etcd serves beside the member");
    let status = intruder.wait_exit(PATIENCE).expect("it ends");
    assert!(!status.success(), "{:#?}", intruder.log());
    put_some(&member);
    member.kill();
    member.restart();
    put_some(&member);
}

fn a_damaged_log_is_named_and_kept(engine: EngineKind) {
    let Some(subject) = subject("damaged log", engine) else { return };
    let mut member = Member::start(&subject, &[]);
    put_some(&member);
    member.kill();
    let data = member.data_directory();
    let (segment, mut bytes) = only_segment(&data);
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
    bytes[used / 2] ^= 0x10;
    std::fs::write(&segment, bytes).expect("writable");
    let before = tree(&data);
    expect_refusal(&mut member, &["the write-ahead log is damaged", &segment.to_string_lossy(), "offset"]);
    assert_eq!(tree(&data), before, "changed below {}", data.display());
}

fn only_segment(data: &Path) -> (PathBuf, Vec<u8>) {
    let names = std::fs::read_dir(data.join("member/wal")).expect("readable");
    let paths = names.map(|entry| entry.expect("readable").path());
    let segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    assert_eq!(segments.len(), 1, "{segments:?}");
    let bytes = std::fs::read(&segments[0]).expect("readable");
    (segments[0].clone(), bytes)
}

fn state_without_its_log_is_refused(engine: EngineKind) {
    let Some(subject) = subject("log directory emptied", engine) else { return };
    let directory = Directory::new("wal");
    let wal = directory.path().join("wal");
    let mut member = Member::new(&subject, &["--wal-dir", &wal.to_string_lossy()]);
    member.restart();
    put_some(&member);
    member.terminate();
    let data = member.data_directory();
    let texts = ["the directory of the log is empty", &wal.to_string_lossy()];
    let kept = directory.path().join("kept");
    std::fs::rename(&wal, &kept).expect("writable");

    for is_there in [true, false] {
        if is_there {
            std::fs::create_dir(&wal).expect("writable");
        } else {
            std::fs::remove_dir_all(&wal).expect("writable");
        }
        let before = (tree(&data), tree(directory.path()));
        expect_refusal(&mut member, &texts);
        assert_eq!((tree(&data), tree(directory.path())), before, "changed below {}", data.display());
    }

    // Nor does the member accept the log of another member.
    let mut stranger = Member::new(&subject, &["--wal-dir", &wal.to_string_lossy()]);
    stranger.restart();
    stranger.terminate();
    let before = (tree(&data), tree(&wal));
    expect_refusal(&mut member, &["the log is that of member", &wal.to_string_lossy()]);
    assert_eq!((tree(&data), tree(&wal)), before, "changed below {}", data.display());

    // With its own log back, the member starts again.
    std::fs::remove_dir_all(&wal).expect("writable");
    std::fs::rename(&kept, &wal).expect("writable");
    member.restart();
    put_some(&member);
}
