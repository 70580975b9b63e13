//! A cluster of servers, and the operations of a test on it: kill, pause, cut off, add, remove, compare.
//!
//! ```text
//!   Cluster -- nodes 0, 1, 2 ... in the order in which they were added; a node keeps its number after it left
//!      |
//!      +-- end, restart, stop, wipe                      one member and its disk
//!      +-- kill, pause, resume                           one process: not for members inside this process
//!      +-- add, promote, remove, move_leader             through the API, as an operator would
//!      +-- leader, agree                                 waits until all members have one leader, or the same contents
//! ```
//!
//! [`calls`] has the calls, [`change`] those that change the membership, [`whole`] the checks across all members.
//!
//! Everything here blocks, so that a scenario reads from top to bottom. Load runs on threads of its own
//! ([`crate::load`]).

mod calls;
mod change;
mod whole;

use std::time::{Duration, Instant};

use crate::member::{Identity, Member, signal};
use crate::network::Network;
use crate::programs::{Harness, Server};

pub use calls::{block_on, call, everything, put_request};

/// How long the cluster may take to reach the condition that a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);
/// Settings of every member. Elections are short, so that tests are, but leave room for a busy machine.
pub const HEARTBEAT: Duration = Duration::from_millis(50);
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// A flag for tests in which an unexpected election is a failure. A busy machine now and then stalls a leader for
/// longer than [`ELECTION_TIMEOUT`].
pub const RARE_ELECTIONS: &str = "--election-timeout=3000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Down,
    /// Removed from the cluster.
    Left,
}

struct Node {
    member: Member,
    /// 0 until the member has answered its first Status.
    id: u64,
    state: State,
    learner: bool,
}

/// Several members, most of them running.
pub struct Cluster {
    nodes: Vec<Node>,
    flags: Vec<String>,
    /// The token that all calls show.
    token: Option<String>,
    // Dropped last: the members run in it.
    network: Option<Network>,
}

impl Cluster {
    /// Starts one member for each of `servers` at the same time, and waits until all serve clients.
    pub fn start(servers: &[Server], flags: &[&str]) -> Cluster {
        Cluster::start_in(None, servers, flags)
    }

    /// Like [`Cluster::start`], with each member in its namespace of `network`.
    pub fn start_in(network: Option<Network>, servers: &[Server], flags: &[&str]) -> Cluster {
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        let mut cluster = Cluster { nodes: Vec::new(), flags, token: None, network };
        for server in servers {
            cluster.seat(server);
        }
        let all = cluster.initial_cluster();
        for node in 0..cluster.nodes.len() {
            cluster.configure(node, &all, "new");
            cluster.launch(node);
        }
        for node in 0..cluster.nodes.len() {
            cluster.wait_until_ready(node);
        }
        cluster
    }

    /// Adds a node that is down, and returns its number.
    fn seat(&mut self, server: &Server) -> usize {
        let number = self.nodes.len();
        let mut identity = Identity::local(&format!("m{number}"));
        if self.flags.iter().any(|flag| flag.starts_with("--peer-cert-file=") || flag == "--peer-auto-tls") {
            identity.peer_scheme = "https";
        }
        let mut wrapper = Vec::new();
        if let Some(network) = &self.network {
            (identity.client_address, identity.peer_address) = network.addresses(number);
            wrapper = network.wrapper(number);
        }
        let mut member = Member::with_identity(server, identity, &[]);
        member.wrap_in(&wrapper);
        self.nodes.push(Node { member, id: 0, state: State::Down, learner: false });
        number
    }

    /// All nodes except those that left.
    fn initial_cluster(&self) -> String {
        let members = self.nodes.iter().filter(|node| node.state != State::Left);
        members.map(|node| node.member.identity().in_initial_cluster()).collect::<Vec<_>>().join(",")
    }

    fn configure(&mut self, node: usize, initial_cluster: &str, state: &str) {
        let mut own = vec![
            format!("--initial-cluster={initial_cluster}"),
            format!("--initial-cluster-state={state}"),
            format!("--heartbeat-interval={}", HEARTBEAT.as_millis()),
            format!("--election-timeout={}", ELECTION_TIMEOUT.as_millis()),
        ];
        if self.flags.iter().any(|flag| flag.starts_with("--cert-file=")) {
            // Calls to the cluster are without TLS; clients of a test use it at the same port.
            let address = self.address(node);
            own.push(format!("--listen-client-urls=http://{address},https://{address}"));
            own.push(format!("--advertise-client-urls=https://{address}"));
        }
        self.nodes[node].member.replace_flags(&[&own[..], &self.flags].concat());
    }

    /// Gives a node that is down one more flag, such as `--initial-cluster-token` or `--initial-cluster-state`.
    pub fn add_flag(&mut self, node: usize, flag: &str) {
        self.nodes[node].member.add_flag(flag);
    }

    /// Takes a flag away again.
    pub fn remove_flag(&mut self, node: usize, flag: &str) {
        self.nodes[node].member.remove_flag(flag);
    }

