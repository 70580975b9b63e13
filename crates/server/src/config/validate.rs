//! Strings into a [`Config`], with etcd's error texts where it has some.

use std::path::PathBuf;
use std::time::Duration;

use metastore_replica::EntryId;
use metastore_replica::wal::MAX_ENTRY_BYTES;
use metastore_store::EtcdUrl;

use super::corruption::corruption_checks;
use super::feature_gates::FeatureGates;
use super::parse::{Values, boolean, duration};
use super::tls::{check_urls, tls};
use super::url::{Url, parse_list};
use super::{
    AuditLevel, AuditSettings, AuthSettings, AutoCompaction, ClusterState, Config, EngineSettings, Quota,
    REQUEST_OVERHEAD_BYTES, value,
};
use crate::grpc::frame::MAX_SEND_BYTES;
use crate::logging::{self, Level, Output};

/// A smaller file of the audit log would be renamed at almost every line.
const LEAST_AUDIT_FILE: u64 = 64 << 10;
/// Each of the renamed files is renamed again when the next one is.
const MOST_AUDIT_FILES: u64 = 1000;
/// The longest election timeout that etcd accepts.
const MAX_ELECTION_MS: u64 = 50_000;

/// The largest request that can be allowed. All further bounds hold a request of that size.
pub const MAX_REQUEST_BYTES: u64 = 255 << 20;
const _: () = {
    let request = MAX_REQUEST_BYTES as usize;
    assert!(request <= MAX_ENTRY_BYTES, "a record of the log");
    assert!(request + REQUEST_OVERHEAD_BYTES <= MAX_SEND_BYTES, "a gRPC message");
};

/// Watch progress faster than this would be a load of its own.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The quota that the setting 0 stands for, as in etcd.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// More frequent compactions would be a load of their own.
const MIN_COMPACTION_PERIOD: Duration = Duration::from_secs(1);

/// The shortest time between two pings of a client where etcd sets none, which is that of its gRPC library.
const GRPC_MIN_TIME: Duration = Duration::from_secs(5 * 60);

/// Entries that stay for followers when the log is cut, as in etcd.
const CATCHUP_ENTRIES: u64 = 5000;

/// Every learner costs the leader as much as a voter: a higher number is a mistake.
const MAX_LEARNERS: u64 = 1024;

/// More than any state has: a higher number is a mistake.
const MAX_DEFRAG_THRESHOLD_MB: u64 = 1 << 40;

/// More threads than this gain nothing on any known machine.
const MAX_IO_THREADS: u64 = 256;

/// A smaller cache cannot hold even the blocks that one list reads at a time, with their index and filters.
const MIN_BLOCK_CACHE_BYTES: u64 = 8 << 20;
/// More than any machine has: a higher number is a mistake.
const MAX_BLOCK_CACHE_BYTES: u64 = 1 << 44;

