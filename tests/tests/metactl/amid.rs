//! Backups, compactions, Defragment and HashKV on all members at the same time, while the leader is killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::{Cluster, block_on, call};
use metastore_tests::grpc::Client;
use metastore_tests::load::Load;
use metastore_tests::member::{Directory, Member};
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::restore::restore;
use super::{Programs, shown, text};
use crate::backup::hash_kv;
use crate::bad_days::observe::eventually;

const MEMBERS: usize = 3;
const KEYS: usize = 3_000;
const IN_FLIGHT: usize = 64;
/// Revisions between two compactions. All are older than every backup.
const COMPACTED_AT_A_TIME: i64 = 5;
const NEWEST_COMPACTION: i64 = KEYS as i64 / 2;
/// Writes between two events.
const WRITES: usize = 100;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause of a chore after a failure: its member may be down.
const PAUSE: Duration = Duration::from_millis(50);

each_engine!(backups_are_whole_whatever_else_goes_on);

/// One kind of call to one member, made again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chore {
    Backup,
    Compaction,
    Defragment,
    Hash,
}

const CHORES: [Chore; 4] = [Chore::Backup, Chore::Compaction, Chore::Defragment, Chore::Hash];

/// The state that the threads of all chores share.
struct Shared {
    metactl: PathBuf,
    directory: PathBuf,
    compacted: AtomicI64,
    end: AtomicBool,
}

/// A chore on its thread.
struct Running {
    chore: Chore,
    node: usize,
    done: Arc<AtomicUsize>,
    /// Returns the failures.
    thread: JoinHandle<Vec<String>>,
}

impl Shared {
    /// The file of a backup, and whether it is the last whole one of the member.
    fn file(&self, node: usize, last: bool) -> PathBuf {
        self.directory.join(format!("{node}{}", if last { "" } else { ".new" }))
    }

    fn attempt(&self, chore: Chore, node: usize, address: &str) -> Result<(), String> {
        let said = |status: tonic::Status| status.message().to_owned();
        match chore {
            Chore::Backup => self.save(node, address),
            Chore::Compaction => {
                let step = |at: i64| (at < NEWEST_COMPACTION).then_some(at + COMPACTED_AT_A_TIME);
                let before = self.compacted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step);
                let revision = before.map_or(NEWEST_COMPACTION, |at| at + COMPACTED_AT_A_TIME);
                let compact = CompactionRequest { revision, physical: true };
                match call::<_, CompactionResponse>(address, paths::COMPACT, compact, PATIENCE) {
                    Err(status) if !status.message().contains("has been compacted") => Err(said(status)),
                    _ => Ok(()),
                }
            }
            Chore::Defragment => {
                let done = call::<_, DefragmentResponse>(address, paths::DEFRAGMENT, DefragmentRequest {}, PATIENCE);
                done.map(drop).map_err(said)
            }
            Chore::Hash => {
                let hash = HashKvRequest { revision: 0 };
                call::<_, HashKvResponse>(address, paths::HASH_KV, hash, PATIENCE).map(drop).map_err(said)
            }
        }
    }

    fn save(&self, node: usize, address: &str) -> Result<(), String> {
        let file = self.file(node, false);
        let mut command = std::process::Command::new(&self.metactl);
        let limit = format!("--command-timeout={}s", PATIENCE.as_secs());
        let output = command.args(["snapshot", "save", &shown(&file), "--endpoints", address, &limit]).output();
        let output = output.expect("metactl runs");
        let left: Vec<_> = ["", ".part"].iter().map(|end| PathBuf::from(format!("{}{end}", shown(&file)))).collect();
        if !output.status.success() {
            assert!(left.iter().all(|file| !file.exists()), "a backup that failed left {left:?}");
            return Err(text(&output.stderr));
        }
        std::fs::rename(&file, self.file(node, true)).expect("the directory is ours");
        Ok(())
    }
}