    /// Gives up nodes that are down: they never come back.
    pub fn lose(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.nodes[*node].state = State::Left;
        }
    }

    /// Adds a node that believes to be a member of the running cluster, although it was never added to it.
    pub fn intruder(&mut self, server: &Server) -> usize {
        let node = self.seat(server);
        let all = self.initial_cluster();
        self.configure(node, &all, "existing");
        node
    }

    /// Starts a node that is down, without waiting for it.
    pub fn launch(&mut self, node: usize) {
        self.nodes[node].member.launch().unwrap_or_else(|reason| panic!("node {node} does not start: {reason}"));
        self.nodes[node].state = State::Running;
    }

    /// Waits until a launched node serves clients, and learns its id.
    pub fn wait_until_ready(&mut self, node: usize) {
        let ready = self.nodes[node].member.wait_until_ready();
        ready.unwrap_or_else(|reason| panic!("node {node} does not serve clients: {reason}"));
        self.learn_id(node);
    }

    fn learn_id(&mut self, node: usize) {
        self.eventually(&format!("node {node} tells its id"), |cluster| cluster.status(node).ok().map(|_| ()));
        let status = self.status(node).unwrap_or_default();
        self.nodes[node].id = status.header.unwrap_or_default().member_id;
    }

    pub fn restart(&mut self, node: usize) {
        self.launch(node);
        self.wait_until_ready(node);
    }

    /// Ends and restarts all running nodes, one after the other.
    pub fn restart_all(&mut self) {
        for node in self.running() {
            self.end(node);
            self.restart(node);
        }
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].member.kill();
        self.nodes[node].state = State::Down;
    }

    /// kill -9 for a process; a member inside this process is asked to stop.
    pub fn end(&mut self, node: usize) {
        self.nodes[node].member.end();
        self.nodes[node].state = State::Down;
    }

    /// Asks a node to stop, waits for the end, and returns how long it took.
    pub fn stop(&mut self, node: usize) -> Duration {
        let began = Instant::now();
        self.nodes[node].member.stop();
        self.nodes[node].state = State::Down;
        began.elapsed()
    }

    /// Like [`Cluster::stop`], without the wait, which [`Cluster::wait_exit`] does.
    pub fn begin_stop(&mut self, node: usize) {
        self.nodes[node].member.begin_stop();
        self.nodes[node].state = State::Down;
    }

    /// Waits for a node to end by itself, and returns its log. Panics if it goes on.
    pub fn wait_exit(&mut self, node: usize) -> Vec<String> {
        let ended = self.nodes[node].member.has_ended(PATIENCE);
        assert!(ended, "node {node} goes on: {:#?}", self.log_tail(node));
        self.nodes[node].state = State::Down;
        self.nodes[node].member.log()
    }

    fn log_tail(&self, node: usize) -> Vec<String> {
        let log = self.nodes[node].member.log();
        log[log.len().saturating_sub(15)..].to_vec()
    }

    /// SIGSTOP: the process still exists, but does nothing.
    pub fn pause(&mut self, node: usize) {
        signal(self.nodes[node].member.pid(), "STOP");
        self.nodes[node].state = State::Paused;
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        signal(self.nodes[node].member.pid(), "CONT");
        self.nodes[node].state = State::Running;
    }

    /// The node and its disk.
    pub fn member(&self, node: usize) -> &Member {
        &self.nodes[node].member
    }

    pub fn member_mut(&mut self, node: usize) -> &mut Member {
        &mut self.nodes[node].member
    }

    /// Empties the disk of a node that is down.
    pub fn wipe(&mut self, node: usize) {
        assert_eq!(self.nodes[node].state, State::Down);
        std::fs::remove_dir_all(self.nodes[node].member.data_directory()).expect("the directory can be removed");
    }

    pub fn has_network(&self) -> bool {
        self.network.is_some()
    }

    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster has a network of its own")
    }

    pub fn id(&self, node: usize) -> u64 {
        self.nodes[node].id
    }

    pub fn address(&self, node: usize) -> &str {
        self.nodes[node].member.client_address()
    }

    /// The nodes that run, learners included.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].state == State::Running).collect()
    }

    /// The nodes that run and have a vote.
    pub fn voters(&self) -> Vec<usize> {
        self.running().into_iter().filter(|node| !self.nodes[*node].learner).collect()
    }

    /// The running voters that are not the leader.
    pub fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        self.voters().into_iter().filter(|node| *node != leader).collect()
    }

    /// The client addresses of the running voters.
    pub fn addresses(&self) -> Vec<String> {
        self.voters().into_iter().map(|node| self.address(node).to_string()).collect()
    }
}

impl Drop for Cluster {
    /// All members stop at once. If they stopped one after the other, each would hand its leadership over to the next.
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.member.server().harness == Harness::Inside) {
            if node.member.is_started() {
                node.member.begin_stop();
            }
        }
    }
}
