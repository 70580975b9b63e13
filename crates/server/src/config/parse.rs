//! Flags and environment variables into a map of strings, in the syntax of Go's flag package.
//!
//! `-x` and `--x` are the same, values follow `=` or, except for booleans, as the next argument. An argument parser of
//! the usual Unix kind reads `-name` as `-n -a -m -e`. If that were changed, hardly more than its table of flags would
//! be used.

use std::collections::BTreeMap;
use std::time::Duration;

use super::feature_gates::FeatureGates;
use super::flags::{ETCD_PREFIX, FLAGS, Flag, OWN_PREFIX, ValueKind, find};

/// Flags by name, as they were written.
pub type Values = BTreeMap<&'static str, String>;

/// Why the command line cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// `-h` or `-help`: not an error of the user.
    #[error("help requested")]
    Help,
    /// Text of Go's flag package.
    #[error("{0}")]
    Syntax(String),
    /// A name that no flag has.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("{0:?} is not a valid flag")]
    NotAFlag(String),
}

/// Why the environment cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error(
        "conflicting environment variable {0:?} is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag)"
    )]
    Shadowed(String),
    #[error("invalid value {value:?} for {variable}: {reason}")]
    Invalid { variable: String, value: String, reason: String },
}

/// Reads the command line, without the program's name.
pub fn arguments(arguments: impl IntoIterator<Item = String>) -> Result<Values, ParseError> {
    let mut values = Values::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some(body) = argument.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(ParseError::NotAFlag(argument));
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            return arguments.next().map_or(Ok(values), |rest| Err(ParseError::NotAFlag(rest)));
        }
        if body.starts_with(['-', '=']) {
            return Err(ParseError::Syntax(format!("bad flag syntax: {argument}")));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = find(name) else {
            return Err(if matches!(name, "h" | "help") {
                ParseError::Help
            } else {
                ParseError::Unknown(name.to_owned())
            });
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, ValueKind::Bool | ValueKind::Anything) => "true".to_owned(),
            (None, _) => {
                arguments.next().ok_or_else(|| ParseError::Syntax(format!("flag needs an argument: -{name}")))?
            }
        };
        check(flag, &value).map_err(|reason| ParseError::Syntax(refuse(flag, &value, &reason)))?;
        values.insert(flag.name, value);
    }
    Ok(values)
}

fn refuse(flag: &Flag, value: &str, reason: &str) -> String {
    match flag.kind {
        ValueKind::Bool => format!("invalid boolean value {value:?} for -{}: {reason}", flag.name),
        _ => format!("invalid value {value:?} for flag -{}: {reason}", flag.name),
    }
}

/// The values that the environment adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub values: Values,
    /// Variables with these prefixes that name no flag, as `NAME=value`.
    pub unrecognized: Vec<String>,
}

/// Reads the variables of all flags. A variable together with its flag is an error: one of them would be ignored
/// silently. Empty variables count as unset.
pub fn environment(
    variables: impl IntoIterator<Item = (String, String)>,
    given: &Values,
) -> Result<Environment, EnvironmentError> {
    let known: BTreeMap<String, &Flag> = FLAGS.iter().map(|flag| (flag.variable(), flag)).collect();
    let mut environment = Environment::default();
    for (variable, value) in variables {
        let ours = variable.starts_with(ETCD_PREFIX) || variable.starts_with(OWN_PREFIX);
        if !ours || value.is_empty() || variable == "ETCD_UNSUPPORTED_ARCH" {
            continue;
        }
        let Some(flag) = known.get(&variable).filter(|flag| flag.name != "version") else {
            environment.unrecognized.push(format!("{variable}={value}"));
            continue;
        };
        if given.contains_key(flag.name) {
            return Err(EnvironmentError::Shadowed(variable));
        }
        check(flag, &value).map_err(|reason| EnvironmentError::Invalid { variable, value: value.clone(), reason })?;
        environment.values.insert(flag.name, value);
    }
    Ok(environment)
}

/// Whether `value` can be read as the flag's kind. The reason is Go's.
pub(super) fn check(flag: &Flag, value: &str) -> Result<(), String> {
    let valid = match flag.kind {
        ValueKind::Bool => boolean(value).is_some(),
        ValueKind::Number => value.parse::<i64>().is_ok(),
        ValueKind::Duration => duration(value).is_some(),
        ValueKind::Gates => return FeatureGates::parse(value).map(|_| ()),
        ValueKind::Text | ValueKind::Anything => true,
    };
    if valid { Ok(()) } else { Err("parse error".to_owned()) }
}

