//! Databases that were made to do harm, as backups and as states of another member: a clear error, and nothing is left.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use metastore_proto::Message as _;
use metastore_proto::etcdserverpb::{PutResponse, StatusRequest, StatusResponse};
use metastore_proto::raftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};
use metastore_tests::cluster::{block_on, call, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::paths;
use metastore_tests::programs::{EngineKind, workspace};

use super::content::change;
use super::{Programs, shown, text};
use crate::bad_days::observe::{eventually, tree};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// No member of the cluster.
const STRANGER: u64 = 0x99;

each_engine!(a_hostile_database_is_not_restored, a_hostile_state_leaves_a_member_as_it_was);

/// The inputs that `crates/backup/tests/hostile` tries, but for those that are sound. Each has a name.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(workspace().join("fuzz/corpus/backup")).expect("the corpus");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.expect("a file of the corpus").path();
        (path.file_name().expect("it has a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("a file"))
    };
    let hostile: Vec<_> = files.map(read).filter(|(name, _)| !name.starts_with("taken-")).collect();
    assert!(hostile.len() > 10, "{}", hostile.len());
    hostile
}

fn a_hostile_database_is_not_restored(engine: EngineKind) {
    let Some(programs) = Programs::find("hostile backups", engine, "newest") else { return };
    let directory = Directory::new("hostile");
    let flag = format!("--engine={}", engine.name());
    // The members of the database are not looked at, because the new cluster has others.
    for (name, bytes) in corpus().into_iter().filter(|(name, _)| name != "a-member-without-json") {
        let file = directory.path().join(&name);
        std::fs::write(&file, bytes).expect("a file");
        let (from, to) = (shown(&file), directory.path().join("new"));
        let restore = ["snapshot", "restore", &from, "--data-dir", &shown(&to), "--skip-hash-check", &flag];
        let said = programs.metactl.fails(1, &restore);
        assert!(said.starts_with(&format!("Error: {from}: ")) && !said.contains("panicked"), "{name}: {said}");
        assert!(!to.exists(), "{name}: something is left");
    }
}

/// A member, and its ids.
struct Target {
    member: Member,
    id: u64,
    cluster: u64,
    applied: u64,
}

impl Target {
    fn new(member: Member) -> Target {
        let status: StatusResponse =
            call(member.client_address(), paths::STATUS, StatusRequest {}, PATIENCE).expect("it serves");
        let header = status.header.expect("a header");
        Target { member, id: header.member_id, cluster: header.cluster_id, applied: status.raft_applied_index }
    }

    /// Sends a state, of which `length` bytes are announced. Returns the whole answer; if the state is shorter than was
    /// announced, there is none.
    fn send(&self, index: u64, state: &[u8], length: usize) -> String {
        let conf_state = Some(ConfState { voters: vec![self.id], auto_leave: Some(false), ..ConfState::default() });
        let metadata = Some(SnapshotMetadata { conf_state, index: Some(index), term: Some(1) });
        let message = Message {
            r#type: Some(MessageType::MsgSnap as i32),
            from: Some(STRANGER),
            to: Some(self.id),
            term: Some(1),
            snapshot: Some(Snapshot { metadata, data: None }),
            ..Message::default()
        };
        let message = message.encode_to_vec();
        let body = [&(message.len() as u64).to_be_bytes()[..], &message, state].concat();
        let head = format!(
            "POST /raft/snapshot HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: {}\r\n\
             X-Server-From: {STRANGER:x}\r\n\
             X-Server-Version: 3.7.0\r\nX-Min-Cluster-Version: 3.0.0\r\n\
             X-Etcd-Cluster-ID: {:x}\r\nX-Raft-To: {:x}\r\n\r\n",
            body.len() - state.len() + length,
            self.cluster,
            self.id,
        );
        let mut stream = TcpStream::connect(&self.member.identity().peer_address).expect("the peer port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(&[head.as_bytes(), &body].concat()).expect("it is read");
        if length > state.len() {
            stream.shutdown(Shutdown::Write).expect("it is open");
        }
        let mut answer = Vec::new();
        // A connection that is closed early may be reset.
        let _ = stream.read_to_end(&mut answer);
        text(&answer)
    }

    /// The names of all files of the member.
    fn files(&self) -> BTreeSet<PathBuf> {
        tree(&self.member.data_directory()).into_keys().collect()
    }
}

fn a_hostile_state_leaves_a_member_as_it_was(engine: EngineKind) {
    let Some(programs) = Programs::find("hostile states", engine, "newest") else { return };
    let (directory, other) = (Directory::new("hostile"), Member::start(&programs.subject, &[]));
    block_on(async { change(&Client::new(other.client_address()), 12).await });
    let file = shown(&directory.path().join("backup"));
    programs.metactl.run(&["snapshot", "save", &file, "--endpoints", other.client_address()]);
    let sound = std::fs::read(&file).expect("the backup");
    let sound = &sound[..sound.len() - 32];
    let mut target = Target::new(Member::start(&programs.subject, &[]));
    let (index, before) = (target.applied + 10, target.files());
    let mut hostile = corpus();
    // It is sound, but it is the state at another entry, or a part of one.
    hostile.push(("a database of a later entry".into(), sound.to_vec()));
    hostile.push(("half a database".into(), sound[..sound.len() / 2].to_vec()));
    for (name, state) in &hostile {
        let answer = target.send(index, state, state.len());
        assert!(answer.starts_with("HTTP/1.1 500 "), "{name}: {answer}");
        assert!(answer.contains("failed to save KV snapshot ("), "{name}: {answer}");
        assert_eq!(target.files(), before, "{name}");
    }
    let late = target.send(index, sound, sound.len());
    assert!(late.contains(&format!("not at entry {index} as was announced")), "{late}");
    target.send(index, &sound[..sound.len() / 2], sound.len());
    eventually("the rest of a state that was cut off is removed", || target.files() == before);
    let address = target.member.client_address().to_owned();
    let put = || call::<_, PutResponse>(&address, paths::PUT, put_request("k", "v"), PATIENCE).expect("a put");
    put();
    let log = target.member.log().join("\n");
    assert!(!log.contains("panicked") && log.contains("failed to save incoming database snapshot"), "{log}");
    target.member.kill();
    target.member.restart();
    put();
}
