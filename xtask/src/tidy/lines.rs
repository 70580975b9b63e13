//! Lines that are hard to read: wider than 120 columns, or comments that begin with a word which hides their subject.

use std::path::Path;

use super::Finding;
use super::files::{Tree, named};

const COLUMNS: usize = 120;
/// A comment line that begins with one of these does not begin with a thing of the system.
const NO_SUBJECT: [&str; 4] = ["Who", "What", "Whose", "Whoever"];
/// A file that is a table, with wider rows.
const TABLE: &str = "crates/server/src/config/flags.rs";

/// Checks Rust files and Markdown.
///
/// # Errors
/// If a file cannot be read.
pub fn check(root: &Path, tree: &Tree) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for (path, source) in tree.files.iter().filter(|(path, _)| *path != Path::new(TABLE)) {
        findings.extend(in_rust(path, &source.text));
    }
    for path in named(root, "md")? {
        let text = std::fs::read_to_string(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        findings.extend(in_markdown(&path, &text));
    }
    Ok(findings)
}

/// A raw string cannot be broken; nor can a URL.
fn in_rust(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = too_wide(path, text, |line| line.contains("://") || line.contains("r#"));
    for (number, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        let first = comment.trim_start_matches(['/', '!']).split_whitespace().next().unwrap_or_default();
        if NO_SUBJECT.contains(&first) {
            let what = format!("the comment begins with {first:?}: name its subject first");
            findings.push(Finding::new(format!("{}:{}", path.display(), number + 1), what));
        }
    }
    findings
}

/// Rows of tables, single words and lines with URLs may be wider.
fn in_markdown(path: &Path, text: &str) -> Vec<Finding> {
    too_wide(path, text, |line| line.starts_with('|') || line.contains("://") || !line.trim().contains(' '))
}

fn too_wide(path: &Path, text: &str, may_be: impl Fn(&str) -> bool) -> Vec<Finding> {
    let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS && !may_be(line));
    wide.map(|(number, line)| {
        let what = format!("{} columns: lines end at column {COLUMNS}", line.chars().count());
        Finding::new(format!("{}:{}", path.display(), number + 1), what)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_without_a_subject_are_found() {
        let text =
            concat!("// Who", " asks.\n//! Whose", "\n    /// What", " is it?\n// Whosoever\nlet Who = 1; // Who\n");
        let places: Vec<String> = in_rust(Path::new("a.rs"), text).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["a.rs:1", "a.rs:2", "a.rs:3"]);
    }

    #[test]
    fn wide_lines_are_found_but_for_tables_and_urls() {
        let (fits, wide) = ("ü".repeat(120), "x".repeat(121));
        assert!(in_rust(Path::new("a.rs"), &fits).is_empty() && in_markdown(Path::new("a.md"), &fits).is_empty());
        assert_eq!(in_rust(Path::new("a.rs"), &wide).len(), 1);
        assert_eq!(in_markdown(Path::new("a.md"), &format!("{wide} x\n|{wide} x\n{wide}\nhttps://{wide} x")).len(), 1);
    }
}