pub(super) fn validate(values: &Values) -> Result<Config, String> {
    let (heartbeat_ms, election_ms) = ticks(values)?;
    let name = value(values, "name").to_owned();
    let data_dir = match value(values, "data-dir") {
        "" => format!("{name}.etcd"),
        path => path.to_owned(),
    };
    if values.contains_key("listen-client-urls") && !values.contains_key("advertise-client-urls") {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
    }
    let advertise_peer_urls = urls(values, "initial-advertise-peer-urls")?;
    let listen_client_urls = bindable(values, "listen-client-urls")?;
    let listen_peer_urls = bindable(values, "listen-peer-urls")?;
    let listen_client_http_urls = further(values, "listen-client-http-urls")?;
    let listen_metrics_urls = further(values, "listen-metrics-urls")?;
    check_apart(&listen_client_urls, &listen_client_http_urls)?;
    let tls = tls(values)?;
    let clients: Vec<&Url> = listen_client_urls.iter().chain(&listen_client_http_urls).collect();
    check_urls(&tls, &clients, &listen_metrics_urls, &listen_peer_urls)?;
    Ok(Config {
        initial_cluster: initial_cluster(values, &name, &advertise_peer_urls),
        name,
        data_dir: PathBuf::from(data_dir),
        wal_dir: Some(value(values, "wal-dir")).filter(|path| !path.is_empty()).map(PathBuf::from),
        engine: engine(values)?,
        listen_client_urls,
        listen_client_http_urls,
        listen_metrics_urls,
        listen_peer_urls,
        tls,
        advertise_client_urls: advertised(values)?,
        advertise_peer_urls,
        initial_cluster_state: cluster_state(value(values, "initial-cluster-state"))?,
        initial_cluster_token: value(values, "initial-cluster-token").to_owned(),
        strict_reconfig_check: boolean(value(values, "strict-reconfig-check")) == Some(true),
        max_learners: max_learners(values)?,
        auto_compaction: auto_compaction(values)?,
        corruption: corruption_checks(values)?,
        quota: quota(values)?,
        lease_checkpoints: lease_checkpoints(values)?,
        auth: auth(values)?,
        audit: audit(values)?,
        snapshot_count: at_least(values, "snapshot-count", 1, u64::MAX)?,
        snapshot_catchup_entries: catchup_entries(values)?,
        heartbeat_ms,
        election_ms,
        max_txn_ops: at_least(values, "max-txn-ops", 1, u64::from(u32::MAX))? as usize,
        max_request_bytes: at_least(values, "max-request-bytes", 1, MAX_REQUEST_BYTES)? as usize,
        max_concurrent_streams: at_least(values, "max-concurrent-streams", 1, u64::from(u32::MAX))? as u32,
        ping_interval: Some(time(values, "grpc-keepalive-interval")?).filter(|interval| !interval.is_zero()),
        ping_timeout: match time(values, "grpc-keepalive-timeout")? {
            Duration::ZERO => Duration::from_secs(20),
            timeout => timeout,
        },
        ping_min_time: match time(values, "grpc-keepalive-min-time")? {
            Duration::ZERO => GRPC_MIN_TIME,
            time => time,
        },
        cors: origins(value(values, "cors"))?,
        // Neither trimmed nor checked, as in etcd: a name that no request has matches none.
        host_whitelist: value(values, "host-whitelist").split(',').map(str::to_owned).collect(),
        enable_grpc_gateway: boolean(value(values, "enable-grpc-gateway")) == Some(true),
        reuse_port: boolean(value(values, "socket-reuse-port")) == Some(true),
        io_threads: io_threads(at_least(values, "io-threads", 0, MAX_IO_THREADS)?),
        watch_progress_notify_interval: progress_interval(values)?,
        log: log(values)?,
        pre_vote: boolean(value(values, "pre-vote")) == Some(true),
        unsafe_no_fsync: boolean(value(values, "unsafe-no-fsync")) == Some(true),
        extensive_metrics: value(values, "metrics") == "extensive",
        bootstrap_defrag_threshold_megabytes: at_least(
            values,
            former(values, "bootstrap-defrag-threshold-megabytes", "experimental-bootstrap-defrag-threshold-megabytes"),
            0,
            MAX_DEFRAG_THRESHOLD_MB,
        )?,
        force_new_cluster: boolean(value(values, "force-new-cluster")) == Some(true),
        unsafe_skip_entry: skip_entry(value(values, "unsafe-skip-entry"))?,
        reported_version: version(value(values, "reported-version"))?,
    })
}

fn ticks(values: &Values) -> Result<(u64, u64), String> {
    let heartbeat = at_least(values, "heartbeat-interval", 1, u64::MAX)?;
    let election = at_least(values, "election-timeout", 1, u64::MAX)?;
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > MAX_ELECTION_MS {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
        ));
    }
    Ok((heartbeat, election))
}

/// A member with a name of its own needs no --initial-cluster to found a cluster alone, as in etcd.
fn initial_cluster(values: &Values, name: &str, peer_urls: &[Url]) -> String {
    let given = value(values, "initial-cluster");
    if values.contains_key("initial-cluster") || name == "default" {
        return given.to_owned();
    }
    peer_urls.iter().map(|url| format!("{name}={}", url.text)).collect::<Vec<_>>().join(",")
}

fn urls(values: &Values, flag: &str) -> Result<Vec<Url>, String> {
    parse_list(flag, value(values, flag))
}

