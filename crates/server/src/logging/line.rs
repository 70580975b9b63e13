//! A line of the log, in zap's two encodings.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};

use super::{Format, Level};

/// A line under construction. The message is known only after the fields have been visited.
pub struct Line {
    format: Format,
    level: Level,
    at: SystemTime,
    caller: Option<String>,
    message: String,
    fields: String,
}

impl Line {
    pub fn begin(format: Format, level: Level, at: SystemTime, place: (Option<&str>, Option<u32>)) -> Line {
        let caller = match place {
            (Some(file), Some(line)) => Some(format!("{}:{line}", short(file))),
            _ => None,
        };
        Line { format, level, at, caller, message: String::new(), fields: String::new() }
    }

    pub fn end(self) -> Entry {
        let (level, at) = (self.level.name(), timestamp(self.at));
        let caller = self.caller.as_deref();
        let text = match self.format {
            Format::Json => {
                let caller = caller.map(|caller| format!(",\"caller\":{}", quoted(caller))).unwrap_or_default();
                let (message, comma) = (quoted(&self.message), if self.fields.is_empty() { "" } else { "," });
                format!("{{\"level\":\"{level}\",\"ts\":\"{at}\"{caller},\"msg\":{message}{comma}{}}}\n", self.fields)
            }
            Format::Console => {
                let caller = caller.map(|caller| format!("\t{caller}")).unwrap_or_default();
                let fields = if self.fields.is_empty() { String::new() } else { format!("\t{{{}}}", self.fields) };
                // A message stays one line, whatever it quotes.
                let message = self.message.replace('\n', "\\n").replace('\r', "\\r");
                format!("{at}\t{level}{caller}\t{message}{fields}\n")
            }
        };
        let package = caller.and_then(|caller| caller.rsplit_once('/')).map_or(".", |(package, _)| package).to_owned();
        Entry { level: self.level, package, text }
    }

    /// The message and a field of a line that is no event.
    pub fn say(&mut self, message: &str, name: &str, value: u64) {
        self.message = message.to_owned();
        self.add(name, format_args!("{value}"));
    }

    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.add(field.name(), value);
    }

    fn add(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let (comma, colon) = match self.format {
            Format::Json => (",", ":"),
            Format::Console => (", ", ": "),
        };
        let comma = if self.fields.is_empty() { "" } else { comma };
        let _ = write!(self.fields, "{comma}{}{colon}{value}", quoted(name));
    }
}

/// A finished line.
#[derive(Debug)]
pub struct Entry {
    pub level: Level,
    /// The directory of the code that logs.
    pub package: String,
    /// Ends with a newline.
    pub text: String,
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
mod tests {
    use super::*;
    use std::time::Duration;

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
