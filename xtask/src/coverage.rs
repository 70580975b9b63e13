//! Line coverage of the crates that must not lose data, from LLVM's counters.
//!
//! The tests of these crates are built with counters, and run. Then `llvm-profdata` and `llvm-cov`, of the same major
//! version as rustc's LLVM, add them up. Lines of tests are left out: that a test ran proves nothing about the code
//! that it tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::tidy::files::Tree;
use crate::tidy::{metadata, output};

/// The measured crates: name and directory.
const MEASURED: [(&str, &str); 3] = [
    ("metastore-engine", "crates/engine/src"),
    ("metastore-store", "crates/store/src"),
    ("metastore-replica", "crates/replica/src"),
];

/// Code lines of a crate or file, and how many of them ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Lines {
    all: usize,
    ran: usize,
}

impl Lines {
    fn percent(self) -> f64 {
        100.0 * self.ran as f64 / self.all.max(1) as f64
    }
}

/// Runs the tests, and returns a table of the coverage.
///
/// # Errors
/// If a crate is below `least` percent, if a test fails, or if a tool is missing.
pub fn run(root: &Path, least: f64) -> Result<String, String> {
    let tools = Tools::find()?;
    let metadata = metadata(root)?;
    let target = PathBuf::from(metadata["target_directory"].as_str().unwrap_or("target")).join("coverage");
    let tree = Tree::read(root, &metadata)?;
    let counters = target.join("counters");
    let _ = std::fs::remove_dir_all(&counters);
    let (programs, passed) = run_tests(root, &target, &counters)?;
    let report = tools.report(&target, &counters, &programs)?;
    let table = table(&by_file(&report, root, &tree), least);
    if passed { table } else { Err(format!("{}\ncoverage: tests failed", table.unwrap_or_else(|below| below))) }
}

/// LLVM's tools of one version.
struct Tools {
    directory: PathBuf,
}

impl Tools {
    fn find() -> Result<Self, String> {
        let version = output(Command::new("rustc").arg("-vV"))?;
        let major = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next());
        let major = major.ok_or("rustc -vV does not say its LLVM version")?;
        let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let places = [
            Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin"),
            PathBuf::from(format!("/usr/lib/llvm-{major}/bin")),
        ];
        let directory = places.into_iter().find(|place| place.join("llvm-cov").is_file());
        let directory = directory.ok_or_else(|| {
            format!(
                "coverage needs llvm-cov {major}, as rustc's LLVM: apt-get install llvm-{major}, or rustup \
                component add llvm-tools"
            )
        })?;
        Ok(Self { directory })
    }

    /// The counters of all runs, in lcov's format.
    fn report(&self, target: &Path, counters: &Path, programs: &[PathBuf]) -> Result<String, String> {
        let merged = target.join("merged.profdata");
        let raw = std::fs::read_dir(counters).map_err(|error| format!("{}: {error}", counters.display()))?;
        let raw: Vec<PathBuf> = raw.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let profdata = self.directory.join("llvm-profdata");
        output(Command::new(profdata).args(["merge", "--sparse", "-o"]).arg(&merged).args(&raw))?;
        let mut cov = Command::new(self.directory.join("llvm-cov"));
        cov.args(["export", "--format=lcov", "--instr-profile"]).arg(&merged);
        for program in programs {
            cov.arg("--object").arg(program);
        }
        output(&mut cov)
    }
}

/// Builds the tests with counters and runs them. Returns the test programs, and whether all tests passed.
fn run_tests(root: &Path, target: &Path, counters: &Path) -> Result<(Vec<PathBuf>, bool), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let test = |more: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(["test", "--locked", "--lib", "--tests"]);
        command.args(MEASURED.iter().flat_map(|(package, _)| ["-p", package]));
        command.args(more).arg("--target-dir").arg(target).current_dir(root);
        command.env("RUSTFLAGS", "-C instrument-coverage");
        // One file per process and program (%p and %m). Programs that build scripts run are not counted.
        command.env("LLVM_PROFILE_FILE", counters.join("%p-%m.profraw"));
        command
    };
    let built = output(test(&["--no-run", "--message-format=json-render-diagnostics"]).stderr(Stdio::inherit()))?;
    let _ = std::fs::remove_dir_all(counters);
    let status = test(&["--no-fail-fast"]).status().map_err(|error| format!("cannot run the tests: {error}"))?;
    let messages = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect();
    Ok((programs, status.success()))
}

