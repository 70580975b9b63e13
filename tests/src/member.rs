//! A server process: started on its own directory and ports, waited for, killed, restarted.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::programs::Server;

/// How long a member may take to serve clients. An etcd needs up to 2 s to elect itself; a loaded machine, more.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a member may take to stop after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How often /health is asked while a member starts, and how long one answer may take.
const HEALTH_POLL: Duration = Duration::from_millis(50);
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// How often the end of a process is looked for: the standard library has no wait with a deadline.
const EXIT_POLL: Duration = Duration::from_millis(5);
/// etcd's log line that says that clients are served.
const READY: &str = "ready to serve client requests";
/// Lines of the log that an error message shows.
const LOG_TAIL: usize = 15;

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

/// What the process wrote to stderr so far, and whether it is ready.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    ready: bool,
    closed: bool,
}

#[derive(Default)]
struct SharedLog {
    log: Mutex<Log>,
    changed: Condvar,
}

/// What a member is called, and where it is met: "host:port" by clients and by the other members.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub client_address: String,
    pub peer_address: String,
}

impl Identity {
    /// On two free ports of this machine.
    pub fn local(name: &str) -> Identity {
        Identity { name: name.into(), client_address: free_address(), peer_address: free_address() }
    }

    /// How `--initial-cluster` names it.
    pub fn in_initial_cluster(&self) -> String {
        format!("{}=http://{}", self.name, self.peer_address)
    }
}

/// One member: a server, and the directory that outlives its process.
pub struct Member {
    server: Server,
    wrapper: Vec<String>,
    extra_flags: Vec<String>,
    identity: Identity,
    directory: Directory,
    child: Option<Child>,
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

    /// The same under a given name and addresses. Flags given later win, so `--initial-cluster` may be among them.
    pub fn with_identity(server: &Server, identity: Identity, extra_flags: &[&str]) -> Member {
        let name = server.binary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Member {
            server: server.clone(),
            wrapper: Vec::new(),
            extra_flags: extra_flags.iter().map(|flag| flag.to_string()).collect(),
            identity,
            directory: Directory::new(&name),
            child: None,
            log: Arc::default(),
        }
    }

    /// The command that the next starts put before the binary (strace and its flags); empty for none.
    pub fn wrap_in(&mut self, command: &[String]) {
        self.wrapper = command.to_vec();
    }

    /// Starts the process, again on the same directory and ports, and waits until it serves clients.
    pub fn restart(&mut self) {
        if let Err(reason) = self.try_restart() {
            panic!("{} does not serve clients: {reason}", self.server.binary.display());
        }
    }

    /// Like [`Member::restart`], with the reason as an error.
    pub fn try_restart(&mut self) -> Result<(), String> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the process without waiting for it: members of a new cluster need each other to become ready.
    pub fn launch(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "the member is running");
        let mut child = self.command().spawn().map_err(|error| error.to_string())?;
        self.log = Arc::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = self.log.clone();
        std::thread::spawn(move || log.follow(BufReader::new(stderr)));
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the process serves clients. The error shows the end of its log.
    pub fn wait_until_ready(&self) -> Result<(), String> {
        self.log.wait_until_ready(&self.identity.client_address)
    }

    fn command(&self) -> Command {
        let (client, peer) = (self.client_url(), self.peer_url());
        let mut command = match self.wrapper.split_first() {
            None => Command::new(&self.server.binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                // A wrapper that is killed leaves the server behind: they are killed as a group.
                command.args(arguments).arg(&self.server.binary).process_group(0);
                command
            }
        };
        // Settings of the person who runs the tests, and of the tests themselves, must not reach the server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command
            .args(["--name", &self.identity.name, "--data-dir"])
            .arg(self.data_directory())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.identity.in_initial_cluster()])
            .args(&self.server.flags)
            .args(&self.extra_flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where clients connect: "127.0.0.1:port".
    pub fn client_address(&self) -> &str {
        &self.identity.client_address
    }

    pub fn client_url(&self) -> String {
        format!("http://{}", self.identity.client_address)
    }

    pub fn peer_url(&self) -> String {
        format!("http://{}", self.identity.peer_address)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the next starts listen for the other members.
    pub fn move_peer_address(&mut self, address: String) {
        self.identity.peer_address = address;
    }

    /// Flags of the next starts, in place of those given first.
    pub fn replace_flags(&mut self, flags: &[String]) {
        self.extra_flags = flags.to_vec();
    }

    /// One more flag for the next starts.
    pub fn add_flag(&mut self, flag: &str) {
        self.extra_flags.push(flag.to_string());
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether the process was started, and not yet ended by the test.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// The id of the process that was started: the wrapper's, if there is one.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the member is running").id()
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the member is running");
        if !self.wrapper.is_empty() {
            signal_group(child.id(), "KILL");
        }
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// SIGTERM, and waits for the end. Panics if the process takes longer than 30 s.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.wait_exit(STOP_PATIENCE).expect("the member stops after SIGTERM")
    }

    /// Waits for the process to end by itself; None if it did not within `patience`.
    pub fn wait_exit(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        let child = self.child.as_mut().expect("the member is running");
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.child = None;
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::park_timeout(EXIT_POLL);
        }
    }

    /// The lines that this process wrote to stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.log.log.lock().unwrap().lines.clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

impl SharedLog {
    fn follow(&self, stderr: impl BufRead) {
        for line in stderr.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut log = self.log.lock().unwrap();
            log.ready |= line.contains(READY);
            log.lines.push(line);
            self.changed.notify_all();
        }
        self.log.lock().unwrap().closed = true;
        self.changed.notify_all();
    }

    /// Ready is who says so in the log, or answers /health with 200.
    fn wait_until_ready(&self, address: &str) -> Result<(), String> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut log = self.log.lock().unwrap();
        while !log.ready && !log.closed && Instant::now() < deadline {
            drop(log);
            if is_healthy(address) {
                return Ok(());
            }
            log = self.log.lock().unwrap();
            let waiting = |log: &mut Log| !log.ready && !log.closed;
            log = self.changed.wait_timeout_while(log, HEALTH_POLL, waiting).unwrap().0;
        }
        if log.ready {
            return Ok(());
        }
        let problem = if log.closed { "it ended" } else { "neither its log nor /health said so in time" };
        let tail = &log.lines[log.lines.len().saturating_sub(LOG_TAIL)..];
        Err(format!("{problem}; its log ends with:\n{}", tail.join("\n")))
    }
}

/// Whether an environment variable is a setting of some server.
fn is_setting(name: &str) -> bool {
    name.starts_with("METASTORE_") || name.starts_with("ETCD_")
}

/// Whether GET /health is answered with status 200.
fn is_healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// Sends a signal by name ("TERM", "STOP") to a process that the test started.
pub fn signal(pid: u32, name: &str) {
    send_signal(&pid.to_string(), name);
}

/// The same to a group of processes, whose number is that of the first one.
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
