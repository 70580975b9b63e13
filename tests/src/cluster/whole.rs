//! Conditions and comparisons across all members of the cluster.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::*;
use tonic::Status;

use super::{Cluster, PATIENCE, block_on, everything, put_request};
use crate::grpc::Client;
use crate::paths;

/// How often a condition is checked.
const LOOK: Duration = Duration::from_millis(20);
/// The time between two attempts of [`Cluster::first_write`].
const ATTEMPTS_EVERY: Duration = Duration::from_millis(10);

impl Cluster {
    /// Retries until `attempt` returns a value. Panics with `what` if it does not in time.
    pub fn eventually<T>(&self, what: &str, attempt: impl FnMut(&Cluster) -> Option<T>) -> T {
        self.within(PATIENCE, what, attempt)
    }

    /// Like [`Cluster::eventually`], with a limit of its own.
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

    /// The leader that is reported in the highest term, once a majority of the running voters report it.
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

    /// Waits until every running member has applied all writes, and returns the revision. Panics unless all members
    /// hold the same: keys with their history (HashKV), leases and members.
    pub fn agree(&self) -> i64 {
        // A linearizable read through the leader sees every write that was acknowledged.
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

    /// The time until any running voter acknowledges a write, with a new attempt every 10 ms.
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

/// Contents that must be equal on all members.
#[derive(Debug, PartialEq)]
struct Content {
    hash: (u32, i64),
    leases: Vec<i64>,
    members: Vec<Member>,
}
