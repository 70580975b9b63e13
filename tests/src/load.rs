//! Clients that write and read while a test disturbs a cluster, and the check of the answers.
//!
//! Each writer has one key and numbers its values, so every event identifies its write. A write is *acknowledged* (at a
//! revision), *refused* (the answer says that it was not proposed), or *unknown*: it may have been applied, or may
//! still be, but at most once. Readers make linearizable reads through all members. A read that began after a write was
//! acknowledged, or was seen by another reader, must see that write or a later one.
//!
//! [`History::check`] then reads all events from each member.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::{Event, KeyValue};
use tonic::Status;

use crate::cluster::{Cluster, block_on, put_request};
use crate::grpc::Client;
use crate::paths;
use crate::watch::{WatchStream, everything_from};

const WRITERS: usize = 4;
const READERS: usize = 2;
/// A client makes at most one request in this time: the load is there to be interrupted, not to fill the machine.
const PACE: Duration = Duration::from_millis(4);
/// How long a client waits for an answer before it goes to the next member.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long [`Load::progress`] may take.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(40);
/// How often progress is checked.
const LOOK: Duration = Duration::from_millis(10);
/// How long a member may take to send the next events.
const EVENTS_PATIENCE: Duration = Duration::from_secs(10);
/// Errors of a server that has not proposed the write.
const REFUSALS: [&str; 3] =
    ["etcdserver: no leader", "etcdserver: not capable", "etcdserver: rpc not supported for learner"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Acknowledged(i64),
    Refused,
    Unknown,
}

/// The state that the clients share.
#[derive(Default)]
struct LoadState {
    end: AtomicBool,
    acknowledged: AtomicUsize,
    reads: AtomicUsize,
    /// For each writer the highest revision of its key that any client has seen.
    told: [AtomicI64; WRITERS],
    stale: Mutex<Vec<String>>,
    /// The members whose clients these are.
    addresses: Mutex<Vec<String>>,
}

/// Running clients, on a thread of their own.
pub struct Load {
    shared: Arc<LoadState>,
    thread: Option<JoinHandle<Vec<Vec<Outcome>>>>,
}

/// The outcome of each write, by writer.
pub struct History {
    outcomes: Vec<Vec<Outcome>>,
    /// The number of linearizable reads that were answered.
    pub reads: usize,
}

impl Load {
    /// Starts clients of the members at `addresses`. When one fails them, they go to the next.
    pub fn start(addresses: &[String]) -> Load {
        let shared = Arc::new(LoadState { addresses: Mutex::new(addresses.to_vec()), ..LoadState::default() });
        let seen = shared.clone();
        let thread = std::thread::spawn(move || block_on(run(seen)));
        Load { shared, thread: Some(thread) }
    }

    /// The member at this address takes requests from now on, too.
    pub fn also_through(&self, address: &str) {
        self.shared.addresses.lock().unwrap().push(address.to_owned());
    }

    /// Waits until `count` more writes are acknowledged, and some reads are answered.
    pub fn progress(&self, count: usize) {
        let goal = |counter: &AtomicUsize, more: usize| counter.load(Ordering::SeqCst) + more;
        let (writes, reads) = (goal(&self.shared.acknowledged, count), goal(&self.shared.reads, 1));
        let deadline = Instant::now() + PROGRESS_PATIENCE;
        let reached = |counter: &AtomicUsize, goal| counter.load(Ordering::SeqCst) >= goal;
        while !reached(&self.shared.acknowledged, writes) || !reached(&self.shared.reads, reads) {
            assert!(Instant::now() < deadline, "{count} writes and a read are not done within {PROGRESS_PATIENCE:?}");
            std::thread::park_timeout(LOOK);
        }
    }

    /// Stops the clients. Panics if a read was stale.
    pub fn stop(mut self) -> History {
        self.shared.end.store(true, Ordering::SeqCst);
        let outcomes = self.thread.take().expect("stopped once").join().expect("clients do not panic");
        let stale = self.shared.stale.lock().unwrap();
        assert!(stale.is_empty(), "{} linearizable reads were stale: {stale:#?}", stale.len());
        History { outcomes, reads: self.shared.reads.load(Ordering::SeqCst) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
    }
}

async fn run(shared: Arc<LoadState>) -> Vec<Vec<Outcome>> {
    let readers = (0..READERS).map(|reader| tokio::spawn(read(reader, Rotation::new(&shared, reader), shared.clone())));
    let readers: Vec<_> = readers.collect();
    let writers =
        (0..WRITERS).map(|writer| tokio::spawn(write(writer, Rotation::new(&shared, writer), shared.clone())));
    let mut outcomes = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        outcomes.push(writer.await.expect("a writer does not panic"));
    }
    for reader in readers {
        reader.await.expect("a reader does not panic");
    }
    outcomes
}

