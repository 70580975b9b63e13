//! Flags, variables and configuration files: this server and a real etcd end with the same code for the same reason.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use metastore_tests::programs::{self, EngineKind};

/// Far longer than a start takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// The line of both programs once clients are served.
const READY: &str = "ready to serve client requests";

/// A start that fails, and the words about it. A flag is written in the command line, a variable in front of it.
struct Failure {
    variables: &'static [(&'static str, &'static str)],
    flags: &'static [&'static str],
    /// The text of a configuration file, if there is one.
    file: Option<&'static str>,
    code: i32,
    says: &'static str,
}

const fn flags(flags: &'static [&'static str], code: i32, says: &'static str) -> Failure {
    Failure { variables: &[], flags, file: None, code, says }
}

const fn file(file: &'static str, says: &'static str) -> Failure {
    Failure { variables: &[], flags: &[], file: Some(file), code: 1, says }
}

const fn variables(variables: &'static [(&'static str, &'static str)], says: &'static str) -> Failure {
    Failure { variables, flags: &[], file: None, code: 1, says }
}

const FAILURES: [Failure; 22] = [
    flags(&["--nope"], 2, "flag provided but not defined: -nope"),
    flags(&["--name"], 2, "flag needs an argument: -name"),
    flags(&["---name"], 2, "bad flag syntax: ---name"),
    flags(&["--max-txn-ops=abc"], 2, "for flag -max-txn-ops: parse error"),
    flags(&["--pre-vote=maybe"], 2, "for -pre-vote: parse error"),
    flags(&["--feature-gates=Nope=true"], 2, "unrecognized feature gate: Nope"),
    flags(&["nope"], 1, "is not a valid flag"),
    flags(&["--heartbeat-interval=300"], 1, "--election-timeout[1000ms] should be at least as 5 times as"),
    flags(&["--election-timeout=60000"], 1, "is too long, and should be set less than 50000ms"),
    flags(&["--listen-client-urls=http://127.0.0.1:1"], 1, "--advertise-client-urls is required when"),
    flags(&["--listen-peer-urls=http://example.com:1"], 1, "expected IP in URL for binding (http://example.com:1)"),
    flags(&["--auto-compaction-mode=never"], 1, "unknown auto-compaction-mode"),
    flags(&["--compact-hash-check-time=0s"], 1, "compact-hash-check-time must be >0 (set to 0s)"),
    variables(&[("ETCD_MAX_TXN_OPS", "abc")], "for ETCD_MAX_TXN_OPS: parse error"),
    Failure {
        variables: &[("ETCD_NAME", "a")],
        flags: &["--name=b"],
        file: None,
        code: 1,
        says: "is shadowed by corresponding command-line flag",
    },
    flags(&["--config-file=/nope.yml"], 1, "open /nope.yml: no such file or directory"),
    variables(&[("ETCD_CONFIG_FILE", "/nope.yml")], "open /nope.yml: no such file or directory"),
    file("a: [", "error converting YAML to JSON: yaml: "),
    file("max-txn-ops: abc", "max-txn-ops"),
    file("corrupt-check-time: 1m", "corrupt-check-time"),
    file("heartbeat-interval: 300", "--election-timeout[1000ms] should be at least as 5 times as"),
    file("auto-compaction-mode: ''", "undefined auto-compaction-mode"),
];

/// A directory that is removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("metastore-flags-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory can be made");
        Directory(path)
    }

    fn file(&self, text: &str) -> String {
        let path = self.0.join("settings.yml");
        std::fs::write(&path, text).expect("the disk takes the file");
        path.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program, without the variables of this process that would set it.
fn program(binary: &Path, directory: &Directory) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_") || name.starts_with("METASTORE_")) {
        command.env_remove(name);
    }
    command.current_dir(&directory.0).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A running program, and the lines that it writes to stderr.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Running { child, lines }
    }

    /// All that was written, once `last` was, or nothing more is.
    fn written(&self, last: &str) -> String {
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => text = text + &line + "\n",
                Err(mpsc::RecvTimeoutError::Disconnected) => return text,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it goes on, and says: {text}"),
            }
            if text.contains(last) {
                return text;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The server under test and the etcd to compare it with.
fn both(test: &str) -> Option<[PathBuf; 2]> {
    let subject = programs::subject(EngineKind::Memory).map(|server| server.binary);
    let etcd = programs::etcd(&programs::reference_flavor()).map(|directory| directory.join("etcd"));
    programs::or_skip(test, subject.and_then(|subject| Ok([subject, etcd?])))
}

#[test]
fn a_start_that_fails_says_why_as_etcd_does() {
    let Some(binaries) = both("flags") else { return };
    let directory = Directory::new("failures");
    for failure in &FAILURES {
        for binary in &binaries {
            let mut command = program(binary, &directory);
            command.args(failure.flags).envs(failure.variables.iter().copied());
            if let Some(text) = failure.file {
                command.arg("--config-file").arg(directory.file(text));
            }
            let mut running = Running::start(&mut command);
            // JSON, where it is a log, has its quotes escaped.
            let said = running.written(READY).replace('\\', "");
            assert!(!said.contains(READY), "{command:?} starts");
            let code = running.child.wait().expect("it has ended").code();
            assert_eq!(code, Some(failure.code), "{command:?}: {said}");
            assert!(said.contains(failure.says), "{command:?}: {said}");
        }
    }
}

/// The sample of etcd 3.4 without its comments, and with free ports: each key is there, and many are empty.
const SAMPLE: &str = include_str!("flags/sample.yml");

#[test]
fn the_sample_file_of_etcd_starts_a_member_and_hides_other_flags() {
    let Some(binaries) = both("flags") else { return };
    for binary in &binaries {
        let directory = Directory::new("sample");
        let path = directory.file(SAMPLE);
        let mut command = program(binary, &directory);
        command.args(["--config-file", &path, "--heartbeat-interval=9999"]).env("ETCD_MAX_TXN_OPS", "abc");
        let running = Running::start(&mut command);
        let said = running.written(READY);
        assert!(said.contains(READY), "{command:?}: {said}");
        assert!(directory.0.join("default.etcd").is_dir(), "the directory of the default name");
    }
}

/// The names in `etcd --help`.
#[test]
fn every_flag_that_etcd_lists_is_known() {
    for flavor in ["newest", "3.5.1"] {
        let Some(etcd) = programs::or_skip("flags", programs::etcd(flavor)) else { return };
        let output = Command::new(etcd.join("etcd")).arg("--help").output().expect("etcd runs");
        let help = String::from_utf8(output.stdout).expect("a text");
        let names = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        let names: Vec<_> = names.filter_map(|rest| rest.split([' ', '=', '\'']).next()).collect();
        assert!(names.len() > 80, "{help}");
        for name in names {
            assert!(metastore_server::config::flags::find(name).is_some(), "etcd {flavor} has --{name}");
        }
    }
}
