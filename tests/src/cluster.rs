//! A cluster of server processes, and what a test does to it: kill, pause, cut off, add, remove, compare.
//!
//! ```text
//!   Cluster -- nodes 0, 1, 2 ... in the order in which they came; a node keeps its number after it left
//!      |
//!      +-- kill, pause, resume, restart, stop, wipe      one process and its disk
//!      +-- add, promote, remove, move_leader             through the API, as an operator would
//!      +-- leader, agree                                 waits until the cluster is of one mind
//! ```
//!
//! Everything here blocks: a scenario reads from top to bottom, and load runs on threads of its own ([`crate::load`]).

use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::*;
use tonic::Status;

use crate::grpc::Client;
use crate::member::{Identity, Member, free_address, signal};
use crate::membership::*;
use crate::network::Network;
use crate::paths;
use crate::programs::Server;

/// How long the cluster may take to become what a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a call may take before it counts as hanging: longer than a server gives itself.
const CALL_PATIENCE: Duration = Duration::from_secs(15);
/// How long a member may take to tell its status: it needs nobody else for it.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// Settings of every member: short elections, so that tests are, yet with room for a machine under load.
pub const HEARTBEAT: Duration = Duration::from_millis(50);
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// The time between two attempts of [`Cluster::first_write`].
const ATTEMPTS_EVERY: Duration = Duration::from_millis(10);

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
    /// 0 until it told its status for the first time.
    id: u64,
    state: State,
    learner: bool,
}

/// Some members, most of them running.
pub struct Cluster {
    nodes: Vec<Node>,
    flags: Vec<String>,
    // Dropped last: the members are in it.
    network: Option<Network>,
}

impl Cluster {
    /// Starts one member for each of `servers` at the same time, and waits until all serve clients.
    pub fn start(servers: &[Server], flags: &[&str]) -> Cluster {
        Cluster::start_in(None, servers, flags)
    }

    /// The same, each in its namespace of `network`.
    pub fn start_in(network: Option<Network>, servers: &[Server], flags: &[&str]) -> Cluster {
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        let mut cluster = Cluster { nodes: Vec::new(), flags, network };
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

    /// A place for one more node; its number.
    fn seat(&mut self, server: &Server) -> usize {
        let number = self.nodes.len();
        let mut identity = Identity::local(&format!("m{number}"));
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

    /// All nodes but those that left.
    fn initial_cluster(&self) -> String {
        let members = self.nodes.iter().filter(|node| node.state != State::Left);
        members.map(|node| node.member.identity().in_initial_cluster()).collect::<Vec<_>>().join(",")
    }

    fn configure(&mut self, node: usize, initial_cluster: &str, state: &str) {
        let own = [
            format!("--initial-cluster={initial_cluster}"),
            format!("--initial-cluster-state={state}"),
            format!("--heartbeat-interval={}", HEARTBEAT.as_millis()),
            format!("--election-timeout={}", ELECTION_TIMEOUT.as_millis()),
        ];
        self.nodes[node].member.replace_flags(&[&own[..], &self.flags].concat());
    }

    /// Gives a node that is down another `--initial-cluster-token`, or `--initial-cluster-state`, or ...
    pub fn add_flag(&mut self, node: usize, flag: &str) {
        self.nodes[node].member.add_flag(flag);
    }

    /// A place for one more node, which takes itself for a member of the running cluster although nobody added it.
    pub fn intruder(&mut self, server: &Server) -> usize {
        let node = self.seat(server);
        let all = self.initial_cluster();
        self.configure(node, &all, "existing");
        node
    }

    /// Starts a process that is down, without waiting for it.
    pub fn launch(&mut self, node: usize) {
        self.nodes[node].member.launch().unwrap_or_else(|reason| panic!("node {node} does not start: {reason}"));
        self.nodes[node].state = State::Running;
    }

    /// Waits until a process that was launched serves clients, and learns its id.
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

    /// Kills and restarts all running nodes, one after the other.
    pub fn restart_all(&mut self) {
        for node in self.running() {
            self.kill(node);
            self.restart(node);
        }
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].member.kill();
        self.nodes[node].state = State::Down;
    }

    /// SIGTERM, and waits for the end; how long it took.
    pub fn stop(&mut self, node: usize) -> Duration {
        let began = Instant::now();
        self.nodes[node].member.terminate();
        self.nodes[node].state = State::Down;
        began.elapsed()
    }

    /// SIGTERM without waiting for the end, which [`Cluster::wait_exit`] does.
    pub fn begin_stop(&mut self, node: usize) {
        signal(self.nodes[node].member.pid(), "TERM");
        self.nodes[node].state = State::Down;
    }

    /// Waits for the process to end by itself, and returns what it logged. Panics if it goes on.
    pub fn wait_exit(&mut self, node: usize) -> Vec<String> {
        let status = self.nodes[node].member.wait_exit(PATIENCE);
        assert!(status.is_some(), "node {node} goes on: {:#?}", self.log_tail(node));
        self.nodes[node].state = State::Down;
        self.nodes[node].member.log()
    }

    fn log_tail(&self, node: usize) -> Vec<String> {
        let log = self.nodes[node].member.log();
        log[log.len().saturating_sub(15)..].to_vec()
    }

    /// SIGSTOP: the process is still there, and does nothing.
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

    /// Where the clients of the running voters connect.
    pub fn addresses(&self) -> Vec<String> {
        self.voters().into_iter().map(|node| self.address(node).to_string()).collect()
    }
}

/// Calls.
impl Cluster {
    /// One call to one node, over a connection of its own.
    pub fn call<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        node: usize,
        path: &'static str,
        request: Q,
    ) -> Result<R, Status> {
        call(self.address(node), path, request, CALL_PATIENCE)
    }

