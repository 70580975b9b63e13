//! Long files and functions. Length proves nothing, but it asks a question; a good answer belongs in the exceptions.

use std::path::Path;

use super::Finding;
use super::files::Tree;
use crate::source::words;

/// A file with more lines probably holds two things.
const FILE_LINES: usize = 700;
/// A function with more lines probably does two things.
const FUNCTION_LINES: usize = 80;

/// Longer files (without `::`) and functions (`file::name`) that are allowed, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[];

pub fn check(tree: &Tree) -> Vec<Finding> {
    check_with(tree, EXCEPTIONS)
}

fn check_with(tree: &Tree, exceptions: &[(&str, &str)]) -> Vec<Finding> {
    let mut long: Vec<(String, String)> = Vec::new();
    for (path, source) in &tree.files {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            long.push((path.display().to_string(), format!("{lines} lines: two things in one file?")));
        }
        long.extend(long_functions(path, source));
    }
    let stale = exceptions.iter().filter(|(name, _)| !long.iter().any(|(found, _)| found == name));
    let mut findings: Vec<Finding> =
        stale.map(|(name, _)| Finding::new(name, "is not too long any more: remove the exception")).collect();
    let unexcused = long.into_iter().filter(|(name, _)| !exceptions.iter().any(|(excepted, _)| excepted == name));
    findings.extend(unexcused.map(|(name, what)| Finding::new(name, what)));
    findings
}

fn long_functions(path: &Path, source: &crate::source::Source) -> Vec<(String, String)> {
    let all: Vec<(usize, &str)> = words(&source.code).collect();
    let mut long = Vec::new();
    for pair in all.windows(2).filter(|pair| pair[0].1 == "fn") {
        let (at, name) = pair[1];
        // A function pointer type has no name: `fn(u8)`.
        if !source.code[pair[0].0 + 2..at].trim().is_empty() {
            continue;
        }
        let Some(block) = source.block(at) else { continue };
        let lines = source.line(block.end) + 1 - source.line(pair[0].0);
        if lines > FUNCTION_LINES {
            long.push((format!("{}::{name}", path.display()), format!("{lines} lines: two things in one function?")));
        }
    }
    long
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::tree;
    use super::*;

    fn places(text: &str, exceptions: &[(&str, &str)]) -> Vec<String> {
        check_with(&tree(&[("src/lib.rs", text)]), exceptions).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn long_functions_and_files_are_found() {
        let function = |lines: usize| format!("fn short() {{}}\nfn f(x: [u8; 2]) {{{}}}\n", "\n".repeat(lines - 1));
        assert_eq!(places(&function(FUNCTION_LINES), &[]), [""; 0]);
        assert_eq!(places(&function(FUNCTION_LINES + 1), &[]), ["src/lib.rs::f"]);
        assert_eq!(places(&"\n".repeat(FILE_LINES + 1), &[]), ["src/lib.rs"]);
    }

    #[test]
    fn an_exception_holds_as_long_as_it_is_needed() {
        let text = "\n".repeat(FILE_LINES + 1);
        assert_eq!(places(&text, &[("src/lib.rs", "a table")]), [""; 0]);
        assert_eq!(places("", &[("src/lib.rs", "a table")]), ["src/lib.rs"]);
    }
}
