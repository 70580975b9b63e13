//! A client that watches, and records the events: one watch at a time, on any member, resumed where the last one ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use metastore_sim::clients::Workload;
use metastore_sim::history::Watch;
use metastore_sim::invariants::watch::next_revision;
use metastore_sim::random::Random;
use metastore_sim::watcher;
use tokio::time::{Instant, timeout};

use super::{END_PATIENCE, RecordingState};
use crate::grpc::Client;
use crate::watch::{WatchStream, everything_from};

/// How long a member may take to open a stream before another member is tried.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// After so long without an answer the client requests progress on the stream.
const SILENCE: Duration = Duration::from_millis(100);
/// The shortest and longest life of a watch, in milliseconds, before its client takes another member.
const LIFE_MS: (u64, u64) = (300, 4000);
/// At the end a stream has this much longer to deliver the rest before its client takes another member.
const SILENT_END: Duration = Duration::from_secs(3);
/// The time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);
/// The first random stream for watchers.
const STREAM: u64 = 2000;

pub struct Watcher {
    number: usize,
    random: Random,
    request: WatchCreateRequest,
    is_oracle: bool,
    members: Vec<Client>,
    shared: Arc<RecordingState>,
    /// The present chain: watches that each go on where the one before ended.
    chain: Vec<Watch>,
    chains: Vec<Vec<Watch>>,
}

impl Watcher {
    pub fn new(seed: u64, number: usize, workload: Workload, shared: Arc<RecordingState>) -> Watcher {
        let mut random = Random::new(seed, STREAM + number as u64);
        let request = watcher::request(workload, &mut random);
        let members = shared.addresses.iter().map(|address| Client::new(address)).collect();
        let (chain, chains) = Default::default();
        Watcher { number, random, request, is_oracle: false, members, shared, chain, chains }
    }

    /// A watcher of all keys, which tells the other clients how far it has heard.
    pub fn oracle(seed: u64, number: usize, shared: Arc<RecordingState>) -> Watcher {
        let request = WatchCreateRequest { prev_kv: true, ..everything_from(1) };
        Watcher { request, is_oracle: true, ..Watcher::new(seed, number, Workload::Mixed, shared) }
    }

    /// Watches until it has heard everything. Too long a wait after the last revision is known is a violation.
    pub async fn run(mut self) -> Vec<Vec<Watch>> {
        let mut deadline = None;
        while !self.is_done() {
            if self.until() > 0 {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + END_PATIENCE);
                let (until, next) = (self.until(), self.request.start_revision);
                if Instant::now() > deadline {
                    let number = self.number;
                    self.shared
                        .blame(format!("watcher {number} waits for revision {next} in vain, {until} is the last"));
                    break;
                }
            }
            let member = self.random.pick(&self.members).expect("a cluster has members").clone();
            match timeout(OPEN_PATIENCE, WatchStream::open(&member, self.request.clone())).await {
                Ok(Ok(stream)) => self.follow(stream).await,
                _ => tokio::time::sleep(RETRY).await,
            }
        }
        self.chains.push(self.chain);
        self.chains
    }

    /// The revision up to which it must hear everything; 0 while that is not known.
    fn until(&self) -> i64 {
        let until = if self.is_oracle { &self.shared.listen_until } else { &self.shared.watch_until };
        until.load(Ordering::SeqCst)
    }

    /// Whether it has heard everything up to the last revision. The last watch may have ended before it could prove
    /// that. No new watch could prove it either: etcd reports no progress to a watcher that starts at a future
    /// revision, because it is not synced.
    fn is_done(&self) -> bool {
        let until = self.until();
        until > 0 && self.request.start_revision > until
    }

    /// Records one watch to its end.
    async fn follow(&mut self, mut stream: WatchStream) {
        let life = Duration::from_millis(self.random.between(LIFE_MS.0, LIFE_MS.1));
        let (end, request) = (Instant::now() + life, self.request.clone());
        let (client, responses) = (self.number, Vec::new());
        let mut watch = Watch { client, request, responses, complete_to: None, compacted: 0 };
        while watch.complete_to.is_none() && (Instant::now() < end || self.until() > 0) {
            match stream.next(SILENCE).await {
                Err(_) => break,
                Ok(None) if Instant::now() > end + SILENT_END => break,
                Ok(None) => stream.request_progress(),
                Ok(Some(response)) => {
                    self.tell(&response);
                    watch.responses.push(response);
                }
            }
            if watch.responses.last().is_some_and(|last| last.canceled) {
                break;
            }
            let until = self.until();
            let is_all = until > 0 && !watch.responses.is_empty() && next_revision(&watch) > until;
            watch.complete_to = is_all.then_some(until);
        }
        watch.compacted = self.shared.compacted.load(Ordering::SeqCst);
        self.ended(watch);
    }

    /// Publishes how far the oracle has heard: clients may compact up to there.
    fn tell(&self, response: &WatchResponse) {
        if let Some(kv) = response.events.last().and_then(|event| event.kv.as_ref()).filter(|_| self.is_oracle) {
            self.shared.heard.fetch_max(kv.mod_revision, Ordering::SeqCst);
        }
    }

    fn ended(&mut self, watch: Watch) {
        self.request.start_revision = next_revision(&watch);
        let compacted = watch.responses.last().filter(|last| last.canceled).map(|last| last.compact_revision);
        self.chain.push(watch);
        if let Some(compact_revision) = compacted {
            // The missed events are lost; the client begins a new watch.
            self.request.start_revision = compact_revision;
            self.chains.push(std::mem::take(&mut self.chain));
        }
    }
}
