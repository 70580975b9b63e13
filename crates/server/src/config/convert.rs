//! `metastore convert`: the directory to convert, and its new engine. Only flags count: a stopped member has no
//! environment of its own.

use std::path::PathBuf;

use super::parse::{self, ParseError, Values};
use super::{ConfigError, EngineSettings, Invocation, validate, value};

/// The first argument that selects this command.
pub(super) const COMMAND: &str = "convert";

/// The flags that this command takes; they mean the same as for the server.
const TAKES: [&str; 5] = ["data-dir", "wal-dir", "engine", "rocksdb-block-cache-bytes", "log-level"];

/// The text of `--help` about this command; it also follows an error.
pub const USAGE: &str = "\
Usage:

  metastore convert --data-dir DIR [--wal-dir DIR] --engine memory|rocksdb [--rocksdb-block-cache-bytes N]
    Convert the directory of a stopped member to another storage engine. The log stays as it is.
    What there is of the old engine is removed last; a conversion that was interrupted is begun anew.
    Progress goes to stderr; with --log-level=warn there is none.
";

/// The settings of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    pub data_dir: PathBuf,
    /// `None`: inside the data directory.
    pub wal_dir: Option<PathBuf>,
    /// The engine that the member is to have.
    pub engine: EngineSettings,
    /// For the engine on disk, whether it is the present one or the new one.
    pub block_cache_bytes: usize,
    /// Show no progress.
    pub quiet: bool,
}

impl Conversion {
    /// The engine on disk.
    pub fn rocksdb(&self) -> EngineSettings {
        EngineSettings::RocksDb { block_cache_bytes: self.block_cache_bytes }
    }
}

/// Reads the arguments after [`COMMAND`].
pub(super) fn read(arguments: impl Iterator<Item = String>) -> Result<Invocation, ConfigError> {
    match parse::arguments(arguments) {
        Err(ParseError::Help) => Ok(Invocation::Print(USAGE.to_owned())),
        Err(error) => Err(ConfigError::Convert(error.to_string())),
        Ok(values) => conversion(&values).map(Invocation::Convert).map_err(ConfigError::Convert),
    }
}

fn conversion(values: &Values) -> Result<Conversion, String> {
    if let Some(other) = values.keys().find(|name| !TAKES.contains(name)) {
        return Err(format!("convert does not take -{other}"));
    }
    if let Some(missing) = ["data-dir", "engine"].iter().find(|name| !values.contains_key(**name)) {
        return Err(format!("convert needs -{missing}"));
    }
    let path = |name| Some(value(values, name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(Conversion {
        data_dir: path("data-dir").ok_or("-data-dir is empty")?,
        wal_dir: path("wal-dir"),
        engine: validate::engine(values)?,
        block_cache_bytes: validate::block_cache_bytes(values)?,
        quiet: validate::level(value(values, "log-level"))? > crate::logging::Level::Info,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<Conversion, String> {
        match read(line.split_whitespace().map(str::to_owned)) {
            Ok(Invocation::Convert(conversion)) => Ok(conversion),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn flags() {
        let expected = Conversion {
            data_dir: "/d".into(),
            wal_dir: Some("/w".into()),
            engine: EngineSettings::Memory,
            block_cache_bytes: 16 << 20,
            quiet: true,
        };
        let line = "--data-dir /d --wal-dir=/w -engine memory --log-level=error --rocksdb-block-cache-bytes 16777216";
        assert_eq!(read_line(line), Ok(expected));
        let plain = read_line("--data-dir /d --engine=memory").unwrap();
        assert!(!plain.quiet && plain.wal_dir.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, text) in [
            ("--engine=memory", "convert needs -data-dir"),
            ("--data-dir=/d", "convert needs -engine"),
            ("--data-dir= --engine=memory", "-data-dir is empty"),
            ("--data-dir=/d --engine=bbolt", "--engine=bbolt is unknown; use memory or rocksdb"),
            ("--data-dir=/d --engine=memory --name=x", "convert does not take -name"),
            ("--nothing", "flag provided but not defined: -nothing"),
            ("/d", "\"/d\" is not a valid flag"),
        ] {
            assert_eq!(read_line(line), Err(text.to_owned()), "{line}");
        }
        assert!(matches!(read(["-h".to_owned()].into_iter()), Ok(Invocation::Print(_))));
    }
}
