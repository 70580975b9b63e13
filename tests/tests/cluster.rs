//! Clusters of one, three and five members: formed, led, killed, cut off, changed while they run.
//!
//! ```text
//!   formation, etcdctl              it is there, and every member serves every request
//!   leader, follower, everyone      members die, pause and come back
//!   partition, quorum               messages are lost; too few are left
//!   membership, identity            who is a member, and who is turned away
//!   lease, watch                    what goes on while leaders change
//!   copies                          directories that are copied and put back
//!   histories                       all of it at once, judged by the simulator's checkers
//!   surroundings                    disks that hang, names that do not resolve
//!   beside, recorded                in one cluster with etcd
//! ```
//!
//! Clients write and read meanwhile and keep their own log ([`metastore_tests::load`]). In the end everything
//! acknowledged must be on every member, and all must hold the same. Times are compared with the election timeout.
//!
//! What concerns a member's own state is done with each engine and with both in one cluster; the rest with both in one.
//!
//! Members are real processes, and once more members inside the process of the test, started by the same flags: the bodies
//! are the same. What only processes can stand (kill -9, SIGSTOP), and what is told by their log, is done with processes.
//!
//! With `METASTORE_BIN=.../etcd` the same scenarios run against etcd: what it does is right, so a scenario that it fails is
//! wrong.

mod beside;
mod copies;
mod etcdctl;
mod everyone;
mod follower;
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
mod watch;

use metastore_tests::cluster::Cluster;
use metastore_tests::network::Network;
use metastore_tests::programs::{self, Engine, Harness, Server};

/// Which engines the members of a cluster have.
#[derive(Clone, Copy, Debug)]
pub enum Engines {
    All(Engine),
    /// One after the other.
    Mixed,
}

impl Engines {
    /// That of the server at place `node`.
    fn at(self, node: usize) -> Engine {
        match self {
            Engines::All(engine) => engine,
            Engines::Mixed if node.is_multiple_of(2) => Engine::Memory,
            Engines::Mixed => Engine::RocksDb,
        }
    }

    /// These, as processes.
    fn processes(self) -> Members {
        Members { engines: self, harness: Harness::Process }
    }

    /// The process at place `node`.
    fn server(self, node: usize) -> Result<Server, String> {
        self.processes().server(node)
    }

    /// A cluster of `count` processes.
    fn start(self, name: &str, count: usize, flags: &[&str]) -> Option<Cluster> {
        self.processes().start(name, count, flags)
    }

    /// The same in a network whose links can be cut.
    fn start_in_network(self, name: &str, count: usize) -> Option<Cluster> {
        let servers = self.processes().servers(name, count)?;
        let network = programs::or_skip(name, Network::new(count))?;
        Some(Cluster::start_in(Some(network), &servers, &[]))
    }
}

/// Which members a cluster has.
#[derive(Clone, Copy, Debug)]
pub struct Members {
    engines: Engines,
    harness: Harness,
}

impl Members {
    /// These, inside this process.
    fn inside(engines: Engines) -> Members {
        Members { engines, harness: Harness::Inside }
    }

    /// The same with other engines.
    fn with(self, engines: Engines) -> Members {
        Members { engines, ..self }
    }

    /// The server at place `node`.
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

    /// A cluster of `count`.
    fn start(self, name: &str, count: usize, flags: &[&str]) -> Option<Cluster> {
        Some(Cluster::start(&self.servers(name, count)?, flags))
    }
}

/// Makes a test of a cluster of processes for each engine, and for both in one, out of one body, `fn(Engines)`.
macro_rules! each_cluster {
    ($($body:ident),+ $(,)?) => {
        mod memory {
            use metastore_tests::programs::Engine;
            $(#[test] fn $body() { super::$body(crate::cluster::Engines::All(Engine::Memory)); })+
        }
        mod rocksdb {
            use metastore_tests::programs::Engine;
            $(#[test] fn $body() { super::$body(crate::cluster::Engines::All(Engine::RocksDb)); })+
        }
        mod mixed {
            $(#[test] fn $body() { super::$body(crate::cluster::Engines::Mixed); })+
        }
    };
}
use each_cluster;

/// Makes tests with both harnesses out of one body, `fn(Members)`: of processes with each engine and with both in one
/// cluster, and of members inside this process with both. Bodies after `mixed:` meet only both engines in one cluster.
macro_rules! each_harness {
    ($($body:ident),* $(,)? $(; mixed: $($mixed:ident),+ $(,)?)?) => {
        mod process {
            $(mod $body {
                use crate::cluster::Engines::{All, Mixed};
                use metastore_tests::programs::Engine;
                #[test] fn memory() { super::super::$body(All(Engine::Memory).processes()); }
                #[test] fn rocksdb() { super::super::$body(All(Engine::RocksDb).processes()); }
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
