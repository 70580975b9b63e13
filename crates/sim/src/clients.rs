//! The users of the cluster: clients with one request at a time, each sent to any member.
//!
//! A client knows that a write has happened when the member that it asked has answered so. After a timeout, or when
//! that member has crashed, the write may have happened, and may still happen.

mod kubernetes;
mod leaseholder;
mod mixed;

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_store::command::{Command, Kind};

use crate::history::{Request, Response};
use crate::model::users::Caller;
use crate::random::Random;
use crate::users::caller_in_log;
use kubernetes::Kubernetes;
use leaseholder::Leaseholder;
use mixed::Mixed;

pub use kubernetes::REGISTRY;

/// The numbers of keys that a run may use: few, so that clients touch the same keys, or more than simulated storage
/// engines visit in a step.
const KEYS: &[u64] = &[6, 8, 24];
/// The stream of random choices that selects one of them.
const KEYS_STREAM: u64 = 90;

/// The kind of load that clients create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// All kinds of requests on few keys, and leases.
    Mixed,
    /// API servers: lists, watches, creations of absent keys, updates of unchanged keys.
    Kubernetes,
}

/// The next request of a client.
#[derive(Clone, Debug)]
pub enum Wish {
    Do(Request),
    KeepAlive(i64),
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: u64,
    pub client: usize,
    pub member: usize,
    pub wish: Wish,
    pub caller: Caller,
    /// The newest revision that any client knew when this request was sent.
    pub floor: i64,
    /// The moment at which the client gives up.
    pub deadline: u64,
}

impl Asked {
    /// The command to propose; `None` for requests that are not proposed.
    pub fn command(&self) -> Option<Bytes> {
        let (id, caller) = (self.id, caller_in_log(&self.caller));
        Some(match self.request()? {
            Request::Put(put) => Command::encode_as(&caller, id, Kind::Put, put),
            Request::DeleteRange(delete) => Command::encode_as(&caller, id, Kind::DeleteRange, delete),
            Request::Txn(txn) => Command::encode_as(&caller, id, Kind::Txn, txn),
            Request::Compact(compaction) => Command::encode_as(&caller, id, Kind::Compaction, compaction),
            Request::LeaseGrant(grant) => Command::encode_as(&caller, id, Kind::LeaseGrant, grant),
            Request::LeaseRevoke(revoke) => Command::encode_as(&caller, id, Kind::LeaseRevoke, revoke),
            Request::Range(_) => return None,
        })
    }

    /// The request; `None` for a renewal.
    pub fn request(&self) -> Option<&Request> {
        match &self.wish {
            Wish::Do(request) => Some(request),
            Wish::KeepAlive(_) => None,
        }
    }
}

/// A value that identifies the request that has written it.
fn value(id: u64, random: &mut Random) -> Bytes {
    let padding = if random.permille(200) { random.below(400) as usize } else { 0 };
    format!("{id}:{}", "x".repeat(padding)).into()
}

/// The request that has written this value.
pub fn writer(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.split(':').next()?.parse().ok()
}

/// The behaviour of one kind of client.
trait Behaviour: Send {
    /// Its next request, which gets this id; `told` is the newest revision that any client knows.
    fn wish(&mut self, id: u64, random: &mut Random, told: i64) -> Wish;

    /// The client receives an answer.
    fn told(&mut self, request: &Request, response: &Response);

    /// A renewal was answered; `_lives` says whether the lease still exists.
    fn renewed(&mut self, _lease: i64, _lives: bool) {}
}

/// Whether a client holds leases.
pub fn is_leaseholder(workload: Workload, number: u64) -> bool {
    workload == Workload::Mixed && number % 3 == 2
}

/// Chooses the next request of one client from the answers so far. The owner carries the requests out: in a simulated
/// world, or against real processes.
pub struct User {
    random: Random,
    behaviour: Box<dyn Behaviour>,
}

impl User {
    pub fn new(seed: u64, workload: Workload, number: u64) -> Self {
        // The same number of keys for all clients of one world, so that they touch the same keys.
        let keys = *Random::new(seed, KEYS_STREAM).pick(KEYS).unwrap_or(&KEYS[0]);
        let behaviour: Box<dyn Behaviour> = match workload {
            Workload::Kubernetes => Box::new(Kubernetes::new(keys)),
            Workload::Mixed if is_leaseholder(workload, number) => Box::new(Leaseholder::new(number)),
            Workload::Mixed => Box::new(Mixed::new(keys)),
        };
        Self { random: Random::new(seed, 100 + number), behaviour }
    }

