//! The texts of `--help` and `--version`.

use std::fmt::Write;

use super::flags::{Effect, FLAGS, Group, ValueKind};

const GROUPS: [(Group, &str); 7] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Security, "Security"),
    (Group::Logging, "Logging"),
    (Group::Watch, "Watch"),
    (Group::Unsafe, "Unsafe feature"),
    (Group::Other, "Other"),
];

/// Follows an error in the command line.
pub const USAGE: &str = "\
Usage:

  metastore [OPTIONS]
    Start a member.

  metastore convert --data-dir DIR [--wal-dir DIR] --engine memory|rocksdb
    Convert the directory of a stopped member to another storage engine (metastore convert -h).

  metastore --version
    Show the version.

  metastore -h | --help
    Show the options.
";

/// The usage and every option that acts, in groups.
pub fn help() -> String {
    let mut text = USAGE.to_owned();
    for (group, title) in GROUPS {
        let _ = write!(text, "\n{title}:\n");
        for flag in FLAGS {
            let Effect::Acts(of, help) = flag.effect else { continue };
            if of != group {
                continue;
            }
            let default = match flag.kind {
                ValueKind::Bool => flag.default.to_owned(),
                _ => format!("'{}'", flag.default),
            };
            let _ = write!(text, "  --{} {default}\n    {help}\n", flag.name);
        }
    }
    text.push_str(
        "\nEvery option can be set by a variable, as ETCD_DATA_DIR (METASTORE_ENGINE for what etcd does not have).\n",
    );
    text
}

/// Four lines, as tools that parse etcd's expect them.
pub fn version(reported: &str) -> String {
    let commit = option_env!("METASTORE_COMMIT").unwrap_or("unknown");
    let (system, machine) = (std::env::consts::OS, go_architecture(std::env::consts::ARCH));
    let own = env!("CARGO_PKG_VERSION");
    format!(
        "etcd Version: {reported}\nGit SHA: {commit}\nGo Version: none (MetaStore {own})\nGo OS/Arch: \
            {system}/{machine}\n"
    )
}

fn go_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
