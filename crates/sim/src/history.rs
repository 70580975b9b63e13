//! The part of a run that clients saw. It can be judged from outside, whether the members were simulated or real
//! processes.
//!
//! Requests and answers are etcd's own messages. Time is any clock that all clients share; only its order matters.

use std::collections::BTreeMap;

use metastore_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
};
use metastore_proto::mvccpb::Event;

/// A moment of the clock that all clients share.
pub type Moment = u64;

/// The request of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Range(RangeRequest),
    Compact(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    /// By a client, or by the cluster because the lease has expired.
    LeaseRevoke(LeaseRevokeRequest),
}

/// The answer to a client. Of a header, only the revision counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Range(RangeResponse),
    Compact(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    /// Nothing was done; the text is etcd's.
    Refused(String),
}

/// One request. A request that certainly had no effect, because it was never accepted (no leader, queue full), is left
/// out.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub client: usize,
    pub request: Request,
    pub called: Moment,
    /// `None`: it may have taken effect at any moment after `called`, once, or never.
    pub returned: Option<(Moment, Response)>,
}

/// The changes of each revision as the cluster itself reports them to watchers: the order in which writes took effect.
/// Events are those of a watch with `prev_kv`, in the order of the operations.
pub type Revisions = BTreeMap<i64, Vec<Event>>;

/// One watcher, from its creation to its cancellation or the end of its connection.
#[derive(Clone, Debug)]
pub struct Watch {
    pub client: usize,
    pub request: WatchCreateRequest,
    /// In the order of arrival: the answer to the creation, events, progress, perhaps a cancellation.
    pub responses: Vec<WatchResponse>,
    /// The connection lasted until the end, so no event up to this revision may be missing.
    pub complete_to: Option<i64>,
    /// The newest compaction that any member may have known when the watch ended; 0 if there was none.
    pub compacted: i64,
}

/// A violated rule: a text that says which one, and where.
pub type Violation = String;

/// Continues if a check has found no violation.
///
/// # Panics
/// With the violation.
pub fn must(checked: Result<(), Violation>) {
    checked.unwrap_or_else(|violation| panic!("{violation}"));
}
