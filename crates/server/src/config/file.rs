//! The configuration file (`--config-file`), in YAML or JSON, which is YAML as well, with etcd's keys.
//!
//! A key is the name of a flag, in capitals or not. Some settings stand in a [`block`], such as the certificates. A key
//! without a value is one that is not there; a key that names no setting is noted.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use yaml_rust2::yaml::Hash;
use yaml_rust2::{Yaml, YamlLoader};

use super::flags::{Flag, ValueKind, find};
use super::parse::{Values, check};

/// Larger than any list of settings: such a file is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Settings that the file holds as lists, and flags as texts with commas.
const LISTS: [&str; 5] = [
    "cipher-suites",
    "client-cert-allowed-hostname",
    "log-outputs",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// Settings for which etcd takes an empty text as none. For the others it is a value, though seldom a good one.
const UNSET_IF_EMPTY: [&str; 11] = [
    "advertise-client-urls",
    "auto-compaction-retention",
    "cors",
    "host-whitelist",
    "initial-advertise-peer-urls",
    "initial-cluster-state",
    "listen-client-http-urls",
    "listen-client-urls",
    "listen-metrics-urls",
    "listen-peer-urls",
    "log-level",
];

const ADVERTISED: &str = "advertise-client-urls";

/// The settings of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub values: Values,
    /// Keys that name no setting. etcd ignores them silently.
    pub unknown_keys: Vec<String>,
}

/// The file that the flag or else the variable names. As in etcd, these two are no conflict.
pub fn path(values: &Values, variables: &[(String, String)]) -> Option<PathBuf> {
    let variable = || variables.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, path)| path);
    values.get("config-file").or_else(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, is no YAML, or holds a value of the wrong kind; the text names the file and the key.
pub fn read(path: &Path) -> Result<Contents, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    // A byte more than may be tells that the file is too long, also one whose length is not known.
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if length as u64 > MAX_FILE_BYTES => {
            return Err(format!("--config-file={shown} has more than {MAX_FILE_BYTES} bytes, the most that are read"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("open {shown}: no such file or directory"));
        }
        Err(error) => return Err(format!("open {shown}: {error}")),
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("--config-file={shown} is no text in UTF-8"))?;
    parse(&text).map_err(|error| format!("--config-file={shown}: {error}"))
}

fn parse(text: &str) -> Result<Contents, String> {
    let documents =
        YamlLoader::load_from_str(text).map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    let mut contents = Contents::default();
    match documents.first() {
        None | Some(Yaml::Null) => {}
        Some(Yaml::Hash(settings)) => contents.take(settings)?,
        Some(other) => return Err(format!("the file must hold keys and values, not {}", kind(other))),
    }
    // Here, unlike among flags, addresses to listen on do not demand those to advertise, as in etcd.
    let advertised = find(ADVERTISED).map(|flag| flag.default.to_owned());
    contents.values.entry(ADVERTISED).or_insert_with(|| advertised.expect("the table has the flag"));
    Ok(contents)
}

/// Flags that say what the program is to do, not how the member is set.
fn in_no_file(flag: &Flag) -> bool {
    ["config-file", "version"].contains(&flag.name)
}

/// The meaning of the keys of a block, if this is the name of one.
fn block(name: &str) -> Option<fn(&str) -> Option<&'static Flag>> {
    Some(match name {
        "client-transport-security" => |key| certificate_flag(key, false),
        "peer-transport-security" => |key| certificate_flag(key, true),
        "socket-options" => |key| find(&format!("socket-{key}")),
        "discovery-config" => |_| None,
        _ => return None,
    })
}

fn certificate_flag(key: &str, peers: bool) -> Option<&'static Flag> {
    let name = match (key, peers) {
        ("allowed-cn", true) => "cert-allowed-cn",
        ("allowed-hostname", true) => "cert-allowed-hostname",
        ("allowed-hostname", false) => "client-cert-allowed-hostname",
        ("crl-file", false) => "client-crl-file",
        ("cert-file" | "key-file" | "client-cert-file" | "client-key-file", _) => key,
        ("client-cert-auth" | "trusted-ca-file" | "auto-tls", _) => key,
        ("crl-file" | "skip-client-san-verification", true) => key,
        _ => return None,
    };
    find(&if peers { format!("peer-{name}") } else { name.to_owned() })
}

