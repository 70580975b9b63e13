//! The log: one JSON object per line, in the shape of zap, which operators of etcd and their tools read.
//!
//! `{"level":"info","ts":"2006-01-02T15:04:05.000000Z","caller":"server/main.rs:12","msg":"...", fields...}`

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber, span};

/// An event with this target is written at level "fatal": the process is about to end. (tracing ends at level error.)
pub const FATAL: &str = "fatal";

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

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// Appended to; created if missing.
    File(PathBuf),
}

/// A log file that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path}: {source}", path = .0.display(), source = .1)]
pub struct OpenError(PathBuf, #[source] io::Error);

/// Sends the events of this process to `outputs`, from now on. Later calls have no effect.
pub fn start(level: Level, outputs: &[Output]) -> Result<(), OpenError> {
    let _ = tracing::subscriber::set_global_default(Logger::open(level, outputs)?);
    Ok(())
}

enum Sink {
    Stderr,
    Stdout,
    Writer(Mutex<Box<dyn Write + Send>>),
}

struct Logger {
    level: Level,
    sinks: Vec<Sink>,
}

impl Logger {
    fn open(level: Level, outputs: &[Output]) -> Result<Logger, OpenError> {
        let mut sinks = Vec::new();
        for output in outputs {
            sinks.push(match output {
                Output::Stderr => Sink::Stderr,
                Output::Stdout => Sink::Stdout,
                Output::File(path) => Sink::Writer(Mutex::new(Box::new(open(path)?))),
            });
        }
        Ok(Logger { level, sinks })
    }

    /// A line that cannot be written is lost. It can be reported nowhere, and a full log disk must not stop the member.
    fn write(&self, line: &str) {
        for sink in &self.sinks {
            let _ = match sink {
                Sink::Stderr => io::stderr().lock().write_all(line.as_bytes()),
                Sink::Stdout => io::stdout().lock().write_all(line.as_bytes()),
                Sink::Writer(writer) => writer.lock().write_all(line.as_bytes()),
            };
        }
    }
}

fn open(path: &Path) -> Result<File, OpenError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|error| OpenError(path.to_owned(), error))
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
        let mut line = Line::begin(Level::of(metadata), SystemTime::now(), metadata.file(), metadata.line());
        event.record(&mut line);
        self.write(&line.end());
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

/// A line under construction. The message is known only after the fields have been visited.
struct Line {
    head: String,
    message: String,
    fields: String,
}

impl Line {
    fn begin(level: Level, now: SystemTime, file: Option<&str>, line: Option<u32>) -> Line {
        let mut head = format!("{{\"level\":\"{}\",\"ts\":\"{}\"", level.name(), timestamp(now));
        if let (Some(file), Some(line)) = (file, line) {
            let _ = write!(head, ",\"caller\":{}", quoted(&format!("{}:{line}", short(file))));
        }
        Line { head, message: String::new(), fields: String::new() }
    }

    fn end(self) -> String {
        format!("{},\"msg\":{}{}}}\n", self.head, quoted(&self.message), self.fields)
    }

    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let _ = write!(self.fields, ",{}:{value}", quoted(field.name()));
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.field(field, format_args!("{}", quoted(&text)));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.field(field, format_args!("{}", quoted(value)));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.field(field, format_args!("{value}")),
            false => self.field(field, format_args!("\"{value}\"")),
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

/// The last two parts of a path, as zap shortens them.
fn short(file: &str) -> &str {
    let mut slashes = file.rmatch_indices('/');
    slashes.next();
    slashes.next().map_or(file, |(at, _)| &file[at + 1..])
}

/// `2006-01-02T15:04:05.000000Z`, always UTC.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// Days since 1970 into a date of the Gregorian calendar, after Howard Hinnant's `civil_from_days`: years that begin in
/// March put the leap day last, so that months have fixed offsets.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::Arc;
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log lines from this level on.
    pub(crate) fn lines(level: Level, log: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let sinks = vec![Sink::Writer(Mutex::new(Box::new(captured.clone())))];
        tracing::subscriber::with_default(Logger { level, sinks }, log);
        let bytes = captured.0.lock();
        std::str::from_utf8(&bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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

    #[test]
    fn dates() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_826_154), "2000-02-29T12:09:14.000000Z");
        assert_eq!(at(1_136_214_245), "2006-01-02T15:04:05.000000Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000Z");
    }
}
