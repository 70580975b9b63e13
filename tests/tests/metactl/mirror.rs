//! `metactl mirror`.

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member, signal};
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::content::change;
use super::{Metactl, Programs, shown, text};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// A mirror that runs.
pub struct Running(Child);

impl Running {
    pub fn start(metactl: &Metactl, arguments: &[&str]) -> Running {
        let mut command = metactl.command(arguments);
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("metactl runs"))
    }

    /// Ends it as a person would, and returns what it says of the comparison.
    pub fn end(self) -> String {
        let output = self.stop();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn stop(self) -> Output {
        signal(self.0.id(), "INT");
        self.0.wait_with_output().expect("it ends")
    }
}

pub async fn pairs(client: &Client, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let range = RangeRequest { key: prefix.to_owned().into(), range_end: end.into(), ..RangeRequest::default() };
    let range: RangeResponse = client.unary(paths::RANGE, range).await.expect("keys");
    range.kvs.into_iter().map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.value.to_vec())).collect()
}

/// Waits until both hold the same keys.
fn become_equal(members: [&Member; 2], prefix: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let [left, right] =
            members.map(|member| block_on(async { pairs(&Client::new(member.client_address()), prefix).await }));
        if left == right && !left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} keys, and {} in the mirror", left.len(), right.len());
        std::thread::park_timeout(LOOK);
    }
}

fn put(member: &Member, key: &str, value: &str) {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    let put = block_on(async { Client::new(member.client_address()).unary::<_, PutResponse>(paths::PUT, put).await });
    put.expect("a put");
}

#[test]
fn a_mirror_follows_an_etcd_over_restarts_compactions_and_its_own_end() {
    let Some(programs) = Programs::find("mirror", EngineKind::RocksDb, "newest") else { return };
    let directory = Directory::new("mirror");
    let state = shown(&directory.path().join("state.json"));
    let mut source = Member::start(&programs.reference(), &[]);
    let mut target = Member::start(&programs.subject, &[]);
    put(&target, "kept", "not a key of the prefix");
    put(&target, "k-too-much", "the source does not have it");
    let from = source.client_address().to_owned();
    let to = target.client_address().to_owned();
    let arguments = ["mirror", "--endpoints", &from, "--dest-endpoints", &to, "--prefix", "k", "--state-file", &state];
    put(&source, "k-big", &"x".repeat(1_300_000));
    let fill = |member: &Member, seed| block_on(async { change(&Client::new(member.client_address()), seed).await });
    fill(&source, 9);
    let arguments: Vec<&str> = arguments.to_vec();
    // "kept" has the prefix as well: the mirror takes it away.
    let running = Running::start(&programs.metactl, &arguments);
    become_equal([&source, &target], "k");
    fill(&source, 10);
    become_equal([&source, &target], "k");
    source.kill();
    source.restart();
    target.kill();
    target.restart();
    put(&source, "k-after", "both came back");
    become_equal([&source, &target], "k");
    let said = running.end();
    assert!(said.contains("keys are equal at revision"), "{said}");
    // The changes while it is away are compacted.
    fill(&source, 11);
    let running = Running::start(&programs.metactl, &arguments);
    become_equal([&source, &target], "k");
    running.end();
    let said = programs.metactl.run(&[&arguments[..], &["--once"]].concat());
    assert!(said.contains("keys are equal at revision"), "{said}");
    let running = Running::start(&programs.metactl, &arguments);
    put(&source, "k-sign", "it runs");
    become_equal([&source, &target], "k");
    put(&target, "k-foreign", "nobody but the mirror should write here");
    let output = running.stop();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("keys differ at revision"), "{output:?}");
    let other = Member::start(&programs.reference(), &[]);
    let wrong = [&arguments[..3], &arguments[3..]].concat();
    let wrong: Vec<&str> =
        wrong.iter().map(|part| if *part == from { other.client_address() } else { *part }).collect();
    let said = programs.metactl.fails(1, &wrong);
    assert!(said.contains("the state file is about cluster"), "{said}");
}
