//! The real `bbolt`, `etcdutl` and etcd read files of the writer, and the reader reads theirs.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::rows::{Buckets, bucket, read, write};

/// etcd must answer within this time, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The directory with the programs, installed by `tests/etcd/install.sh`. They are built with Go: without it the test
/// is skipped, also where `CI` is set.
fn programs(test: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/etcd/install.sh");
    let output = Command::new(&script).arg("newest").output().expect("the script can be run");
    if output.status.success() {
        return String::from_utf8_lossy(&output.stdout).lines().last().map(PathBuf::from);
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let has_go = Command::new("go").arg("version").output().is_ok();
    assert!(std::env::var_os("CI").is_none() || !has_go, "{test} cannot run, and CI must run it: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
    None
}

/// A directory that is deleted at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("metastore-bbolt-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    /// Writes a file, and returns its path as an argument of a command.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.join(name), bytes).expect("a file of the test");
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The output of a program that must succeed.
fn run(program: PathBuf, arguments: &[&str]) -> String {
    let output = Command::new(&program).args(arguments).output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {text}{errors}", program.display());
    text
}

fn contents() -> Vec<Buckets> {
    let mut long = bucket("long", 30, 17, 10);
    for row in long.1.iter_mut().step_by(7) {
        row.1 = vec![b'v'; 1_000_000];
    }
    vec![
        vec![],
        vec![bucket("empty", 0, 0, 0)],
        vec![bucket("inline", 5, 20, 100), bucket("key", 30_000, 17, 100), bucket("last", 1, 1, 5000)],
        // Branch pages with as few children as possible, and three of them on a page that is too short.
        (1..12).map(|count| bucket(&format!("{count:02}"), count, 1500 * count, 3000)).collect(),
        vec![bucket("deep", 700, 2000, 2500), long],
        (0..300).map(|number| bucket(&format!("{number:04}"), number % 70, 20, 10)).collect(),
    ]
}

#[test]
fn bbolt_finds_no_fault_and_reads_every_row() {
    let Some(bin) = programs("bbolt") else { return };
    let directory = Directory::new("check");
    for (number, buckets) in contents().into_iter().enumerate() {
        let file = directory.file(&format!("{number}.db"), &write(&buckets));
        assert_eq!(run(bin.join("bbolt"), &["check", &file]).trim(), "OK");
        let names: Vec<String> = buckets.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        let listed = run(bin.join("bbolt"), &["buckets", &file]);
        assert_eq!(listed.lines().collect::<Vec<_>>(), names);
        // A copy by the program is made from all rows that it sees.
        let copy = directory.path(&format!("{number}.copy"));
        run(bin.join("bbolt"), &["compact", "-o", &copy, &file]);
        assert!(read(&*std::fs::read(&copy).unwrap()).unwrap() == buckets, "content {number}");
    }
}

/// A running etcd; stopped when dropped.
struct Etcd {
    bin: PathBuf,
    client_url: String,
    process: Child,
}

impl Etcd {
    fn start(bin: &Path, data_dir: &str, peer_url: &str) -> Self {
        let client_url = free_url();
        let process = Command::new(bin.join("etcd"))
            .args(["--data-dir", data_dir])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        Self { bin: bin.to_owned(), client_url, process }
    }

    /// Repeats a command until it succeeds: the server may not be up yet.
    fn ctl(&self, arguments: &[&str]) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let output = Command::new(self.bin.join("etcdctl"))
                .args(["--endpoints", &self.client_url, "--command-timeout=5s"])
                .args(arguments)
                .output()
                .expect("etcdctl runs");
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            assert!(Instant::now() < deadline, "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// A transaction without conditions. An empty line ends the conditions, and each list of operations.
    fn transaction(&self, operations: &str) {
        let mut txn = Command::new(self.bin.join("etcdctl"))
            .args(["--endpoints", &self.client_url, "txn"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("etcdctl runs");
        let mut input = txn.stdin.take().expect("a pipe");
        input.write_all(format!("\n{operations}\n\n").as_bytes()).expect("etcdctl reads");
        drop(input);
        assert!(txn.wait().expect("etcdctl ends").success());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_url() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port"))
}

/// A backup of a real etcd is read and written anew. For etcdutl both are the same; and a real etcd that is restored
/// from the new one writes into it, where the pages are full.
#[test]
fn a_backup_of_etcd_that_is_written_anew_is_the_same_to_etcd() {
    let Some(bin) = programs("etcd") else { return };
    let directory = Directory::new("etcd");
    let saved = directory.path("saved");
    let etcd = Etcd::start(&bin, &directory.path("first"), &free_url());
    etcd.ctl(&["endpoint", "health"]);
    // A transaction has at most 128 operations.
    for part in 0..4 {
        let puts = (0..100).map(|number| format!("put k{:04} {}\n", 100 * part + number, "v".repeat(500)));
        etcd.transaction(&puts.collect::<String>());
    }
    etcd.ctl(&["del", "k0007"]);
    etcd.ctl(&["lease", "grant", "3000"]);
    etcd.ctl(&["snapshot", "save", &saved]);
    drop(etcd);

    let bytes = std::fs::read(&saved).unwrap();
    let buckets = read(&*bytes).expect("a backup of etcd");
    let rows = |name: &str| buckets.iter().find(|(other, _)| other == name.as_bytes()).map(|(_, rows)| rows.len());
    assert_eq!((rows("key"), rows("lease"), rows("alarm")), (Some(401), Some(1), Some(0)));
    let ours = directory.file("ours", &write(&buckets));
    assert_eq!(run(bin.join("bbolt"), &["check", &ours]).trim(), "OK");
    let status = |file: &str| {
        let text = run(bin.join("etcdutl"), &["snapshot", "status", file]);
        let parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
        // Hash, revision, number of keys; behind them the size, which is smaller here.
        parts[..3].to_vec()
    };
    assert_eq!(status(&ours), status(&saved));

    let (data_dir, peer_url) = (directory.path("restored"), free_url());
    let urls = ["--initial-cluster".into(), format!("default={peer_url}"), "--initial-advertise-peer-urls".into()];
    let restore = ["snapshot", "restore", &ours, "--skip-hash-check", "--data-dir", &data_dir];
    run(bin.join("etcdutl"), &[&restore[..], &[&urls[0], &urls[1], &urls[2], &peer_url]].concat());
    let etcd = Etcd::start(&bin, &data_dir, &peer_url);
    assert_eq!(etcd.ctl(&["get", "k", "--prefix", "--keys-only"]).split_whitespace().count(), 399);
    etcd.ctl(&["put", "more", &"w".repeat(5000)]);
    etcd.ctl(&["lease", "grant", "3000"]);
    etcd.ctl(&["del", "k01", "--prefix"]);
    let revision = etcd.ctl(&["get", "more", "--write-out=fields"]);
    let revision = revision.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).expect("the revision");
    etcd.ctl(&["compact", revision, "--physical"]);
    assert_eq!(etcd.ctl(&["get", "k", "--prefix", "--keys-only"]).split_whitespace().count(), 299);
    drop(etcd);
    let database = format!("{data_dir}/member/snap/db");
    assert_eq!(run(bin.join("bbolt"), &["check", &database]).trim(), "OK");
    // etcd does not write the list of free pages.
    let left = read(&*std::fs::read(&database).unwrap()).expect("the database of a killed etcd");
    assert!(
        left.iter().any(|(name, rows)| name == b"key" && (299..=400).contains(&rows.len())),
        "the rows of 299 keys"
    );
}
