//! Rules of the repository that neither the compiler nor clippy checks, and measurements.
//!
//! ```text
//!   cargo xtask tidy                  dependency directions, words, sizes, dead files, links
//!   cargo xtask coverage [percent]    line coverage of engine, store and replica; fails below `percent` (90)
//! ```
//!
//! Deliberately absent: tasks that `make` does better (installing, building, running).

mod coverage;
mod source;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy | coverage [percent]";
/// The lowest line coverage allowed for each measured crate, in percent, unless the command line names another one.
const LEAST_COVERAGE: f64 = 90.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["tidy"] => tidy::run(&root()),
        ["coverage"] => coverage::run(&root(), LEAST_COVERAGE),
        ["coverage", least] => match least.parse() {
            Ok(least) => coverage::run(&root(), least),
            Err(_) => Err(format!("{least:?} is no percentage\n{USAGE}")),
        },
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(report) => {
            eprintln!("{report}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    // The variable that cargo sets at run time comes first: another clone of the repository may have compiled this
    // program into the same target directory.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_path_buf).unwrap_or_default()
}