/// No URL stands for the default, as in etcd: scripts pass an empty variable on.
fn advertised(values: &Values) -> Result<Vec<Url>, String> {
    const FLAG: &str = "advertise-client-urls";
    match value(values, FLAG) {
        "" => urls(&Values::new(), FLAG),
        _ => urls(values, FLAG),
    }
}

fn bindable(values: &Values, flag: &str) -> Result<Vec<Url>, String> {
    let urls = urls(values, flag)?;
    for url in &urls {
        url.bind_address().map_err(|error| format!("--{flag}: {error}"))?;
    }
    Ok(urls)
}

/// URLs to listen on besides those that every member has.
fn further(values: &Values, flag: &str) -> Result<Vec<Url>, String> {
    if value(values, flag).is_empty() { Ok(Vec::new()) } else { bindable(values, flag) }
}

/// An address that serves HTTP apart from gRPC cannot serve both. The error is etcd's.
fn check_apart(clients: &[Url], http: &[Url]) -> Result<(), String> {
    let both = http.iter().find(|url| clients.iter().any(|other| other.bind_address() == url.bind_address()));
    both.map_or(Ok(()), |url| {
        let text = &url.text;
        Err(format!("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {text}"))
    })
}

/// `*`, or URLs as etcd reads them. An origin is compared as text, so no other form would match one.
fn origins(text: &str) -> Result<Vec<String>, String> {
    if text == "*" {
        return Ok(vec![text.to_owned()]);
    }
    let origin = |url: &str| EtcdUrl::parse(url.trim()).map(|_| url.trim().to_owned());
    text.split(',').map(origin).collect::<Result<_, _>>().map_err(|error| format!("--cors: {error}"))
}

fn number(values: &Values, flag: &str) -> Result<i64, String> {
    let text = value(values, flag);
    text.parse().map_err(|_| format!("--{flag}: {text:?} is not a number"))
}

pub(super) fn at_least(values: &Values, flag: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = number(values, flag)?;
    match u64::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("--{flag}={number} must be between {least} and {most}")),
    }
}

pub(super) fn time(values: &Values, flag: &str) -> Result<Duration, String> {
    let text = value(values, flag);
    duration(text).ok_or_else(|| format!("--{flag}: {text:?} is not a duration like 100ms or 1h30m"))
}

fn quota(values: &Values) -> Result<Quota, String> {
    let bytes = match number(values, "quota-backend-bytes")? {
        0 => DEFAULT_QUOTA_BYTES,
        bytes => bytes,
    };
    Ok(Quota { bytes, disarm_percent: at_least(values, "quota-auto-disarm-percent", 0, 100)? })
}

/// Checkpoints are always stored, so the second gate asks for nothing more.
fn lease_checkpoints(values: &Values) -> Result<bool, String> {
    let gates = FeatureGates::read(values)?;
    let notes = gates.with_former(values, "LeaseCheckpoint", "experimental-enable-lease-checkpoint")?;
    let stores = gates.with_former(values, "LeaseCheckpointPersist", "experimental-enable-lease-checkpoint-persist")?;
    if stores && !notes {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into()
        );
    }
    Ok(notes)
}

/// As in etcd: a number means hours or revisions; other texts are durations, in nanoseconds if they count revisions.
fn auto_compaction(values: &Values) -> Result<Option<AutoCompaction>, String> {
    let (mode, retention) = (value(values, "auto-compaction-mode"), value(values, "auto-compaction-retention"));
    let by_time = match mode {
        "periodic" => true,
        "revision" => false,
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        _ => return Err(format!("unknown auto-compaction-mode {mode:?}")),
    };
    let number: Option<u32> = retention.parse().ok();
    let kept = match number {
        Some(hours) if by_time => Duration::from_secs(60 * 60 * u64::from(hours)),
        Some(revisions) => Duration::from_nanos(revisions.into()),
        None => duration(retention).ok_or_else(|| {
            let why = if retention.parse::<f64>().is_ok() { "missing unit in" } else { "invalid" };
            format!("error parsing CompactionRetention: time: {why} duration {retention:?}")
        })?,
    };
    if by_time && !kept.is_zero() && kept < MIN_COMPACTION_PERIOD {
        return Err(format!(
            "--auto-compaction-retention={retention} is too short: the shortest period is {MIN_COMPACTION_PERIOD:?}"
        ));
    }
    let settings =
        if by_time { AutoCompaction::Periodic(kept) } else { AutoCompaction::Revision(kept.as_nanos() as i64) };
    Ok(Some(settings).filter(|_| !kept.is_zero()))
}

