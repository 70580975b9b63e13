//! Who uses the cluster: clients with one request at a time, each to any member.
//!
//! A client knows that a write has happened when the member that it asked says so. After a time limit, or when that member has
//! crashed, the write may have happened, and may still.

mod kubernetes;
mod leaseholder;
mod mixed;

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_store::command::{Command, Kind};

use crate::history::{Request, Response};
use crate::random::Random;
use kubernetes::Kubernetes;
use leaseholder::Leaseholder;
use mixed::Mixed;

pub use kubernetes::REGISTRY;

/// How many keys clients use: few, so that they meet often, or more than simulated storage engines visit in a step.
const KEYS: &[u64] = &[6, 8, 24];
/// The stream of choices that says which.
const KEYS_STREAM: u64 = 90;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// All kinds of requests on few keys, and leases.
    Mixed,
    /// API servers: lists, watches, creations of what is absent, updates of what is unchanged.
    Kubernetes,
}

/// What a client wants.
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
    /// The newest revision that any client had been told by then.
    pub floor: i64,
    /// The moment at which the client gives up.
    pub deadline: u64,
}

impl Asked {
    /// The command to be proposed; none for what is not proposed.
    pub fn command(&self) -> Option<Bytes> {
        let Wish::Do(request) = &self.wish else { return None };
        Some(match request {
            Request::Put(put) => Command::encode(self.id, Kind::Put, put),
            Request::DeleteRange(delete) => Command::encode(self.id, Kind::DeleteRange, delete),
            Request::Txn(txn) => Command::encode(self.id, Kind::Txn, txn),
            Request::Compact(compaction) => Command::encode(self.id, Kind::Compaction, compaction),
            Request::LeaseGrant(grant) => Command::encode(self.id, Kind::LeaseGrant, grant),
            Request::LeaseRevoke(revoke) => Command::encode(self.id, Kind::LeaseRevoke, revoke),
            Request::Range(_) => return None,
        })
    }
}

/// A value that tells which request has written it.
fn value(id: u64, random: &mut Random) -> Bytes {
    let padding = if random.permille(200) { random.below(400) as usize } else { 0 };
    format!("{id}:{}", "x".repeat(padding)).into()
}

/// Which request has written this value.
pub fn writer(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.split(':').next()?.parse().ok()
}

/// How one kind of client goes about.
trait Behaviour: Send {
    /// Its next request, which gets this id; `told` is the newest revision that any client was told.
    fn wish(&mut self, id: u64, random: &mut Random, told: i64) -> Wish;

    /// It got an answer.
    fn told(&mut self, request: &Request, response: &Response);

    /// A renewal was answered: whether the lease lives.
    fn renewed(&mut self, _lease: i64, _lives: bool) {}
}

/// What one client wants next, after what it was told. Whoever has it carries its requests out: in a simulated world, or in the
/// real one.
pub struct User {
    random: Random,
    behaviour: Box<dyn Behaviour>,
}

impl User {
    pub fn new(seed: u64, workload: Workload, number: u64) -> Self {
        // The same for all of one world, so that clients meet.
        let keys = *Random::new(seed, KEYS_STREAM).pick(KEYS).unwrap_or(&KEYS[0]);
        let behaviour: Box<dyn Behaviour> = match workload {
            Workload::Kubernetes => Box::new(Kubernetes::new(keys)),
            Workload::Mixed if number % 3 == 2 => Box::new(Leaseholder::new(number)),
            Workload::Mixed => Box::new(Mixed::new(keys)),
        };
        Self { random: Random::new(seed, 100 + number), behaviour }
    }

    /// Its next request, which gets this id; no other has it. It compacts nothing, and reads nothing past, beyond revision `told`.
    pub fn wish(&mut self, id: u64, told: i64) -> Wish {
        self.behaviour.wish(id, &mut self.random, told)
    }

    /// It got an answer.
    pub fn told(&mut self, request: &Request, response: &Response) {
        self.behaviour.told(request, response);
    }

    /// It got an answer to a renewal: whether the lease lives.
    pub fn renewed(&mut self, lease: i64, lives: bool) {
        self.behaviour.renewed(lease, lives);
    }
}

struct Client {
    user: User,
    busy: bool,
    /// The moment of its next request.
    next: u64,
}

pub struct Clients {
    clients: Vec<Client>,
    waiting: BTreeMap<u64, Asked>,
    last_id: u64,
    stopped: bool,
    /// Moments between two requests of a client, at most.
    pub pause: u64,
    /// Moments that a client waits for an answer.
    pub patience: u64,
}

impl Clients {
    pub fn new(seed: u64, workload: Workload, count: u64, pause: u64, patience: u64) -> Self {
        let client = |at| Client { user: User::new(seed, workload, at), busy: false, next: 0 };
        let clients = (0..count).map(client).collect();
        Self { clients, waiting: BTreeMap::new(), last_id: 0, stopped: false, pause, patience }
    }

    /// A new id, for a request of a client or of the cluster itself.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Requests that are due, to some of the members that run.
    pub fn ask(&mut self, now: u64, members: &[usize], floor: i64) -> Vec<Asked> {
        let mut requests = Vec::new();
        for (at, client) in self.clients.iter_mut().enumerate() {
            if client.busy || client.next > now {
                continue;
            }
            let Some(&member) = client.user.random.pick(members) else { continue };
            self.last_id += 1;
            let id = self.last_id;
            let wish = client.user.wish(id, floor);
            let asked = Asked { id, client: at, member, wish, floor, deadline: now + self.patience };
            client.busy = true;
            self.waiting.insert(id, asked.clone());
            requests.push(asked);
        }
        requests
    }

    /// Nobody asks for anything any more.
    pub fn stop(&mut self) {
        self.clients.iter_mut().for_each(|client| client.next = u64::MAX);
        self.stopped = true;
    }

    /// Who waits for an answer of this member to this request.
    pub fn waiting(&self, member: usize, id: u64) -> Option<&Asked> {
        self.waiting.get(&id).filter(|asked| asked.member == member)
    }

    /// The clients of some requests give up.
    pub fn give_up(&mut self, now: u64, over: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let ids: Vec<u64> = self.waiting.values().filter(|asked| over(asked)).map(|asked| asked.id).collect();
        ids.into_iter().filter_map(|id| self.end(now, id)).collect()
    }

    /// The request is over, one way or another.
    pub fn end(&mut self, now: u64, id: u64) -> Option<Asked> {
        let asked = self.waiting.remove(&id)?;
        let client = &mut self.clients[asked.client];
        client.busy = false;
        client.next = if self.stopped { u64::MAX } else { now + 1 + client.user.random.below(self.pause) };
        Some(asked)
    }

    /// A client learns what became of its request.
    pub fn told(&mut self, asked: &Asked, response: &Response) {
        if let Wish::Do(request) = &asked.wish {
            self.clients[asked.client].user.told(request, response);
        }
    }

    /// A client learns whether its lease lives.
    pub fn renewed(&mut self, asked: &Asked, lease: i64, lives: bool) {
        self.clients[asked.client].user.renewed(lease, lives);
    }
}
