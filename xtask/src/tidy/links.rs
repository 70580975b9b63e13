//! References in documents: links, and paths in backticks; `file.rs::function` names the test that proves a claim.

use std::path::{Path, PathBuf};

use super::Finding;
use super::files::{Tree, named};

/// A word in backticks with such a beginning is a path from the root.
const ROOMS: [&str; 6] = ["crates/", "docs/", "tests/", "xtask/", "fuzz/", ".ci/"];

/// The tests in this file name documents that do not exist.
const THIS: &str = "xtask/src/tidy/links.rs";

/// Checks all Markdown files, and the names of documents in Rust files.
pub fn check(root: &Path, tree: &Tree) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for path in named(root, "md")? {
        let text = std::fs::read_to_string(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        let broken = references(&path, &text).into_iter().filter(|reference| !reference.exists(root));
        findings
            .extend(broken.map(|reference| Finding::new(path.display(), format!("there is no {}", reference.shown()))));
    }
    for (path, source) in tree.files.iter().filter(|(path, _)| *path != Path::new(THIS)) {
        for document in documents(&source.text).filter(|document| !root.join(document).is_file()) {
            findings.push(Finding::new(path.display(), format!("there is no {document}")));
        }
    }
    Ok(findings)
}

/// A reference from a document to a file, or to a function in a file.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    path: PathBuf,
    function: Option<String>,
}

impl Reference {
    fn exists(&self, root: &Path) -> bool {
        let path = root.join(&self.path);
        match &self.function {
            None => path.exists(),
            Some(function) => std::fs::read_to_string(path)
                .is_ok_and(|text| ["(", "<"].iter().any(|next| text.contains(&format!("fn {function}{next}")))),
        }
    }

    fn shown(&self) -> String {
        let function = self.function.as_ref().map(|function| format!("::{function}")).unwrap_or_default();
        format!("{}{function}", self.path.display())
    }
}

fn references(document: &Path, text: &str) -> Vec<Reference> {
    let directory = document.parent().unwrap_or(Path::new(""));
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let local = links.filter(|link| !link.is_empty() && !link.contains("://") && !link.contains(char::is_whitespace));
    let mut references: Vec<Reference> =
        local.map(|link| Reference { path: normal(&directory.join(link)), function: None }).collect();
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        ROOMS.iter().any(|room| word.starts_with(room)) && !word.contains(|c: char| " *<>{}$\n".contains(c))
    };
    references.extend(quoted.filter(is_path).map(|word| match word.split_once("::") {
        Some((path, function)) => Reference { path: path.into(), function: Some(function.to_owned()) },
        None => Reference { path: word.into(), function: None },
    }));
    references
}

/// Resolves `.` and `..`, so that a path is shown from the root.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = out.pop(),
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The documents that a Rust file names: words like `docs/x.md`.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    text.split(move |c| !part(c)).filter(|word| word.starts_with("docs/") && word.ends_with(".md") && word.len() > 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_paths_are_found() {
        let text =
            "[a](../README.md#top) [b](https://x.y) [c](#here) `crates/x.rs` `crates/y.rs::proves` `tests/*` `cargo`";
        let shown: Vec<String> = references(Path::new("docs/a.md"), text).iter().map(Reference::shown).collect();
        assert_eq!(shown, ["README.md", "crates/x.rs", "crates/y.rs::proves"]);
    }

    #[test]
    fn what_is_not_there_is_found() {
        let root = crate::root();
        let exists = |text: &str| references(Path::new("a.md"), text)[0].exists(&root);
        assert!(exists("[x](LICENSE)"));
        assert!(!exists("[x](NO-LICENSE)"));
        assert!(exists("`xtask/src/tidy/links.rs::what_is_not_there_is_found`"));
        assert!(!exists("`xtask/src/tidy/links.rs::what_is_there`"));
        assert_eq!(documents("see `docs/nothing-such.md`.").collect::<Vec<_>>(), ["docs/nothing-such.md"]);
    }
}
