//! A server: starting it on its own directory and ports, waiting for it, killing and restarting it.
//!
//! It is a process, or runs inside this process ([`inside`]); [`Server::harness`] decides. Both are started with the
//! same flags. Operations that need a process of its own (a kill, an exit code) panic for a server inside this one.

mod inside;
mod log;

use std::io::BufReader;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::programs::{Harness, Server};
use inside::Inside;
use log::SharedLog;

/// With these flags two servers get the same ids and store the same addresses, so that everything stored can be equal.
/// No client connects to these addresses.
pub const SAME_IDENTITY: [&str; 4] = [
    "--name=default",
    "--initial-advertise-peer-urls=http://127.0.0.1:1",
    "--initial-cluster=default=http://127.0.0.1:1",
    "--advertise-client-urls=http://127.0.0.1:2",
];
/// The first entries of a cluster's log: its member, the leader's first entry, the member's name and URLs, the
/// cluster's version.
pub const FOUNDING_ENTRIES: u64 = 4;

/// How long a member may take to stop after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How often the end of a process is checked: the standard library has no wait with a deadline.
const EXIT_POLL: Duration = Duration::from_millis(5);
/// How long the last lines of an ended process may take to be read from its pipe.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// A temporary directory, removed with its contents on drop.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("metastore-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A member's name and its addresses, "host:port": one for clients, one for the other members.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub client_address: String,
    pub peer_address: String,
    /// "http", or "https" where members talk to each other with TLS.
    pub peer_scheme: &'static str,
}

impl Identity {
    /// An identity with two free ports of this machine.
    pub fn local(name: &str) -> Identity {
        Identity {
            name: name.into(),
            client_address: free_address(),
            peer_address: free_address(),
            peer_scheme: "http",
        }
    }

    /// Its entry in `--initial-cluster`.
    pub fn in_initial_cluster(&self) -> String {
        format!("{}={}://{}", self.name, self.peer_scheme, self.peer_address)
    }
}

/// A started member: a process, or threads of this process.
enum Started {
    Process(Child),
    Inside(Inside),
}

/// One member: a server, and the directory that outlives its process.
pub struct Member {
    server: Server,
    wrapper: Vec<String>,
    extra_flags: Vec<String>,
    identity: Identity,
    directory: Directory,
    started: Option<Started>,
    log: Arc<SharedLog>,
}

impl Member {
    /// Starts a single member and waits until it serves clients. Panics with the end of its log if it does not.
    pub fn start(server: &Server, extra_flags: &[&str]) -> Member {
        let mut member = Member::new(server, extra_flags);
        member.restart();
        member
    }

    /// A member that was not started yet.
    pub fn new(server: &Server, extra_flags: &[&str]) -> Member {
        Member::with_identity(server, Identity::local("m"), extra_flags)
    }

    /// Like [`Member::new`], with a given name and addresses. Later flags win: `--initial-cluster` may be among them.
    pub fn with_identity(server: &Server, identity: Identity, extra_flags: &[&str]) -> Member {
        let name = server.binary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Member {
            server: server.clone(),
            wrapper: Vec::new(),
            extra_flags: extra_flags.iter().map(|flag| flag.to_string()).collect(),
            identity,
            directory: Directory::new(&name),
            started: None,
            log: Arc::default(),
        }
    }

    /// The command that the next starts put before the binary (strace and its flags, for example); empty for none.
    pub fn wrap_in(&mut self, command: &[String]) {
        self.wrapper = command.to_vec();
    }

    /// Starts the member, also again on the same directory and ports, and waits until it serves clients.
    pub fn restart(&mut self) {
        if let Err(reason) = self.try_restart() {
            panic!("{} does not serve clients: {reason}", self.server.binary.display());
        }
    }

    /// Like [`Member::restart`], but returns the reason of a failure as an error.
    pub fn try_restart(&mut self) -> Result<(), String> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the member without waiting for it: members of a new cluster need each other to become ready.
    pub fn launch(&mut self) -> Result<(), String> {
        assert!(self.started.is_none(), "the member is running");
        self.started = Some(match self.server.harness {
            Harness::Inside => {
                assert!(self.wrapper.is_empty(), "only a process can be wrapped in another one");
                self.log = Arc::default();
                Started::Inside(Inside::start(self.arguments(), self.log.clone()).map_err(|error| error.to_string())?)
            }
            Harness::Process => {
                let mut child = self.command().spawn().map_err(|error| error.to_string())?;
                self.log = Arc::default();
                let stderr = child.stderr.take().expect("stderr is piped");
                let log = self.log.clone();
                std::thread::spawn(move || log.follow(BufReader::new(stderr)));
                Started::Process(child)
            }
        });
        Ok(())
    }

    /// Waits until it serves clients. The error shows the end of its log.
    pub fn wait_until_ready(&self) -> Result<(), String> {
        self.log.wait_until_ready(&self.identity.client_address)
    }