/// Whether two values of a flag mean the same.
pub(super) fn same(kind: ValueKind, left: &str, right: &str) -> bool {
    match kind {
        ValueKind::Bool => boolean(left) == boolean(right),
        ValueKind::Number => left.parse::<i64>() == right.parse::<i64>(),
        ValueKind::Duration => duration(left) == duration(right),
        ValueKind::Gates => FeatureGates::parse(left) == FeatureGates::parse(right),
        ValueKind::Text | ValueKind::Anything => left == right,
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration`, without negative values: `1h30m`, `1.5s`, `0`.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let nanoseconds = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[letters..];
        let part = number * nanoseconds;
        // Go's durations are signed 64-bit nanoseconds: 292 years.
        if part >= i64::MAX as f64 {
            return None;
        }
        total = total.checked_add(Duration::from_nanos(part as u64))?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Values, ParseError> {
        arguments(line.split_whitespace().map(str::to_owned))
    }

    fn syntax(line: &str) -> String {
        match parse(line) {
            Err(error @ (ParseError::Syntax(_) | ParseError::Unknown(_))) => error.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn go_syntax() {
        let values = parse("-name a --data-dir=/d -unsafe-no-fsync --pre-vote=false -heartbeat-interval=5").unwrap();
        let expected = [
            ("data-dir", "/d"),
            ("heartbeat-interval", "5"),
            ("name", "a"),
            ("pre-vote", "false"),
            ("unsafe-no-fsync", "true"),
        ];
        assert!(values.iter().map(|(name, value)| (*name, value.as_str())).eq(expected));
        assert_eq!(parse("-name a -name b").unwrap()["name"], "b");
        assert_eq!(parse("--name=").unwrap()["name"], "");
    }

    #[test]
    fn errors_have_the_texts_of_go() {
        assert_eq!(syntax("-nothing"), "flag provided but not defined: -nothing");
        assert_eq!(syntax("--name"), "flag needs an argument: -name");
        assert_eq!(syntax("---name"), "bad flag syntax: ---name");
        assert_eq!(syntax("--=x"), "bad flag syntax: --=x");
        assert_eq!(
            syntax("-unsafe-no-fsync=maybe"),
            "invalid boolean value \"maybe\" for -unsafe-no-fsync: parse error"
        );
        assert_eq!(
            syntax("--feature-gates=X=true"),
            "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X"
        );
        assert_eq!(syntax("-snapshot-count ten"), "invalid value \"ten\" for flag -snapshot-count: parse error");
        assert_eq!(parse("-unsafe-no-fsync no").unwrap_err().to_string(), "\"no\" is not a valid flag");
        assert_eq!(parse("gateway start").unwrap_err().to_string(), "\"gateway\" is not a valid flag");
        assert_eq!(parse("-name a -help"), Err(ParseError::Help));
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_fills_in_and_never_shadows() {
        let given = parse("-name a").unwrap();
        let all = variables(&[
            ("ETCD_DATA_DIR", "/d"),
            ("METASTORE_ENGINE", "memory"),
            ("ETCD_PORT", "tcp://x"),
            ("ETCD_WAL_DIR", ""),
            ("HOME", "/root"),
        ]);
        let environment = environment(all, &given).unwrap();
        assert_eq!(environment.values, Values::from([("data-dir", "/d".to_owned()), ("engine", "memory".to_owned())]));
        assert_eq!(environment.unrecognized, ["ETCD_PORT=tcp://x"]);
    }

    #[test]
    fn a_flag_and_its_variable_are_a_conflict() {
        let given = parse("-name a").unwrap();
        let error = environment(variables(&[("ETCD_NAME", "b")]), &given).unwrap_err();
        assert_eq!(
            error.to_string(),
            "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag \
             (either unset environment variable or disable flag)"
        );
        let error = environment(variables(&[("ETCD_SNAPSHOT_COUNT", "x")]), &given).unwrap_err();
        assert_eq!(error.to_string(), "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        for text in ["", "5", "m", "-1s", "1x", "99999999999h", "1.2.3s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
