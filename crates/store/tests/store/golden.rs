//! Runs the scripts and compares their traces with the recorded ones.

use std::path::{Path, PathBuf};

use crate::engines::Medium;
use crate::script;

/// The environment variable that makes the test record traces instead of comparing them.
const UPDATE: &str = "UPDATE";
/// The number of equal lines that a diff shows around a difference.
const CONTEXT: usize = 3;

/// All scripts, in the order of their paths.
pub fn scripts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "txt") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn scripts_give_what_is_recorded() {
    check(Medium::Memory);
}

/// The recorded traces are the same for every engine: a script does not depend on the engine.
#[test]
fn scripts_give_what_is_recorded_on_disk() {
    check(Medium::RocksDb);
    check(Medium::Both);
}

fn check(medium: Medium) {
    let update = std::env::var_os(UPDATE).is_some();
    let mut wrong = String::new();
    for path in scripts() {
        let recorded = std::fs::read_to_string(&path).unwrap();
        let actual = script::run(&path.display().to_string(), &recorded, medium);
        if actual == recorded {
            continue;
        }
        if update {
            std::fs::write(&path, &actual).unwrap();
        } else {
            wrong += &format!("{}\n{}\n", path.display(), diff(&recorded, &actual));
        }
    }
    assert!(wrong.is_empty(), "- recorded, + actual; {UPDATE}=1 records what is actual\n\n{wrong}");
}

/// The lines that differ, with a few lines around them. Both texts hold the same commands, so a script is compared
/// command by command: a missing line does not shift the rest.
fn diff(recorded: &str, actual: &str) -> String {
    let (old, new) = (steps(recorded), steps(actual));
    let mut out = Vec::new();
    for at in 0..old.len().max(new.len()) {
        let (old, new) = (old.get(at).copied().unwrap_or_default(), new.get(at).copied().unwrap_or_default());
        if old == new {
            out.extend(old.lines().map(|line| format!("  {line}")));
            continue;
        }
        let same = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
        out.extend(old.lines().take(same).map(|line| format!("  {line}")));
        out.extend(old.lines().skip(same).map(|line| format!("- {line}")));
        out.extend(new.lines().skip(same).map(|line| format!("+ {line}")));
    }
    let differs = |line: &String| !line.starts_with(' ');
    let near = |at: usize| out[at.saturating_sub(CONTEXT)..out.len().min(at + CONTEXT + 1)].iter().any(differs);
    (0..out.len()).filter(|&at| near(at)).map(|at| format!("{}\n", out[at])).collect()
}

/// A text, split before each command.
fn steps(text: &str) -> Vec<&str> {
    let starts = text.match_indices("\n> ").map(|(at, _)| at + 1);
    let starts: Vec<usize> = std::iter::once(0).chain(starts).chain([text.len()]).collect();
    starts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

#[test]
fn a_diff_shows_what_changed_and_little_else() {
    let recorded = "# far\n# away\n\n> a\n1\n2\n3\n4\n\n> put\nok\nold\n\n> get\nnone\n";
    let actual = recorded.replace("old\n", "new\nmore\n");
    assert_eq!(diff(recorded, &actual), "  \n  > put\n  ok\n- old\n- \n+ new\n+ more\n+ \n  > get\n  none\n");
}

#[test]
fn a_script_with_a_wrong_trace_is_noticed() {
    let recorded = "> put a 1\nok rev=3\n";
    assert_eq!(script::run("a test", recorded, Medium::Memory), "> put a 1\nok rev=2\n");
}
