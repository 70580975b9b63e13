//! The Rust files of the repository: those that are compiled, those that are compiled for tests only, and dead ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Finding;
use super::dependencies::{list, members, text};
use crate::source::{Source, words};

/// Root files that cargo's metadata does not list, because they belong to another workspace.
const OTHER_ROOTS: &str = "fuzz/fuzz_targets";

/// The Rust files, by their path from the root.
#[derive(Default)]
pub struct Tree {
    pub files: BTreeMap<PathBuf, Source>,
    /// The compiled files, and whether each is compiled for tests only.
    reached: BTreeMap<PathBuf, bool>,
}

impl Tree {
    /// Reads every Rust file below `root`.
    pub fn read(root: &Path, metadata: &Value) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        for path in named(root, "rs")? {
            let text = std::fs::read_to_string(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
            files.insert(path, Source::new(&text));
        }
        Ok(Self::new(files, roots(root, metadata)))
    }

    /// Follows the modules from `roots`; each root says whether it is compiled for tests only.
    fn new(files: BTreeMap<PathBuf, Source>, mut roots: Vec<(PathBuf, bool)>) -> Self {
        let others = files.keys().filter(|path| path.starts_with(OTHER_ROOTS));
        roots.extend(others.map(|path| (path.clone(), true)));
        let root_paths: BTreeSet<PathBuf> = roots.iter().map(|(path, _)| path.clone()).collect();
        let mut reached: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut open = roots;
        while let Some((path, test)) = open.pop() {
            let Some(source) = files.get(&path) else { continue };
            // A file that is reached both from tests and from other code is not for tests only.
            if reached.get(&path).is_some_and(|before| !before || test) {
                continue;
            }
            for (name, in_test) in modules(source) {
                let directory = module_directory(&path, root_paths.contains(&path));
                let places = [directory.join(format!("{name}.rs")), directory.join(&name).join("mod.rs")];
                open.extend(places.into_iter().map(|place| (place, test || in_test)));
            }
            reached.insert(path, test);
        }
        Self { files, reached }
    }

    /// Files that no module names.
    pub fn dead(&self) -> Vec<Finding> {
        let dead = self.files.keys().filter(|path| !self.reached.contains_key(*path));
        dead.map(|path| Finding::new(path.display(), "no module names this file")).collect()
    }

    /// Whether the code at a byte position of a file is compiled for tests only.
    pub fn is_test(&self, path: &Path, at: usize) -> bool {
        self.reached.get(path).copied().unwrap_or(false)
            || self.files.get(path).is_some_and(|source| source.test_ranges().iter().any(|range| range.contains(&at)))
    }
}

/// Files below `root` with this extension, by their path from `root`. Hidden directories and build output are left out.
/// Git is not asked, because the rules must also hold in an unpacked archive.
pub fn named(root: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let place = root.join(&directory);
        let unreadable = |error: std::io::Error| format!("{}: {error}", place.display());
        for entry in std::fs::read_dir(&place).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = directory.join(entry.file_name());
            if entry.file_type().map_err(unreadable)?.is_dir() {
                let name = entry.file_name();
                if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The modules that a file declares without a body, and whether each is for tests only.
fn modules(source: &Source) -> Vec<(String, bool)> {
    let tests = source.test_ranges();
    let all: Vec<(usize, &str)> = words(&source.code).collect();
    all.windows(2)
        .filter(|pair| pair[0].1 == "mod" && source.code[pair[1].0 + pair[1].1.len()..].trim_start().starts_with(';'))
        .map(|pair| (pair[1].1.to_owned(), tests.iter().any(|range| range.contains(&pair[0].0))))
        .collect()
}

fn module_directory(path: &Path, is_root: bool) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new(""));
    if is_root || path.file_name().is_some_and(|name| name == "mod.rs") {
        return parent.to_owned();
    }
    parent.join(path.file_stem().unwrap_or_default())
}

/// The root files of all crates, and whether each is for tests only.
fn roots(root: &Path, metadata: &Value) -> Vec<(PathBuf, bool)> {
    let targets = members(metadata).into_iter().flat_map(|package| list(&package["targets"]));
    targets
        .filter_map(|target| {
            let path = Path::new(text(&target["src_path"])).strip_prefix(root).ok()?.to_owned();
            let test = list(&target["kind"]).iter().any(|kind| matches!(text(kind), "test" | "bench" | "example"));
            // The crate of end-to-end tests holds only tests, although it has a library.
            Some((path.clone(), test || path.starts_with("tests")))
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A tree whose root is `src/lib.rs`.
    pub fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), Source::new(text))).collect();
        Tree::new(files, vec![(PathBuf::from("src/lib.rs"), false)])
    }

    #[test]
    fn a_file_that_no_module_names_is_dead() {
        let tree = tree(&[
            ("src/lib.rs", "mod a;\n// mod d;\n#[cfg(test)]\nmod tests;"),
            ("src/a.rs", "pub(crate) mod b; mod c { }"),
            ("src/a/b.rs", ""),
            ("src/a/c.rs", ""),
            ("src/d.rs", ""),
            ("src/tests/mod.rs", "mod e;"),
            ("src/tests/e.rs", ""),
        ]);
        let dead: Vec<String> = tree.dead().into_iter().map(|finding| finding.place).collect();
        assert_eq!(dead, ["src/a/c.rs", "src/d.rs"]);
        assert!(tree.is_test(Path::new("src/tests/e.rs"), 0));
        assert!(!tree.is_test(Path::new("src/a/b.rs"), 0));
    }
}
