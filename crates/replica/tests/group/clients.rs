//! Who uses the group: clients with one request at a time, each to any member.
//!
//! A write is known to have happened when its outcome comes out of the member that it was proposed to. After a time limit,
//! or when that member has crashed, it may have happened, and may still.

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, compare, request_op,
};
use metastore_store::command::{Command, Kind};

use crate::random::Random;

/// Keys collide often.
const KEYS: u64 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Put,
    Delete,
    /// Puts the key if it has this value, or does not exist.
    Swap {
        expected: Option<Bytes>,
    },
    /// A linearizable read.
    Read,
    /// A serializable read.
    LocalRead,
}

/// What a client has asked for. A write puts its own id.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub client: usize,
    pub member: usize,
    pub key: Bytes,
    pub action: Action,
    /// The newest revision that any client had been told by then.
    pub floor: i64,
    /// The moment at which the client gives up.
    pub deadline: u64,
}

impl Request {
    /// The command to be proposed; none for a read.
    pub fn command(&self) -> Option<Bytes> {
        let key = self.key.clone();
        let put = PutRequest { key: key.clone(), value: self.id.to_string().into(), ..PutRequest::default() };
        Some(match &self.action {
            Action::Put => Command::encode(self.id, Kind::Put, &put),
            Action::Delete => {
                Command::encode(self.id, Kind::DeleteRange, &DeleteRangeRequest { key, ..Default::default() })
            }
            Action::Swap { expected } => Command::encode(self.id, Kind::Txn, &swap(put, expected.clone())),
            Action::Read | Action::LocalRead => return None,
        })
    }
}

fn swap(put: PutRequest, expected: Option<Bytes>) -> TxnRequest {
    let (target, union) = match expected {
        Some(value) => (compare::CompareTarget::Value, compare::TargetUnion::Value(value)),
        None => (compare::CompareTarget::Create, compare::TargetUnion::CreateRevision(0)),
    };
    let holds =
        Compare { key: put.key.clone(), target: target as i32, target_union: Some(union), ..Compare::default() };
    let put = RequestOp { request: Some(request_op::Request::RequestPut(put)) };
    TxnRequest { compare: vec![holds], success: vec![put], ..TxnRequest::default() }
}

struct Client {
    random: Random,
    busy: bool,
    /// The moment of its next request.
    next: u64,
    /// What it believes to be there.
    believes: BTreeMap<Bytes, Option<Bytes>>,
}

pub struct Clients {
    clients: Vec<Client>,
    waiting: BTreeMap<u64, Request>,
    last_id: u64,
    stopped: bool,
    /// Moments between two requests of a client, at most.
    pub pause: u64,
    /// Moments that a client waits for an answer.
    pub patience: u64,
}

impl Clients {
    pub fn new(seed: u64, count: u64, pause: u64, patience: u64) -> Self {
        let client =
            |at| Client { random: Random::new(seed, 100 + at), busy: false, next: 0, believes: BTreeMap::new() };
        let clients = (0..count).map(client).collect();
        Self { clients, waiting: BTreeMap::new(), last_id: 0, stopped: false, pause, patience }
    }

    /// Requests that are due, to some of the members that run.
    pub fn ask(&mut self, now: u64, members: &[usize], floor: i64) -> Vec<Request> {
        let (mut requests, patience) = (Vec::new(), self.patience);
        for (at, client) in self.clients.iter_mut().enumerate() {
            let Some(&member) = client.random.pick(members) else { continue };
            if client.busy || client.next > now {
                continue;
            }
            self.last_id += 1;
            let (key, action) = client.choose();
            let deadline = now + patience;
            let request = Request { id: self.last_id, client: at, member, key, action, floor, deadline };
            client.busy = true;
            self.waiting.insert(request.id, request.clone());
            requests.push(request);
        }
        requests
    }

    /// Nobody asks for anything any more.
    pub fn stop(&mut self) {
        self.clients.iter_mut().for_each(|client| client.next = u64::MAX);
        self.stopped = true;
    }

    /// The request that an answer of this member is for, if its client still waits.
    pub fn answered(&mut self, now: u64, member: usize, id: u64) -> Option<Request> {
        self.waiting.get(&id).filter(|request| request.member == member)?;
        self.end(now, id)
    }

    /// The clients of some requests give up.
    pub fn give_up(&mut self, now: u64, over: impl Fn(&Request) -> bool) -> Vec<Request> {
        let ids: Vec<u64> = self.waiting.values().filter(|request| over(request)).map(|request| request.id).collect();
        ids.into_iter().filter_map(|id| self.end(now, id)).collect()
    }

    /// The request is over, one way or another.
    pub fn end(&mut self, now: u64, id: u64) -> Option<Request> {
        let request = self.waiting.remove(&id)?;
        let client = &mut self.clients[request.client];
        client.busy = false;
        client.next = if self.stopped { u64::MAX } else { now + 1 + client.random.below(self.pause) };
        Some(request)
    }

    /// A client learns what a key holds.
    pub fn learn(&mut self, request: &Request, value: Option<Bytes>) {
        self.clients[request.client].believes.insert(request.key.clone(), value);
    }
}

impl Client {
    fn choose(&mut self) -> (Bytes, Action) {
        let key = Bytes::from(format!("key{}", self.random.below(KEYS)));
        let action = match self.random.below(10) {
            0..=2 => Action::Put,
            3 => Action::Delete,
            4 | 5 => Action::Swap { expected: self.believes.get(&key).cloned().flatten() },
            6..=8 => Action::Read,
            _ => Action::LocalRead,
        };
        (key, action)
    }
}
