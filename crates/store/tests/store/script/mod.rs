//! The language of the scripts.
//!
//! ```text
//!   # a comment
//!   > put a 1 lease=7 prev_kv          a command; the lines up to the next blank line are what came out
//!   ok rev=2
//! ```
//!
//! Keys and values are bytes: `\0`, `\xff`, `\s` (a space) and `\\` escape, `""` is empty, and `x*1000` is a thousand times
//! `x`. Options stand behind, as `name=value` or alone: [`bench`] has the commands, [`request`] their options.

mod bench;
mod facts;
mod leases;
mod request;
mod trace;
mod watch;
mod words;

use crate::engines::Medium;
use bench::Bench;

/// Runs a script; returns it with the trace that came out.
///
/// # Panics
/// If a line is no command, naming it.
pub fn run(name: &str, script: &str, medium: Medium) -> String {
    let mut bench = Bench::new(medium);
    let mut out = String::new();
    for (at, line) in script.lines().enumerate() {
        if let Some(command) = line.strip_prefix("> ") {
            out += line;
            out.push('\n');
            let words: Vec<&str> = command.split_whitespace().collect();
            match bench.run(&words) {
                Ok(trace) => trace.iter().for_each(|line| out += &format!("{line}\n")),
                Err(error) => panic!("{name}:{}: {command}: {error}", at + 1),
            }
        } else if line.is_empty() || line.starts_with('#') {
            out += line;
            out.push('\n');
        }
    }
    out
}
