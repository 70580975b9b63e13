//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Backups of a cluster, the restoration of one, and the way between etcd and MetaStore.
#[derive(Debug, Parser)]
#[command(name = "metactl", version, args_override_self = true)]
pub struct Arguments {
    #[command(flatten)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Output {
    /// Form of the output
    #[arg(short, long, global = true, env = "ETCDCTL_WRITE_OUT", default_value = "simple")]
    pub write_out: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Simple,
    Json,
    Fields,
    Table,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Save, inspect and restore backups
    #[command(subcommand)]
    Snapshot(Snapshot),
    Migrate(Migrate),
    Mirror(Mirror),
}

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    Save(Save),
    /// Check a backup or a database file, and print hash, revision, number of keys, size and version
    Status {
        file: PathBuf,
    },
    Restore(Box<Restore>),
}

/// Save a backup of a running member in a file, as a database of etcd with a digest
#[derive(Debug, Args)]
pub struct Save {
    pub file: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// Give up after this time; without it there is no limit
    #[arg(long, value_parser = duration, env = "ETCDCTL_COMMAND_TIMEOUT")]
    pub command_timeout: Option<Duration>,
}

/// A running cluster.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// gRPC endpoints
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", env = "ETCDCTL_ENDPOINTS")]
    pub endpoints: Vec<String>,
    /// USER or USER:PASSWORD; the password is asked for if it is not given
    #[arg(long, env = "ETCDCTL_USER", hide_env_values = true)]
    pub user: Option<String>,
    /// Password; then --user is the name alone
    #[arg(long, env = "ETCDCTL_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Verify the certificate of the server with this CA
    #[arg(long, env = "ETCDCTL_CACERT")]
    pub cacert: Option<PathBuf>,
    /// Show this certificate to the server
    #[arg(long, env = "ETCDCTL_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of the certificate
    #[arg(long, env = "ETCDCTL_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Time limit for a connection
    #[arg(long, value_parser = duration, default_value = "2s", env = "ETCDCTL_DIAL_TIMEOUT")]
    pub dial_timeout: Duration,
}

/// Make the data directory of a MetaStore member from a backup or a database file
#[derive(Debug, Args)]
pub struct Restore {
    pub file: PathBuf,
    /// Path of the new data directory [default: NAME.metastore]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Path of the log, if it is not inside the data directory
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
    /// Storage engine of the member
    #[arg(long, default_value = "memory")]
    pub engine: EngineName,
    /// Name of this member
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Members of the new cluster [default: NAME=http://localhost:2380]
    #[arg(long)]
    pub initial_cluster: Option<String>,
    /// Token of the new cluster
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Peer URLs of this member
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: Vec<String>,
    /// Take a file without a digest, or with a wrong one (a database file that was copied from a data directory)
    #[arg(long)]
    pub skip_hash_check: bool,
    /// Raise the newest revision by this number
    #[arg(long, default_value_t = 0)]
    pub bump_revision: u64,
    /// Mark the newest revision as compacted; goes with --bump-revision
    #[arg(long)]
    pub mark_compacted: bool,
}

/// Convert the data directory of a stopped etcd into one of MetaStore, or the other way round
///
/// The directory that is read stays as it is. Give --from-etcd-data-dir and --data-dir, or --data-dir and
/// --to-etcd-data-dir.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("way").required(true).args(["from_etcd_data_dir", "to_etcd_data_dir"])))]
pub struct Migrate {
    /// Data directory of a stopped etcd, which is read
    #[arg(long)]
    pub from_etcd_data_dir: Option<PathBuf>,
    /// Data directory of an etcd, which is made
    #[arg(long)]
    pub to_etcd_data_dir: Option<PathBuf>,
    /// Log of the etcd, if it is not inside its data directory
    #[arg(long)]
    pub etcd_wal_dir: Option<PathBuf>,
    /// Data directory of MetaStore
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Log of MetaStore, if it is not inside its data directory
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
    /// Storage engine of the new member; a member that is read has its own
    #[arg(long, default_value = "memory")]
    pub engine: EngineName,
}

/// Copy the keys of a running cluster to another one, and follow its changes
#[derive(Debug, Args)]
pub struct Mirror {
    #[command(flatten)]
    pub target: Target,
    /// Endpoints of the cluster that is written
    #[arg(long, value_delimiter = ',', required = true)]
    pub dest_endpoints: Vec<String>,
    /// User of the cluster that is written
    #[arg(long)]
    pub dest_user: Option<String>,
    /// Password for that user
    #[arg(long)]
    pub dest_password: Option<String>,
    /// CA of the cluster that is written
    #[arg(long)]
    pub dest_cacert: Option<PathBuf>,
    /// Certificate for the cluster that is written
    #[arg(long, requires = "dest_key")]
    pub dest_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, requires = "dest_cert")]
    pub dest_key: Option<PathBuf>,
    /// Only keys with this prefix
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// File that records how far the copy is; a later run with the same file continues there
    #[arg(long)]
    pub state_file: Option<PathBuf>,
    /// Stop when everything that was there at the beginning is copied, and compare both clusters
    #[arg(long)]
    pub once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    Memory,
    Rocksdb,
}

/// A time as Go writes it: a number and a unit, or several of them.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 5s, 500ms or 1m30s");
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let factor = match &rest[digits..unit] {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        sum += rest[..digits].parse::<f64>().map_err(|_| wrong())? * factor;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Duration::try_from_secs_f64(sum).map_err(|_| wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2.5s"), Ok(Duration::from_millis(2_500)));
        for wrong in ["", "5", "s", "5x", "-1s", "1s2"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