    pub fn status(&self, node: usize) -> Result<StatusResponse, Status> {
        call(self.address(node), paths::STATUS, StatusRequest {}, STATUS_PATIENCE)
    }

    /// A put; its revision.
    pub fn put(&self, node: usize, key: &str, value: &str) -> Result<i64, Status> {
        let put: PutResponse = self.call(node, paths::PUT, put_request(key, value))?;
        Ok(put.header.unwrap_or_default().revision)
    }

    /// Makes `count` puts, of a value each, `in_flight` at a time. Panics if one is not acknowledged.
    pub fn put_many(&self, node: usize, count: usize, in_flight: usize) {
        block_on(async {
            let client = Client::new(self.address(node));
            let mut flying = tokio::task::JoinSet::new();
            for number in 0..count {
                let (client, put) =
                    (client.clone(), put_request(&format!("many/{}", number % 100), &number.to_string()));
                flying.spawn(async move { client.unary::<_, PutResponse>(paths::PUT, put).await });
                if flying.len() == in_flight {
                    flying.join_next().await.expect("some fly").expect("no panic").expect("acknowledged");
                }
            }
            while let Some(done) = flying.join_next().await {
                done.expect("no panic").expect("acknowledged");
            }
        });
    }

    /// The value of a key, linearizable; `None` if there is no such key.
    pub fn get(&self, node: usize, key: &str) -> Result<Option<String>, Status> {
        self.read(node, key, false)
    }

    /// The value of a key as this node knows it.
    pub fn get_serializable(&self, node: usize, key: &str) -> Result<Option<String>, Status> {
        self.read(node, key, true)
    }

