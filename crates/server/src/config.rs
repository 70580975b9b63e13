//! Settings: from flags and environment variables to one validated [`Config`].
//!
//! ```text
//!   argv, ETCD_* ──parse──┐
//!                         ├──> strings by flag ──policy──> refused? warned? ──validate──> Config
//!   --config-file ──file──┘
//! ```
//!
//! Rules:
//! - Defaults stand in one place, the table in [`flags`].
//! - A flag of etcd's either acts, or is harmless and warned about, or is refused by name. Nothing that changes
//!   topology, safety or security is accepted and then ignored. A refused flag at its default asks for nothing and is
//!   accepted.
//! - No code outside this room reads a flag or a variable.
//! - With a configuration file, all other flags and variables are ignored, as in etcd.

pub mod convert;
mod corruption;
mod feature_gates;
mod file;
pub mod flags;
pub mod help;
pub mod parse;
pub mod tls;
pub mod url;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use metastore_replica::EntryId;

pub use convert::Conversion;
pub use corruption::CorruptionChecks;
pub use tls::Tls;
pub use url::Url;
pub use validate::MAX_REQUEST_BYTES;

use crate::logging;
use flags::{Effect, FLAGS, find};
use parse::{EnvironmentError, ParseError, Values, same};

/// The etcd version that MetaStore follows, and reports unless it is set otherwise. Clients choose features by it.
pub const VERSION: &str = "3.7.0";

/// The prefix of flags that only the RocksDB engine reads.
const ROCKSDB_FLAGS: &str = "rocksdb-";

/// Bytes around a request of the largest size in its message, as in etcd.
const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// Everything that can be set, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// `None`: inside the data directory.
    pub wal_dir: Option<PathBuf>,
    pub engine: EngineSettings,
    pub listen_client_urls: Vec<Url>,
    /// Where HTTP is served apart from gRPC; empty if both are served at the client URLs.
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub listen_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub advertise_peer_urls: Vec<Url>,
    /// Used only while there is no log: see [`crate::founding`].
    pub initial_cluster: String,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    /// Whether changes of the membership that endanger the quorum are refused.
    pub strict_reconfig_check: bool,
    /// Learners that the cluster may have; all members must agree on it.
    pub max_learners: usize,
    pub auto_compaction: Option<AutoCompaction>,
    pub corruption: CorruptionChecks,
    pub quota: Quota,
    /// Whether a leader notes the remaining time of long leases in the log.
    pub lease_checkpoints: bool,
    pub auth: AuthSettings,
    pub audit: Option<AuditSettings>,
    /// Applied entries by which the log in memory grows before it is cut.
    pub snapshot_count: u64,
    /// Applied entries that stay when it is cut, for followers that lag.
    pub snapshot_catchup_entries: u64,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
    pub ping_min_time: Duration,
    /// Origins whose pages may use HTTP; `*` stands for all.
    pub cors: Vec<String>,
    /// Names by which HTTP clients may address this member; `*` stands for all.
    pub host_whitelist: Vec<String>,
    /// Serve the methods of gRPC as JSON, too.
    pub enable_grpc_gateway: bool,
    pub reuse_port: bool,
    pub tls: Tls,
    pub io_threads: usize,
    pub watch_progress_notify_interval: Duration,
    pub log: logging::Settings,
    pub pre_vote: bool,
    pub unsafe_no_fsync: bool,
    /// Whether the time of every call is kept for `/metrics`.
    pub extensive_metrics: bool,
    /// A start that can free this much of the state's size gives it back to the disk; 0: never.
    pub bootstrap_defrag_threshold_megabytes: u64,
    /// A committed entry that is passed over because no member can apply it.
    pub unsafe_skip_entry: Option<EntryId>,
    /// Whether the member goes on as the only one of its cluster.
    pub force_new_cluster: bool,
    pub reported_version: String,
}

impl Config {
    /// The largest message that is received: a request of the largest size, and the bytes around it.
    pub fn max_receive_bytes(&self) -> usize {
        self.max_request_bytes + REQUEST_OVERHEAD_BYTES
    }

    /// `X.Y.0` of the reported version: the version that the cluster and the storage report.
    pub fn cluster_version(&self) -> String {
        let mut parts = self.reported_version.split('.');
        format!("{}.{}.0", parts.next().unwrap_or("3"), parts.next().unwrap_or("0"))
    }
}

/// Where the state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineSettings {
    Memory,
    RocksDb {
        /// Memory for blocks that were read; memtables come on top.
        block_cache_bytes: usize,
    },
}

impl EngineSettings {
    /// As `--engine` and the data directory call it.
    pub fn name(self) -> &'static str {
        match self {
            EngineSettings::Memory => "memory",
            EngineSettings::RocksDb { .. } => "rocksdb",
        }
    }
}

/// How large the state may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Negative: of any size.
    pub bytes: i64,
    /// The share of the quota, in percent, below which the alarm is taken back by itself; 0: never.
    pub disarm_percent: u64,
}