fn io_threads(given: u64) -> usize {
    match given {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads as usize,
    }
}

fn progress_interval(values: &Values) -> Result<Duration, String> {
    let flag = former(values, "watch-progress-notify-interval", "experimental-watch-progress-notify-interval");
    Ok(time(values, flag)?.max(MIN_PROGRESS_INTERVAL))
}

fn skip_entry(text: &str) -> Result<Option<EntryId>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts = text.split_once(':').and_then(|(index, term)| Some((index.parse().ok()?, term.parse().ok()?)));
    let entry = parts.map(|(index, term)| EntryId { index, term }).filter(|entry| entry.index > 0 && entry.term > 0);
    entry
        .map(Some)
        .ok_or_else(|| format!("--unsafe-skip-entry={text} is not the index and the term of an entry, like 55:3"))
}

fn auth(values: &Values) -> Result<AuthSettings, String> {
    let token_ttl = Duration::from_secs(at_least(values, "auth-token-ttl", 0, u32::MAX.into())?);
    let bcrypt_cost = at_least(values, "bcrypt-cost", 0, u32::MAX.into())? as u32;
    let token = value(values, "auth-token");
    let jwt = match token.split_once(',') {
        Some(("jwt", options)) => Some(options.to_owned()),
        None if token == "jwt" => Some(String::new()),
        None if ["simple", ""].contains(&token) => None,
        _ => return Err(format!("--auth-token={token}: expected simple, or jwt,...")),
    };
    let client_cert_auth = boolean(value(values, "client-cert-auth")) == Some(true);
    Ok(AuthSettings { jwt, bcrypt_cost, token_ttl, client_cert_auth })
}

fn audit(values: &Values) -> Result<Option<AuditSettings>, String> {
    let (file, level) = (value(values, "audit-log"), value(values, "audit-level"));
    let level =
        AuditLevel::parse(level).ok_or_else(|| format!("--audit-level={level}: expected denied, writes or all"))?;
    let rotate_bytes = at_least(values, "audit-log-max-bytes", LEAST_AUDIT_FILE, u64::MAX)?;
    let kept_files = at_least(values, "audit-log-kept-files", 0, MOST_AUDIT_FILES)? as u32;
    let settings = AuditSettings { file: file.into(), level, rotate_bytes, kept_files };
    Ok((!file.is_empty()).then_some(settings))
}

fn max_learners(values: &Values) -> Result<usize, String> {
    let flag = former(values, "max-learners", "experimental-max-learners");
    Ok(at_least(values, flag, 0, MAX_LEARNERS)? as usize)
}

/// 0 means the default, as in etcd.
fn catchup_entries(values: &Values) -> Result<u64, String> {
    let flag = former(values, "snapshot-catchup-entries", "experimental-snapshot-catchup-entries");
    let entries = at_least(values, flag, 0, u64::MAX)?;
    Ok(if entries == 0 { CATCHUP_ENTRIES } else { entries })
}

/// The former name of a flag counts unless the present one is set.
pub(super) fn former<'a>(values: &Values, now: &'a str, former: &'a str) -> &'a str {
    if values.contains_key(former) && !values.contains_key(now) { former } else { now }
}

pub(super) fn block_cache_bytes(values: &Values) -> Result<usize, String> {
    Ok(at_least(values, "rocksdb-block-cache-bytes", MIN_BLOCK_CACHE_BYTES, MAX_BLOCK_CACHE_BYTES)? as usize)
}

pub(super) fn engine(values: &Values) -> Result<EngineSettings, String> {
    let block_cache_bytes = block_cache_bytes(values)?;
    match value(values, "engine") {
        "memory" => Ok(EngineSettings::Memory),
        "rocksdb" if cfg!(feature = "rocksdb") => Ok(EngineSettings::RocksDb { block_cache_bytes }),
        "rocksdb" => Err("--engine=rocksdb: this metastore was built without RocksDB. Build one with it: `make run \
                 ENGINE=rocksdb`, or `cargo build --release -p metastore-server` without --no-default-features"
            .into()),
        text => Err(format!("--engine={text} is unknown; use memory or rocksdb")),
    }
}