impl Contents {
    fn take(&mut self, settings: &Hash) -> Result<(), String> {
        for (key, value) in settings {
            let (key, name) = names(key)?;
            let Some(flag_of) = block(&name) else {
                self.set(key, value, find(&name).filter(|flag| !in_no_file(flag)))?;
                continue;
            };
            match value {
                Yaml::Null => {}
                _ if name == "discovery-config" => {
                    return Err(format!("{key} is not supported: name the members with initial-cluster"));
                }
                Yaml::Hash(block) => {
                    for (key, value) in block {
                        let (key, name) = names(key)?;
                        self.set(key, value, flag_of(&name))?;
                    }
                }
                other => return Err(format!("{key} must hold keys and values, not {}", kind(other))),
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &Yaml, flag: Option<&'static Flag>) -> Result<(), String> {
        match flag {
            None => self.unknown_keys.push(key.to_owned()),
            Some(flag) => {
                if let Some(text) = read_value(flag, value).map_err(|error| format!("{key}: {error}"))? {
                    self.values.insert(flag.name, text);
                }
            }
        }
        Ok(())
    }
}

/// A key as it stands there, and in the letters of flags.
fn names(key: &Yaml) -> Result<(&str, String), String> {
    let text = key.as_str().ok_or_else(|| format!("a key must be a text, not {}", kind(key)))?;
    Ok((text, text.to_ascii_lowercase()))
}

/// A value as the flag would have it; `None` if there is none.
fn read_value(flag: &Flag, value: &Yaml) -> Result<Option<String>, String> {
    let text = match (flag.kind, value) {
        (_, Yaml::Null) => return Ok(None),
        (_, Yaml::String(text)) if text.is_empty() && UNSET_IF_EMPTY.contains(&flag.name) => return Ok(None),
        (_, Yaml::Array(texts)) if LISTS.contains(&flag.name) => {
            let texts: Option<Vec<_>> = texts.iter().map(Yaml::as_str).collect();
            texts.ok_or("a list of texts is expected")?.join(",")
        }
        (ValueKind::Bool, Yaml::Boolean(value)) => value.to_string(),
        // Words of YAML 1.1, which etcd reads.
        (ValueKind::Bool, Yaml::String(word))
            if word.eq_ignore_ascii_case("yes") || word.eq_ignore_ascii_case("on") =>
        {
            "true".to_owned()
        }
        (ValueKind::Bool, Yaml::String(word))
            if word.eq_ignore_ascii_case("no") || word.eq_ignore_ascii_case("off") =>
        {
            "false".to_owned()
        }
        (ValueKind::Number, Yaml::Integer(number)) => number.to_string(),
        (ValueKind::Duration, Yaml::Integer(nanoseconds)) => format!("{nanoseconds}ns"),
        (ValueKind::Text | ValueKind::Gates, Yaml::String(text)) if !LISTS.contains(&flag.name) => text.clone(),
        (ValueKind::Anything, Yaml::String(text)) => text.clone(),
        (_, other) => return Err(format!("{} is expected, not {}", expected(flag), kind(other))),
    };
    check(flag, &text).map_err(|reason| format!("invalid value {text:?}: {reason}"))?;
    Ok(Some(text))
}

fn expected(flag: &Flag) -> &'static str {
    match flag.kind {
        _ if LISTS.contains(&flag.name) => "a list of texts",
        ValueKind::Bool => "true or false",
        ValueKind::Number => "a whole number",
        ValueKind::Duration => "a whole number of nanoseconds",
        ValueKind::Text | ValueKind::Gates | ValueKind::Anything => "a text (in quotes, if it looks like a number)",
    }
}

fn kind(value: &Yaml) -> String {
    match value {
        Yaml::Real(number) => number.clone(),
        Yaml::Integer(number) => number.to_string(),
        Yaml::String(text) => format!("the text {text:?}"),
        Yaml::Boolean(value) => value.to_string(),
        Yaml::Array(_) => "a list".to_owned(),
        Yaml::Hash(_) => "keys and values".to_owned(),
        Yaml::Null | Yaml::Alias(_) | Yaml::BadValue => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::FLAGS;
    use super::*;

    /// Set without being asked.
    const DEFAULT: (&str, &str) = (ADVERTISED, "http://localhost:2379");

    fn values(text: &str) -> Vec<(&'static str, String)> {
        let contents = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        contents.values.into_iter().filter(|(name, value)| (*name, value.as_str()) != DEFAULT).collect()
    }

    #[test]
    fn each_kind_of_value_has_the_form_that_etcd_reads() {
        let text = "name: m1\nmax-txn-ops: 5\npre-vote: false\nGRPC-keepalive-min-time: 7000000000\nwal-dir:\n\
                    log-outputs: [stderr, /l]\nfeature-gates: CompactHashCheck=true\ncors: ''\n";
        let expected = [
            ("feature-gates", "CompactHashCheck=true"),
            ("grpc-keepalive-min-time", "7000000000ns"),
            ("log-outputs", "stderr,/l"),
            ("max-txn-ops", "5"),
            ("name", "m1"),
            ("pre-vote", "false"),
        ];
        assert_eq!(values(text), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(values(r#"{"name": "m1", "max-txn-ops": 5}"#).len(), 2);
        assert_eq!((values(""), values("# nothing\n")), (vec![], vec![]));
        assert_eq!(values("initial-cluster-token: ''"), [("initial-cluster-token", String::new())]);
        assert_eq!(values("pre-vote: No\nauto-tls: on"), values("pre-vote: false\nauto-tls: true"));
    }

    #[test]
    fn every_flag_can_stand_in_a_file() {
        for flag in FLAGS.iter().filter(|flag| !in_no_file(flag)) {
            let value = match flag.kind {
                _ if LISTS.contains(&flag.name) => "[a]",
                ValueKind::Bool => "true",
                ValueKind::Number | ValueKind::Duration => "1",
                ValueKind::Gates => "AllBeta=true",
                ValueKind::Text | ValueKind::Anything => "a",
            };
            let read = values(&format!("{}: {value}", flag.name));
            assert_eq!(read.len(), 1, "{}", flag.name);
            assert_eq!(read[0].0, flag.name);
        }
    }

    #[test]
    fn the_blocks_hold_the_certificates() {
        let keys = "{cert-file: a, key-file: a, client-cert-file: a, client-key-file: a, client-cert-auth: true, \
                    trusted-ca-file: a, auto-tls: true, allowed-hostname: [a], allowed-cn: [a], crl-file: a, \
                    skip-client-san-verification: true}";
        let clients = parse(&format!("client-transport-security: {keys}")).unwrap();
        assert_eq!((clients.values.len(), clients.unknown_keys.len()), (10, 2), "{clients:?}");
        let peers = parse(&format!("peer-transport-security: {keys}")).unwrap();
        assert_eq!((peers.values.len(), peers.unknown_keys.len()), (12, 0), "{peers:?}");
        assert!(peers.values.keys().all(|name| name.starts_with("peer-") || *name == ADVERTISED), "{peers:?}");
        let own = |name: &&str| ["cert-file", "client-crl-file", "client-cert-allowed-hostname"].contains(name);
        assert_eq!(clients.values.keys().filter(|name| own(name)).count(), 3);
    }

    #[test]
    fn the_options_of_sockets_are_a_block() {
        let expected = [("socket-reuse-address", "true".to_owned()), ("socket-reuse-port", "true".to_owned())];
        assert_eq!(values("socket-options: {reuse-port: true, reuse-address: true}"), expected);
        assert!(values("discovery-config:").is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        for (text, error) in [
            ("max-txn-ops: abc", "max-txn-ops: a whole number is expected, not the text \"abc\""),
            ("pre-vote: 'true'", "pre-vote: true or false is expected, not the text \"true\""),
            (
                "corrupt-check-time: 1m",
                "corrupt-check-time: a whole number of nanoseconds is expected, not the text \"1m\"",
            ),
            ("corrupt-check-time: -1", "corrupt-check-time: invalid value \"-1ns\": parse error"),
            (
                "auto-compaction-retention: 1",
                "auto-compaction-retention: a text (in quotes, if it looks like a number) is expected, not 1",
            ),
            ("log-outputs: stderr", "log-outputs: a list of texts is expected, not the text \"stderr\""),
            ("feature-gates: X=true", "feature-gates: invalid value \"X=true\": unrecognized feature gate: X"),
            ("peer-transport-security: x", "peer-transport-security must hold keys and values, not the text \"x\""),
            (
                "discovery-config: {token: a}",
                "discovery-config is not supported: name the members with initial-cluster",
            ),
            ("[a]", "the file must hold keys and values, not a list"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
        assert!(parse("a: [").unwrap_err().starts_with("error converting YAML to JSON: yaml: "));
        assert_eq!(read(Path::new("/no.yml")), Err("open /no.yml: no such file or directory".to_owned()));
        // A file whose length nobody knows is read no further than another.
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(endless, "--config-file=/dev/zero has more than 1048576 bytes, the most that are read");
    }

    #[test]
    fn a_key_that_names_no_setting_is_noted() {
        let contents = parse("nothing: 1\nname: a\nversion: true\nconfig-file: x").unwrap();
        assert_eq!(contents.unknown_keys, ["nothing", "version", "config-file"]);
    }
}
