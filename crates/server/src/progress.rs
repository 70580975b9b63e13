//! The progress of a long command, on stderr: a bar on a terminal, and a line from time to time elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the bar on a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is printed if stderr is no terminal, but a file, a pipe or the log of a container.
const LINE: Duration = Duration::from_secs(5);
/// Characters inside the bar.
const WIDTH: u64 = 40;

/// Progress of one command.
pub struct Progress<W: Write> {
    to: W,
    style: Style,
    last: Instant,
    drawn: bool,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Bar,
    Lines,
    Silent,
}

impl Progress<io::Stderr> {
    /// On stderr, in the style that fits it.
    pub fn on_stderr(quiet: bool) -> Self {
        let style = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Style::Silent,
            (false, true) => Style::Bar,
            (false, false) => Style::Lines,
        };
        Self::new(io::stderr(), style)
    }
}

impl<W: Write> Progress<W> {
    pub fn new(to: W, style: Style) -> Self {
        Self { to, style, last: Instant::now(), drawn: false }
    }

    /// Reports that `done` bytes `of` all are done. May be called at any rate. A terminal that went away is no reason
    /// to stop.
    pub fn report(&mut self, done: u64, of: u64) {
        self.report_at(Instant::now(), done, of);
    }

    fn report_at(&mut self, now: Instant, done: u64, of: u64) {
        let (pause, text) = match self.style {
            Style::Bar => (REDRAW, bar as fn(u64, u64) -> String),
            Style::Lines => (LINE, line as fn(u64, u64) -> String),
            Style::Silent => return,
        };
        if now.duration_since(self.last) < pause {
            return;
        }
        self.last = now;
        self.drawn = true;
        _ = self.to.write_all(text(done, of).as_bytes()).and_then(|()| self.to.flush());
    }

    /// Removes the bar, so that the next line takes its place.
    pub fn finish(mut self) {
        if self.style == Style::Bar && self.drawn {
            _ = self.to.write_all(b"\r\x1b[K").and_then(|()| self.to.flush());
        }
    }
}

fn percent(done: u64, of: u64) -> u64 {
    if of == 0 { 100 } else { (u128::from(done.min(of)) * 100 / u128::from(of)) as u64 }
}

fn bar(done: u64, of: u64) -> String {
    let percent = percent(done, of);
    let full = (percent * WIDTH / 100) as usize;
    let width = WIDTH as usize;
    format!("\r[{:<width$}] {percent:>3} %  {}\x1b[K", "#".repeat(full), amounts(done, of))
}

fn line(done: u64, of: u64) -> String {
    format!("{} ({} %)\n", amounts(done, of), percent(done, of))
}

fn amounts(done: u64, of: u64) -> String {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!("{:.1} of {:.1} MiB", mebibytes(done), mebibytes(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style, seconds: &[u64]) -> String {
        let (mut out, began) = (Vec::new(), Instant::now());
        let mut progress = Progress { to: &mut out, style, last: began, drawn: false };
        for second in seconds {
            progress.report_at(began + Duration::from_secs(*second), *second << 20, 10 << 20);
        }
        progress.finish();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_gets_a_bar_and_others_get_lines() {
        let half = format!("\r[{}{}]  50 %  5.0 of 10.0 MiB\x1b[K\r\x1b[K", "#".repeat(20), " ".repeat(20));
        assert_eq!(shown(Style::Bar, &[0, 5]), half);
        assert_eq!(shown(Style::Lines, &[1, 5, 6, 10]), "5.0 of 10.0 MiB (50 %)\n10.0 of 10.0 MiB (100 %)\n");
        assert_eq!(shown(Style::Silent, &[5, 10]), "");
        assert_eq!(shown(Style::Bar, &[0]), "", "what is quick shows nothing");
    }

    #[test]
    fn estimates_may_be_wrong() {
        assert_eq!((percent(3, 0), percent(11, 10), percent(u64::MAX, u64::MAX)), (100, 100, 100));
    }
}