/// Reads lcov's format: `SF:` names a file, `DA:<line>,<count>` counts a line. Keeps the measured files, without tests.
fn by_file(report: &str, root: &Path, tree: &Tree) -> BTreeMap<PathBuf, Lines> {
    let mut files: BTreeMap<PathBuf, Lines> = BTreeMap::new();
    let mut current: Option<(PathBuf, Vec<usize>)> = None;
    for line in report.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            let path = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path)).to_owned();
            let starts = tree.files.get(&path).map(|source| line_starts(&source.text));
            let measured = MEASURED.iter().any(|(_, room)| path.starts_with(room));
            current = starts.filter(|_| measured).map(|starts| (path, starts));
        } else if let (Some(counted), Some((path, starts))) = (line.strip_prefix("DA:"), &current) {
            let Some((number, count)) = counted.split_once(',') else { continue };
            let Some(&at) = number.parse::<usize>().ok().and_then(|number| starts.get(number - 1)) else { continue };
            if !tree.is_test(path, at) {
                let lines = files.entry(path.clone()).or_default();
                lines.all += 1;
                lines.ran += usize::from(count != "0");
            }
        }
    }
    files
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

fn table(files: &BTreeMap<PathBuf, Lines>, least: f64) -> Result<String, String> {
    let mut text = String::new();
    let mut below = Vec::new();
    for (package, room) in MEASURED {
        let of_room: Vec<_> = files.iter().filter(|(path, _)| path.starts_with(room)).collect();
        let sum = of_room
            .iter()
            .fold(Lines::default(), |sum, (_, lines)| Lines { all: sum.all + lines.all, ran: sum.ran + lines.ran });
        for (path, lines) in of_room {
            text.push_str(&format!(
                "{:6.1} % {:6} of {:6}  {}\n",
                lines.percent(),
                lines.ran,
                lines.all,
                path.display()
            ));
        }
        text.push_str(&format!("{:6.1} % {:6} of {:6}  {package}\n\n", sum.percent(), sum.ran, sum.all));
        if sum.percent() < least {
            below.push(package);
        }
    }
    match below[..] {
        [] => Ok(format!("{text}coverage: at least {least} % of the lines of each crate ran")),
        _ => Err(format!("{text}coverage: below {least} %: {}", below.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::files::tests::tree;

    #[test]
    fn lines_of_tests_do_not_count() {
        let path = "crates/store/src/x.rs";
        let tree = tree(&[(path, "fn a() {}\nfn b() {}\n#[cfg(test)]\nmod tests {\n fn c() {}\n}\n")]);
        let report = format!("SF:/r/{path}\nDA:1,7\nDA:2,0\nDA:5,3\nend_of_record\nSF:/elsewhere.rs\nDA:1,1\n");
        let files = by_file(&report, Path::new("/r"), &tree);
        assert_eq!(files, BTreeMap::from([(PathBuf::from(path), Lines { all: 2, ran: 1 })]));
        assert!(table(&files, 50.0).is_err(), "crates without a line have 0 %");
    }

    #[test]
    fn a_crate_below_the_least_fails() {
        let file = |room: &str, ran| (Path::new(room).join("x.rs"), Lines { all: 10, ran });
        let files: BTreeMap<_, _> = MEASURED.iter().map(|(_, room)| file(room, 9)).collect();
        assert!(table(&files, 90.0).is_ok());
        assert!(
            table(&files, 90.1)
                .unwrap_err()
                .ends_with("below 90.1 %: metastore-engine, metastore-store, metastore-replica")
        );
    }
}