    fn read(&self, node: usize, key: &str, serializable: bool) -> Result<Option<String>, Status> {
        let request = RangeRequest { key: key.to_string().into(), serializable, ..RangeRequest::default() };
        let range: RangeResponse = self.call(node, paths::RANGE, request)?;
        Ok(range.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    /// The revision that this node has reached.
    pub fn revision(&self, node: usize) -> Result<i64, Status> {
        let request = RangeRequest { serializable: true, count_only: true, ..everything() };
        let range: RangeResponse = self.call(node, paths::RANGE, request)?;
        Ok(range.header.unwrap_or_default().revision)
    }

    pub fn members(
        &self,
        node: usize,
        linearizable: bool,
    ) -> Result<Vec<metastore_proto::etcdserverpb::Member>, Status> {
        let list: MemberListResponse = self.call(node, paths::MEMBER_LIST, MemberListRequest { linearizable })?;
        Ok(list.members)
    }

    /// Adds a member through the leader, starts it, and waits until it serves clients. Its number.
    pub fn add(&mut self, server: &Server, is_learner: bool) -> usize {
        let node = self.seat(server);
        self.announce(node, is_learner);
        self.launch(node);
        self.wait_until_learned(node);
        node
    }

    /// Gives a node whose disk is empty a new member id, without starting it.
    pub fn announce(&mut self, node: usize, is_learner: bool) {
        let request = AddRequest { peer_urls: vec![self.nodes[node].member.peer_url()], is_learner };
        // A cluster that met its members only just now takes none: "unhealthy cluster".
        let added: AddResponse = self.eventually("a member is added", |cluster| {
            cluster.call(cluster.leader(), paths::MEMBER_ADD, request.clone()).ok()
        });
        let new = added.member.expect("the answer shows the new member").id;
        let name = |member: &metastore_proto::etcdserverpb::Member| {
            let name = if member.id == new { &self.nodes[node].member.identity().name } else { &member.name };
            member.peer_ur_ls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",")
        };
        let all: Vec<String> = added.members.iter().map(name).collect();
        self.configure(node, &all.join(","), "existing");
        self.nodes[node].learner = is_learner;
    }

    /// A learner says "ready" when it serves; /health needs a linearizable read, which a learner refuses.
    fn wait_until_learned(&mut self, node: usize) {
        self.eventually(&format!("node {node} has caught up"), |cluster| {
            let reached = cluster.revision(node).ok()?;
            (reached >= cluster.revision(cluster.leader()).ok()?).then_some(())
        });
        self.learn_id(node);
    }

    /// Makes a learner a voter, as soon as the leader agrees.
    pub fn promote(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let _: MembersResponse = self.eventually(&format!("node {node} is promoted"), |cluster| {
            cluster.call(cluster.leader(), paths::MEMBER_PROMOTE, IdRequest { id }).ok()
        });
        // It takes writes when it knows of it itself.
        let told = |cluster: &Cluster| (!cluster.status(node).ok()?.is_learner).then_some(());
        self.eventually(&format!("node {node} takes itself for a voter"), told);
        self.nodes[node].learner = false;
    }

    /// Removes a member through another one. Its process, if it runs, must end by itself.
    pub fn remove(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let through = self.voters().into_iter().find(|other| *other != node).expect("another member runs");
        let _: MembersResponse = self.eventually(&format!("node {node} is removed"), |cluster| {
            cluster.call(through, paths::MEMBER_REMOVE, IdRequest { id }).ok()
        });
        if self.nodes[node].member.is_started() {
            self.wait_exit(node);
        }
        self.nodes[node].state = State::Left;
    }

    /// A node that left, or whose disk was emptied, may be announced again.
    pub fn forget(&mut self, node: usize) {
        self.nodes[node].state = State::Down;
    }

    /// Starts a node that was announced, and waits until it has caught up.
    pub fn join(&mut self, node: usize) {
        self.launch(node);
        self.wait_until_learned(node);
    }

    /// Announces another peer address for a node, and restarts it there.
    pub fn move_peer_address(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let address = free_address();
        let request = UpdateRequest { id, peer_urls: vec![format!("http://{address}")] };
        let _: MembersResponse = self.eventually("a peer URL is changed", |cluster| {
            cluster.call(cluster.leader(), paths::MEMBER_UPDATE, request.clone()).ok()
        });
        self.stop(node);
        self.nodes[node].member.move_peer_address(address);
        let all = self.initial_cluster();
        self.configure(node, &all, "existing");
        self.restart(node);
    }

    /// Hands leadership to `to`, and waits until it leads.
    pub fn move_leader(&self, to: usize) {
        let target = self.nodes[to].id;
        let request = MoveLeaderRequest { target };
        let moved: Result<MoveLeaderResponse, _> = self.call(self.leader(), paths::MOVE_LEADER, request);
        moved.unwrap_or_else(|status| panic!("leadership is not moved: {status}"));
        assert_eq!(self.leader(), to, "leadership went elsewhere");
    }
}

/// What the whole cluster is like.
impl Cluster {
    /// Tries until `attempt` gives something. Panics with `what` if it does not in time.
    pub fn eventually<T>(&self, what: &str, attempt: impl FnMut(&Cluster) -> Option<T>) -> T {
        self.within(PATIENCE, what, attempt)
    }