fn cluster_state(text: &str) -> Result<ClusterState, String> {
    match text {
        "new" => Ok(ClusterState::New),
        "existing" => Ok(ClusterState::Existing),
        _ => Err(format!("unexpected clusterState {text:?}: --initial-cluster-state is 'new' or 'existing'")),
    }
}

pub(super) fn level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| format!("--log-level={text}: use debug, info, warn, error, panic or fatal"))
}

/// The texts of refusals are etcd's.
fn log(values: &Values) -> Result<logging::Settings, String> {
    let logger = value(values, "logger");
    // An empty one is zap, as in etcd's own configuration.
    if !matches!(logger, "zap" | "") {
        return Err(format!("unknown logger option {logger:?}"));
    }
    let format = match value(values, "log-format") {
        "json" | "" => logging::Format::Json,
        "console" => logging::Format::Console,
        text => return Err(format!("unknown log format: {text}, supported values json, console")),
    };
    let outputs = outputs(value(values, "log-outputs"))?;
    let rotation = match boolean(value(values, "enable-log-rotation")) {
        Some(true) => {
            let files = outputs.iter().filter(|output| matches!(output, Output::File(_) | Output::Journal)).count();
            if files > 1 || files == 0 && outputs.len() == 1 {
                return Err("--log-outputs requires a single file path when --log-rotate-config-json is defined".into());
            }
            Some(logging::Rotation::parse(value(values, "log-rotation-config-json"))?)
        }
        _ => None,
    };
    Ok(logging::Settings { level: level(value(values, "log-level"))?, format, outputs, rotation })
}

