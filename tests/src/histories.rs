//! Histories of real processes, checked by the checkers of the simulator.
//!
//! ```text
//!   Recorder --+-- clients     one request at a time, to any member           --> operations    --+
//!              +-- watchers    one watch at a time, resumed where it ended    --> watches       --+--> History::check
//!              +-- the oracle  watches everything from the first revision on  --> revisions     --+
//! ```
//!
//! The clients are those of the simulator ([`metastore_sim::clients`]), and so are the checkers
//! ([`metastore_sim::invariants`]). This module connects them with real time and real sockets. It checks
//! linearizability, exact watches, reads of old revisions and equal hashes. That no acknowledged write is lost follows
//! from the linearizable read of all keys at the end.
//!
//! Rules:
//! - `called` is taken before a request is sent, `returned` after its answer came, both from one clock.
//! - An unknown outcome stays unknown: no answer in time, a broken connection, a server that answers "timed out".
//!   Operations are left out of the history only if they certainly had no effect: reads that failed, refusals before
//!   the log, connections that were refused.
//! - Any other error of the server is a violation: no client requests anything that could be refused otherwise.
//! - A revision is compacted only after the oracle has heard it. Otherwise the oracle could not report every revision.
//! - In the model a lease may end by itself at any moment after its grant, or never. That it does not end early is
//!   checked in the simulator, which has the members' clocks.
//!
//! A cluster must be new, because a history begins with an empty store. Deliberately absent: a replay. Real processes
//! have no seed. The recorder's seed gives the same requests and the same faults, but never the same run. Therefore a
//! history that fails is written to a file.

mod answer;
mod client;
mod history;
mod watcher;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, LeaseLeasesRequest, LeaseLeasesResponse, RangeResponse,
};
use metastore_sim::clients::Workload;
use metastore_sim::history::{Moment, Operation, Request, Response, Violation, Watch};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, block_on, everything};
use crate::paths;
use watcher::Watcher;

pub use history::History;

/// The number of clients, and of watchers without the oracle. The last ones of each use the workload of Kubernetes.
const CLIENTS: usize = 8;
const KUBERNETES_CLIENTS: usize = 3;
const WATCHERS: usize = 3;
const KUBERNETES_WATCHERS: usize = 1;
/// How long [`Recorder::progress`] may take.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take at the end until the leases expire, the members catch up and the watchers have heard the rest.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is checked.
const LOOK: Duration = Duration::from_millis(10);

/// The state that clients and watchers share.
struct RecordingState {
    began: Instant,
    addresses: Vec<String>,
    last_id: AtomicU64,
    /// The oracle has heard everything up to this revision.
    heard: AtomicI64,
    /// The newest revision whose compaction a client has requested, or is about to request; 0 for none.
    compacted: AtomicI64,
    answered: AtomicUsize,
    /// Clients send no more requests.
    is_over: AtomicBool,
    /// Watchers and the oracle end when they have heard everything up to these revisions; 0 while not yet known.
    watch_until: AtomicI64,
    listen_until: AtomicI64,
    /// Errors that servers may not answer with, and conditions that were not reached in time.
    strange: Mutex<Vec<Violation>>,
}

impl RecordingState {
    fn new(addresses: Vec<String>) -> RecordingState {
        RecordingState {
            began: Instant::now(),
            addresses,
            last_id: AtomicU64::new(0),
            heard: AtomicI64::new(1),
            compacted: AtomicI64::new(0),
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            watch_until: AtomicI64::new(0),
            listen_until: AtomicI64::new(0),
            strange: Mutex::default(),
        }
    }

    /// Nanoseconds since the beginning.
    fn now(&self) -> Moment {
        self.began.elapsed().as_nanos() as Moment
    }

    /// Records a violation.
    fn blame(&self, violation: Violation) {
        self.strange.lock().unwrap().push(violation);
    }

