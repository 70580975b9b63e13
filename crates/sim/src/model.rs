//! A model of etcd's key space, as plain as possible. Members' answers are judged by it.
//!
//! ```text
//!   Model ── execute(Request) ──▶ Step { after: Model, response, events }
//! ```
//!
//! A model is a value: executing a request leaves it unchanged and returns a new one. Both share all unchanged data, so
//! that a search can keep thousands of models. The live keys are one sorted list, copied by each revision that changes
//! it. Earlier lists stay reachable, for reads at earlier revisions.
//!
//! Users and their permissions have a model of their own ([`users`]).
//!
//! Deliberately absent: an index, leases that end by themselves (their end is a request like any other),
//! alarms, and every check that the API makes before a request reaches the log. Nothing here comes from
//! the store that is judged. The rules are those of etcd's `server/etcdserver/txn` and `server/lease`.

pub mod range;
#[cfg(test)]
pub mod story;
mod txn;
pub mod users;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use metastore_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};
use metastore_proto::mvccpb::event::EventType;
use metastore_proto::mvccpb::{Event, KeyValue};

use crate::history::{Request, Response};

/// etcd's texts of the refusals that depend on the state.
pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub const FUTURE_REVISION: &str = "etcdserver: mvcc: required revision is a future revision";
pub const KEY_NOT_FOUND: &str = "etcdserver: key not found";
pub const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
pub const LEASE_EXISTS: &str = "etcdserver: lease already exists";
pub const LEASE_TTL_TOO_LARGE: &str = "etcdserver: too large lease TTL";

/// All of these texts.
pub const REFUSALS: [&str; 6] =
    [COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_NOT_FOUND, LEASE_EXISTS, LEASE_TTL_TOO_LARGE];

/// The longest time to live that a lease may request, in seconds.
const MAX_TTL_S: i64 = 9_000_000_000;

/// The result of an operation, or the text of its refusal.
type Answer<T> = Result<T, &'static str>;

/// The live keys, in order.
type Keys = Vec<Arc<KeyValue>>;

/// The whole key space at one moment, and at each revision before it.
#[derive(Clone, Debug)]
pub struct Model {
    revision: i64,
    compacted: i64,
    keys: Arc<Keys>,
    leases: Arc<BTreeSet<i64>>,
    past: Option<Arc<Past>>,
}

/// The key space as it was from `revision` on, until the next one.
#[derive(Debug)]
struct Past {
    revision: i64,
    keys: Arc<Keys>,
    before: Option<Arc<Past>>,
}

/// The result of one request.
#[derive(Debug)]
pub struct Step {
    pub after: Model,
    pub response: Response,
    /// The events of the revision that was made, for watchers with `prev_kv`; empty if none was made.
    pub events: Vec<Event>,
}

/// One request during its execution: later parts of it see the changes of earlier parts.
struct Writing {
    model: Model,
    events: Vec<Event>,
}

impl Default for Model {
    /// An empty store: revision 1, never compacted.
    fn default() -> Self {
        let (keys, leases, past) = Default::default();
        Self { revision: 1, compacted: -1, keys, leases, past }
    }
}

impl Drop for Past {
    /// Drops the list in a loop: dropping a long list by recursion could overflow the stack.
    fn drop(&mut self) {
        let mut next = self.before.take();
        while let Some(mut past) = next.and_then(Arc::into_inner) {
            next = past.before.take();
        }
    }
}

impl Model {
    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction; -1 before the first.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The ids of all leases.
    pub fn leases(&self) -> &Arc<BTreeSet<i64>> {
        &self.leases
    }

    /// Whether nothing changed between two models of which one came from the other. Keys change only with the revision.
    pub fn is_unchanged_in(&self, after: &Model) -> bool {
        self.revision == after.revision && self.compacted == after.compacted && self.leases == after.leases
    }

    /// Executes a request. A refusal changes nothing.
    pub fn execute(&self, request: &Request) -> Step {
        let mut writing = Writing { model: self.clone(), events: Vec::new() };
        let answer = match request {
            Request::Put(put) => self.check_put(put).map(|()| Response::Put(writing.put(put))),
            Request::DeleteRange(delete) => Ok(Response::DeleteRange(writing.delete_range(delete))),
            Request::Txn(txn) => writing.txn(txn).map(Response::Txn),
            Request::Range(range) => self.range(range).map(Response::Range),
            Request::Compact(compact) => writing.compact(compact.revision).map(Response::Compact),
            Request::LeaseGrant(grant) => writing.grant(grant).map(Response::LeaseGrant),
            Request::LeaseRevoke(revoke) => writing.revoke(revoke.id).map(Response::LeaseRevoke),
        };
        match answer {
            Ok(response) => writing.end(response),
            Err(text) => {
                Step { after: self.clone(), response: Response::Refused(text.to_string()), events: Vec::new() }
            }
        }
    }

    /// The same keys, never compacted, with these leases.
    pub fn with_leases(self, leases: Arc<BTreeSet<i64>>) -> Self {
        Self { compacted: -1, leases, ..self }
    }

    /// The key space after a revision of which only the events are known.
    pub fn after_events(&self, events: &[Event]) -> Self {
        let mut after = self.clone();
        let keys = Arc::make_mut(&mut after.keys);
        for (event, kv) in events.iter().filter_map(|event| Some((event, event.kv.as_ref()?))) {
            match (range::find(keys, &kv.key), event.r#type()) {
                (Ok(at), EventType::Put) => keys[at] = Arc::new(kv.clone()),
                (Err(at), EventType::Put) => keys.insert(at, Arc::new(kv.clone())),
                (Ok(at), EventType::Delete) => drop(keys.remove(at)),
                (Err(_), EventType::Delete) => {}
            }
        }
        after.advance();
        after
    }

