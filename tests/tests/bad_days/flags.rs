//! Flags on the command line, and variables in the environment.

use std::process::{Command, Output};

use metastore_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutResponse, StatusRequest,
    StatusResponse,
};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::observe::{eventually, http_get, metrics};
use super::{block_on, put_request, subject};

/// Flags of etcd that change topology or safety and are not supported: one of each kind.
const REFUSED: [(&str, &str); 2] = [("--discovery", "http://127.0.0.1/x"), ("--discovery-srv", "example.com")];

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Output> {
    let subject = subject("flags", EngineKind::Memory)?;
    let mut command = Command::new(subject.binary);
    command.env_clear().envs(environment.iter().copied()).args(arguments);
    Some(command.output().expect("the binary runs"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_refused_flag_is_named() {
    for (flag, value) in REFUSED {
        let argument = format!("{flag}={value}");
        let Some(output) = run(&[&argument], &[]) else { return };
        assert_eq!(output.status.code(), Some(1), "{argument}: {}", stderr(&output));
        assert!(stderr(&output).contains(flag), "{argument}: {}", stderr(&output));
    }
    let Some(output) = run(&["--data-dir", "/nonexistent/data"], &[("ETCD_DISCOVERY", "http://127.0.0.1/x")]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).to_lowercase().contains("discovery"), "{}", stderr(&output));
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let Some(output) = run(&["--no-such-flag"], &[]) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("flag provided but not defined: -no-such-flag\n"), "{}", stderr(&output));
}

#[test]
fn the_version_is_printed() {
    let Some(output) = run(&["--version"], &[]) else { return };
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("etcd Version: 3."), "{text}");
}

#[test]
fn a_flag_without_effect_is_warned_about_and_the_environment_counts() {
    let Some(subject) = subject("environment", EngineKind::Memory) else { return };
    // The harness sets the name by flag; a variable for another setting proves that the environment is read.
    let mut member = Member::new(&subject, &["--logger=zap", "--max-wals=7"]);
    member.wrap_in(&["env", "ETCD_ELECTION_TIMEOUT=1500", "ETCD_NO_SUCH_SETTING=1"].map(String::from));
    member.restart();
    // A member may answer /health before all of its log has been read.
    let says = |texts: &[&str]| {
        let said = || member.log().iter().any(|line| texts.iter().all(|text| line.contains(text)));
        eventually(&format!("a line with {texts:?}"), said);
    };
    says(&["\"level\":\"warn\"", "this flag has no effect here", "--max-wals=7"]);
    says(&["\"level\":\"warn\"", "unrecognized environment variable", "ETCD_NO_SUCH_SETTING"]);
    says(&["\"election-timeout\":\"1500ms\""]);
}

#[test]
fn etcd_name_names_the_member() {
    let unwritable = "/proc/nonexistent/data";
    let arguments = [
        "--data-dir",
        unwritable,
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:0",
        "--listen-peer-urls=http://127.0.0.1:0",
    ];
    // The member cannot create its directory, but logs its name first.
    let Some(output) = run(&arguments, &[("ETCD_NAME", "by-environment")]) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("\"name\":\"by-environment\""), "{}", stderr(&output));
    assert!(stderr(&output).contains(unwritable), "{}", stderr(&output));
}

#[test]
fn a_start_that_could_free_too_little_says_that_it_does_not_defragment() {
    let Some(subject) = subject("defragment at the start", EngineKind::Memory) else { return };
    let mut member = Member::start(&subject, &["--bootstrap-defrag-threshold-megabytes=1"]);
    let says = |member: &Member, text: &str| member.log().iter().any(|line| line.contains(text));
    eventually("etcd's line", || says(&member, "Skipping defragmentation"));
    // Write two megabytes, and delete them again.
    block_on(async {
        let client = Client::new(member.client_address());
        let value = "v".repeat(1 << 20);
        for key in ["a", "b"] {
            let _: PutResponse = client.unary(paths::PUT, put_request(key, &value)).await.expect("a write");
        }
        let all = DeleteRangeRequest { key: "a".into(), range_end: "c".into(), ..DeleteRangeRequest::default() };
        let deleted: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, all).await.expect("a write");
        let revision = deleted.header.unwrap_or_default().revision;
        let compaction = CompactionRequest { revision, physical: true };
        let _: CompactionResponse = client.unary(paths::COMPACT, compaction).await.expect("a compaction");
    });
    let total = |member: &Member| metrics(member.client_address())["etcd_mvcc_db_total_size_in_bytes"];
    assert!(total(&member) > 2e6);
    member.terminate();
    member.restart();
    assert!(total(&member) < 1e6, "{}", total(&member));
    assert!(!says(&member, "Skipping defragmentation"));
}

#[test]
fn all_places_report_the_version_that_was_asked_for() {
    let Some(subject) = subject("reported version", EngineKind::Memory) else { return };
    for (version, cluster) in [("3.6.11", "3.6"), ("3.8.0-alpha.1", "3.8")] {
        let member = Member::start(&subject, &[&format!("--reported-version={version}")]);
        let metrics = metrics(member.client_address());
        let shown =
            |name: &str, label: &str, value: &str| metrics.contains_key(&format!("{name}{{{label}=\"{value}\"}}"));
        assert!(shown("etcd_server_version", "server_version", version), "{metrics:#?}");
        assert!(shown("etcd_cluster_version", "cluster_version", cluster), "{metrics:#?}");
        let status: StatusResponse = block_on(async {
            Client::new(member.client_address()).unary(paths::STATUS, StatusRequest {}).await.expect("a status")
        });
        assert_eq!(status.version, version);
        let page = http_get(member.client_address(), "/version");
        let expected = format!(r#""etcdserver":"{version}","etcdcluster":"{cluster}.0""#);
        assert!(page.contains(&expected), "{expected} not in {page}");
    }
}
