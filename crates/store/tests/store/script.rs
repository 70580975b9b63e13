//! The language of the scripts.
//!
//! ```text
//!   # a comment
//!   > put a 1 lease=7 prev_kv          a command; the lines up to the next blank line are its trace
//!   ok rev=2
//! ```
//!
//! Keys and values are bytes: `\0`, `\xff`, `\s` (a space) and `\\` are escapes, `""` is empty, and `x*1000` is `x`
//! repeated a thousand times. Options follow, as `name=value` or `name`: see [`scripted`] (commands) and [`request`]
//! (options of requests).

mod facts;
mod leases;
mod request;
mod scripted_store;
mod trace;
mod watch;
mod words;

use crate::engines::Medium;
use scripted_store::ScriptedStore;

/// Runs a script; returns it with the actual trace.
///
/// # Panics
/// If a line is not a command; the message names the line.
pub fn run(name: &str, script: &str, medium: Medium) -> String {
    let mut scripted = ScriptedStore::new(medium);
    let mut out = String::new();
    for (at, line) in script.lines().enumerate() {
        if let Some(command) = line.strip_prefix("> ") {
            out += line;
            out.push('\n');
            let words: Vec<&str> = command.split_whitespace().collect();
            match scripted.run(&words) {
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
