//! An output of the log: a bounded queue, and the thread that empties it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::journal::Journal;
use super::line::{Entry, Line};
use super::rotation::{RotatedFile, Rotation};
use super::{Format, Level, Output};

/// At most so many lines wait for an output.
const MOST: usize = 1 << 14;
/// At most so many bytes of them: a line may quote a long key.
const MOST_BYTES: usize = 16 << 20;

/// The lines that wait for an output.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Whether the thread holds lines that it has not written yet.
    writing: bool,
    /// Lines that were lost since one told how many.
    dropped: u64,
}

impl Queue {
    /// Adds a line, or drops and counts it; never waits for the output.
    pub fn push(&self, entry: Arc<Entry>) {
        let mut state = self.state.lock();
        if state.entries.len() >= MOST || state.bytes + entry.text.len() > MOST_BYTES {
            state.dropped += 1;
            return;
        }
        state.bytes += entry.text.len();
        state.entries.push_back(entry);
        self.arrived.notify_one();
    }

    /// Waits until all lines are written, at most until the deadline.
    pub fn finish(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.writing || !state.entries.is_empty() {
            if self.written.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    #[cfg(test)]
    pub fn waiting(&self) -> Vec<Arc<Entry>> {
        self.state.lock().entries.iter().cloned().collect()
    }

    /// Writes lines for ever.
    fn drain(&self, format: Format, mut target: Target) {
        loop {
            let mut state = self.state.lock();
            state.writing = false;
            while state.entries.is_empty() {
                self.written.notify_all();
                self.arrived.wait(&mut state);
            }
            state.writing = true;
            state.bytes = 0;
            let entries = std::mem::take(&mut state.entries);
            let mut dropped = std::mem::take(&mut state.dropped);
            drop(state);
            for entry in entries {
                if dropped > 0 && target.write(&lost(format, dropped)).is_ok() {
                    dropped = 0;
                }
                if target.write(&entry).is_err() {
                    dropped += 1;
                }
            }
            self.state.lock().dropped += dropped;
        }
    }
}

/// The line about lines that were lost.
fn lost(format: Format, dropped: u64) -> Entry {
    let mut line = Line::begin(format, Level::Warn, SystemTime::now(), (Some(file!()), Some(line!())));
    line.say("lines of the log were dropped, because its output did not take them", "dropped", dropped);
    line.end()
}

enum Target {
    Plain(Plain),
    Rotated(RotatedFile),
    Journal(Journal),
}

impl Target {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        match self {
            Target::Plain(plain) => plain.write(entry.text.as_bytes()),
            Target::Rotated(file) => file.write(entry.text.as_bytes()),
            Target::Journal(journal) => journal.write(entry),
        }
    }
}

/// A stream of lines.
pub struct Plain {
    file: File,
    /// Whether the last line was written in part; the next one then begins on a line of its own.
    torn: bool,
}

impl Plain {
    pub fn new(file: File) -> Self {
        Self { file, torn: false }
    }

    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn = rest.len() < line.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Opens an output and starts its thread.
pub fn start(output: &Output, format: Format, rotation: Option<&Rotation>) -> Result<Arc<Queue>, String> {
    let duplicate = |stream: io::Result<std::os::fd::OwnedFd>| {
        stream
            .map(|fd| Target::Plain(Plain::new(fd.into())))
            .map_err(|error| format!("cannot open {output:?}: {error}"))
    };
    let target = match (output, rotation) {
        // Duplicates, because the standard library's streams buffer and lock.
        (Output::Stderr, _) => duplicate(io::stderr().as_fd().try_clone_to_owned())?,
        (Output::Stdout, _) => duplicate(io::stdout().as_fd().try_clone_to_owned())?,
        (Output::File(path), rotation) => {
            let opened = match rotation {
                Some(rotation) => RotatedFile::start(path.clone(), rotation.clone()).map(Target::Rotated),
                None => append(path).map(|file| Target::Plain(Plain::new(file))),
            };
            opened.map_err(|error| format!("cannot open the log file {}: {error}", path.display()))?
        }
        (Output::Journal, _) => Target::Journal(Journal::find()?),
    };
    let queue = Arc::new(Queue::default());
    let writer = queue.clone();
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || writer.drain(format, target))
        .map_err(|error| format!("cannot start the thread of the log: {error}"))?;
    Ok(queue)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::time::Duration;

    fn entry(message: &str) -> Arc<Entry> {
        let mut line = Line::begin(Format::Json, Level::Info, SystemTime::now(), (None, None));
        line.say(message, "n", 1);
        Arc::new(line.end())
    }

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_what_is_lost_is_told() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = Arc::new(Queue::default());
        let drain = queue.clone();
        let file = std::os::fd::OwnedFd::from(writer).into();
        std::thread::spawn(move || drain.drain(Format::Json, Target::Plain(Plain::new(file))));
        // More than the pipe and the queue hold together.
        let long = "x".repeat(4000);
        let pushed = 2 * MOST;
        for _ in 0..pushed {
            queue.push(entry(&long));
        }
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(reader).lines().try_for_each(|line| sender.send(line.unwrap()).map_err(|_| ()))
        });
        let next = || lines.recv_timeout(Duration::from_secs(30)).unwrap();
        let (mut written, mut lost) = (0, 0);
        while written + lost < pushed as u64 {
            let line: serde_json::Value = serde_json::from_str(&next()).unwrap();
            match line["dropped"].as_u64() {
                Some(dropped) => lost += dropped,
                None => written += u64::from(line["msg"] == *long),
            }
        }
        assert!(written > 0 && lost > 0 && written + lost == pushed as u64, "{written} {lost}");
        queue.push(entry("the pipe is read again"));
        assert!(next().contains("the pipe is read again"));
    }

    #[test]
    fn a_closed_pipe_costs_lines_only() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = Arc::new(Queue::default());
        let drain = queue.clone();
        let file = std::os::fd::OwnedFd::from(writer).into();
        let thread = std::thread::spawn(move || drain.drain(Format::Json, Target::Plain(Plain::new(file))));
        queue.push(entry("a"));
        queue.push(entry("b"));
        queue.finish(Instant::now() + Duration::from_secs(30));
        assert_eq!(queue.state.lock().dropped, 2);
        assert!(!thread.is_finished());
    }
}
