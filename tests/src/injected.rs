//! Faults in the system calls of a running process, injected by strace.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::member::signal;

/// System calls that make written data durable.
const SYNCS: &str = "fdatasync,fsync,sync_file_range";

/// A running strace that changes the results of system calls.
pub struct Injected(Child);

impl Injected {
    /// From now on all syncs of a process fail or wait as `fault` describes in strace's syntax (`error=EIO:when=1+`,
    /// `delay_enter=1000000`). Returns when strace holds all threads. Panics if it cannot.
    pub fn into_syncs(strace: &Path, pid: u32, fault: &str) -> Injected {
        let mut tracer = Command::new(strace)
            .args(["-f", "-p", &pid.to_string(), "-o", "/dev/null", "-e", &format!("trace={SYNCS}")])
            .args(["-e", &format!("inject={SYNCS}:{fault}")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace runs");
        let mut lines = BufReader::new(tracer.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
        let first = lines.find(|line| line.contains("attached") || line.contains("ptrace"));
        if first.as_ref().is_none_or(|line| !line.contains("attached")) {
            signal(tracer.id(), "KILL");
            panic!("strace cannot trace process {pid}: {first:?}");
        }
        // strace must not stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Injected(tracer)
    }

    /// Waits for strace, which ends with the process.
    pub fn wait(&mut self) {
        self.0.wait().expect("strace ends with the process it traces");
    }
}
