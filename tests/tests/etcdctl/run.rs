//! Runs the steps of the script against one server.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use metastore_tests::member::{Directory, signal};

use super::script::Step;
use super::text::normalise;

/// How long etcdctl may take to print the expected lines.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often an interactive watch requests progress until it is reported.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// The text in place of lines that did not come.
pub const GAVE_UP: &str = "<gave up waiting>";

pub struct Shell {
    etcdctl: PathBuf,
    endpoint: String,
    /// Flags that say in whose name the commands run.
    caller: Vec<String>,
    lease: String,
    /// Where the commands run, and write files.
    directory: Directory,
}

/// A command that runs until it is stopped.
struct Background {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    pub fn new(etcdctl: PathBuf, endpoint: &str) -> Shell {
        let (endpoint, directory) = (endpoint.to_string(), Directory::new("etcdctl"));
        Shell { etcdctl, endpoint, caller: Vec::new(), lease: "0".into(), directory }
    }

    /// From now on all commands run with these flags.
    pub fn speak_as(&mut self, flags: Vec<String>) {
        self.caller = flags;
    }

    /// The normalised output of the step.
    pub fn run(&mut self, step: &Step) -> String {
        match step {
            Step::Run(arguments) => self.finish(arguments, ""),
            Step::Feed(arguments, stdin) => self.finish(arguments, stdin),
            Step::Background { command, lines, then, more } => {
                let mut background = self.start(command);
                let mut printed = background.read(*lines);
                printed.extend(then.iter().map(|arguments| self.finish(arguments, "")));
                printed.extend(background.read(*more));
                background.stop();
                normalise(&printed.join("\n"))
            }
            Step::Watch { typed, then, more } => {
                let mut background = self.start(&["watch", "-i"]);
                background.type_line(typed);
                let mut printed = vec![background.progress()];
                printed.extend(then.iter().map(|arguments| self.finish(arguments, "")));
                printed.extend(background.read_events(*more));
                background.stop();
                normalise(&printed.join("\n"))
            }
        }
    }

    fn command(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.current_dir(self.directory.path());
        command.args(["--endpoints", &self.endpoint]).args(&self.caller);
        command.args(arguments.iter().map(|argument| argument.replace("$lease", &self.lease)));
        // Settings from the environment of the user must not reach etcdctl.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        command
    }

    fn finish(&mut self, arguments: &[&str], stdin: &str) -> String {
        // A command that should end and does not, such as a watch that should be refused, has an exit code, too.
        let mut limited = Command::new("timeout");
        limited.arg(PATIENCE.as_secs().to_string()).arg(&self.etcdctl);
        let mut command = self.command(limited, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl runs");
        let mut input = child.stdin.take().expect("stdin is piped");
        // A command that does not read its stdin may have closed it.
        let _ = input.write_all(stdin.as_bytes());
        drop(input);
        let output = child.wait_with_output().expect("etcdctl ends");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        self.learn_lease(&stdout);
        // etcdctl's own log lines contain times and addresses. It reports errors on a line without them.
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("{\"level\"")).collect();
        let code = output.status.code().map_or("signal".into(), |code| code.to_string());
        format!("{}\nstderr: {}\nexit: {code}", normalise(&stdout), normalise(&stderr.join("\n")))
    }

    fn learn_lease(&mut self, stdout: &str) {
        let granted = stdout.strip_prefix("lease ").filter(|rest| rest.contains(" granted"));
        if let Some((id, _)) = granted.and_then(|rest| rest.split_once(' ')) {
            self.lease = id.to_string();
        }
    }

    fn start(&self, arguments: &[&str]) -> Background {
        let mut command = self.command(Command::new(&self.etcdctl), arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("etcdctl runs");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Background { child, stdin, lines }
    }
}

impl Background {
    /// The next `count` lines. If they do not come in time, fewer, and a note.
    fn read(&mut self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while lines.len() < count {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(_) => {
                    lines.push(format!("{GAVE_UP} after {} of {count} lines", lines.len()));
                    break;
                }
            }
        }
        lines
    }

    /// Like `read`, without late answers to repeated progress requests.
    fn read_events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            let line = self.read(1).remove(0);
            let late = line.starts_with(GAVE_UP);
            if !line.starts_with("progress notify") {
                events.push(line);
            }
            if late {
                break;
            }
        }
        events
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("etcdctl reads its stdin");
    }

    /// Requests progress until it is reported. From then on the watcher exists, and receives the following events.
    fn progress(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.type_line("progress");
            match self.lines.recv_timeout(ASK_AGAIN) {
                Ok(line) => return line,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        GAVE_UP.into()
    }

    /// SIGINT, as a user would send it: lock and elect then release what they hold.
    fn stop(mut self) {
        if self.child.try_wait().expect("a child can be waited for").is_none() {
            signal(self.child.id(), "INT");
        }
        self.child.wait().expect("a child can be waited for");
    }
}