    /// Its next request, which gets this unique id. The client compacts and reads at no later revision than `told`.
    pub fn wish(&mut self, id: u64, told: i64) -> Wish {
        self.behaviour.wish(id, &mut self.random, told)
    }

    /// The client receives an answer.
    pub fn told(&mut self, request: &Request, response: &Response) {
        self.behaviour.told(request, response);
    }

    /// The client receives the answer to a renewal; `lives` says whether the lease still exists.
    pub fn renewed(&mut self, lease: i64, lives: bool) {
        self.behaviour.renewed(lease, lives);
    }
}

struct Client {
    user: User,
    busy: bool,
    /// The moment of the client's next request.
    next: u64,
}

pub struct Clients {
    clients: Vec<Client>,
    waiting: BTreeMap<u64, Asked>,
    last_id: u64,
    stopped: bool,
    /// The longest pause between two requests of a client, in moments.
    pause: u64,
    /// How long a client waits for an answer, in moments.
    pub patience: u64,
}

impl Clients {
    pub fn new(seed: u64, workload: Workload, count: u64, pause: u64, patience: u64) -> Self {
        let client = |at| Client { user: User::new(seed, workload, at), busy: false, next: 0 };
        let clients = (0..count).map(client).collect();
        Self { clients, waiting: BTreeMap::new(), last_id: 0, stopped: false, pause, patience }
    }

    /// From now on, all clients together ask at most once in so many moments, on average.
    pub fn slow_down(&mut self, moments: u64) {
        self.pause = self.pause.max(2 * moments * self.clients.len() as u64);
    }

    /// A new id, for a request of a client or of the cluster itself.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The requests that are due, each for one of the running members. `caller` gives the caller of a client's request
    /// to a member.
    pub fn ask(
        &mut self,
        now: u64,
        members: &[usize],
        floor: i64,
        mut caller: impl FnMut(usize, usize) -> Caller,
    ) -> Vec<Asked> {
        let mut requests = Vec::new();
        for (at, client) in self.clients.iter_mut().enumerate() {
            if client.busy || client.next > now {
                continue;
            }
            let Some(&member) = client.user.random.pick(members) else { continue };
            self.last_id += 1;
            let id = self.last_id;
            let wish = client.user.wish(id, floor);
            let (caller, deadline) = (caller(at, member), now + self.patience);
            let asked = Asked { id, client: at, member, wish, caller, floor, deadline };
            client.busy = true;
            self.waiting.insert(id, asked.clone());
            requests.push(asked);
        }
        requests
    }

    /// No client sends requests any more.
    pub fn stop(&mut self) {
        self.clients.iter_mut().for_each(|client| client.next = u64::MAX);
        self.stopped = true;
    }

    /// The request with this id, if its client still waits for an answer of this member.
    pub fn waiting(&self, member: usize, id: u64) -> Option<&Asked> {
        self.waiting.get(&id).filter(|asked| asked.member == member)
    }

    /// The clients of the selected requests give up.
    pub fn give_up(&mut self, now: u64, over: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let ids: Vec<u64> = self.waiting.values().filter(|asked| over(asked)).map(|asked| asked.id).collect();
        ids.into_iter().filter_map(|id| self.end(now, id)).collect()
    }

    /// A request ends, with an answer or without.
    pub fn end(&mut self, now: u64, id: u64) -> Option<Asked> {
        let asked = self.waiting.remove(&id)?;
        let client = &mut self.clients[asked.client];
        client.busy = false;
        client.next = if self.stopped { u64::MAX } else { now + 1 + client.user.random.below(self.pause) };
        Some(asked)
    }

    /// A client receives the answer to its request.
    pub fn told(&mut self, asked: &Asked, response: &Response) {
        if let Wish::Do(request) = &asked.wish {
            self.clients[asked.client].user.told(request, response);
        }
    }

    /// A client is informed whether its lease still exists.
    pub fn renewed(&mut self, asked: &Asked, lease: i64, lives: bool) {
        self.clients[asked.client].user.renewed(lease, lives);
    }
}
