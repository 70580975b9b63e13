//! A real etcd is elected with the vote of this transport, and replicates through its streams.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metastore_proto::raftpb::{Message, MessageType};
use metastore_replica::identity::{cluster_id, member_id};
use metastore_server::io::listen::{Address, Listener, SocketOptions};
use metastore_server::peer::{Sink, Transport};
use parking_lot::Mutex;

use crate::member::*;

/// How long a real etcd may take on a busy machine.
const ETCD_PATIENCE: Duration = Duration::from_secs(60);

/// A voter that grants everything, and records the messages that it receives.
#[derive(Default)]
struct Voter {
    transport: OnceLock<Transport>,
    received: Mutex<Vec<Message>>,
}

impl Sink for Voter {
    fn message(&self, message: Message, _bytes: usize) -> bool {
        let answer = match message.r#type() {
            MessageType::MsgPreVote => MessageType::MsgPreVoteResp,
            MessageType::MsgVote => MessageType::MsgVoteResp,
            MessageType::MsgApp => MessageType::MsgAppResp,
            MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResp,
            _ => return true,
        };
        let answer = Message {
            r#type: Some(answer as i32),
            to: message.from,
            from: message.to,
            term: message.term,
            index: Some(message.index() + message.entries.len() as u64),
            context: message.context.clone(),
            ..Message::default()
        };
        self.received.lock().push(message);
        self.transport.get().expect("set before the peers").send(answer);
        true
    }

    fn unreachable(&self, _: u64) {}
    fn snapshot_sent(&self, _: u64, _: bool) {}
    fn removed(&self) {}
}

struct Etcd {
    process: Child,
    data_dir: PathBuf,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}

/// The directories of the etcds installed for comparison; none on most machines.
fn etcds() -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let versions = std::fs::read_dir(Path::new(&home).join(".cache/metastore/etcd"));
    let binaries = versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut found: Vec<PathBuf> = binaries.filter(|bin| bin.join("etcd").exists()).collect();
    found.sort();
    if found.is_empty() {
        println!("skipped: no etcd under ~/.cache/metastore/etcd");
    }
    found
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start(bin: &Path, peer: SocketAddr, client: SocketAddr, cluster: &str) -> Etcd {
    let version = bin.parent().and_then(Path::file_name).unwrap().to_string_lossy();
    let data_dir = std::env::temp_dir().join(format!("metastore-peers-etcd-{version}-{}", std::process::id()));
    let (peer, client) = (format!("http://{peer}"), format!("http://{client}"));
    let process = Command::new(bin.join("etcd"))
        .args(["--name", "theirs", "--initial-cluster-token", "tok", "--initial-cluster", cluster])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .arg("--data-dir")
        .arg(&data_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Etcd { process, data_dir }
}

fn put(bin: &Path, client: SocketAddr, key: &str, value: &str) -> bool {
    let ctl = Command::new(bin.join("etcdctl"))
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &client.to_string(), "put", key, value])
        .output();
    ctl.unwrap().status.success()
}

#[test]
fn a_real_etcd_leads_through_these_streams() {
    for bin in etcds() {
        let listener = Listener::bind(&Address::Tcp(free()), SocketOptions::default()).unwrap();
        let (ours, theirs, client) = (listener.local_addr().unwrap(), free(), free());
        let id_of = |address: SocketAddr| member_id(&[format!("http://{address}")], "tok");
        let (own, other) = (id_of(ours), id_of(theirs));
        let voter = Arc::<Voter>::default();
        let cluster = cluster_id(&[own, other]);
        let (transport, workers) = launch(own, cluster, listener, voter.clone(), Arc::new(NoIntake));
        assert!(voter.transport.set(transport.clone()).is_ok());
        transport.set_peers(vec![peer(own, ours), peer(other, theirs)], vec![]);
        let _etcd = start(&bin, theirs, client, &format!("theirs=http://{theirs},ours=http://{ours}"));
        let deadline = Instant::now() + ETCD_PATIENCE;
        while !put(&bin, client, "first", "value") {
            assert!(Instant::now() < deadline, "{}: no put succeeds", bin.display());
        }
        assert!(transport.has_streams(other) && transport.connected_since(other).is_some(), "{}", bin.display());
        let large = "x".repeat(100_000);
        for number in 0..20 {
            assert!(put(&bin, client, &format!("key-{number}"), &large), "{}", bin.display());
        }
        let received = voter.received.lock();
        let appends = received.iter().filter(|message| message.r#type() == MessageType::MsgApp);
        // Each entry continues the one before, as the short frames of the stream require.
        let entries: Vec<(u64, usize)> = appends
            .flat_map(|append| {
                append.entries.iter().enumerate().map(|(at, entry)| (append.index() + 1 + at as u64, entry))
            })
            .map(|(index, entry)| {
                assert_eq!(entry.index(), index);
                (index, entry.data().len())
            })
            .collect();
        assert!(entries.windows(2).all(|pair| pair[1].0 <= pair[0].0 + 1), "{entries:?}");
        assert!(entries.iter().filter(|(_, bytes)| *bytes > 100_000).count() >= 20, "{entries:?}");
        drop(received);
        workers.stop();
    }
}
