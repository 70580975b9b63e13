//! The texts of `--help` and `--version`.

use std::fmt::Write;

use super::flags::{Effect, FLAGS, Flag, Group, ValueKind};
use super::parse::ParseError;

const GROUPS: [(Group, &str); 7] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Security, "Security"),
    (Group::Logging, "Logging"),
    (Group::Watch, "Watch"),
    (Group::Unsafe, "Unsafe feature"),
    (Group::Other, "Other"),
];

/// The ways to call the program.
const USAGE: &str = "\
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

const EXAMPLES: &str = "
Examples:
  metastore --data-dir /var/lib/metastore
  metastore --listen-client-urls http://10.0.0.1:2379 --advertise-client-urls http://10.0.0.1:2379
  metastore --engine rocksdb --quota-backend-bytes 8589934592 --auto-compaction-retention 1h
  metastore --config-file /etc/metastore.yml

Units: a duration is a number with h, m, s or ms, such as 1h30m (in a configuration file a number of nanoseconds); sizes
are bytes unless the option says otherwise.
";

/// More changed letters than this share of a name make another word of it.
const LETTERS_PER_MISTAKE: usize = 3;

/// The words about a command line that cannot be read.
pub fn complaint(error: &ParseError) -> String {
    let mut text = format!("{error}\n");
    if let ParseError::Unknown(name) = error
        && let Some(flag) = nearest(name)
    {
        let _ = writeln!(text, "Did you mean --{}?", flag.name);
    }
    text.push_str("Usage: metastore [OPTIONS]; metastore --help shows the options");
    text
}

/// The flag that was probably meant.
fn nearest(name: &str) -> Option<&'static Flag> {
    let acting = FLAGS.iter().filter(|flag| matches!(flag.effect, Effect::Acts(..)));
    let (mistakes, flag) =
        acting.map(|flag| (distance(name, flag.name), flag)).min_by_key(|(mistakes, _)| *mistakes)?;
    (mistakes * LETTERS_PER_MISTAKE <= flag.name.len()).then_some(flag)
}

/// The letters to insert, drop or change that make one word of another.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, left) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, right) in to.bytes().enumerate() {
            let change = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = change.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// The flags of a group that act, and what each does.
fn acting(group: Group) -> impl Iterator<Item = (&'static Flag, &'static str)> {
    FLAGS.iter().filter_map(move |flag| match flag.effect {
        Effect::Acts(of, help) if of == group => Some((flag, help)),
        _ => None,
    })
}

/// `docs/configuration.md`: every flag, with its effect.
pub fn page() -> String {
    let mut text = PAGE.to_owned();
    for (group, title) in GROUPS {
        let _ = write!(text, "\n## {title}\n\n| flag | default | meaning |\n|---|---|---|\n");
        for (flag, help) in acting(group) {
            let _ = writeln!(text, "| `--{}` | {} | {} |", flag.name, cell(flag.default), help.replace('|', "\\|"));
        }
    }
    text.push_str(
        "\n## Accepted with a warning\n\nWithout these, a member is as safe and as reachable as with them.\n\n",
    );
    for flag in FLAGS.iter().filter(|flag| flag.effect == Effect::Harmless) {
        let _ = writeln!(text, "- `--{}`", flag.name);
    }
    text.push_str("\n## Refused, unless at the default\n\n| flag | default | why |\n|---|---|---|\n");
    for flag in FLAGS {
        if let Effect::Refused(reason) = flag.effect {
            let _ = writeln!(text, "| `--{}` | {} | {reason} |", flag.name, cell(flag.default));
        }
    }
    text
}

fn cell(default: &str) -> String {
    if default.is_empty() { String::new() } else { format!("`{default}`") }
}

const PAGE: &str = "\
# Configuration

This page is made from the table of flags: `UPDATE=1 cargo test -p metastore-server --lib configuration` writes it anew.

Each flag can be set by a variable: `ETCD_` and its name in capitals, with `_` for `-` (`METASTORE_` for a flag that
etcd does not have). A flag together with its variable is an error.

`--config-file` names a file in YAML or JSON; then all other flags and variables are ignored, as in etcd. Its keys are
the names of the flags. Durations in it are whole numbers of nanoseconds; `log-outputs` and `cipher-suites` are lists; a
number for a flag that takes a text is written in quotes. The settings of certificates stand in the blocks
`client-transport-security` and `peer-transport-security`: `cert-file`, `key-file`, `client-cert-file`,
`client-key-file`, `client-cert-auth`, `trusted-ca-file`, `auto-tls`, `allowed-hostname` (a list), `crl-file`, and for
peers `allowed-cn` (a list) and `skip-client-san-verification`. The block `socket-options`
holds `reuse-port` and `reuse-address`. A key without a value counts as absent; one that names no setting is logged.
";

/// The usage and every option that acts, in groups.
pub fn help() -> String {
    let mut text = format!("{USAGE}{EXAMPLES}");
    for (group, title) in GROUPS {
        let _ = write!(text, "\n{title}:\n");
        for (flag, help) in acting(group) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_flag_names_the_one_that_was_meant() {
        let said = |name: &str| complaint(&ParseError::Unknown(name.to_owned()));
        let expected = "flag provided but not defined: -listen-client-url\nDid you mean --listen-client-urls?\nUsage: \
                        metastore [OPTIONS]; metastore --help shows the options";
        assert_eq!(said("listen-client-url"), expected);
        for (typed, meant) in [("datadir", "data-dir"), ("nmae", ""), ("snapshot-cuont", "snapshot-count"), ("x", "")] {
            let suggested = said(typed).contains(&format!("Did you mean --{meant}?"));
            assert_eq!(suggested, !meant.is_empty(), "{typed}: {}", said(typed));
            assert_eq!(said(typed).contains("Did you mean"), !meant.is_empty(), "{typed}: {}", said(typed));
        }
    }

    #[test]
    fn the_page_about_the_configuration_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, page()).expect("the disk takes the page");
        }
        let stands = std::fs::read_to_string(path).unwrap_or_default();
        assert!(stands == page(), "docs/configuration.md is stale; write it anew as it says");
    }
}