    /// The same with a limit of its own.
    pub fn within<T>(&self, limit: Duration, what: &str, mut attempt: impl FnMut(&Cluster) -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(result) = attempt(self) {
                return result;
            }
            if Instant::now() > deadline {
                let logs: Vec<_> = (0..self.nodes.len()).map(|node| (node, self.log_tail(node))).collect();
                panic!("{what}: not within {limit:?}; the logs end with {logs:#?}");
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// The leader: who says so itself, in the highest term, and is believed by most of the voters that run.
    pub fn leader(&self) -> usize {
        self.eventually("there is a leader", Cluster::leader_now)
    }

    fn leader_now(&self) -> Option<usize> {
        let statuses: Vec<_> = self
            .voters()
            .into_iter()
            .filter_map(|node| Some((node, self.status(node).ok()?)))
            .filter(|(_, status)| status.leader != 0)
            .collect();
        let (_, newest) = statuses.iter().max_by_key(|(_, status)| status.raft_term)?;
        let believers = statuses.iter().filter(|(_, status)| status.leader == newest.leader).count();
        let (leader, _) = statuses.iter().find(|(node, _)| self.nodes[*node].id == newest.leader)?;
        (believers * 2 > self.voters().len()).then_some(*leader)
    }

    /// Waits until every running member has applied all that was written, and fails unless all hold the same: keys with
    /// their history (HashKV), leases and members. The revision.
    pub fn agree(&self) -> i64 {
        // A read through the log's leader is behind every write that was acknowledged.
        let revision = self.eventually("a linearizable read", |cluster| {
            let range: Result<RangeResponse, _> =
                cluster.call(cluster.leader(), paths::RANGE, RangeRequest { count_only: true, ..everything() });
            Some(range.ok()?.header.unwrap_or_default().revision)
        });
        for node in self.running() {
            let reached = |cluster: &Cluster| (cluster.revision(node).ok()? >= revision).then_some(());
            self.eventually(&format!("node {node} reaches revision {revision}"), reached);
        }
        let all: Vec<_> = self.voters().into_iter().map(|node| (node, self.content(node, revision))).collect();
        for pair in all.windows(2) {
            assert_eq!(pair[0].1, pair[1].1, "nodes {} and {} differ at {revision}", pair[0].0, pair[1].0);
        }
        let rows: Vec<RangeResponse> = self.running().into_iter().map(|node| self.rows(node)).collect();
        assert!(rows.windows(2).all(|pair| pair[0].kvs == pair[1].kvs), "a serializable list of all keys differs");
        revision
    }

    fn content(&self, node: usize, revision: i64) -> Content {
        let ask = || -> Result<Content, Status> {
            let hash: HashKvResponse = self.call(node, paths::HASH_KV, HashKvRequest { revision })?;
            let leases: LeaseLeasesResponse = self.call(node, paths::LEASE_LEASES, LeaseLeasesRequest {})?;
            let mut leases: Vec<i64> = leases.leases.iter().map(|lease| lease.id).collect();
            leases.sort_unstable();
            let members = self.members(node, true)?;
            Ok(Content { hash: (hash.hash, hash.compact_revision), leases, members })
        };
        ask().unwrap_or_else(|status| panic!("node {node} does not tell what it holds: {status}"))
    }

    fn rows(&self, node: usize) -> RangeResponse {
        let request = RangeRequest { serializable: true, ..everything() };
        self.call(node, paths::RANGE, request).unwrap_or_else(|status| panic!("node {node} does not list: {status}"))
    }

    /// The time until a write is acknowledged by any running voter, with a new attempt every 10 ms.
    pub fn first_write(&self) -> Duration {
        let addresses = self.addresses();
        block_on(async {
            let clients: Vec<Client> = addresses.iter().map(|address| Client::new(address)).collect();
            let began = tokio::time::Instant::now();
            let mut attempts = tokio::task::JoinSet::new();
            let mut clock = tokio::time::interval(ATTEMPTS_EVERY);
            for client in clients.iter().cycle() {
                assert!(began.elapsed() < PATIENCE, "no write is acknowledged within {PATIENCE:?}");
                clock.tick().await;
                let client = client.clone();
                let put = put_request("first write", "");
                attempts.spawn(async move { client.unary::<_, PutResponse>(paths::PUT, put).await });
                while let Some(done) = attempts.try_join_next() {
                    if done.is_ok_and(|answer| answer.is_ok()) {
                        return began.elapsed();
                    }
                }
            }
            unreachable!("a cycle has no end")
        })
    }
}

/// What must be equal on all members.
#[derive(Debug, PartialEq)]
struct Content {
    hash: (u32, i64),
    leases: Vec<i64>,
    members: Vec<metastore_proto::etcdserverpb::Member>,
}

/// One call over a connection of its own, within `patience`.
pub fn call<Q: Message + 'static, R: Message + Default + 'static>(
    address: &str,
    path: &'static str,
    request: Q,
    patience: Duration,
) -> Result<R, Status> {
    block_on(async {
        let client = Client::new(address);
        let answer = tokio::time::timeout(patience, client.unary(path, request)).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{path}: no answer within {patience:?}"))))
    })
}

/// Runs `work` on this thread.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(work)
}

/// A list of all keys.
pub fn everything() -> RangeRequest {
    let all = Bytes::from_static(b"\0");
    RangeRequest { key: all.clone(), range_end: all, ..RangeRequest::default() }
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..PutRequest::default() }
}