    /// Makes a new revision with the current keys.
    fn advance(&mut self) {
        self.revision += 1;
        let (keys, before) = (self.keys.clone(), self.past.take());
        self.past = Some(Arc::new(Past { revision: self.revision, keys, before }));
    }

    fn get(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        range::find(&self.keys, key).ok().map(|at| &self.keys[at])
    }

    /// The key space as it was at `revision`.
    fn keys_at(&self, revision: i64) -> &[Arc<KeyValue>] {
        if revision >= self.revision {
            return &self.keys;
        }
        let mut past = self.past.as_deref();
        while let Some(earlier) = past.filter(|past| past.revision > revision) {
            past = earlier.before.as_deref();
        }
        past.map_or(&[], |past| &past.keys)
    }

    /// The revision at which a read with `revision` in its request is answered.
    fn readable(&self, revision: i64) -> Answer<i64> {
        match revision {
            r if r > self.revision => Err(FUTURE_REVISION),
            r if r <= 0 => Ok(self.revision),
            r if r < self.compacted => Err(COMPACTED),
            r => Ok(r),
        }
    }

    fn range(&self, request: &RangeRequest) -> Answer<RangeResponse> {
        let at = self.readable(request.revision)?;
        Ok(range::answer(range::alive(self.keys_at(at), &request.key, &request.range_end), request, self.revision))
    }

    /// Checks the preconditions of a put: its lease, and the key if the put keeps the key's value or lease.
    fn check_put(&self, put: &PutRequest) -> Answer<()> {
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return Err(LEASE_NOT_FOUND);
        }
        if (put.ignore_value || put.ignore_lease) && self.get(&put.key).is_none() {
            return Err(KEY_NOT_FOUND);
        }
        Ok(())
    }
}

impl Writing {
    /// The revision that this request sees: a new one as soon as it has written.
    fn seen(&self) -> i64 {
        self.model.revision + i64::from(!self.events.is_empty())
    }

    fn header(&self) -> Option<ResponseHeader> {
        header(self.seen())
    }

    /// Executes a put whose preconditions were checked.
    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let new = self.model.revision + 1;
        let found = range::find(&self.model.keys, &put.key);
        let before = found.ok().map(|at| KeyValue::clone(&self.model.keys[at]));
        let old = before.as_ref();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.map_or(new, |old| old.create_revision),
            mod_revision: new,
            version: old.map_or(0, |old| old.version) + 1,
            value: old.filter(|_| put.ignore_value).map_or(put.value.clone(), |old| old.value.clone()),
            lease: old.filter(|_| put.ignore_lease).map_or(put.lease, |old| old.lease),
        };
        let keys = Arc::make_mut(&mut self.model.keys);
        match found {
            Ok(at) => keys[at] = Arc::new(kv.clone()),
            Err(at) => keys.insert(at, Arc::new(kv.clone())),
        }
        self.events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: before.clone() });
        PutResponse { header: self.header(), prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, key: &Bytes) -> Option<KeyValue> {
        let at = range::find(&self.model.keys, key).ok()?;
        let before = KeyValue::clone(&Arc::make_mut(&mut self.model.keys).remove(at));
        let kv = KeyValue { key: key.clone(), mod_revision: self.model.revision + 1, ..KeyValue::default() };
        self.events.push(Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: Some(before.clone()) });
        Some(before)
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed = range::alive(&self.model.keys, &request.key, &request.range_end);
        let doomed: Vec<Bytes> = doomed.iter().map(|kv| kv.key.clone()).collect();
        let gone: Vec<KeyValue> = doomed.iter().filter_map(|key| self.delete(key)).collect();
        let deleted = gone.len() as i64;
        let prev_kvs = if request.prev_kv { gone } else { Vec::new() };
        DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    fn compact(&mut self, revision: i64) -> Answer<CompactionResponse> {
        if revision <= self.model.compacted {
            return Err(COMPACTED);
        }
        if revision > self.model.revision {
            return Err(FUTURE_REVISION);
        }
        self.model.compacted = revision;
        Ok(CompactionResponse { header: self.header() })
    }

    fn grant(&mut self, request: &LeaseGrantRequest) -> Answer<LeaseGrantResponse> {
        let LeaseGrantRequest { id, ttl } = *request;
        match id {
            0 => Err(LEASE_NOT_FOUND),
            _ if ttl > MAX_TTL_S => Err(LEASE_TTL_TOO_LARGE),
            _ if self.model.leases.contains(&id) => Err(LEASE_EXISTS),
            _ => {
                Arc::make_mut(&mut self.model.leases).insert(id);
                Ok(LeaseGrantResponse { header: self.header(), id, ttl, error: String::new() })
            }
        }
    }

    /// Removes the lease, and deletes its keys.
    fn revoke(&mut self, id: i64) -> Answer<LeaseRevokeResponse> {
        if !self.model.leases.contains(&id) {
            return Err(LEASE_NOT_FOUND);
        }
        Arc::make_mut(&mut self.model.leases).remove(&id);
        let attached = self.model.keys.iter().filter(|kv| kv.lease == id);
        let attached: Vec<Bytes> = attached.map(|kv| kv.key.clone()).collect();
        for key in &attached {
            self.delete(key);
        }
        Ok(LeaseRevokeResponse { header: self.header() })
    }

    /// Turns the writes into the next revision.
    fn end(self, response: Response) -> Step {
        let Self { model: mut after, events } = self;
        if !events.is_empty() {
            after.advance();
        }
        Step { after, response, events }
    }
}

/// A header with only the revision, the one field that the model knows.
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

#[cfg(test)]
mod tests;
