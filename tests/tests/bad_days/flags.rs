//! What the command line and the environment may say.

use std::process::{Command, Output};

use metastore_tests::member::Member;
use metastore_tests::programs::Engine;

use super::subject;

/// Flags of etcd's that change topology or safety and are not available: one of each kind.
const REFUSED: [(&str, &str); 8] = [
    ("--discovery", "http://127.0.0.1/x"),
    ("--discovery-srv", "example.com"),
    ("--cert-file", "server.crt"),
    ("--client-cert-auth", ""),
    ("--peer-cert-file", "peer.crt"),
    ("--auto-tls", ""),
    ("--force-new-cluster", ""),
    ("--config-file", "etcd.yml"),
];

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Output> {
    let subject = subject("flags", Engine::Memory)?;
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
        let argument = if value.is_empty() { flag.to_string() } else { format!("{flag}={value}") };
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
    let Some(subject) = subject("environment", Engine::Memory) else { return };
    // The harness sets a name by flag; a variable for another setting shows that the environment is read.
    let mut member = Member::new(&subject, &["--logger=zap", "--max-wals=7"]);
    member.wrap_in(&["env", "ETCD_ELECTION_TIMEOUT=1500", "ETCD_NO_SUCH_SETTING=1"].map(String::from));
    member.restart();
    let log = member.log();
    let warned = |texts: [&str; 2]| {
        log.iter().any(|line| line.contains("\"level\":\"warn\"") && texts.iter().all(|text| line.contains(text)))
    };
    assert!(warned(["this flag has no effect here", "--max-wals=7"]), "{log:#?}");
    assert!(warned(["unrecognized environment variable", "ETCD_NO_SUCH_SETTING"]), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("\"election-timeout\":\"1500ms\"")), "{log:#?}");
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
    // It cannot make its directory, but has said by then who it is.
    let Some(output) = run(&arguments, &[("ETCD_NAME", "by-environment")]) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("\"name\":\"by-environment\""), "{}", stderr(&output));
    assert!(stderr(&output).contains(unwritable), "{}", stderr(&output));
}
