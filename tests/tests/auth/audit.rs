//! The audit log: what is in it, and a file that somebody removes or that hangs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, enable, log_in, permission};
use metastore_tests::cluster::{block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::lease::{KeepAliveStream, grant_all};
use metastore_tests::member::{Directory, Member};
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use serde_json::Value;

use crate::bad_days::observe::eventually;

/// Linux: a write to a full pipe fails, and does not wait.
const O_NONBLOCK: i32 = 0o4000;

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn flags(path: &Path) -> [String; 2] {
    [format!("--audit-log={}", path.display()), CHEAP_PASSWORDS.to_owned()]
}

fn start(path: &Path) -> Option<Member> {
    let server = programs::or_skip("the audit log", programs::subject(EngineKind::Memory))?;
    let flags = flags(path);
    Some(Member::start(&server, &flags.each_ref().map(String::as_str)))
}

fn put(member: &Member, key: &str) {
    let answer: Result<PutResponse, _> =
        block_on(async { Client::new(member.client_address()).unary(paths::PUT, put_request(key, "v")).await });
    answer.expect("a put");
}

#[test]
fn a_refused_transaction_and_a_refused_renewal_name_their_keys_and_leases() {
    let directory = Directory::new("audit");
    let path = directory.path().join("audit.log");
    let Some(member) = start(&path) else { return };
    block_on(async {
        let client = Client::new(member.client_address());
        let admin = Admin(&client);
        admin.add_user_with("alice", "hidden", permission(Type::Readwrite, "a", "b")).await.expect("a user is added");
        grant_all(&client, &[0x77], 600).await;
        let put = PutRequest { key: "foreign".into(), value: "hidden".into(), lease: 0x77, ..PutRequest::default() };
        let _: PutResponse = client.unary(paths::PUT, put).await.expect("authentication is disabled");
        enable(&client).await.expect("authentication is enabled");
        let alice = log_in(&client, "alice", "hidden").await.expect("the password is right");
        let delete = DeleteRangeRequest { key: "c".into(), range_end: "d".into(), ..DeleteRangeRequest::default() };
        let delete = RequestOp { request: Some(Request::RequestDeleteRange(delete)) };
        let inner = TxnRequest { success: vec![delete], ..TxnRequest::default() };
        let nested = RequestOp { request: Some(Request::RequestTxn(inner)) };
        let txn = TxnRequest { success: vec![nested], ..TxnRequest::default() };
        alice.unary::<_, TxnResponse>(paths::TXN, txn).await.expect_err("the keys are not hers");
        KeepAliveStream::open(&alice, 0x77).await.err().expect("the lease has a key that is not hers");
    });
    let denied = |method: &str, field: &str| {
        let is_it = |line: &&Value| line["method"] == method && line["outcome"] == "PermissionDenied";
        let lines = lines(&path);
        lines.iter().find(is_it).map(|line| format!("{} {} {}", line["user"], line["identified"], line[field]))
    };
    let txn = r#""alice" "token" [{"key":"c","kind":"delete","range_end":"d"}]"#;
    eventually("the transaction", || denied("etcdserverpb.KV/Txn", "operations").as_deref() == Some(txn));
    let renewal = r#""alice" "token" "77""#;
    eventually("the renewal", || denied("etcdserverpb.Lease/LeaseKeepAlive", "id").as_deref() == Some(renewal));
    assert!(!fs::read_to_string(&path).unwrap().contains("hidden"), "neither passwords nor values");
}

#[test]
fn a_removed_file_is_made_again() {
    let directory = Directory::new("audit");
    let path = directory.path().join("audit.log");
    let Some(member) = start(&path) else { return };
    put(&member, "first");
    eventually("the first line", || lines(&path).iter().any(|line| line["key"] == "first"));
    fs::remove_file(&path).unwrap();
    put(&member, "second");
    eventually("the second line", || lines(&path).iter().any(|line| line["key"] == "second"));
}

#[test]
fn a_wrong_path_of_an_audit_log_or_a_key_leaves_no_data_directory_behind() {
    let Some(server) = programs::or_skip("wrong paths", programs::subject(EngineKind::Memory)) else { return };
    for flag in ["--audit-log=/nowhere/audit.log", "--auth-token=jwt,sign-method=RS256,pub-key=/nowhere/key"] {
        let mut member = Member::new(&server, &[flag]);
        let error = member.try_restart().expect_err("the path is wrong");
        assert!(error.contains("/nowhere/"), "{error}");
        assert!(!member.data_directory().exists(), "{flag}");
    }
}

/// The file is a pipe that is full and that nobody reads.
#[test]
fn an_audit_log_that_hangs_keeps_no_member_from_ending() {
    let directory = Directory::new("audit");
    let path = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo starts").success());
    // Open at both ends, so that no open waits for the other end.
    let mut pipe = File::options().read(true).write(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    let Some(mut member) = start(&path) else { return };
    put(&member, "a");
    member.terminate();
    let said = "the audit log could not be written within";
    assert!(member.log().iter().any(|line| line.contains(said)), "{:?}", member.log());
}
