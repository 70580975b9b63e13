//! Clusters of one, three and five members: formed, led, killed, cut off, and changed while they run.
//!
//! ```text
//!   formation, etcdctl              a new cluster, in which every member serves every request
//!   leader, follower, everyone      members die, pause and come back
//!   partition, quorum               messages are lost; too few are left
//!   membership, identity            changes of the membership, and processes that are refused
//!   lease, watch                    leases and watches while leaders change
//!   copies                          directories that are copied and put back
//!   histories                       all faults together, judged by the simulator's checkers
//!   surroundings                    disks that hang, names that do not resolve
//!   users                           tokens at every member
//!   beside, recorded                clusters of MetaStore and etcd members
//! ```
//!
//! Clients write and read during each test and keep their own log ([`metastore_tests::load`]). At the end
//! every acknowledged write must be on every member, and all members must hold the same. Times are compared
//! with the election timeout.
//!
//! Tests that concern a member's own state run with each engine, and with both in one cluster; the other tests only
//! with both in one cluster.
//!
//! Many tests run twice: with real processes, and with members inside the process of the test that are started
//! by the same flags. The test bodies are the same. Tests with kill -9 or SIGSTOP, and tests that read the
//! log, use processes only.
//!
//! With `METASTORE_BIN=.../etcd` the same scenarios run against etcd. etcd is right by definition, so a scenario
//! that it fails is wrong.

mod beside;
mod copies;
mod etcdctl;
mod everyone;
mod follower;
mod forced;
mod formation;
mod histories;
mod identity;
mod leader;
mod lease;
mod membership;
mod partition;
mod quorum;
mod recorded;
mod surroundings;
mod users;
mod watch;

use metastore_tests::cluster::Cluster;
use metastore_tests::network::Network;
use metastore_tests::programs::{self, EngineKind, Harness, Server};

/// The engines of a cluster's members.
#[derive(Clone, Copy, Debug)]
pub enum Engines {
    All(EngineKind),
    /// Both engines, in turn.
    Mixed,
}

impl Engines {
    /// The engine of member `node`.
    fn at(self, node: usize) -> EngineKind {
        match self {
            Engines::All(engine) => engine,
            Engines::Mixed if node.is_multiple_of(2) => EngineKind::Memory,
            Engines::Mixed => EngineKind::RocksDb,
        }
    }

    /// Members with these engines, as processes.
    fn processes(self) -> Members {
        Members { engines: self, harness: Harness::Process }
    }

    /// The process of member `node`.
    fn server(self, node: usize) -> Result<Server, String> {
        self.processes().server(node)
    }

    /// A cluster of `count` processes.
    fn start(self, name: &str, count: usize, flags: &[&str]) -> Option<Cluster> {
        self.processes().start(name, count, flags)
    }

    /// A cluster of `count` processes in a network whose links can be cut.
    fn start_in_network(self, name: &str, count: usize) -> Option<Cluster> {
        let servers = self.processes().servers(name, count)?;
        let network = programs::or_skip(name, Network::new(count))?;
        Some(Cluster::start_in(Some(network), &servers, &[]))
    }
}

/// The engines and the harness of a cluster's members.
#[derive(Clone, Copy, Debug)]
pub struct Members {
    engines: Engines,
    harness: Harness,
}

impl Members {
    /// Members with these engines, inside this process.
    fn inside(engines: Engines) -> Members {
        Members { engines, harness: Harness::Inside }
    }

    /// The same harness with other engines.
    fn with(self, engines: Engines) -> Members {
        Members { engines, ..self }
    }

    /// The server of member `node`.
    fn server(self, node: usize) -> Result<Server, String> {
        match self.harness {
            Harness::Process => programs::subject(self.engines.at(node)),
            Harness::Inside => Server::inside(self.engines.at(node)),
        }
    }

    /// The servers of the first `count` members; None where the test `name` is to be skipped.
    fn servers(self, name: &str, count: usize) -> Option<Vec<Server>> {
        programs::or_skip(name, (0..count).map(|node| self.server(node)).collect())
    }

    /// A cluster of `count` members.
    fn start(self, name: &str, count: usize, flags: &[&str]) -> Option<Cluster> {
        Some(Cluster::start(&self.servers(name, count)?, flags))
    }
}

/// Makes tests of clusters of processes from one body, `fn(Engines)`: one for each engine, and one
/// for both in one cluster.
macro_rules! each_cluster {
    ($($body:ident),+ $(,)?) => {
        mod memory {
            use metastore_tests::programs::EngineKind;
            $(#[test] fn $body() { super::$body(crate::cluster::Engines::All(EngineKind::Memory)); })+
        }
        mod rocksdb {
            use metastore_tests::programs::EngineKind;
            $(#[test] fn $body() { super::$body(crate::cluster::Engines::All(EngineKind::RocksDb)); })+
        }
        mod mixed {
            $(#[test] fn $body() { super::$body(crate::cluster::Engines::Mixed); })+
        }
    };
}
use each_cluster;

/// Makes tests with both harnesses from one body, `fn(Members)`. Processes run with each engine, and with both in one
/// cluster; members inside this process run with both in one cluster. Bodies after `mixed:` run only with both
/// engines in one cluster.
macro_rules! each_harness {
    ($($body:ident),* $(,)? $(; mixed: $($mixed:ident),+ $(,)?)?) => {
        mod process {
            $(mod $body {
                use crate::cluster::Engines::{All, Mixed};
                use metastore_tests::programs::EngineKind;
                #[test] fn memory() { super::super::$body(All(EngineKind::Memory).processes()); }
                #[test] fn rocksdb() { super::super::$body(All(EngineKind::RocksDb).processes()); }
                #[test] fn mixed() { super::super::$body(Mixed.processes()); }
            })*
            $($(#[test] fn $mixed() { super::$mixed(crate::cluster::Engines::Mixed.processes()); })+)?
        }
        mod inside {
            use crate::cluster::{Engines, Members};
            $(#[test] fn $body() { super::$body(Members::inside(Engines::Mixed)); })*
            $($(#[test] fn $mixed() { super::$mixed(Members::inside(Engines::Mixed)); })+)?
        }
    };
}
use each_harness;
