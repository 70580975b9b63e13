//! The log, in the shapes of zap, which operators of etcd and their tools read.
//!
//! `{"level":"info","ts":"2006-01-02T15:04:05.000000Z","caller":"server/main.rs:12","msg":"...", fields...}`
//!
//! ```text
//!   an event ─▶ Logger ─▶ a queue for each output ─▶ a thread "log" ─▶ stderr, stdout, a file, the journal
//! ```
//!
//! - The thread that logs never waits for an output: a pipe that nobody reads, or a disk that hangs, stops no request.
//!   Lines beyond the bound of the queue, and those that the output refuses, are dropped and counted; the first line
//!   that can be written again is preceded by one that tells how many were lost.
//! - The end of the process waits for the queues, but only a moment.

mod journal;
mod line;
mod rotation;
mod sink;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber, span};

use line::Line;
pub use line::timestamp;
pub use rotation::Rotation;
use sink::Queue;

/// An event with this target is written at level "fatal": the process is about to end. (tracing ends at level error.)
pub const FATAL: &str = "fatal";
/// How long the end of the process waits for an output that does not take its lines.
const PATIENCE: Duration = Duration::from_millis(200);

/// Levels of zap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    /// zap's names; `dpanic` and `panic`, which nothing here logs, count as `fatal`.
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" => Level::Warn,
            "error" => Level::Error,
            "dpanic" | "panic" | "fatal" => Level::Fatal,
            _ => return None,
        })
    }

    fn of(metadata: &Metadata<'_>) -> Level {
        match *metadata.level() {
            tracing::Level::ERROR if metadata.target() == FATAL => Level::Fatal,
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }
}

/// Encodings of zap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// Appended to; created if missing.
    File(PathBuf),
    /// The journal of systemd.
    Journal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub level: Level,
    pub format: Format,
    pub outputs: Vec<Output>,
    /// Of the file among the outputs.
    pub rotation: Option<Rotation>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { level: Level::Info, format: Format::Json, outputs: vec![Output::Stderr], rotation: None }
    }
}

/// The queues of this process, for [`finish`].
static QUEUES: OnceLock<Vec<Arc<Queue>>> = OnceLock::new();

/// Sends the events of this process to the outputs, from now on. Later calls have no effect.
///
/// # Errors
/// The output that cannot be opened, and why; then nothing is logged yet.
pub fn start(settings: &Settings) -> Result<(), String> {
    let open = |output: &Output| sink::start(output, settings.format, settings.rotation.as_ref());
    let queues: Vec<_> = settings.outputs.iter().map(open).collect::<Result<_, _>>()?;
    let queues = QUEUES.get_or_init(|| queues);
    let logger = Logger { level: settings.level, format: settings.format, queues: queues.clone() };
    let _ = tracing::subscriber::set_global_default(logger);
    Ok(())
}

/// Waits a moment until all lines are written: the process is about to end.
pub fn finish() {
    let deadline = Instant::now() + PATIENCE;
    for queue in QUEUES.get().into_iter().flatten() {
        queue.finish(deadline);
    }
}

struct Logger {
    level: Level,
    format: Format,
    queues: Vec<Arc<Queue>>,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Lines of libraries below a warning are about their internals.
        let ours = metadata.target().starts_with("metastore") || *metadata.level() <= tracing::Level::WARN;
        metadata.is_event() && ours && Level::of(metadata) >= self.level
    }

    /// Lets the many trace points of the HTTP/2 library cost one comparison each.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error | Level::Fatal => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let place = (metadata.file(), metadata.line());
        let mut line = Line::begin(self.format, Level::of(metadata), SystemTime::now(), place);
        event.record(&mut line);
        let entry = Arc::new(line.end());
        for queue in &self.queues {
            queue.push(entry.clone());
        }
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::Value;

    fn texts(level: Level, format: Format, log: impl FnOnce()) -> Vec<String> {
        let queue = Arc::new(Queue::default());
        tracing::subscriber::with_default(Logger { level, format, queues: vec![queue.clone()] }, log);
        queue.waiting().iter().map(|entry| entry.text.clone()).collect()
    }

    /// The log lines from this level on.
    pub(crate) fn lines(level: Level, log: impl FnOnce()) -> Vec<Value> {
        texts(level, Format::Json, log).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The shape that etcd 3.7.3 writes with `--log-format=console`.
    #[test]
    fn a_line_for_the_console_has_the_shape_of_zap() {
        let lines = texts(Level::Info, Format::Console, || {
            tracing::info!("data-dir" = "d", count = 3, "dir-type" = "em\"pty", "two\nlines");
            tracing::warn!("no fields");
        });
        let (at, rest) = lines[0].split_once('\t').unwrap();
        assert!(at.ends_with('Z') && at.len() == "2006-01-02T15:04:05.000000Z".len(), "{at}");
        let (level, rest) = rest.split_once('\t').unwrap();
        let (caller, rest) = rest.split_once('\t').unwrap();
        assert!(level == "info" && caller.starts_with("src/logging.rs:"), "{level} {caller}");
        assert_eq!(rest, "two\\nlines\t{\"data-dir\": \"d\", \"count\": 3, \"dir-type\": \"em\\\"pty\"}\n");
        assert!(lines[1].ends_with("\tno fields\n"), "{}", lines[1]);
    }

    #[test]
    fn a_line_has_the_shape_of_zap() {
        let lines = lines(Level::Info, || {
            let name = "a \"quoted\"\nname";
            tracing::info!(name, count = 3u64, delta = -1i64, ok = true, "snapshot-count" = 5, "it {}", "works");
        });
        let line = lines[0].as_object().unwrap();
        assert_eq!((&line["level"], &line["msg"]), (&"info".into(), &"it works".into()));
        assert_eq!(line["name"], "a \"quoted\"\nname");
        assert_eq!((&line["count"], &line["delta"], &line["ok"]), (&3.into(), &(-1).into(), &true.into()));
        assert_eq!(line["snapshot-count"], 5);
        assert!(line["caller"].as_str().unwrap().starts_with("src/logging.rs:"), "{}", line["caller"]);
        assert!(line["ts"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn levels() {
        let lines = lines(Level::Warn, || {
            tracing::info!("not said");
            tracing::warn!("said");
            tracing::error!(target: FATAL, "the end");
        });
        let levels: Vec<_> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
        assert_eq!(levels, ["warn", "fatal"]);
    }
}