/// An output that is named twice is one.
fn outputs(text: &str) -> Result<Vec<Output>, String> {
    let mut outputs = Vec::new();
    for output in text.split(',').map(str::trim) {
        let output = match output {
            "default" if text.contains(',') => {
                return Err("multi logoutput for \"default\" is not supported yet".to_owned());
            }
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            "" => return Err("--log-outputs has an empty element".to_owned()),
            "systemd/journal" => Output::Journal,
            path => Output::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(outputs)
}

fn version(text: &str) -> Result<String, String> {
    // Members compare it, in a header of their requests to each other.
    let plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-+.".contains(letter));
    let (core, _) = text.split_once('-').unwrap_or((text, ""));
    let number = |part: &str| part.parse::<u16>().is_ok_and(|number| number.to_string() == part);
    let numbers = core.split('.').filter(|part| number(part)).count();
    if !plain || numbers != 3 || core.split('.').count() != 3 {
        return Err(format!("--reported-version={text:?} is not a version like 3.7.0"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&'static str, &str)]) -> Result<Config, String> {
        validate(&pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }

    #[test]
    fn lease_checkpoints_are_off_unless_they_are_asked_for() {
        let (notes, stores) = ("experimental-enable-lease-checkpoint", "experimental-enable-lease-checkpoint-persist");
        let set = |pairs: &[(&'static str, &str)]| check(pairs).map(|config| config.lease_checkpoints);
        assert_eq!(set(&[]), Ok(false));
        assert_eq!(set(&[(notes, "true")]), Ok(true));
        assert_eq!(set(&[(notes, "true"), (stores, "true")]), Ok(true));
        assert!(set(&[(stores, "true")]).unwrap_err().contains("requires enabling feature gate LeaseCheckpoint"));
        assert_eq!(set(&[("feature-gates", "LeaseCheckpoint=true,LeaseCheckpointPersist=true")]), Ok(true));
    }

    #[test]
    fn errors_have_the_texts_of_etcd() {
        for (pairs, text) in [
            (
                &[("heartbeat-interval", "300")][..],
                "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
            ),
            (
                &[("election-timeout", "60000")],
                "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            ),
            (
                &[("listen-client-urls", "http://127.0.0.1:1")],
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ),
            (
                &[("listen-peer-urls", "http://example.com:1")],
                "--listen-peer-urls: expected IP in URL for binding (http://example.com:1)",
            ),
            (
                &[("listen-client-urls", "https://127.0.0.1:1"), ("advertise-client-urls", "https://127.0.0.1:1")],
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS \
                 scheme",
            ),
            (
                &[("listen-peer-urls", "https://127.0.0.1:1")],
                "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
            ),
            (
                &[("cipher-suites", "A"), ("tls-min-version", "TLS1.3")],
                "cipher suites cannot be configured when only \
                TLS1.3 is enabled",
            ),
            (
                &[("listen-client-http-urls", "http://a:1,http://localhost:2379")],
                "--listen-client-http-urls: expected IP in URL for binding (http://a:1)",
            ),
            (
                &[("listen-client-http-urls", "http://127.0.0.1:2379")],
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
                 http://127.0.0.1:2379",
            ),
            (
                &[("listen-client-http-urls", "https://127.0.0.1:1")],
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS \
                 scheme",
            ),
            (
                &[("listen-metrics-urls", "http://127.0.0.1:1,unixs://m")],
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url unixs://m",
            ),
        ] {
            assert_eq!(check(pairs).unwrap_err(), text);
        }
    }

    /// The refusals are those of etcd 3.7.3, from their first words on.
    #[test]
    fn settings_of_the_log() {
        const FILE: (&str, &str) = ("log-outputs", "/l");
        const ROTATES: (&str, &str) = ("enable-log-rotation", "true");
        let single = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        let cases: &[(&[(&'static str, &str)], &str)] = &[
            (&[("logger", "capnslog")], "unknown logger option \"capnslog\""),
            (&[("log-format", "xml")], "unknown log format: xml, supported values json, console"),
            (&[("log-outputs", "default,stdout")], "multi logoutput for \"default\" is not supported yet"),
            (&[ROTATES], single),
            (&[ROTATES, ("log-outputs", "/a,/b")], single),
            (&[ROTATES, FILE, ("log-rotation-config-json", "")], "improperly formatted log rotation config: "),
            (
                &[ROTATES, FILE, ("log-rotation-config-json", "{\"maxsize\": 1")],
                "improperly formatted log rotation config: ",
            ),
            (&[ROTATES, FILE, ("log-rotation-config-json", "{\"maxsize\": \"x\"}")], "invalid log rotation config: "),
            (&[ROTATES, FILE, ("log-rotation-config-json", "{\"maxage\": 1.5}")], "invalid log rotation config: "),
            (&[ROTATES, FILE, ("log-rotation-config-json", "{\"compress\": 1}")], "invalid log rotation config: "),
            (&[ROTATES, FILE, ("log-rotation-config-json", "{\"maxsize\": -1}")], "invalid log rotation config: "),
        ];
        for (pairs, text) in cases {
            let error = check(pairs).unwrap_err();
            assert!(error.starts_with(text), "{error}");
        }
        // Read only if it is used, as in etcd.
        assert!(check(&[("log-rotation-config-json", "x")]).is_ok());
        let log =
            check(&[("log-format", "console"), ("log-outputs", "stderr,stdout,/l,/l,systemd/journal")]).unwrap().log;
        let outputs = [Output::Stderr, Output::Stdout, Output::File("/l".into()), Output::Journal];
        assert_eq!((log.format, &log.outputs[..], log.rotation), (logging::Format::Console, &outputs[..], None));
    }

    #[test]
    fn no_url_to_advertise_is_the_default() {
        let pairs = [("listen-client-urls", "http://127.0.0.1:1"), ("advertise-client-urls", "")];
        assert_eq!(check(&pairs).unwrap().advertise_client_urls[0].text, "http://localhost:2379");
    }

    #[test]
    fn limits() {
        assert!(check(&[("snapshot-count", "0")]).is_err());
        assert!(check(&[("max-request-bytes", "-1")]).is_err());
        assert!(check(&[("max-request-bytes", "267386880")]).is_ok());
        let error = check(&[("max-request-bytes", "267386881")]).unwrap_err();
        assert_eq!(error, "--max-request-bytes=267386881 must be between 1 and 267386880");
        assert!(check(&[("heartbeat-interval", "9223372036854775807")]).is_err());
        assert!(check(&[("max-concurrent-streams", "4294967296")]).is_err());
        assert!(check(&[("log-level", "loud")]).is_err());
        assert!(check(&[("log-outputs", "stderr,,x")]).is_err());
        for version in ["3.7", "+3.7.0", "03.7.0", "3.7.0-ü", "3.7.0 ", "v3.7.0"] {
            assert!(check(&[("reported-version", version)]).is_err(), "{version}");
        }
        assert!(check(&[("reported-version", "3.8.0-alpha.1+build")]).is_ok());
    }

    #[test]
    fn a_list_of_origins_holds_urls_with_ports() {
        assert_eq!(check(&[]).unwrap().cors, ["*"]);
        assert_eq!(check(&[("cors", " http://a:1 , https://b:2")]).unwrap().cors, ["http://a:1", "https://b:2"]);
        for (wrong, why) in [
            ("", "--cors: URL scheme must be http, https, unix, or unixs"),
            ("a.com", "--cors: URL scheme must be http, https, unix, or unixs"),
            ("*,http://a:1", "--cors: URL scheme must be http, https, unix, or unixs"),
            ("http://a.com", "--cors: URL address does not have the form \"host:port\""),
            ("http://a.com:1/path", "--cors: URL must not contain a path"),
        ] {
            let error = check(&[("cors", wrong)]).unwrap_err();
            assert!(error.starts_with(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn names_of_this_member_are_taken_as_they_are() {
        let names = |text: &str| check(&[("host-whitelist", text)]).unwrap().host_whitelist;
        assert_eq!(check(&[]).unwrap().host_whitelist, ["*"]);
        assert_eq!((names(""), names("a, b")), (vec![String::new()], vec!["a".to_owned(), " b".to_owned()]));
    }

    #[test]
    fn no_time_between_pings_is_that_of_grpc() {
        let min_time = |text: &str| check(&[("grpc-keepalive-min-time", text)]).unwrap().ping_min_time;
        assert_eq!((min_time("7s"), min_time("0s")), (Duration::from_secs(7), Duration::from_secs(300)));
        assert_eq!(check(&[]).unwrap().ping_min_time, Duration::from_secs(5));
    }

    #[test]
    fn an_entry_is_named_by_index_and_term() {
        let skipped = |text: &str| check(&[("unsafe-skip-entry", text)]).map(|config| config.unsafe_skip_entry);
        assert_eq!((skipped(""), skipped("55:3")), (Ok(None), Ok(Some(EntryId { index: 55, term: 3 }))));
        for wrong in ["55", "55:", "0:3", "55:0", "55:x", "55:3:1", "-1:1"] {
            let error = skipped(wrong).unwrap_err();
            assert!(error.starts_with(&format!("--unsafe-skip-entry={wrong} ")), "{error}");
        }
    }

    #[test]
    fn a_named_member_founds_its_own_cluster() {
        let named = check(&[("name", "m1"), ("initial-advertise-peer-urls", "http://a:1,http://b:2")]).unwrap();
        assert_eq!(named.initial_cluster, "m1=http://a:1,m1=http://b:2");
        assert_eq!(named.data_dir, PathBuf::from("m1.etcd"));
        assert_eq!(check(&[]).unwrap().initial_cluster, "default=http://localhost:2380");
    }

    #[test]
    fn former_names_count_until_the_present_one_is_set() {
        let former = ("experimental-watch-progress-notify-interval", "5s");
        assert_eq!(check(&[former]).unwrap().watch_progress_notify_interval, Duration::from_secs(5));
        let both = check(&[former, ("watch-progress-notify-interval", "1ms")]).unwrap();
        assert_eq!(both.watch_progress_notify_interval, MIN_PROGRESS_INTERVAL);
        let learners = |pairs: &[_]| check(pairs).unwrap().max_learners;
        assert_eq!((learners(&[]), learners(&[("experimental-max-learners", "3")])), (1, 3));
        assert_eq!(learners(&[("experimental-max-learners", "3"), ("max-learners", "2")]), 2);
        let catchup = |given: &'static [(&'static str, &'static str)]| check(given).unwrap().snapshot_catchup_entries;
        assert_eq!(catchup(&[]), 5000);
        assert_eq!(catchup(&[("snapshot-catchup-entries", "0")]), 5000, "as in etcd");
        assert_eq!(catchup(&[("experimental-snapshot-catchup-entries", "7")]), 7);
    }
}
