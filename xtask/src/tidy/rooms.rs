//! The rooms of the server: which module of the crate may use which.

use std::path::Path;

use super::Finding;
use super::files::Tree;
use crate::source::words;

const SERVER: &str = "crates/server/src";

/// The rooms from the top floor down. Each may use those below it.
const ROOMS: &[&str] = &[
    "main",
    "signals",
    "start",
    "questions",
    "api",
    "duties",
    "leader",
    "member",
    "founding",
    "http",
    "driver",
    "peer",
    "convert",
    "engine",
    "descriptors",
    "audit",
    "auth",
    "config",
    "metrics",
    "shared",
    "io",
    "tls",
    "grpc",
    "instruments",
    "keys",
    "progress",
    "notify",
    "logging",
    "seldom",
];

/// Checks every use of one room by another. Tests may use any room.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in &tree.files {
        let Ok(inside) = path.strip_prefix(SERVER) else { continue };
        let room = inside.iter().next().map(Path::new).and_then(Path::file_stem).and_then(|stem| stem.to_str());
        let room = room.unwrap_or_default();
        if room == "lib" {
            continue;
        }
        let Some(floor) = floor(room) else {
            findings.push(Finding::new(path.display(), format!("{room} has no place in the list of rooms")));
            continue;
        };
        for (at, used) in uses(&source.code).filter(|(at, _)| !tree.is_test(path, *at)) {
            let why = match self::floor(used) {
                None => format!("a use of {used}, which has no place in the list of rooms"),
                Some(below) if below < floor => format!("{room} uses {used}, which stands above it"),
                Some(_) => continue,
            };
            findings.push(Finding::new(format!("{}:{}", path.display(), source.line(at)), why));
        }
    }
    findings
}

/// The floor of a room, counted from the top.
fn floor(room: &str) -> Option<usize> {
    ROOMS.iter().position(|other| *other == room)
}

/// The rooms that are named in paths from the root of the crate, and where.
fn uses(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let all: Vec<(usize, &str)> = words(code).collect();
    let pairs: Vec<_> = all.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.into_iter().filter_map(|((at, word), (next, room))| {
        let between = code.get(at + word.len()..next)?;
        (word == "crate" && between == "::").then_some((at, room))
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::tree;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let lib = "mod api;\nmod peer;\n#[cfg(test)]\nmod tests;\n";
        let file = format!("{SERVER}/{path}");
        let files = [(&*format!("{SERVER}/lib.rs"), lib), (&*file, text)];
        check(&tree(&files)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_room_uses_only_those_below_it() {
        assert_eq!(found("api.rs", "use crate::peer::Transport;\nuse crate::api::kv;\n"), [""; 0]);
        let up = "peer uses api, which stands above it";
        assert_eq!(found("peer.rs", "use crate::api::kv;\n"), [up]);
        assert_eq!(found("peer/pool.rs", "fn f() { crate::api::kv::get() }\n"), [up]);
        assert_eq!(found("peer.rs", "// crate::api\n#[cfg(test)]\nmod tests { use crate::api::kv; }\n"), [""; 0]);
    }

    #[test]
    fn a_new_room_needs_a_place() {
        assert_eq!(found("attic.rs", ""), ["attic has no place in the list of rooms"]);
        assert_eq!(found("api.rs", "use crate::attic;\n"), ["a use of attic, which has no place in the list of rooms"]);
    }
}
