//! Correct histories for the tests of checkers: their operations were answered by a model.

use bytes::Bytes;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::request_op::Request as Nested;
use metastore_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};

use super::Model;
use crate::history::{Moment, Operation, Request, Response, Revisions};
use crate::random::Random;

#[derive(Clone, Default)]
pub struct Story {
    pub operations: Vec<Operation>,
    pub revisions: Revisions,
    pub model: Model,
    /// The model after each operation that took effect.
    pub models: Vec<Model>,
    habits: Habits,
    now: Moment,
}

impl Story {
    /// One request after the other, each returned before the next is called.
    pub fn of(requests: impl IntoIterator<Item = Request>) -> Self {
        let mut story = Self::default();
        requests.into_iter().for_each(|request| story.ask(request));
        story
    }

    /// Adds a request that is called, executed and answered at once.
    pub fn ask(&mut self, request: Request) {
        let at = self.call(0, request);
        let response = self.execute(at);
        self.give(at, response);
    }

    /// Adds a request with an unknown outcome; `happened` says whether it took effect.
    pub fn ask_in_vain(&mut self, request: Request, happened: bool) {
        let at = self.call(1, request);
        if happened {
            self.execute(at);
        }
    }

    pub fn call(&mut self, client: usize, request: Request) -> usize {
        self.now += 1;
        self.operations.push(Operation { client, request, called: self.now, returned: None });
        self.operations.len() - 1
    }

    /// An operation takes effect.
    pub fn execute(&mut self, at: usize) -> Response {
        let step = self.model.execute(&self.operations[at].request);
        if !step.events.is_empty() {
            self.revisions.insert(step.after.revision(), step.events);
        }
        self.model = step.after;
        self.models.push(self.model.clone());
        step.response
    }

    /// An operation returns.
    pub fn give(&mut self, at: usize, response: Response) {
        self.now += 1;
        self.operations[at].returned = Some((self.now, response));
    }

    pub fn response(&mut self, at: usize) -> &mut Response {
        match &mut self.operations[at].returned {
            Some((_, response)) => response,
            None => panic!("operation {at} has no answer"),
        }
    }
}

/// How clients behave.
#[derive(Clone, Copy)]
pub struct Habits {
    pub operations: usize,
    pub clients: usize,
    pub unknown_permille: u64,
    pub keys: u64,
    pub leases: u64,
    /// Requests whose change no revision shows, in thousandths; puts have a lease twice as often.
    pub hidden_permille: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self { operations: 120, clients: 8, unknown_permille: 100, keys: 12, leases: 20, hidden_permille: 100 }
    }
}

/// The progress of a client with its current request.
#[derive(Clone)]
enum Stage {
    Idle,
    Called(usize),
    Executed(usize, Response),
}

impl Story {
    /// A history of concurrent clients.
    pub fn random(seed: u64, habits: Habits) -> Self {
        let mut random = Random::new(seed, 0);
        let mut story = Self { habits, ..Self::default() };
        let mut stages = vec![Stage::Idle; habits.clients];
        let mut late = Vec::new();
        while story.operations.len() < habits.operations || stages.iter().any(|stage| !matches!(stage, Stage::Idle)) {
            story.now += 1;
            let client = random.below(habits.clients as u64) as usize;
            let stage = std::mem::replace(&mut stages[client], Stage::Idle);
            stages[client] = match stage {
                Stage::Idle if story.operations.len() < habits.operations => {
                    let request = story.any_request(&mut random);
                    Stage::Called(story.call(client, request))
                }
                Stage::Idle => Stage::Idle,
                Stage::Called(at) if random.permille(habits.unknown_permille) => {
                    late.push(at);
                    Stage::Idle
                }
                Stage::Called(at) => Stage::Executed(at, story.answer(at, &mut random)),
                Stage::Executed(at, response) => {
                    story.give(at, response);
                    Stage::Idle
                }
            };
            // Half of the operations with unknown outcome take effect, now or much later.
            if !late.is_empty() && random.permille(100) {
                let at = late.swap_remove(random.below(late.len() as u64) as usize);
                if random.permille(500) {
                    story.execute(at);
                }
            }
        }
        story
    }

    /// The answer to an operation. A member that lags may answer a serializable range.
    fn answer(&mut self, at: usize, random: &mut Random) -> Response {
        let request = &self.operations[at].request;
        let lag = (random.below(5) as usize).min(self.models.len());
        match self.models.len().checked_sub(lag).and_then(|n| self.models.get(n)) {
            Some(stale) if matches!(request, Request::Range(range) if range.serializable) => {
                stale.execute(request).response
            }
            _ => self.execute(at),
        }
    }

    pub fn any_request(&self, random: &mut Random) -> Request {
        if random.permille(self.habits.hidden_permille) {
            return match random.below(5) {
                0 => compact(self.some_revision(random)),
                1 | 2 => grant(self.any_lease(random)),
                _ => revoke(self.any_lease(random)),
            };
        }
        match random.below(10) {
            0..4 => Request::Put(self.any_put(random)),
            4 => Request::DeleteRange(self.any_delete(random)),
            5 | 6 => Request::Txn(self.any_txn(random)),
            _ => Request::Range(self.any_range(random)),
        }
    }