fn start(shared: &Arc<Shared>, chore: Chore, node: usize, address: &str) -> Running {
    let (shared, address, done) = (shared.clone(), address.to_owned(), Arc::new(AtomicUsize::new(0)));
    let counted = done.clone();
    let thread = std::thread::spawn(move || {
        let mut failures = Vec::new();
        while !shared.end.load(Ordering::SeqCst) {
            match shared.attempt(chore, node, &address) {
                Ok(()) => drop(counted.fetch_add(1, Ordering::SeqCst)),
                Err(failure) => {
                    failures.push(failure);
                    std::thread::park_timeout(PAUSE);
                }
            }
        }
        failures
    });
    Running { chore, node, done, thread }
}

/// Waits until each chore was done once more from its beginning on, on these members.
fn each_is_done(chores: &[Running], nodes: &[usize]) {
    let of_nodes = || chores.iter().filter(|running| nodes.contains(&running.node));
    let before: Vec<_> = of_nodes().map(|running| running.done.load(Ordering::SeqCst)).collect();
    // One was perhaps under way.
    eventually("each chore is done again on each member", || {
        of_nodes().zip(&before).all(|(running, before)| running.done.load(Ordering::SeqCst) > before + 1)
    });
}

fn backups_are_whole_whatever_else_goes_on(engine: EngineKind) {
    let Some(programs) = Programs::find("backups amid everything", engine, "newest") else { return };
    let directory = Directory::new("amid");
    let mut cluster = Cluster::start(&vec![programs.subject.clone(); MEMBERS], &[]);
    cluster.put_many(cluster.leader(), KEYS, IN_FLIGHT);
    let (metactl, files) = (programs.metactl.0.clone(), directory.path().to_owned());
    let (compacted, end) = (AtomicI64::new(0), AtomicBool::new(false));
    let shared = Arc::new(Shared { metactl, directory: files, compacted, end });
    let all: Vec<usize> = (0..MEMBERS).collect();
    let chores = CHORES.into_iter().flat_map(|chore| all.iter().map(move |node| (chore, *node)));
    let chores: Vec<_> = chores.map(|(chore, node)| start(&shared, chore, node, cluster.address(node))).collect();
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    each_is_done(&chores, &all);
    let leader = cluster.leader();
    cluster.kill(leader);
    load.progress(WRITES);
    let others: Vec<_> = all.iter().copied().filter(|node| *node != leader).collect();
    each_is_done(&chores, &others);
    cluster.restart(leader);
    load.progress(WRITES);
    each_is_done(&chores, &all);
    shared.end.store(true, Ordering::SeqCst);
    for Running { chore, node, thread, .. } in chores {
        let failures = thread.join().expect("a chore does not panic");
        assert!(failures.iter().all(|text| !text.contains("no answer within")), "{chore:?} at {node}: {failures:?}");
        // A call that a member answers alone needs no leader.
        assert!(
            node == leader || chore == Chore::Compaction || failures.is_empty(),
            "{chore:?} at {node}: {failures:?}"
        );
    }
    load.stop();
    cluster.agree();
    for node in all {
        for chore in CHORES {
            shared.attempt(chore, node, cluster.address(node)).unwrap_or_else(|text| panic!("{chore:?}: {text}"));
        }
        expect_whole(&programs, engine, &shared.file(node, true), &cluster);
    }
}

/// The backup is restored, and its HashKV is that of all members at its revision, with the same compaction.
fn expect_whole(programs: &Programs, engine: EngineKind, file: &Path, cluster: &Cluster) {
    let status = programs.metactl.run(&["snapshot", "status", &shown(file), "--write-out=json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("a status");
    let revision = status["revision"].as_i64().expect("a revision");
    let mut restored = Member::new(&programs.subject, &[]);
    restore(programs, &shown(file), &restored, &[&format!("--engine={}", engine.name())]);
    restored.restart();
    let hash = |address: &str| block_on(async { hash_kv(&Client::new(address), revision).await });
    let theirs: Vec<_> = (0..MEMBERS).map(|node| hash(cluster.address(node))).collect();
    let compact = CompactionRequest { revision: theirs[0].1, physical: true };
    // It may be compacted there already.
    let _ = call::<_, CompactionResponse>(restored.client_address(), paths::COMPACT, compact, PATIENCE);
    assert_eq!(theirs, vec![hash(restored.client_address()); MEMBERS], "at {revision}");
}
