//! Every known flag, in one table: name, default, kind, and what it does here.

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    Bool,
    Text,
    /// A whole number.
    Number,
    /// Go's notation: `1h30m`, `100ms`.
    Duration,
    /// A list of feature gates: see [`super::feature_gates`].
    Gates,
    /// Anything, or nothing: a flag of etcd 2 that etcd itself ignores.
    Anything,
}

/// The effect of setting a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The flag does what it says.
    Acts(Group, &'static str),
    /// Accepted with a warning: without the flag, the member is as safe, reachable and correct as with it.
    Harmless,
    /// Any value but the default is refused, for this reason: without the flag, the member would not be as asked for.
    Refused(&'static str),
}

/// Where `--help` lists a flag, in the order of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Member,
    Clustering,
    Security,
    Logging,
    Watch,
    Unsafe,
    Other,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: ValueKind,
    pub default: &'static str,
    pub effect: Effect,
}

impl Flag {
    /// The environment variable of the same meaning. Flags that etcd does not have use MetaStore's own prefix.
    pub fn variable(&self) -> String {
        let prefix = if OWN.contains(&self.name) { OWN_PREFIX } else { ETCD_PREFIX };
        format!("{prefix}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

pub const ETCD_PREFIX: &str = "ETCD_";
pub const OWN_PREFIX: &str = "METASTORE_";

/// Flags that etcd does not have.
const OWN: [&str; 9] = [
    "audit-level",
    "audit-log",
    "audit-log-kept-files",
    "audit-log-max-bytes",
    "engine",
    "io-threads",
    "reported-version",
    "rocksdb-block-cache-bytes",
    "unsafe-skip-entry",
];

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const DISCOVERY: &str = "discovery is not available yet; name the members with --initial-cluster";

const fn acts(name: &'static str, kind: ValueKind, default: &'static str, group: Group, help: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::Acts(group, help) }
}

const fn harmless(name: &'static str, kind: ValueKind, default: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::Harmless }
}

const fn refused(name: &'static str, kind: ValueKind, default: &'static str, reason: &'static str) -> Flag {
    Flag { name, kind, default, effect: Effect::Refused(reason) }
}

use Group::{Clustering, Logging, Member, Other, Security, Unsafe, Watch};
use ValueKind::{Anything, Bool, Duration, Gates, Number, Text};

#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    // Member
    acts("name", Text, "default", Member, "Human-readable name for this member."),
    acts("data-dir", Text, "", Member, "Path to the data directory. Empty: ${name}.etcd"),
    acts("wal-dir", Text, "", Member, "Path to a directory of its own for the write-ahead log. Empty: inside the data directory."),
    acts("engine", Text, "memory", Member, "Storage engine: memory (all keys in memory) or rocksdb (on disk, for data beyond memory). Kept by the data directory."),
    acts("rocksdb-block-cache-bytes", Number, "268435456", Member, "Memory for blocks that the rocksdb engine has read. What is written and not flushed yet comes on top: up to 1 GiB under load."),
    acts("snapshot-count", Number, "10000", Member, "Committed entries by which the log in memory grows before it is cut to --snapshot-catchup-entries."),
    acts("heartbeat-interval", Number, "100", Member, "Time (in milliseconds) of a heartbeat interval."),
    acts("election-timeout", Number, "1000", Member, "Time (in milliseconds) for an election to timeout."),
    acts("listen-peer-urls", Text, "http://localhost:2380", Member, "List of URLs to listen on for peer traffic."),
    acts("listen-client-urls", Text, "http://localhost:2379", Member, "List of URLs to listen on for client traffic: gRPC, health, version and metrics."),
    acts("quota-backend-bytes", Number, "0", Member, "Quota of the stored data in bytes. When it is used up, the alarm NOSPACE is raised. 0: 2 GiB; a negative number: no quota."),
    acts("quota-auto-disarm-percent", Number, "0", Member, "The alarm NOSPACE is taken back by itself once the stored data takes less than this share of the quota, and the space that the disks are to keep free less than this share of what is free. 0 (the default): never, as in etcd."),
    acts("max-txn-ops", Number, "128", Member, "Maximum number of operations permitted in a transaction."),
    acts("max-request-bytes", Number, "1572864", Member, "Maximum client request size in bytes the server will accept; at most 267386880 (255 MiB)."),
    acts("max-concurrent-streams", Number, "4294967295", Member, "Maximum concurrent streams that each client can open at a time."),
    acts("grpc-keepalive-min-time", Duration, "5s", Member, "Shortest time between two pings of a client; a client that pings more often is disconnected (0s: 5m)."),
    acts("grpc-keepalive-interval", Duration, "2h", Member, "Frequency of pings from the server to a silent client (0s: never)."),
    acts("grpc-keepalive-timeout", Duration, "20s", Member, "Time to wait for the answer to such a ping before the connection is closed (0s: 20s)."),
    acts("socket-reuse-port", Bool, "false", Member, "Let several listeners bind the same port."),
    acts("socket-reuse-address", Bool, "false", Member, "Accepted; SO_REUSEADDR is always set."),
    acts("io-threads", Number, "0", Member, "Threads that serve connections. 0: one per core."),
    harmless("max-wals", Number, "5"),
    harmless("max-snapshots", Number, "5"),
    harmless("backend-bbolt-freelist-type", Text, ""),
    harmless("backend-batch-interval", Duration, "0s"),
    harmless("backend-batch-limit", Number, "0"),
    harmless("raft-read-timeout", Duration, "5s"),
    harmless("raft-write-timeout", Duration, "5s"),
    harmless("memory-mlock", Bool, "false"),
    harmless("initial-election-tick-advance", Bool, "true"),
    acts("listen-client-http-urls", Text, "", Member, "List of URLs to listen on for HTTP of clients. With it, --listen-client-urls serve only gRPC. Empty: both are served there."),
    acts("listen-metrics-urls", Text, "", Member, "List of additional URLs that answer /metrics, /health, /livez and /readyz, also before this member serves clients."),

    // Clustering
    acts("initial-advertise-peer-urls", Text, "http://localhost:2380", Clustering, "List of this member's peer URLs to advertise to the rest of the cluster."),
    acts("advertise-client-urls", Text, "http://localhost:2379", Clustering, "List of this member's client URLs to advertise to the public."),
    acts("initial-cluster", Text, "default=http://localhost:2380", Clustering, "Initial cluster configuration for bootstrapping: name=peer URL,... of every founding member."),
    acts("initial-cluster-state", Text, "new", Clustering, "Initial cluster state ('new' or 'existing')."),
    acts("initial-cluster-token", Text, "etcd-cluster", Clustering, "Token of the cluster during bootstrap: part of its id."),
    acts("strict-reconfig-check", Bool, "true", Clustering, "Reject reconfiguration requests that would cause quorum loss."),
    acts("pre-vote", Bool, "true", Clustering, "Ask the others for an election before holding it, so that a member that was cut off does not disturb them."),
    acts("max-learners", Number, "1", Clustering, "Most learners in the cluster. It must be the same on all members."),
    acts("snapshot-catchup-entries", Number, "5000", Clustering, "Committed entries that stay in memory for followers when the log is cut; one that lacks more is sent the whole state."),
    acts("auto-compaction-mode", Text, "periodic", Clustering, "Unit of --auto-compaction-retention: time ('periodic') or revisions ('revision')."),
    acts("auto-compaction-retention", Text, "0", Clustering, "The leader compacts by itself, and keeps this much: hours or a duration such as 30m, or a number of revisions. 0: never."),
    refused("discovery", Text, "", DISCOVERY),
    refused("discovery-token", Text, "", DISCOVERY),
    refused("discovery-endpoints", Text, "", DISCOVERY),
    refused("discovery-dial-timeout", Duration, "2s", DISCOVERY),
    refused("discovery-request-timeout", Duration, "5s", DISCOVERY),
    refused("discovery-keepalive-time", Duration, "2s", DISCOVERY),
    refused("discovery-keepalive-timeout", Duration, "6s", DISCOVERY),
    refused("discovery-insecure-transport", Bool, "true", DISCOVERY),
    refused("discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERY),
    refused("discovery-cert", Text, "", DISCOVERY),
    refused("discovery-key", Text, "", DISCOVERY),
    refused("discovery-cacert", Text, "", DISCOVERY),
    refused("discovery-user", Text, "", DISCOVERY),
    refused("discovery-password", Text, "", DISCOVERY),
    refused("discovery-proxy", Text, "", DISCOVERY),
    refused("discovery-srv", Text, "", DISCOVERY),
    refused("discovery-srv-name", Text, "", DISCOVERY),
    harmless("discovery-fallback", Text, "exit"),
    refused("proxy", Text, "off", "the proxy mode of etcd 2 does not exist; start a member"),

    // Security
    acts("cert-file", Text, "", Security, "Path to the certificate that is shown to clients."),
    acts("key-file", Text, "", Security, "Path to its key."),
    acts("client-cert-file", Text, "", Security, "Path to the certificate that this member shows to servers as a client; empty: that of --cert-file."),
    acts("client-key-file", Text, "", Security, "Path to its key."),
    acts("client-cert-auth", Bool, "false", Security, "Demand a certificate of each client; its common name is the name of a user."),
    acts("client-crl-file", Text, "", Security, "Path to the list (DER) of revoked client certificates; it is read again when it changes."),
    acts("client-cert-allowed-hostname", Text, "", Security, "Comma-separated list of names, one of which a client's certificate must have."),
    acts("trusted-ca-file", Text, "", Security, "Path to the CAs that sign client certificates. If it is set, each client must show a certificate."),
    acts("auto-tls", Bool, "false", Security, "Make a certificate for clients at the start, if none is given."),
    acts("peer-cert-file", Text, "", Security, "Path to the certificate that is shown to other members."),
    acts("peer-key-file", Text, "", Security, "Path to its key."),
    acts("peer-client-cert-file", Text, "", Security, "Path to the certificate with which this member connects to others; empty: that of --peer-cert-file."),
    acts("peer-client-key-file", Text, "", Security, "Path to its key."),
    acts("peer-client-cert-auth", Bool, "false", Security, "Demand a certificate of each member that connects."),
    acts("peer-trusted-ca-file", Text, "", Security, "Path to the CAs that sign the certificates of members."),
    acts("peer-auto-tls", Bool, "false", Security, "Make a certificate for other members at the start, if none is given. Nobody checks such certificates."),
    acts("peer-crl-file", Text, "", Security, "Path to the list (DER) of revoked certificates of members; it is read again when it changes."),
    acts("peer-cert-allowed-cn", Text, "", Security, "Comma-separated list of common names, one of which a member's certificate must have."),
    acts("peer-cert-allowed-hostname", Text, "", Security, "Comma-separated list of names, one of which a member's certificate must have."),
    acts("peer-skip-client-san-verification", Bool, "false", Security, "Do not compare the address of a member that connects with the names in its certificate."),
    acts("cipher-suites", Text, "", Security, "Comma-separated list of cipher suites for TLS 1.2. Empty: all that are supported."),
    acts("tls-min-version", Text, "TLS1.2", Security, "Lowest version of TLS: TLS1.2 or TLS1.3."),
    acts("tls-max-version", Text, "", Security, "Highest version of TLS: TLS1.2 or TLS1.3. Empty: the highest there is."),
    acts("self-signed-cert-validity", Number, "1", Security, "Years for which certificates are valid that a member makes itself."),
    acts("cors", Text, "*", Security, "Comma-separated list of origins (URLs with a port) whose pages may use this member over HTTP. '*': all."),
    acts("host-whitelist", Text, "*", Security, "Comma-separated list of names by which HTTP clients may address this member without TLS. '*': all."),
    acts("auth-token", Text, "simple", Security, "Kind of tokens: simple, or jwt with its options, as in etcd."),
    acts("auth-token-ttl", Number, "300", Security, "Seconds for which a simple token is valid after its last use."),
    acts("audit-log", Text, "", Security, "File for one line of JSON about each decision on a call: time, caller, method, keys, outcome. Empty: none."),
    acts("audit-level", Text, "writes", Security, "Calls in the audit log: denied, writes (changes and what was denied), or all."),
    acts("audit-log-max-bytes", Number, "104857600", Security, "Size at which the audit log is renamed, and a new file begun; at least 65536."),
    acts("audit-log-kept-files", Number, "10", Security, "Renamed files of the audit log that are kept."),
    acts("bcrypt-cost", Number, "10", Security, "Cost of the hash of a password, 4 to 31: each step doubles the time."),

    // Logging, profiling, tracing
    acts("log-level", Text, "info", Logging, "Log level: debug, info, warn, error, panic or fatal."),
    acts("log-outputs", Text, "default", Logging, "Comma-separated list of 'default' (stderr), 'stderr', 'stdout', 'systemd/journal' and file paths."),
    acts("logger", Text, "zap", Logging, "The only kind of log that there is."),
    acts("log-format", Text, "json", Logging, "Format of the log: json or console."),
    acts("enable-log-rotation", Bool, "false", Logging, "Rotate the one log file of --log-outputs."),
    acts("log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, Logging, "Rotation of the log file: maxsize in MiB, maxage in days and maxbackups (0: no limit), localtime in names, compress by gzip."),
    harmless("debug", Bool, "false"),
    harmless("log-package-levels", Text, ""),
    harmless("enable-pprof", Bool, "false"),
    acts("metrics", Text, "basic", Logging, "Level of detail of /metrics: 'extensive' adds how long calls take."),
    harmless("enable-distributed-tracing", Bool, "false"),
    harmless("distributed-tracing-address", Text, "localhost:4317"),
    harmless("distributed-tracing-service-name", Text, "etcd"),
    harmless("distributed-tracing-instance-id", Text, ""),
    harmless("distributed-tracing-sampling-rate", Number, "0"),

    // Checks
    acts("watch-progress-notify-interval", Duration, "10m", Watch, "Duration of periodic watch progress notifications."),
    acts("corrupt-check-time", Duration, "0s", Member, "The leader compares the states of all members this often. 0s: never."),
    acts("compact-hash-check-time", Duration, "1m", Member, "The leader compares the hashes of compactions of all members this often, with the feature gate CompactHashCheck."),
    acts("feature-gates", Gates, "", Member, "Comma-separated list of gates, as in etcd: InitialCorruptCheck=true compares the state with the other members' at the start, CompactHashCheck=true the hashes of compactions; LeaseCheckpoint=true has the leader note the remaining time of long leases. Other gates can only have their default value."),
    harmless("compaction-batch-limit", Number, "1000"),
    harmless("compaction-sleep-interval", Duration, "10ms"),
    harmless("downgrade-check-time", Duration, "5s"),
    harmless("warning-apply-duration", Duration, "100ms"),
    harmless("warning-unary-request-duration", Duration, "300ms"),
    acts("bootstrap-defrag-threshold-megabytes", Number, "0", Member, "Defragment at the start if that frees this many megabytes. 0: never."),
    acts("enable-grpc-gateway", Bool, "true", Member, "Serve the methods of gRPC as JSON over HTTP (/v3/...), too."),

    // Unsafe and other
    acts("unsafe-no-fsync", Bool, "false", Unsafe, "Disable fsync: acknowledged writes are lost when the machine stops."),
    acts("unsafe-skip-entry", Text, "", Unsafe, "Pass over the committed entry INDEX:TERM, which no member can apply and which stops each at every start. To be given to all members, for one start; docs/limitations.md says when."),
    acts("force-new-cluster", Bool, "false", Unsafe, "Go on as the only member of the cluster, with all that this member has. For a cluster that has lost its quorum for good; docs/backup.md says when."),
    acts("reported-version", Text, super::VERSION, Other, "The etcd version that this server says it is. Clients choose features by it, and an etcd joins no cluster of a newer version."),
    acts("version", Bool, "false", Other, "Print the version and exit."),
    acts("config-file", Text, "", Other, "File in YAML or JSON with the settings. All other flags and variables are ignored then. Durations in it are nanoseconds."),

    // Names that etcd 3.4 to 3.6 had
    acts("experimental-max-learners", Number, "1", Clustering, "Former name of max-learners."),
    acts("experimental-watch-progress-notify-interval", Duration, "10m", Watch, "Former name of watch-progress-notify-interval."),
    acts("experimental-initial-corrupt-check", Bool, "false", Member, "Former name of the feature gate InitialCorruptCheck."),
    acts("experimental-corrupt-check-time", Duration, "0s", Member, "Former name of corrupt-check-time."),
    acts("experimental-compact-hash-check-enabled", Bool, "false", Member, "Former name of the feature gate CompactHashCheck."),
    acts("experimental-compact-hash-check-time", Duration, "1m", Member, "Former name of compact-hash-check-time."),
    acts("experimental-peer-skip-client-san-verification", Bool, "false", Security, "Former name of peer-skip-client-san-verification."),
    harmless("experimental-enable-v2v3", Text, ""),
    acts("experimental-enable-lease-checkpoint", Bool, "false", Member, "Former name of the feature gate LeaseCheckpoint."),
    acts("experimental-enable-lease-checkpoint-persist", Bool, "false", Member, "Former name of the feature gate LeaseCheckpointPersist."),
    harmless("experimental-compaction-batch-limit", Number, "1000"),
    harmless("experimental-compaction-sleep-interval", Duration, "10ms"),
    harmless("experimental-downgrade-check-time", Duration, "5s"),
    harmless("experimental-warning-apply-duration", Duration, "100ms"),
    harmless("experimental-warning-unary-request-duration", Duration, "300ms"),
    harmless("experimental-memory-mlock", Bool, "false"),
    harmless("experimental-txn-mode-write-with-shared-buffer", Bool, "true"),
    acts("experimental-bootstrap-defrag-threshold-megabytes", Number, "0", Member, "Former name of bootstrap-defrag-threshold-megabytes."),
    harmless("experimental-backend-bbolt-freelist-type", Text, ""),
    harmless("experimental-wait-cluster-ready-timeout", Duration, "5s"),
    acts("experimental-snapshot-catchup-entries", Number, "5000", Clustering, "Former name of snapshot-catchup-entries."),
    harmless("experimental-stop-grpc-service-on-defrag", Bool, "false"),
    harmless("experimental-set-member-local-addr", Bool, "false"),
    harmless("experimental-enable-distributed-tracing", Bool, "false"),
    harmless("experimental-distributed-tracing-address", Text, "localhost:4317"),
    harmless("experimental-distributed-tracing-service-name", Text, "etcd"),
    harmless("experimental-distributed-tracing-instance-id", Text, ""),
    harmless("experimental-distributed-tracing-sampling-rate", Number, "0"),
    harmless("enable-v2", Bool, "false"),
    harmless("v2-deprecation", Text, "not-yet"),
    harmless("proxy-failure-wait", Number, "5000"),
    harmless("proxy-refresh-interval", Number, "30000"),
    harmless("proxy-dial-timeout", Number, "1000"),
    harmless("proxy-write-timeout", Number, "5000"),
    harmless("proxy-read-timeout", Number, "0"),

    // Names that etcd ignores
    harmless("cluster-active-size", Anything, ""),
    harmless("cluster-remove-delay", Anything, ""),
    harmless("cluster-sync-interval", Anything, ""),
    harmless("config", Anything, ""),
    harmless("force", Anything, ""),
    harmless("max-result-buffer", Anything, ""),
    harmless("max-retry-attempts", Anything, ""),
    harmless("peer-heartbeat-interval", Anything, ""),
    harmless("peer-election-timeout", Anything, ""),
    harmless("retry-interval", Anything, ""),
    harmless("snapshot", Anything, ""),
    harmless("v", Anything, ""),
    harmless("vv", Anything, ""),
    harmless("test.coverprofile", Anything, ""),
    harmless("test.outputdir", Anything, ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::check;

    #[test]
    fn names_are_unique_and_defaults_are_valid() {
        let mut names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for flag in FLAGS {
            assert_eq!(check(flag, flag.default), Ok(()), "{}", flag.name);
        }
        assert!(OWN.iter().all(|name| find(name).is_some()));
    }

    #[test]
    fn variables() {
        assert_eq!(find("listen-client-urls").unwrap().variable(), "ETCD_LISTEN_CLIENT_URLS");
        assert_eq!(find("engine").unwrap().variable(), "METASTORE_ENGINE");
    }
}
