//! Where the programs come from, and what a test does when one is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A storage engine of the server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Memory,
    RocksDb,
}

impl EngineKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Memory => "memory",
            EngineKind::RocksDb => "rocksdb",
        }
    }

    fn flag(self) -> String {
        format!("--engine={}", self.name())
    }

    pub fn other(self) -> EngineKind {
        match self {
            EngineKind::Memory => EngineKind::RocksDb,
            EngineKind::RocksDb => EngineKind::Memory,
        }
    }
}

/// Where a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harness {
    /// As a process of its own: the real binary.
    Process,
    /// In the process of the test, on threads of its own.
    Inside,
}

/// A binary that takes etcd's flags, and the flags that each start of it gets.
#[derive(Clone, Debug)]
pub struct Server {
    /// The program that the member runs in: with [`Harness::Inside`] the program of the test itself.
    pub binary: PathBuf,
    pub flags: Vec<String>,
    pub harness: Harness,
}

impl Server {
    /// A binary that is started without flags.
    pub fn process(binary: PathBuf) -> Server {
        Server { binary, flags: Vec::new(), harness: Harness::Process }
    }

    /// The etcd in a directory that [`etcd`] returned.
    pub fn etcd(directory: &Path) -> Server {
        Server::process(directory.join("etcd"))
    }

    /// The server under test, as it is linked into this program.
    pub fn inside(engine: EngineKind) -> Result<Server, String> {
        let binary = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        Ok(Server { binary, flags: vec![engine.flag()], harness: Harness::Inside })
    }

    /// Whether this is a real etcd. The subject may be one, so that the tests themselves can be tested.
    pub fn is_etcd(&self) -> bool {
        self.binary.ends_with("etcd")
    }
}

/// The server under test, with `engine`.
pub fn subject(engine: EngineKind) -> Result<Server, String> {
    let mut server = Server::process(subject_binary()?);
    if !server.is_etcd() {
        server.flags = vec![engine.flag()];
    }
    Ok(server)
}

/// The path in `METASTORE_BIN`, otherwise the `metastore` that cargo built beside this test.
pub fn subject_binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("METASTORE_BIN") {
        let path = PathBuf::from(path);
        return path.is_file().then_some(path.clone()).ok_or(format!("METASTORE_BIN={} is no file", path.display()));
    }
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build("metastore-server", "metastore")).clone()
}

/// The path in `METACTL_BIN`, otherwise the `metactl` that cargo built beside this test.
pub fn metactl() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("METACTL_BIN") {
        return Ok(path.into());
    }
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build("metastore-cli", "metactl")).clone()
}

/// Builds a program in the profile of this test, so that a test never runs against an outdated one.
fn build(package: &str, program: &str) -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    // target/<profile directory>/deps/<this test>
    let directory = this.parent().and_then(Path::parent).ok_or("this program is not in a target directory")?;
    let target = directory.parent().ok_or("this program is not in a target directory")?;
    let profile = if directory.ends_with("debug") { "test" } else { "release" };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--quiet", "-p", package, "--bin", program, "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let binary = directory.join(program);
    (status.success() && binary.is_file()).then_some(binary).ok_or_else(|| format!("{program} was not built"))
}

/// A directory with etcd, etcdctl and etcdutl of the flavor "newest" or "3.5.1", installed by `tests/etcd/install.sh`.
pub fn etcd(flavor: &str) -> Result<PathBuf, String> {
    let script = workspace().join("tests/etcd/install.sh");
    let output = Command::new(&script)
        .arg(flavor)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", script.display()))?;
    if !output.status.success() {
        return Err(format!("no etcd {flavor}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(stdout.lines().last().unwrap_or_default()))
}

/// The flavor that tests compare with: the value of `ETCD_FLAVOR`, otherwise the newest.
pub fn reference_flavor() -> String {
    std::env::var("ETCD_FLAVOR").ok().filter(|flavor| !flavor.is_empty()).unwrap_or("newest".into())
}

/// The server under test and an etcd of this flavor; `None` if the test is skipped.
pub fn beside_etcd(test: &str, engine: EngineKind, flavor: &str) -> Option<[Server; 2]> {
    or_skip(test, subject(engine).and_then(|subject| Ok([subject, Server::etcd(&etcd(flavor)?)])))
}

/// Does the same with both servers at once.
///
/// # Panics
/// If `work` does.
pub fn with_both<T: Send>(servers: &[Server; 2], work: impl Fn(&Server) -> T + Sync) -> [T; 2] {
    let work = &work;
    std::thread::scope(|scope| {
        let both = servers.each_ref().map(|server| scope.spawn(move || work(server)));
        both.map(|worked| worked.join().expect("no panic at either server"))
    })
}

/// The path of a tool in `PATH`.
pub fn tool(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .ok_or(format!("there is no {name} in PATH"))
}

/// Returns what was found. If it is missing, prints on stderr why the test is skipped, and returns None. Where `CI` is
/// set no test may be skipped: a missing program panics there.
pub fn or_skip<T>(test: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) if std::env::var_os("CI").is_some() => panic!("{test} cannot run, and CI must run it: {reason}"),
        Err(reason) => {
            eprintln!("SKIPPED {test}: {reason}");
            None
        }
    }
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in the workspace")
}
