//! Dependencies between crates: which crate may use which. The rooms and their entry points are in `ARCHITECTURE.md`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Finding;

/// Each crate of the workspace, and the crates of the workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("metastore-bbolt", &[]),
    ("metastore-proto", &[]),
    ("metastore-mutants", &[]),
    ("metastore-engine", &["metastore-mutants"]),
    ("metastore-store", &["metastore-engine", "metastore-proto", "metastore-mutants"]),
    // Its tests run on the simulated machines of the simulator.
    (
        "metastore-replica",
        &["metastore-store", "metastore-engine", "metastore-proto", "metastore-mutants", "metastore-sim"],
    ),
    (
        "metastore-sim",
        &["metastore-replica", "metastore-store", "metastore-engine", "metastore-proto", "metastore-mutants"],
    ),
    (
        "metastore-server",
        &["metastore-replica", "metastore-store", "metastore-engine", "metastore-proto", "metastore-backup"],
    ),
    ("metastore-backup", &["metastore-store", "metastore-engine", "metastore-proto", "metastore-bbolt"]),
    (
        "metastore-cli",
        &[
            "metastore-replica",
            "metastore-store",
            "metastore-engine",
            "metastore-proto",
            "metastore-backup",
            "metastore-bbolt",
        ],
    ),
    (
        "metastore-tests",
        &[
            "metastore-server",
            "metastore-replica",
            "metastore-store",
            "metastore-engine",
            "metastore-proto",
            "metastore-bbolt",
            "metastore-sim",
        ],
    ),
    ("xtask", &[]),
];

/// Crates without sockets, event loops or clocks: none of their dependencies, direct or indirect, may be in [`SHELL`].
const CORE: &[&str] = &[
    "metastore-bbolt",
    "metastore-proto",
    "metastore-mutants",
    "metastore-engine",
    "metastore-store",
    "metastore-replica",
    "metastore-sim",
];
const SHELL: &[&str] = &["tokio", "hyper", "hyper-util", "h2", "tonic", "axum", "mio", "socket2"];

/// Crates that only some crates of the workspace may name in their manifest. Tests may use more.
const RESERVED: &[(&str, &[&str])] = &[
    ("rocksdb", &["metastore-engine"]),
    ("rust-rocksdb", &["metastore-engine"]),
    ("rand", &["metastore-server", "metastore-tests"]),
    ("raft", &["metastore-replica"]),
];

/// Checks the output of `cargo metadata`.
pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = members(metadata);
    let names: BTreeSet<&str> = packages.iter().map(|package| text(&package["name"])).collect();
    let mut findings = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        let place = format!("crate {name}");
        let Some((_, allowed)) = ALLOWED.iter().find(|(of, _)| *of == name) else {
            findings.push(Finding::new(place, "has no row in the table of allowed dependencies (xtask/src/tidy)"));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let (used, kind) = (text(&dependency["name"]), dependency["kind"].as_str());
            if names.contains(used) && !allowed.contains(&used) && !(used == name && kind == Some("dev")) {
                findings.push(Finding::new(&place, format!("may not use {used}")));
            }
            let reserved = RESERVED.iter().find(|(of, _)| *of == used);
            if kind.is_none() && reserved.is_some_and(|(_, users)| !users.contains(&name)) {
                findings.push(Finding::new(&place, format!("may not use {used}: it is reserved for other crates")));
            }
        }
        if CORE.contains(&name) {
            let built_from = closure(metadata, text(&package["id"]));
            let shell = SHELL.iter().filter(|shell| built_from.contains(**shell));
            findings
                .extend(shell.map(|shell| Finding::new(&place, format!("is built from {shell}, a part of the shell"))));
        }
    }
    findings
}

/// The packages of the workspace.
pub fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> = list(&metadata["workspace_members"]).iter().map(text).collect();
    list(&metadata["packages"]).iter().filter(|package| ids.contains(text(&package["id"]))).collect()
}

/// The names of all packages linked into a package: direct and indirect dependencies, without build and dev ones.
fn closure<'a>(metadata: &'a Value, id: &'a str) -> BTreeSet<&'a str> {
    let nodes = list(&metadata["resolve"]["nodes"]);
    let mut seen = BTreeSet::from([id]);
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        let Some(node) = nodes.iter().find(|node| text(&node["id"]) == id) else { continue };
        for dependency in list(&node["deps"]) {
            let linked = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            if linked && seen.insert(text(&dependency["pkg"])) {
                open.push(text(&dependency["pkg"]));
            }
        }
    }
    let packages = list(&metadata["packages"]).iter();
    packages.filter(|package| seen.contains(text(&package["id"]))).map(|package| text(&package["name"])).collect()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A workspace of one crate that uses `used`, which in turn uses `behind`.
    fn workspace(name: &str, used: &str, kind: Option<&str>, behind: &str) -> Value {
        let package = |name: &str, dependencies: Value| json!({"id": name, "name": name, "dependencies": dependencies});
        let edge = |to: &str, kind: Option<&str>| json!({"pkg": to, "dep_kinds": [{"kind": kind}]});
        json!({
            "workspace_members": [name, "metastore-server"],
            "packages": [
                package(name, json!([{"name": used, "kind": kind}])),
            package(used, json!([])),
            package(behind, json!([])),
            ],
            "resolve": {"nodes": [
                {"id": name, "deps": [edge(used, kind)]},
                {"id": used, "deps": [edge(behind, None)]},
            ]},
        })
    }

    fn whats(metadata: &Value) -> Vec<String> {
        check(metadata).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn directions() {
        assert_eq!(
            whats(&workspace("metastore-store", "metastore-server", None, "x")),
            ["may not use metastore-server"]
        );
        assert_eq!(whats(&workspace("metastore-replica", "bytes", None, "x")), [""; 0]);
        assert!(whats(&workspace("metastore-new", "bytes", None, "x"))[0].contains("no row"));
    }

    #[test]
    fn the_shell_stays_out_of_the_core_at_any_distance() {
        let found = ["is built from tokio, a part of the shell"];
        assert_eq!(whats(&workspace("metastore-store", "tokio", None, "x")), found);
        assert_eq!(whats(&workspace("metastore-store", "bytes", None, "tokio")), found);
        assert_eq!(whats(&workspace("metastore-store", "tokio", Some("dev"), "x")), [""; 0]);
    }

    #[test]
    fn reserved_crates() {
        assert!(whats(&workspace("metastore-store", "rocksdb", None, "x"))[0].contains("reserved"));
        assert_eq!(whats(&workspace("metastore-engine", "rocksdb", None, "x")), [""; 0]);
    }
}
