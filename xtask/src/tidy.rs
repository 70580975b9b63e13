//! The rules. Each is a pure function of its input, and has a test that shows that it can fail.

mod decisions;
mod dependencies;
pub mod files;
mod lines;
mod links;
mod rooms;
mod sizes;
mod words;

use std::fmt;
use std::path::Path;
use std::process::Command;

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, with the line if the violation is on one line.
    pub place: String,
    pub what: String,
}

impl Finding {
    fn new(place: impl fmt::Display, what: impl Into<String>) -> Self {
        Self { place: place.to_string(), what: what.into() }
    }
}

/// Checks all rules. `Ok` says that nothing was found; `Err` holds the findings.
pub fn run(root: &Path) -> Result<String, String> {
    let metadata = metadata(root)?;
    let tree = files::Tree::read(root, &metadata)?;
    let mut findings = dependencies::check(&metadata);
    findings.extend(decisions::check(root)?);
    findings.extend(tree.dead());
    findings.extend(words::check(&tree));
    findings.extend(rooms::check(&tree));
    findings.extend(sizes::check(&tree));
    findings.extend(lines::check(root, &tree)?);
    findings.extend(links::check(root, &tree)?);
    match findings.len() {
        0 => Ok(format!("tidy: {} files, nothing found", tree.files.len())),
        count => {
            let lines: Vec<String> = findings.iter().map(|f| format!("{}: {}", f.place, f.what)).collect();
            Err(format!("{}\ntidy: {count} findings", lines.join("\n")))
        }
    }
}

/// The metadata of the workspace, from cargo.
pub fn metadata(root: &Path) -> Result<serde_json::Value, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let json = output(Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).current_dir(root))?;
    serde_json::from_str(&json).map_err(|error| format!("cargo metadata: {error}"))
}

/// Runs a command and returns its output.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        if let Err(findings) = super::run(&crate::root()) {
            panic!("{findings}");
        }
    }
}
