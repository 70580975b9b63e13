//! Runs of `metactl` that are killed, and disks that are full: nothing is left from which a member would start.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use metastore_proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::mount::Mount;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use metastore_tests::random::Random;

use super::{Metactl, Programs, shown};
use crate::bad_days::load;
use crate::bad_days::observe::tree;

/// As much as takes some time to convert, and more than [`SMALL_MIB`] together.
const KEYS: usize = 12_000;
const VALUE_BYTES: usize = 4 << 10;
/// The size of a disk that is too small.
const SMALL_MIB: u32 = 24;
/// The text of ENOSPC.
const FULL: &str = "No space left on device";
/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How long a refused start may take.
const EXIT: Duration = Duration::from_secs(20);

each_engine!(a_killed_run_leaves_nothing_that_starts, a_full_disk_is_named_and_nothing_is_left_on_it);

/// Writes values that do not compress.
fn fill(member: &Member) {
    let value = |number: usize| {
        let mut random = Random::new(number as u64);
        (0..VALUE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect::<Vec<_>>()
    };
    let put = |number: usize| PutRequest {
        key: format!("k{number:06}").into(),
        value: value(number).into(),
        ..PutRequest::default()
    };
    block_on(async { load(&Client::new(member.client_address()), KEYS, put).await.expect("keys are written") });
}

/// The sources of a conversion: a backup, and the directory of a stopped etcd.
struct Sources {
    directory: Directory,
    etcd: Member,
}

impl Sources {
    fn new(programs: &Programs) -> Sources {
        let directory = Directory::new("interrupted");
        let mut etcd = Member::start(&programs.reference(), &[]);
        fill(&etcd);
        let file = shown(&directory.path().join("backup"));
        programs.metactl.run(&["snapshot", "save", &file, "--endpoints", etcd.client_address()]);
        etcd.stop();
        Sources { directory, etcd }
    }

    fn backup(&self) -> PathBuf {
        self.directory.path().join("backup")
    }

    /// The arguments of both runs that make `data_dir`, for a member in the place of the etcd.
    fn runs(&self, engine: EngineKind, data_dir: &Path) -> [Vec<String>; 2] {
        let (backup, etcd, to) = (shown(&self.backup()), shown(&self.etcd.data_directory()), shown(data_dir));
        let (identity, peer_url) = (self.etcd.identity(), self.etcd.peer_url());
        let flag = format!("--engine={}", engine.name());
        let own = ["--name", &identity.name, "--initial-cluster", &identity.in_initial_cluster()].map(String::from);
        let own = [&own[..], &["--initial-advertise-peer-urls".into(), peer_url]].concat();
        let restore = ["snapshot", "restore", &backup, "--data-dir", &to, &flag].map(String::from);
        let migrate = ["migrate", "--from-etcd-data-dir", &etcd, "--data-dir", &to, &flag].map(String::from);
        [[&restore[..], &own].concat(), migrate.to_vec()]
    }
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Starts a run, and kills it as soon as it has made the directory of a member.
fn kill_in_the_middle(metactl: &Metactl, arguments: &[String], data_dir: &Path) {
    let mut command = metactl.command(&borrowed(arguments));
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("metactl runs");
    let building = data_dir.join(".partial/member");
    while !building.exists() {
        assert!(run.try_wait().expect("a child can be waited for").is_none(), "{arguments:?}: it ended too early");
        std::thread::park_timeout(LOOK);
    }
    run.kill().expect("a child can be killed");
    let status = run.wait().expect("a child can be waited for");
    assert!(status.code().is_none(), "{arguments:?}: {status}");
    assert!(building.exists() && !data_dir.join("member").exists(), "{arguments:?}");
}

fn a_killed_run_leaves_nothing_that_starts(engine: EngineKind) {
    let Some(programs) = Programs::find("killed runs", engine, "newest") else { return };
    let sources = Sources::new(&programs);
    for at in 0..2 {
        let mut member = Member::with_identity(&programs.subject, sources.etcd.identity().clone(), &[]);
        let data_dir = member.data_directory();
        let run = sources.runs(engine, &data_dir)[at].clone();
        kill_in_the_middle(&programs.metactl, &run, &data_dir);
        let left = tree(&data_dir);
        // Without a refusal this would be the first start of an empty cluster.
        member.launch().expect("it is started");
        let status = member.wait_exit(EXIT).expect("it does not start");
        let log = member.log().join("\n");
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(".partial: left by a run of metactl that was interrupted"), "{log}");
        assert_eq!(tree(&data_dir), left, "the start changed something");
        let said = programs.metactl.fails(1, &borrowed(&run));
        assert!(said.contains(".partial is left from a run that was interrupted"), "{said}");
        std::fs::remove_dir_all(&data_dir).expect("the directory is ours");
        programs.metactl.run(&borrowed(&run));
        // Killed after its last step, it may have left an empty directory beside the whole member.
        std::fs::create_dir(data_dir.join(".partial")).expect("the directory is ours");
        member.restart();
        let count = block_on(async { count(&Client::new(member.client_address())).await });
        assert_eq!(count, KEYS as i64);
    }
}

async fn count(client: &Client) -> i64 {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), count_only: true, ..RangeRequest::default() };
    client.unary::<_, RangeResponse>(paths::RANGE, all).await.expect("the keys are there").count
}

fn a_full_disk_is_named_and_nothing_is_left_on_it(engine: EngineKind) {
    let name = "full disks of metactl";
    let found = Mount::in_memory(SMALL_MIB);
    let Some(mount) = programs::or_skip(name, found) else { return };
    let Some(programs) = Programs::find(name, engine, "newest") else { return };
    let sources = Sources::new(&programs);
    let new = mount.path().join("new");
    let expect = |code: i32, arguments: &[String]| {
        let said = programs.metactl.fails(code, &borrowed(arguments));
        assert!(said.contains(FULL), "{arguments:?}: {said}");
        assert!(said.contains(&shown(&mount.path())), "{arguments:?}: {said}");
        assert_eq!(std::fs::read_dir(mount.path()).expect("it is mounted").count(), 0, "{arguments:?}");
    };
    let [restore, migrate] = sources.runs(engine, &new);
    expect(1, &restore);
    expect(1, &migrate);
    let whole = sources.directory.path().join("whole");
    programs.metactl.run(&borrowed(&sources.runs(engine, &whole)[1]));
    let back = ["migrate", "--data-dir", &shown(&whole), "--to-etcd-data-dir", &shown(&new)].map(String::from);
    expect(1, &back);
    let mut member = Member::with_identity(&programs.subject, sources.etcd.identity().clone(), &[]);
    std::fs::rename(&whole, member.data_directory()).expect("the same file system");
    member.restart();
    let save = ["snapshot", "save", &shown(&new), "--endpoints", member.client_address()].map(String::from);
    expect(1, &save);
}