    fn command(&self) -> Command {
        let mut command = match self.wrapper.split_first() {
            None => Command::new(&self.server.binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                // Killing only the wrapper would leave the server behind: both are killed as a process group.
                command.args(arguments).arg(&self.server.binary).process_group(0);
                command
            }
        };
        // Settings from the environment of the user or of the tests must not reach the server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// The flags of the next start.
    fn arguments(&self) -> Vec<String> {
        let (client, peer, all) = (self.client_url(), self.peer_url(), self.identity.in_initial_cluster());
        let data = self.data_directory().to_string_lossy().into_owned();
        let own = [
            ["--name", &self.identity.name],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &all],
        ];
        let own = own.into_iter().flatten().map(String::from);
        own.chain(self.server.flags.iter().cloned()).chain(self.extra_flags.iter().cloned()).collect()
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The address for clients: "127.0.0.1:port".
    pub fn client_address(&self) -> &str {
        &self.identity.client_address
    }

    pub fn client_url(&self) -> String {
        format!("http://{}", self.identity.client_address)
    }

    pub fn peer_url(&self) -> String {
        format!("{}://{}", self.identity.peer_scheme, self.identity.peer_address)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The address on which the next starts listen for the other members.
    pub fn move_peer_address(&mut self, address: String) {
        self.identity.peer_address = address;
    }

    /// Flags of the next starts, in place of the present ones.
    pub fn replace_flags(&mut self, flags: &[String]) {
        self.extra_flags = flags.to_vec();
    }

    /// One more flag for the next starts.
    pub fn add_flag(&mut self, flag: &str) {
        self.extra_flags.push(flag.to_string());
    }

    /// The next starts lack a flag.
    pub fn remove_flag(&mut self, flag: &str) {
        self.extra_flags.retain(|other| other != flag);
    }

    /// The next starts run another program, on the same directory and addresses.
    pub fn become_another(&mut self, server: &Server) {
        self.server = server.clone();
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether it was started, and not yet ended by the test.
    pub fn is_started(&self) -> bool {
        self.started.is_some()
    }

    fn child(&mut self) -> &mut Child {
        match self.started.as_mut().expect("the member is running") {
            Started::Process(child) => child,
            Started::Inside(_) => panic!("a member inside this process has no process of its own"),
        }
    }

    /// The id of the started process: that of the wrapper, if there is one.
    pub fn pid(&self) -> u32 {
        match self.started.as_ref().expect("the member is running") {
            Started::Process(child) => child.id(),
            Started::Inside(_) => panic!("a member inside this process has no process of its own"),
        }
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        let group = (!self.wrapper.is_empty()).then(|| self.pid());
        if let Some(group) = group {
            signal_group(group, "KILL");
        }
        let child = self.child();
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        self.process_ended();
    }

    /// The pipe of an ended process may still hold its last lines. They are read before a test looks at the log.
    fn process_ended(&mut self) {
        self.started = None;
        self.log.wait_until_closed(DRAIN_PATIENCE);
    }

    /// The harshest end available: kill -9 for a process; inside this process the same as [`Member::stop`].
    pub fn end(&mut self) {
        match self.server.harness {
            Harness::Process => self.kill(),
            Harness::Inside => self.stop(),
        }
    }

    /// Asks the member to stop, and waits for the end. Panics if that takes longer than 30 s.
    pub fn stop(&mut self) {
        self.begin_stop();
        assert!(self.has_ended(STOP_PATIENCE), "the member stops when it is asked to");
    }

    /// Asks the member to stop, without waiting for the end.
    pub fn begin_stop(&mut self) {
        match self.started.as_mut().expect("the member is running") {
            Started::Process(child) => signal(child.id(), "TERM"),
            Started::Inside(inside) => inside.begin_stop(),
        }
    }

    /// Waits for the member to end by itself; false if it did not within `patience`.
    pub fn has_ended(&mut self, patience: Duration) -> bool {
        let ended = match self.started.as_mut().expect("the member is running") {
            Started::Process(_) => return self.wait_exit(patience).is_some(),
            Started::Inside(inside) => inside.has_ended(patience),
        };
        if ended {
            self.started = None;
        }
        ended
    }

    /// SIGTERM, and waits for the end. Panics if the process takes longer than 30 s.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.wait_exit(STOP_PATIENCE).expect("the member stops after SIGTERM")
    }

    /// Waits for the process to end by itself; None if it did not within `patience`.
    pub fn wait_exit(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        let child = self.child();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.process_ended();
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::park_timeout(EXIT_POLL);
        }
    }

    /// The lines that this process has written to stderr: all of them once it has ended, those read so far while it
    /// runs. A member inside this process logs nothing, except the reason why it does not start or cannot go on.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if matches!(self.started, Some(Started::Process(_))) {
            self.kill();
        }
        // Before its directory is removed.
        self.started = None;
    }
}

/// Whether an environment variable is a setting of some server.
fn is_setting(name: &str) -> bool {
    name.starts_with("METASTORE_") || name.starts_with("ETCD_")
}

/// Sends a signal by name ("TERM", "STOP") to a process that the test started.
pub fn signal(pid: u32, name: &str) {
    send_signal(&pid.to_string(), name);
}

/// Sends a signal to a process group. Its id is that of the first process in it.
fn signal_group(pid: u32, name: &str) {
    send_signal(&format!("-{pid}"), name);
}

fn send_signal(target: &str, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), "--", target]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{name} {target} failed");
}

/// An address on which nothing listens, unlike any given out before. It is chosen below the ports that systems give to
/// outgoing connections, so that no client takes one before the server listens on it.
pub fn free_address() -> String {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two test programs at a time begin far from each other.
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} on is free");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More lines than a pipe holds, so that its reader is behind when the process ends.
    const LINES: usize = 20_000;
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn the_log_of_a_process_that_has_ended_is_whole() {
        let mut member = Member::new(&Server::process("true".into()), &[]);
        member.wrap_in(&["sh".into(), "-c".into(), format!("seq 1 {LINES} >&2")]);
        for _ in 0..20 {
            member.launch().unwrap();
            assert!(member.wait_exit(PATIENCE).is_some());
            assert_eq!(member.log().len(), LINES);
        }
    }
}
