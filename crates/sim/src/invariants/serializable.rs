//! Reads of a former state: a serializable range, or one with a revision, returns the key space at that revision.
//!
//! The key space at every revision follows from the events that the cluster sent to its watchers. Whether writes took
//! effect at the right time is checked in [`super::linearizable`]. A serializable range may be arbitrarily stale (etcd:
//! "Serializable range requests have better performance, but may return stale data"). So its time is checked in one
//! respect only: if it was refused as compacted, a compaction at a later revision had been requested before.

use std::collections::BTreeMap;

use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse};
use metastore_proto::mvccpb::KeyValue;
use metastore_proto::mvccpb::event::EventType;

use crate::history::{Operation, Request, Response, Revisions, Violation};
use crate::model::{COMPACTED, FUTURE_REVISION, range};

/// Every version of every key.
struct Versions<'a> {
    /// By key, in the order of revisions; `None` where the key was deleted.
    keys: BTreeMap<&'a [u8], Vec<(i64, Option<&'a KeyValue>)>>,
    last: i64,
}

/// Checks that each serializable range, and each range with a revision, returned the key space at its revision.
///
/// `revisions` holds every revision from 2 to the last.
///
/// # Errors
/// The first range with a wrong answer.
pub fn check(operations: &[Operation], revisions: &Revisions) -> Result<(), Violation> {
    let versions = Versions::new(revisions);
    let mut compactions = None;
    for (number, operation) in operations.iter().enumerate() {
        let Request::Range(request) = &operation.request else { continue };
        if !request.serializable && request.revision == 0 {
            continue;
        }
        let what = |why: String| format!("not what the key space was: operation {number}, {operation:?}: {why}");
        match &operation.returned {
            Some((_, Response::Range(response))) => versions.check(request, response).map_err(what)?,
            Some((moment, Response::Refused(text))) if text == COMPACTED && request.revision > 0 => {
                let compactions = compactions.get_or_insert_with(|| compactions_of(operations));
                let is_due = |(called, revision): &(u64, i64)| called <= moment && *revision > request.revision;
                if !compactions.iter().any(is_due) {
                    return Err(what("nobody had asked for a compaction of that revision".to_string()));
                }
            }
            // A member that lags does not have the revision yet.
            Some((_, Response::Refused(text))) if text == FUTURE_REVISION && request.revision > 1 => {}
            Some(_) => return Err(what("there is no reason for this answer".to_string())),
            None => {}
        }
    }
    Ok(())
}

/// The moments at which compactions were requested, and their revisions.
fn compactions_of(operations: &[Operation]) -> Vec<(u64, i64)> {
    let compaction = |operation: &Operation| match &operation.request {
        Request::Compact(compact) => Some((operation.called, compact.revision)),
        _ => None,
    };
    operations.iter().filter_map(compaction).collect()
}

impl<'a> Versions<'a> {
    fn new(revisions: &'a Revisions) -> Self {
        let mut keys: BTreeMap<&[u8], Vec<_>> = BTreeMap::new();
        for (revision, event) in
            revisions.iter().flat_map(|(revision, events)| events.iter().map(move |e| (*revision, e)))
        {
            let Some(kv) = &event.kv else { continue };
            let alive = Some(kv).filter(|_| event.r#type() == EventType::Put);
            keys.entry(&kv.key[..]).or_default().push((revision, alive));
        }
        Self { keys, last: revisions.keys().next_back().copied().unwrap_or(1) }
    }

    /// The keys that were alive in the range of a request at `revision`, in key order.
    fn alive(&self, request: &RangeRequest, revision: i64) -> Vec<&'a KeyValue> {
        let from = self.keys.range(&request.key[..]..);
        let inside = from.take_while(|(key, _)| range::is_inside(key, &request.key, &request.range_end));
        let newest = |versions: &Vec<(i64, Option<&'a KeyValue>)>| {
            let behind = versions.partition_point(|(at, _)| *at <= revision);
            versions[..behind].last().and_then(|(_, alive)| *alive)
        };
        inside.filter_map(|(_, versions)| newest(versions)).collect()
    }

    fn check(&self, request: &RangeRequest, response: &RangeResponse) -> Result<(), String> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if !(1..=self.last).contains(&revision) {
            return Err(format!("answered at revision {revision}, but the revisions are 1 to {}", self.last));
        }
        let at = if request.revision > 0 { request.revision } else { revision };
        if at > revision {
            return Err(format!("answered at revision {revision}, before the one that was asked for"));
        }
        let expected =
            RangeResponse { header: response.header, ..range::answer(self.alive(request, at), request, revision) };
        if expected == *response { Ok(()) } else { Err(format!("at revision {at} the answer is {expected:?}")) }
    }
}

#[cfg(test)]
mod tests;