    fn any_lease(&self, random: &mut Random) -> i64 {
        random.between(1, self.habits.leases) as i64
    }

    fn any_key(&self, random: &mut Random) -> String {
        format!("k{}", random.below(self.habits.keys))
    }

    fn any_end(&self, random: &mut Random) -> Bytes {
        match random.below(4) {
            0 | 1 => Bytes::new(),
            2 => self.any_key(random).into(),
            _ => Bytes::from_static(b"\0"),
        }
    }

    fn any_delete(&self, random: &mut Random) -> DeleteRangeRequest {
        let range_end = if random.permille(200) { self.any_end(random) } else { Bytes::new() };
        DeleteRangeRequest { key: self.any_key(random).into(), range_end, prev_kv: random.permille(500) }
    }

    /// A put of a unique value.
    fn any_put(&self, random: &mut Random) -> PutRequest {
        let PutRequest { key, value, .. } = put_request(&self.any_key(random), &format!("{:x}", random.number()));
        let ignore_value = random.permille(30);
        PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if random.permille(2 * self.habits.hidden_permille) { self.any_lease(random) } else { 0 },
            prev_kv: random.permille(300),
            ignore_value,
            ignore_lease: false,
        }
    }

    fn any_range(&self, random: &mut Random) -> RangeRequest {
        RangeRequest {
            key: self.any_key(random).into(),
            range_end: self.any_end(random),
            limit: random.below(4) as i64,
            revision: if random.permille(150) { self.some_revision(random) } else { 0 },
            sort_order: random.below(3) as i32,
            sort_target: random.below(5) as i32,
            serializable: random.permille(200),
            keys_only: random.permille(100),
            count_only: random.permille(100),
            min_mod_revision: if random.permille(50) { self.some_revision(random) } else { 0 },
            ..RangeRequest::default()
        }
    }

    fn any_txn(&self, random: &mut Random) -> TxnRequest {
        let key = self.any_key(random);
        let known = self.model.get(key.as_bytes()).map_or(0, |kv| kv.mod_revision);
        let guess = if random.permille(700) { known } else { self.some_revision(random) };
        let put =
            |random: &mut Random| Nested::RequestPut(PutRequest { key: key.clone().into(), ..self.any_put(random) });
        let read = |random: &mut Random| Nested::RequestRange(RangeRequest { revision: 0, ..self.any_range(random) });
        let delete =
            Nested::RequestDeleteRange(DeleteRangeRequest { key: key.clone().into(), ..self.any_delete(random) });
        let success = match random.below(4) {
            0 => vec![put(random)],
            1 => vec![read(random), put(random), read(random)],
            2 => vec![delete, read(random)],
            _ => {
                vec![Nested::RequestTxn(txn(vec![created(&key)], vec![put(random)], vec![read(random)])), read(random)]
            }
        };
        txn(vec![modified(&key, guess)], success, vec![read(random)])
    }

    fn some_revision(&self, random: &mut Random) -> i64 {
        let now = self.model.revision() as u64;
        random.between(now.saturating_sub(8), now + 1) as i64
    }
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

pub fn put(key: &str, value: &str) -> Request {
    Request::Put(put_request(key, value))
}

pub fn put_with_lease(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(PutRequest { lease, ..put_request(key, value) })
}

pub fn get(key: &str) -> Request {
    Request::Range(RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() })
}

pub fn get_at(key: &str, revision: i64) -> Request {
    Request::Range(RangeRequest { key: key.to_owned().into(), revision, ..RangeRequest::default() })
}

pub fn delete(key: &str) -> Request {
    Request::DeleteRange(DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() })
}

pub fn compact(revision: i64) -> Request {
    Request::Compact(CompactionRequest { revision, physical: false })
}

pub fn grant(id: i64) -> Request {
    Request::LeaseGrant(LeaseGrantRequest { ttl: 60, id })
}

pub fn revoke(id: i64) -> Request {
    Request::LeaseRevoke(LeaseRevokeRequest { id })
}

/// Puts if the key was not modified since `revision`; reads it otherwise.
pub fn update(key: &str, revision: i64, value: &str) -> Request {
    let read = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let put = Nested::RequestPut(put_request(key, value));
    Request::Txn(txn(vec![modified(key, revision)], vec![put], vec![Nested::RequestRange(read)]))
}

fn txn(compare: Vec<Compare>, success: Vec<Nested>, failure: Vec<Nested>) -> TxnRequest {
    let ops =
        |requests: Vec<Nested>| requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    TxnRequest { compare, success: ops(success), failure: ops(failure) }
}

fn modified(key: &str, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    }
}

fn created(key: &str) -> Compare {
    let target_union = Some(TargetUnion::CreateRevision(0));
    let (result, target) = (CompareResult::Greater.into(), CompareTarget::Create.into());
    Compare { result, target, key: key.to_owned().into(), target_union, ..Compare::default() }
}
