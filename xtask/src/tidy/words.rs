//! Words that must not be in code: marks of unfinished work anywhere, and access to the outside world in pure code.

use std::path::Path;

use super::Finding;
use super::files::Tree;
use crate::source::words;

/// Marks of unfinished work, in comments too. They are written in two parts, so that this file may contain them.
const UNFINISHED: [&str; 4] =
    [concat!("to", "do!"), concat!("db", "g!"), concat!("FIX", "ME"), concat!("unimple", "mented!")];

/// Code that takes time, randomness and the disk as parameters.
const PURE: [&str; 3] = ["crates/store/src", "crates/replica/src", "crates/bbolt/src"];
/// The only file with access to the disk.
const DISK: &str = "crates/replica/src/disk/os.rs";
const WORLD: [&str; 4] = ["Instant", "SystemTime", "tokio", "rand"];
const WORLD_PATHS: [&str; 4] = ["std::thread", "std::net", "std::fs", "std::env"];

/// Code with results that must not depend on the order of a randomly seeded map.
const REPLICATED: &str = "crates/store/src";
const SEEDED: [&str; 2] = ["HashMap", "HashSet"];
/// Files that may use such a map, each with the reason.
const SEEDED_EXCEPTIONS: [(&str, &str); 2] = [
    ("crates/store/src/lease/expiry.rs", "the leader's clockwork: it decides what is proposed, not what is applied"),
    ("crates/store/src/watch/matcher.rs", "finds watchers by key; nothing goes through it in its order"),
];

/// The server's room, where what logs a line may be repeated by others.
const SHELL: &str = "crates/server/src";
const LINES: [&str; 3] = ["tracing::info!", "tracing::warn!", "tracing::error!"];
/// Files with lines that others cannot repeat: how many, and why. All others go through `seldom!`.
const SAID_ONCE: [(&str, usize, &str); 17] = [
    ("api/defragment.rs", 1, "the start"),
    ("auth/jwt.rs", 1, "the start"),
    ("auth/passwords.rs", 1, "the start"),
    ("api/watch.rs", 1, "the medium failed, and the member stops"),
    ("founding/joining.rs", 4, "the start"),
    ("driver.rs", 1, "an operator named the entries"),
    ("driver/group.rs", 1, "the stop"),
    ("driver/jobs.rs", 1, "a thread panicked"),
    ("io/workers.rs", 2, "the start; a thread panicked"),
    ("main.rs", 6, "the start"),
    ("notify.rs", 1, "the start"),
    ("peer/transport.rs", 1, "a fault of this member's own, which tests refuse"),
    ("duties/duplicate_process.rs", 1, "the start"),
    ("signals.rs", 5, "the stop"),
    ("start.rs", 9, "the start; a thread panicked"),
    ("start/listeners.rs", 4, "the start"),
    ("tls/self_signed.rs", 1, "the start"),
];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = unfinished(tree);
    findings.extend(repeatable(tree));
    findings.extend(impure(tree));
    findings
}

fn unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in &tree.files {
        for (number, line) in source.text.lines().enumerate() {
            let found = UNFINISHED.iter().filter(|word| line.contains(**word));
            let place = format!("{}:{}", path.display(), number + 1);
            findings.extend(found.map(|word| Finding::new(&place, format!("{word} is unfinished business"))));
        }
    }
    findings
}

/// Log lines of the server that do not go through `seldom!`, and may have to.
fn repeatable(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in &tree.files {
        let Ok(file) = path.strip_prefix(SHELL) else { continue };
        let found = LINES.iter().flat_map(|line| source.code.match_indices(line));
        let lines: Vec<usize> =
            found.filter(|(at, _)| !tree.is_test(path, *at)).map(|(at, _)| source.line(at)).collect();
        let allowed = SAID_ONCE.iter().find(|(once, ..)| file == Path::new(once)).map_or(0, |(_, count, _)| *count);
        if lines.len() != allowed {
            let what = format!(
                "log lines {lines:?}, and {allowed} may stand here without `seldom!`: a line that others can repeat \
                    needs it"
            );
            findings.push(Finding::new(path.display(), what));
        }
    }
    findings
}

fn impure(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in &tree.files {
        if !PURE.iter().any(|room| path.starts_with(room)) || path == Path::new(DISK) {
            continue;
        }
        let excepted = SEEDED_EXCEPTIONS.iter().any(|(file, _)| path == Path::new(file));
        let seeded = path.starts_with(REPLICATED) && !excepted;
        let single = words(&source.code).filter(|(_, word)| WORLD.contains(word) || (seeded && SEEDED.contains(word)));
        let paths = WORLD_PATHS.iter().flat_map(|word| source.code.match_indices(word));
        for (at, word) in single.chain(paths).filter(|(at, _)| !tree.is_test(path, *at)) {
            let place = format!("{}:{}", path.display(), source.line(at));
            findings.push(Finding::new(place, format!("{word} does not belong into pure code")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::tree;
    use super::*;

    #[test]
    fn unfinished_business_is_found_in_comments_too() {
        let found = unfinished(&tree(&[("src/lib.rs", concat!("// FIX", "ME: later\nfn a() { to", "do!() }"))]));
        let places: Vec<&str> = found.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["src/lib.rs:1", "src/lib.rs:2"]);
    }

    #[test]
    fn log_lines_that_others_can_repeat_are_found() {
        let said = "fn a() { tracing::info!(1); seldom!(warn, ()); }\n// tracing::info!\nfn b() { tracing::warn!(2); }";
        let found = |path: &str| repeatable(&tree(&[(path, said)])).len();
        assert_eq!(found("crates/server/src/x.rs"), 1);
        assert_eq!(found("crates/server/src/io/workers.rs"), 0, "as many as are listed");
        assert_eq!(found("crates/server/src/notify.rs"), 1);
        assert_eq!(found("crates/store/src/x.rs"), 0);
    }

    #[test]
    fn the_world_is_found_in_pure_code_only() {
        let text = "use std::time::Instant; // Instant\nfn a() { std::fs::read(\"std::net\") }\nuse \
            std::collections::HashMap;\n\
                    #[cfg(test)]\nmod tests { use std::thread; }";
        let places = |path| {
            let found = impure(&tree(&[(path, text)]));
            found.into_iter().map(|finding| finding.place).collect::<Vec<_>>()
        };
        let line = |number| format!("crates/store/src/x.rs:{number}");
        assert_eq!(places("crates/store/src/x.rs"), [line(1), line(3), line(2)]);
        assert_eq!(places("crates/replica/src/x.rs").len(), 2);
        assert_eq!(places(SEEDED_EXCEPTIONS[0].0).len(), 2);
        assert_eq!(places(DISK), [""; 0]);
        assert_eq!(places("crates/server/src/x.rs"), [""; 0]);
    }
}