/// The members, in the order in which a client tries them.
struct Rotation {
    shared: Arc<LoadState>,
    clients: Vec<Client>,
    at: usize,
}

impl Rotation {
    fn new(shared: &Arc<LoadState>, first: usize) -> Rotation {
        let mut rotation = Rotation { shared: shared.clone(), clients: Vec::new(), at: first };
        rotation.look();
        rotation
    }

    fn look(&mut self) {
        let addresses = self.shared.addresses.lock().unwrap();
        self.clients.extend(addresses.iter().skip(self.clients.len()).map(|address| Client::new(address)));
    }

    fn client(&self) -> &Client {
        &self.clients[self.at % self.clients.len()]
    }

    fn next(&mut self) {
        self.look();
        self.at += 1;
    }
}

async fn write(writer: usize, mut members: Rotation, shared: Arc<LoadState>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.end.load(Ordering::SeqCst) {
        pace.tick().await;
        let put = put_request(&key(writer), &outcomes.len().to_string());
        let answer = tokio::time::timeout(PATIENCE, members.client().unary::<_, PutResponse>(paths::PUT, put)).await;
        let outcome = judge_write(answer.ok());
        match outcome {
            Outcome::Acknowledged(revision) => {
                shared.told[writer].fetch_max(revision, Ordering::SeqCst);
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            _ => members.next(),
        }
        outcomes.push(outcome);
    }
    outcomes
}

/// `None` means no answer in time.
fn judge_write(answer: Option<Result<PutResponse, Status>>) -> Outcome {
    match answer {
        Some(Ok(put)) => Outcome::Acknowledged(put.header.unwrap_or_default().revision),
        Some(Err(status)) if REFUSALS.contains(&status.message()) => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

async fn read(reader: usize, mut members: Rotation, shared: Arc<LoadState>) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in reader.. {
        if shared.end.load(Ordering::SeqCst) {
            return;
        }
        pace.tick().await;
        let writer = number % WRITERS;
        let told = shared.told[writer].load(Ordering::SeqCst);
        let request = RangeRequest { key: key(writer).into(), ..RangeRequest::default() };
        let answer = members.client().unary::<_, RangeResponse>(paths::RANGE, request);
        let Ok(Ok(range)) = tokio::time::timeout(PATIENCE, answer).await else {
            members.next();
            continue;
        };
        let seen = range.kvs.first().map_or(0, |kv| kv.mod_revision);
        shared.reads.fetch_add(1, Ordering::SeqCst);
        shared.told[writer].fetch_max(seen, Ordering::SeqCst);
        if seen < told {
            let reason = format!("{} was at revision {told}, and then at {seen}: {:?}", key(writer), range.header);
            shared.stale.lock().unwrap().push(reason);
        }
        // The next read goes to the next member, so that every member is read.
        members.next();
    }
}

fn key(writer: usize) -> String {
    format!("load/{writer}")
}

impl History {
    /// The number of acknowledged writes.
    pub fn acknowledged(&self) -> usize {
        self.outcomes.iter().flatten().filter(|outcome| matches!(outcome, Outcome::Acknowledged(_))).count()
    }

    /// The number of writes whose outcome is unknown.
    pub fn unknown(&self) -> usize {
        self.outcomes.iter().flatten().filter(|outcome| **outcome == Outcome::Unknown).count()
    }

    /// Waits until all running members agree, and compares the events of each with the answers. Panics if they differ.
    pub fn check(&self, cluster: &Cluster) {
        let revision = cluster.agree();
        for node in cluster.voters() {
            let events = block_on(events(cluster.address(node), revision));
            let judged = events.and_then(|events| self.judge(&events));
            judged.unwrap_or_else(|reason| panic!("node {node}, at revision {revision}: {reason}"));
        }
    }

    /// Compares all events of a store with the clients' answers. The error describes the difference.
    fn judge(&self, events: &[Event]) -> Result<(), String> {
        let mut found: BTreeMap<(usize, usize), i64> = BTreeMap::new();
        let (mut last, mut newest) = (1, BTreeMap::<Bytes, KeyValue>::new());
        for kv in events.iter().filter_map(|event| event.kv.as_ref()) {
            if kv.mod_revision != last && kv.mod_revision != last + 1 {
                return Err(format!("revision {last} is followed by {}", kv.mod_revision));
            }
            last = kv.mod_revision;
            let Some(writer) = writer_of(kv) else { continue };
            let (version, created) =
                newest.get(&kv.key).map_or((0, kv.mod_revision), |before| (before.version, before.create_revision));
            if (kv.version, kv.create_revision) != (version + 1, created) {
                return Err(format!("version {version} of {created} is followed by {kv:?}"));
            }
            newest.insert(kv.key.clone(), kv.clone());
            let number = std::str::from_utf8(&kv.value).ok().and_then(|value| value.parse().ok());
            let number: usize = number.ok_or_else(|| format!("nobody wrote {kv:?}"))?;
            if found.insert((writer, number), kv.mod_revision).is_some() {
                return Err(format!("a write is there twice: {kv:?}"));
            }
        }
        self.compare(&found)
    }

    fn compare(&self, found: &BTreeMap<(usize, usize), i64>) -> Result<(), String> {
        for (writer, outcomes) in self.outcomes.iter().enumerate() {
            for (number, outcome) in outcomes.iter().enumerate() {
                let at = found.get(&(writer, number));
                match (outcome, at) {
                    (Outcome::Acknowledged(told), Some(at)) if told == at => {}
                    (Outcome::Refused, None) | (Outcome::Unknown, _) => {}
                    _ => return Err(format!("write {number} of client {writer} is {outcome:?}, and found at {at:?}")),
                }
            }
        }
        let written =
            |(writer, number): &(usize, usize)| self.outcomes.get(*writer).is_some_and(|all| *number < all.len());
        let nobodys: Vec<_> = found.keys().filter(|write| !written(write)).collect();
        nobodys.is_empty().then_some(()).ok_or(format!("nobody made the writes {nobodys:?}"))
    }
}

fn writer_of(kv: &KeyValue) -> Option<usize> {
    std::str::from_utf8(&kv.key).ok()?.strip_prefix("load/")?.parse().ok()
}

/// All events of a store up to `revision`.
async fn events(address: &str, revision: i64) -> Result<Vec<Event>, String> {
    let mut watch =
        WatchStream::open(&Client::new(address), everything_from(1)).await.map_err(|status| status.to_string())?;
    let mut events: Vec<Event> = Vec::new();
    while events.last().and_then(|event| event.kv.as_ref()).map_or(1, |kv| kv.mod_revision) < revision {
        let answer = watch.next(EVENTS_PATIENCE).await.map_err(|status| status.to_string())?;
        let answer = answer.ok_or(format!("only {} events within {EVENTS_PATIENCE:?}", events.len()))?;
        if answer.canceled {
            return Err(format!("the watch was canceled: {answer:?}"));
        }
        events.extend(answer.events);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(writer: usize, number: usize, revision: i64, version: i64) -> Event {
        let kv = KeyValue {
            key: key(writer).into(),
            value: number.to_string().into(),
            create_revision: revision + 1 - version,
            mod_revision: revision,
            version,
            ..KeyValue::default()
        };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn judge(events: &[Event]) -> Result<(), String> {
        use Outcome::{Acknowledged, Refused, Unknown};
        let outcomes = vec![vec![Acknowledged(2), Refused, Unknown, Acknowledged(3)]];
        History { outcomes, reads: 0 }.judge(events)
    }

    #[test]
    fn good_histories_are_accepted() {
        assert_eq!(judge(&[put(0, 0, 2, 1), put(0, 3, 3, 2)]), Ok(()));
        assert_eq!(judge(&[put(0, 0, 2, 1), put(0, 3, 3, 2), put(0, 2, 4, 3)]), Ok(()));
    }

    #[test]
    fn bad_histories_are_rejected() {
        let [first, second] = [put(0, 0, 2, 1), put(0, 3, 3, 2)];
        let histories = [
            ("an acknowledged write is lost", vec![first.clone()]),
            ("a write is at another revision", vec![put(0, 3, 2, 1), put(0, 0, 3, 2)]),
            ("a refused one is there", vec![first.clone(), second.clone(), put(0, 1, 4, 3)]),
            ("an unknown one is there twice", vec![first.clone(), second.clone(), put(0, 2, 4, 3), put(0, 2, 5, 4)]),
            ("a revision is skipped", vec![first.clone(), second.clone(), put(0, 2, 5, 3)]),
            ("a version is skipped", vec![first.clone(), second.clone(), put(0, 2, 4, 4)]),
            ("nobody made it", vec![first, second, put(0, 4, 4, 3)]),
        ];
        for (name, history) in histories {
            assert!(judge(&history).is_err(), "accepted: {name}");
        }
    }
}