impl Quota {
    /// The size at which nothing more is taken; `None` if there is none.
    pub fn limit(self) -> Option<u64> {
        u64::try_from(self.bytes).ok()
    }
}

/// The revisions that automatic compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Those of the last while.
    Periodic(Duration),
    /// This number of them.
    Revision(i64),
}

/// Whether the cluster is to be founded or joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

/// The result of reading the command line.
#[derive(Debug)]
pub enum Invocation {
    /// Print this on stdout and end with 0.
    Print(String),
    /// Convert a stopped member's directory.
    Convert(Conversion),
    /// Start a member.
    Start(Box<Config>, Notes),
}

/// Facts about the settings that are logged, once there is a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Flags that were set and do nothing here, as `--name=value`.
    pub without_effect: Vec<String>,
    /// Variables that look like settings and are none.
    pub unrecognized: Vec<String>,
    /// Keys of the configuration file that name no setting.
    pub unknown_keys: Vec<String>,
}

/// Why nothing is started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// To be printed with the usage; exit code 2, as Go's flag package does. The others are logged; exit code 1.
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("{0}")]
    Invalid(String),
    /// An error in the arguments after `convert`: to be printed with its usage; exit code 2.
    #[error("{0}")]
    Convert(String),
}

/// Reads arguments (without the program's name) and environment.
pub fn load(
    arguments: impl IntoIterator<Item = String>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Invocation, ConfigError> {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.next_if(|first| first == convert::COMMAND).is_some() {
        return convert::read(arguments);
    }
    let mut values = match parse::arguments(arguments) {
        Err(ParseError::Help) => return Ok(Invocation::Print(help::help())),
        // Not the flag parser's own error: etcd, too, logs it as a wrong setting, without the usage.
        Err(error @ ParseError::NotAFlag(_)) => return Err(ConfigError::Invalid(error.to_string())),
        other => other?,
    };
    let variables: Vec<_> = variables.into_iter().collect();
    let asks_for_version =
        |values: &Values| values.get("version").and_then(|value| parse::boolean(value)) == Some(true);
    if let Some(path) = file::path(&values, &variables).filter(|_| !asks_for_version(&values)) {
        let file::Contents { values, unknown_keys } = file::read(&path).map_err(ConfigError::Invalid)?;
        return start(&values, Notes { unknown_keys, ..Notes::default() });
    }
    let environment = parse::environment(variables, &values)?;
    values.extend(environment.values);
    if asks_for_version(&values) {
        return Ok(Invocation::Print(help::version(values.get("reported-version").map_or(VERSION, |v| v.as_str()))));
    }
    start(&values, Notes { unrecognized: environment.unrecognized, ..Notes::default() })
}

fn start(values: &Values, notes: Notes) -> Result<Invocation, ConfigError> {
    let without_effect = judge(values).map_err(ConfigError::Invalid)?;
    let config = validate::validate(values).map_err(ConfigError::Invalid)?;
    Ok(Invocation::Start(Box::new(config), Notes { without_effect, ..notes }))
}

/// Refuses flags that must not be ignored; lists those that are ignored.
fn judge(values: &Values) -> Result<Vec<String>, String> {
    let mut without_effect = Vec::new();
    let rocksdb = value(values, "engine") == "rocksdb";
    for (name, value) in values {
        let flag = find(name).expect("only known flags are parsed");
        let unchanged = same(flag.kind, value, flag.default);
        let idle = !rocksdb && name.starts_with(ROCKSDB_FLAGS);
        match flag.effect {
            Effect::Refused(reason) if !unchanged => {
                return Err(format!("--{name}={value} is not supported: {reason}"));
            }
            Effect::Harmless if !unchanged => without_effect.push(format!("--{name}={value}")),
            // Not refused: the members of a cluster may share their settings and not their engine.
            Effect::Acts(..) if !unchanged && idle => without_effect.push(format!("--{name}={value}")),
            _ => {}
        }
    }
    Ok(without_effect)
}

/// The value of a flag, given or default.
fn value<'a>(values: &'a Values, name: &str) -> &'a str {
    let flag = find(name).unwrap_or_else(|| panic!("no flag {name} among {}", FLAGS.len()));
    values.get(name).map_or(flag.default, String::as_str)
}

/// Settings of the identification of clients; etcd's flags have the same names.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// The options of tokens that are signed (`jwt,...`); `None` for simple tokens.
    pub jwt: Option<String>,
    pub bcrypt_cost: u32,
    pub token_ttl: Duration,
    /// Whether the common name of a client's certificate names a user.
    pub client_cert_auth: bool,
}

impl Default for AuthSettings {
    /// etcd's defaults.
    fn default() -> Self {
        Self { jwt: None, bcrypt_cost: 10, token_ttl: Duration::from_secs(300), client_cert_auth: false }
    }
}

/// The calls that the audit log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditLevel {
    /// Calls that were refused because of the identity or the permissions of the caller.
    Denied,
    /// Also all calls that change something.
    #[default]
    Writes,
    All,
}