    /// Retries until `attempt` returns a value. If it does not in time, that is a violation.
    fn expect<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + END_PATIENCE;
        loop {
            let found = attempt();
            if found.is_some() {
                return found;
            }
            if Instant::now() > deadline {
                self.blame(format!("{what}: not within {END_PATIENCE:?}"));
                return None;
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// A number that no other request has.
    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Running clients and watchers, each kind on a thread of its own.
pub struct Recorder {
    seed: u64,
    shared: Arc<RecordingState>,
    clients: Option<JoinHandle<Vec<Operation>>>,
    watchers: Option<JoinHandle<Vec<Vec<Watch>>>>,
    oracle: Option<JoinHandle<Vec<Watch>>>,
}

impl Recorder {
    /// Starts the clients of a new cluster. The seed determines their requests.
    pub fn start(addresses: &[String], seed: u64) -> Recorder {
        let shared = Arc::new(RecordingState::new(addresses.to_vec()));
        let [asking, watching, listening] = [(); 3].map(|()| shared.clone());
        Recorder {
            seed,
            clients: Some(std::thread::spawn(move || block_on(ask(seed, asking)))),
            watchers: Some(std::thread::spawn(move || block_on(watch(seed, watching)))),
            oracle: Some(std::thread::spawn(move || block_on(listen(seed, listening)))),
            shared,
        }
    }

    /// Waits until `count` more requests are answered.
    pub fn progress(&self, count: usize) {
        let answered = || self.shared.answered.load(Ordering::SeqCst);
        let (goal, deadline) = (answered() + count, Instant::now() + PROGRESS_PATIENCE);
        while answered() < goal {
            assert!(Instant::now() < deadline, "{count} requests are not answered within {PROGRESS_PATIENCE:?}");
            std::thread::park_timeout(LOOK);
        }
    }

    /// Ends the recording, once all members of the cluster are well. Clients stop, leases expire, all keys
    /// are read once more, every watcher hears the rest, and every member reports its hash. Panics if the
    /// cluster does not answer.
    pub fn finish(mut self, cluster: &Cluster) -> History {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let mut operations = join(&mut self.clients);
        self.shared.expect("all leases expire", || {
            cluster.running().into_iter().all(|node| has_no_leases(cluster, node)).then_some(())
        });
        let revision = self.read_everything(cluster, &mut operations);
        self.shared.watch_until.store(revision, Ordering::SeqCst);
        let chains = join(&mut self.watchers);
        // A request whose outcome is unknown may have been applied since that read, and a watcher may have heard of it.
        let revision = self.read_everything(cluster, &mut operations);
        self.shared.listen_until.store(revision, Ordering::SeqCst);
        let oracle = join(&mut self.oracle);
        let nodes = cluster.running();
        let hashes = nodes.iter().filter_map(|node| Some((*node, self.hash(cluster, *node, revision)?))).collect();
        let logs = nodes.iter().map(|node| (*node, cluster.member(*node).log())).collect();
        let strange = self.shared.strange.lock().unwrap().clone();
        operations.sort_by_key(|operation| operation.called);
        History { seed: self.seed, operations, chains, oracle, hashes, logs, strange }
    }

    /// A linearizable read of all keys, for the history; returns its revision.
    fn read_everything(&self, cluster: &Cluster, operations: &mut Vec<Operation>) -> i64 {
        let (called, range) = cluster.eventually("a linearizable read of everything", |cluster| {
            let called = self.shared.now();
            let range: RangeResponse = cluster.call(cluster.leader(), paths::RANGE, everything()).ok()?;
            Some((called, range))
        });
        let revision = range.header.unwrap_or_default().revision;
        let returned = Some((self.shared.now(), Response::Range(range)));
        operations.push(Operation { client: CLIENTS, request: Request::Range(everything()), called, returned });
        revision
    }

    /// The hash of a member, once it has reached the revision.
    fn hash(&self, cluster: &Cluster, node: usize, revision: i64) -> Option<HashKvResponse> {
        let what = format!("member {node} tells its hash at revision {revision}");
        self.shared.expect(&what, || cluster.call(node, paths::HASH_KV, HashKvRequest { revision }).ok())
    }
}

impl Drop for Recorder {
    /// After a panic the threads end without hearing the rest.
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.shared.watch_until.store(1, Ordering::SeqCst);
        self.shared.listen_until.store(1, Ordering::SeqCst);
    }
}

fn join<T>(thread: &mut Option<JoinHandle<T>>) -> T {
    thread.take().expect("ended once").join().expect("a recording client does not panic")
}

fn has_no_leases(cluster: &Cluster, node: usize) -> bool {
    let leases: Result<LeaseLeasesResponse, _> = cluster.call(node, paths::LEASE_LEASES, LeaseLeasesRequest {});
    leases.is_ok_and(|leases| leases.leases.is_empty())
}

fn workload(number: usize, first_of_kubernetes: usize) -> Workload {
    if number < first_of_kubernetes { Workload::Mixed } else { Workload::Kubernetes }
}

/// Runs all clients until the end.
async fn ask(seed: u64, shared: Arc<RecordingState>) -> Vec<Operation> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let workload = workload(number, CLIENTS - KUBERNETES_CLIENTS);
        clients.spawn(client::run(seed, number, workload, shared.clone()));
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// Runs all watchers until the end.
async fn watch(seed: u64, shared: Arc<RecordingState>) -> Vec<Vec<Watch>> {
    let watchers = (0..WATCHERS).map(|number| {
        let workload = workload(number, WATCHERS - KUBERNETES_WATCHERS);
        Watcher::new(seed, number, workload, shared.clone())
    });
    let watching: JoinSet<_> = watchers.map(Watcher::run).collect();
    watching.join_all().await.into_iter().flatten().collect()
}

/// Runs the oracle until the end. It is one chain. If a compaction cuts the chain, the check of the chain fails.
async fn listen(seed: u64, shared: Arc<RecordingState>) -> Vec<Watch> {
    Watcher::oracle(seed, WATCHERS, shared).run().await.into_iter().flatten().collect()
}