impl AuditLevel {
    /// The value of `--audit-level`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "denied" => Self::Denied,
            "writes" => Self::Writes,
            "all" => Self::All,
            _ => return None,
        })
    }
}

/// Settings of the audit log.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    pub file: PathBuf,
    pub level: AuditLevel,
    /// A file of this size is renamed, and a new one begun.
    pub rotate_bytes: u64,
    /// As many renamed files are kept.
    pub kept_files: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(line: &str) -> Result<(Config, Notes), String> {
        match load(line.split_whitespace().map(str::to_owned), []) {
            Ok(Invocation::Start(config, notes)) => Ok((*config, notes)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn with_no_flags_it_is_etcds_single_member() {
        let (config, notes) = start("").unwrap();
        assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(config.listen_client_urls[0].text, "http://localhost:2379");
        assert_eq!(config.max_receive_bytes(), 2_097_152);
        assert_eq!(config.cluster_version(), "3.7.0");
        assert_eq!(notes, Notes::default());
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for line in [
            "--discovery-srv=example.com",
            "--auth-token=signed",
            "--feature-gates=PriorityRequest=true",
            "--engine=bbolt",
        ] {
            let error = start(line).unwrap_err();
            let flag = line.split('=').next().unwrap();
            assert!(error.starts_with(flag), "{line}: {error}");
        }
    }

    #[test]
    fn a_refused_flag_at_its_default_asks_for_nothing() {
        let line = "--cert-file= --feature-gates=PriorityRequest=false --auth-token=simple \
                    --discovery-dial-timeout=2000ms";
        assert_eq!(start(line).unwrap().1, Notes::default());
    }

    #[test]
    fn what_is_harmless_is_noted() {
        let (_, notes) = start("--max-wals=9 --enable-v2 --logger=zap --max-snapshots=2 -vv").unwrap();
        assert_eq!(notes.without_effect, ["--enable-v2=true", "--max-snapshots=2", "--max-wals=9", "--vv=true"]);
    }

    #[test]
    fn the_settings_of_an_engine_that_is_not_used_are_noted() {
        let (config, notes) = start("--rocksdb-block-cache-bytes=16777216").unwrap();
        assert_eq!(config.engine, EngineSettings::Memory);
        assert_eq!(notes.without_effect, ["--rocksdb-block-cache-bytes=16777216"]);
    }

    #[test]
    #[cfg(feature = "rocksdb")]
    fn rocksdb_has_a_block_cache() {
        let (config, notes) = start("--engine=rocksdb --rocksdb-block-cache-bytes=16777216").unwrap();
        assert_eq!(config.engine, EngineSettings::RocksDb { block_cache_bytes: 16 << 20 });
        assert_eq!(notes, Notes::default());
        let default = metastore_engine::RocksDbSettings::default().block_cache_bytes;
        assert_eq!(start("--engine=rocksdb").unwrap().0.engine, EngineSettings::RocksDb { block_cache_bytes: default });
        let error = start("--engine=rocksdb --rocksdb-block-cache-bytes=1000").unwrap_err();
        assert!(error.starts_with("--rocksdb-block-cache-bytes=1000 must be between 8388608 and "), "{error}");
    }

    #[test]
    #[cfg(not(feature = "rocksdb"))]
    fn an_engine_that_was_not_built_in_is_refused_with_how_to_build_it_in() {
        let error = start("--engine=rocksdb").unwrap_err();
        assert!(error.contains("--engine=rocksdb") && error.contains("--no-default-features"), "{error}");
    }

    #[test]
    fn version_and_help() {
        let print = |argument: &str| match load([argument.to_owned()], []) {
            Ok(Invocation::Print(text)) => text,
            other => panic!("{other:?}"),
        };
        let version = print("--version");
        assert_eq!(version.lines().count(), 4);
        assert!(version.starts_with("etcd Version: 3.7.0\nGit SHA: "), "{version}");
        let help = print("-h");
        assert!(help.contains("--listen-client-urls 'http://localhost:2379'"), "{help}");
        for flag in FLAGS {
            let listed = help.contains(&format!("\n  --{} ", flag.name));
            assert_eq!(listed, matches!(flag.effect, Effect::Acts(..)), "{}", flag.name);
        }
    }

    #[test]
    fn only_a_broken_command_line_is_a_usage_error() {
        let usage = |line: &str| {
            let result = load(line.split_whitespace().map(str::to_owned), []);
            matches!(result, Err(ConfigError::Parse(_)))
        };
        assert!(usage("--nothing") && usage("--name"));
        assert!(!usage("gateway start") && !usage("--force-new-cluster") && !usage("--heartbeat-interval=9999"));
    }

    #[test]
    fn the_reported_version_can_be_set() {
        let variables = [("METASTORE_REPORTED_VERSION".to_owned(), "3.5.17".to_owned())];
        let Ok(Invocation::Start(config, _)) = load([], variables) else { panic!() };
        assert_eq!((config.reported_version.as_str(), config.cluster_version().as_str()), ("3.5.17", "3.5.0"));
        assert!(start("--reported-version=newest").unwrap_err().contains("\"newest\""));
    }
}
