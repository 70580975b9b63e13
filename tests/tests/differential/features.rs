//! The cells of the coverage table that a call and its answer hit.

use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::response_op::Response;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::Event;
use metastore_proto::mvccpb::event::EventType;

use super::call::{Answer, Call, WatchCall};
use super::coverage::Coverage;
use super::grammar::{MAX_LEASE_TTL, Seen};
use super::txns::{result_name, target_name};

const CALLS: [&str; 15] = [
    "Range",
    "RangeStream",
    "Put",
    "DeleteRange",
    "Txn",
    "Compact",
    "HashKV",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseKeepAlive",
    "LeaseTimeToLive",
    "LeaseLeases",
    "Status",
    "unknown method",
    "Watch",
];
const RANGES: [&str; 20] = [
    "one key",
    "range_end \\0",
    "range with end",
    "end before key",
    "limit cuts",
    "limit not reached",
    "negative limit",
    "current revision",
    "past revision",
    "compacted revision itself",
    "negative revision",
    "serializable",
    "keys_only",
    "count_only",
    "min_mod",
    "max_mod",
    "min_create",
    "max_create",
    "nothing found",
    "sorted and cut",
];
const STREAMS: [&str; 4] = ["many keys", "limit cuts", "count_only", "keys_only"];
const PUTS: [&str; 7] =
    ["prev_kv found", "prev_kv absent", "with lease", "ignore_value", "ignore_lease", "ignore both", "empty value"];
const DELETES: [&str; 4] = ["nothing", "one key", "many keys", "with prev_kvs"];
const TXNS: [&str; 15] = [
    "depth 1",
    "depth 2",
    "depth 3",
    "succeeded",
    "failed",
    "empty branch",
    "range",
    "put",
    "delete",
    "range after write",
    "range compare holds",
    "range compare fails",
    "unknown compare target",
    "unknown compare result",
    "no operand",
];
const COMPACTS: [&str; 3] = ["plain", "physical", "at the current revision"];
const HASHES: [&str; 2] = ["revision 0", "past revision"];
const LEASES: [&str; 12] = [
    "granted",
    "id chosen by server",
    "TTL raised",
    "longest TTL",
    "renewed",
    "renewal of none",
    "remaining",
    "with keys",
    "remaining of none",
    "revoked",
    "revoked with keys",
    "listed",
];
const WATCHES: [&str; 20] = [
    "from now",
    "from the past",
    "from the future",
    "from the compacted revision",
    "compacted",
    "negative start",
    "empty range",
    "duplicate id",
    "id chosen by client",
    "id chosen by server",
    "prev_kv",
    "progress_notify",
    "fragment",
    "no puts",
    "no deletes",
    "neither",
    "unknown filter",
    "canceled",
    "progress",
    "fragment received",
];
const EVENTS: [&str; 5] = ["create", "update", "delete", "with prev_kv", "by lease expiry"];
/// Prefixes of error messages.
const ERRORS: [&str; 18] = [
    "etcdserver: key is not provided",
    "etcdserver: key not found",
    "etcdserver: value is provided",
    "etcdserver: lease is provided",
    "etcdserver: too many operations in txn request",
    "etcdserver: duplicate key given in txn request",
    "etcdserver: invalid sort option",
    "etcdserver: request is too large",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
    "etcdserver: too large lease TTL",
    "etcdserver: requested lease not found",
    "etcdserver: lease already exists",
    "RangeStream does not support custom sort orders",
    "RangeStream does not support revision filters",
    "grpc: received message larger than max",
    "unknown method",
    "unknown service",
];

/// All cells of the table.
pub fn cells() -> Vec<(&'static str, String)> {
    let lists: [(&str, &[&str]); 11] = [
        ("call", &CALLS),
        ("range", &RANGES),
        ("range stream", &STREAMS),
        ("put", &PUTS),
        ("delete", &DELETES),
        ("txn", &TXNS),
        ("compact", &COMPACTS),
        ("hash", &HASHES),
        ("lease", &LEASES),
        ("watch", &WATCHES),
        ("event", &EVENTS),
    ];
    let mut cells: Vec<(&str, String)> = Vec::new();
    for (group, names) in lists {
        cells.extend(names.iter().map(|name| (group, name.to_string())));
    }
    cells.extend(ERRORS.iter().map(|message| ("error", message.to_string())));
    for order in 0..3 {
        cells.extend((0..5).map(|target| ("sort", sort_name(order, target))));
    }
    for (target, result) in (0..5).flat_map(|target| (0..4).map(move |result| (target, result))) {
        cells.extend([true, false].map(|holds| ("compare", compare_name(target, result, holds))));
    }
    cells
}

fn sort_name(order: i32, target: i32) -> String {
    let order = SortOrder::try_from(order).map_or("unknown", |order| order.as_str_name());
    let target = SortTarget::try_from(target).map_or("unknown", |target| target.as_str_name());
    format!("{target} {order}")
}

fn compare_name(target: i32, result: i32, holds: bool) -> String {
    let holds = if holds { "holds" } else { "fails" };
    format!("{} {} {holds}", target_name(target), result_name(result))
}

/// Whether the table has a cell for this answer. An error text without a cell is a gap in the table.
pub fn is_listed(answer: &Answer) -> bool {
    match answer {
        Answer::Error(_, message) => ERRORS.iter().any(|start| message.starts_with(start)),
        _ => true,
    }
}

/// Counts the cells that this call and its answer hit. `seen` is the state before the call.
pub fn observe(call: &Call, answer: &Answer, seen: &Seen, coverage: &mut Coverage) {
    coverage.hit("call", call_name(call));
    if let Answer::Error(_, message) = answer {
        let known = ERRORS.iter().find(|start| message.starts_with(**start));
        return coverage.hit("error", known.map_or("unlisted", |start| start));
    }
    let mut hit = |group: &'static str, cell: &str, condition: bool| {
        if condition {
            coverage.hit(group, cell);
        }
    };
    match (call, answer) {
        (Call::Range(request), Answer::Range(answer)) => range(request, answer, seen, &mut hit),
        (Call::RangeStream(request), Answer::Range(answer)) => {
            hit("range stream", "many keys", answer.kvs.len() > 10);
            hit("range stream", "limit cuts", answer.more);
            hit("range stream", "count_only", request.count_only && answer.count > 0);
            hit("range stream", "keys_only", request.keys_only && !answer.kvs.is_empty());
        }
        (Call::Put(request), Answer::Put(answer)) => put(request, answer, &mut hit),
        (Call::Delete(_), Answer::Delete(answer)) => {
            hit("delete", "nothing", answer.deleted == 0);
            hit("delete", "one key", answer.deleted == 1);
            hit("delete", "many keys", answer.deleted > 1);
            hit("delete", "with prev_kvs", !answer.prev_kvs.is_empty());
        }
        (Call::Txn(request), Answer::Txn(answer)) => {
            compares(request, answer, &mut hit);
            txn(request, answer, 1, &mut hit);
        }
        (Call::Compact(request), Answer::Compact(_)) => {
            hit("compact", if request.physical { "physical" } else { "plain" }, true);
            hit("compact", "at the current revision", request.revision == seen.current);
        }
        (Call::HashKv(request), Answer::HashKv(_)) => {
            hit("hash", "revision 0", request.revision == 0);
            hit("hash", "past revision", (1..seen.current).contains(&request.revision));
        }
        (Call::Watch(watch), Answer::Watch(answer)) => watching(watch, answer, seen, &mut hit),
        (call, answer) => lease(call, answer, seen, &mut hit),
    }
}

fn call_name(call: &Call) -> &'static str {
    match call {
        Call::Range(_) => "Range",
        Call::RangeStream(_) => "RangeStream",
        Call::Put(_) => "Put",
        Call::Delete(_) => "DeleteRange",
        Call::Txn(_) => "Txn",
        Call::Compact(_) => "Compact",
        Call::HashKv(_) => "HashKV",
        Call::Grant(_) => "LeaseGrant",
        Call::Revoke(_) => "LeaseRevoke",
        Call::KeepAlive(_) => "LeaseKeepAlive",
        Call::TimeToLive(_) => "LeaseTimeToLive",
        Call::Leases(_) => "LeaseLeases",
        Call::Status(_) => "Status",
        Call::Unknown(_) => "unknown method",
        Call::Watch(_) => "Watch",
    }
}

type Hit<'a> = dyn FnMut(&'static str, &str, bool) + 'a;

fn range(request: &RangeRequest, answer: &RangeResponse, seen: &Seen, hit: &mut Hit) {
    let found = answer.kvs.len() as i64;
    let bounded = !request.range_end.is_empty() && request.range_end[..] != *b"\0";
    hit("range", "one key", request.range_end.is_empty() && found == 1);
    hit("range", "range_end \\0", request.range_end[..] == *b"\0" && found > 1);
    hit("range", "range with end", bounded && found > 0);
    hit("range", "end before key", bounded && request.range_end <= request.key);
    hit("range", "limit cuts", answer.more);
    hit("range", "limit not reached", request.limit > found && found > 1);
    hit("range", "negative limit", request.limit < 0 && found > 0);
    hit("range", "current revision", request.revision == seen.current);
    hit("range", "past revision", (1..seen.current).contains(&request.revision) && found > 0);
    hit("range", "compacted revision itself", request.revision > 0 && request.revision == seen.compacted);
    hit("range", "negative revision", request.revision < 0);
    hit("range", "serializable", request.serializable && found > 0);
    hit("range", "keys_only", request.keys_only && found > 0);
    hit("range", "count_only", request.count_only && answer.count > 0);
    let filtered = found > 0 && found < answer.count;
    hit("range", "min_mod", request.min_mod_revision > 0 && filtered);
    hit("range", "max_mod", request.max_mod_revision > 0 && filtered);
    hit("range", "min_create", request.min_create_revision > 0 && filtered);
    hit("range", "max_create", request.max_create_revision > 0 && filtered);
    hit("range", "nothing found", answer.count == 0);
    hit("range", "sorted and cut", answer.more && (request.sort_order == 2 || request.sort_target > 0));
    hit("sort", &sort_name(request.sort_order, request.sort_target), found > 1);
}

fn put(request: &PutRequest, answer: &PutResponse, hit: &mut Hit) {
    hit("put", "prev_kv found", answer.prev_kv.is_some());
    hit("put", "prev_kv absent", request.prev_kv && answer.prev_kv.is_none());
    hit("put", "with lease", request.lease != 0);
    hit("put", "ignore_value", request.ignore_value);
    hit("put", "ignore_lease", request.ignore_lease);
    hit("put", "ignore both", request.ignore_value && request.ignore_lease);
    hit("put", "empty value", request.value.is_empty() && !request.ignore_value);
}

/// The outcome of a compare is visible only if it is the only one of its transaction.
fn compares(request: &TxnRequest, answer: &TxnResponse, hit: &mut Hit) {
    let [compare] = &request.compare[..] else { return };
    let known = (0..5).contains(&compare.target) && (0..4).contains(&compare.result);
    hit("txn", "unknown compare target", !(0..5).contains(&compare.target));
    hit("txn", "unknown compare result", !(0..4).contains(&compare.result));
    hit("txn", "no operand", compare.target_union.is_none());
    if compare.range_end.is_empty() {
        hit("compare", &compare_name(compare.target, compare.result, answer.succeeded), known);
    } else {
        hit("txn", if answer.succeeded { "range compare holds" } else { "range compare fails" }, true);
    }
}

fn txn(request: &TxnRequest, answer: &TxnResponse, depth: usize, hit: &mut Hit) {
    hit("txn", ["depth 1", "depth 2", "depth 3"][depth - 1], true);
    hit("txn", if answer.succeeded { "succeeded" } else { "failed" }, true);
    hit("txn", "empty branch", answer.responses.is_empty());
    let taken = if answer.succeeded { &request.success } else { &request.failure };
    let mut wrote = false;
    for (request, answer) in taken.iter().zip(&answer.responses) {
        match (&request.request, &answer.response) {
            (Some(Request::RequestRange(_)), _) => {
                hit("txn", "range", true);
                hit("txn", "range after write", wrote);
            }
            (Some(Request::RequestPut(_)), _) => {
                hit("txn", "put", true);
                wrote = true;
            }
            (Some(Request::RequestDeleteRange(_)), Some(Response::ResponseDeleteRange(answer))) => {
                hit("txn", "delete", true);
                wrote |= answer.deleted > 0;
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(answer))) => {
                txn(request, answer, depth + 1, hit);
            }
            _ => {}
        }
    }
}

fn lease(call: &Call, answer: &Answer, seen: &Seen, hit: &mut Hit) {
    match (call, answer) {
        (Call::Grant(request), Answer::Grant(answer)) => {
            hit("lease", "granted", true);
            hit("lease", "id chosen by server", request.id == 0);
            hit("lease", "TTL raised", answer.ttl > request.ttl);
            hit("lease", "longest TTL", answer.ttl == MAX_LEASE_TTL);
        }
        (_, Answer::KeepAlive(answer)) => {
            hit("lease", if answer.ttl > 0 { "renewed" } else { "renewal of none" }, true);
        }
        (_, Answer::TimeToLive(answer)) => {
            hit("lease", if answer.ttl > 0 { "remaining" } else { "remaining of none" }, true);
            hit("lease", "with keys", !answer.keys.is_empty());
        }
        (_, Answer::Revoke(answer)) => {
            let moved = answer.header.is_some_and(|header| header.revision > seen.current);
            hit("lease", if moved { "revoked with keys" } else { "revoked" }, true);
        }
        (_, Answer::Leases(answer)) => hit("lease", "listed", !answer.leases.is_empty()),
        _ => {}
    }
}

fn watching(watch: &WatchCall, answer: &WatchResponse, seen: &Seen, hit: &mut Hit) {
    let WatchCall::Create { request, .. } = watch else {
        hit("watch", "canceled", answer.canceled);
        return hit("watch", "progress", !answer.canceled);
    };
    let start = request.start_revision;
    hit("watch", "compacted", answer.compact_revision > 0);
    if answer.canceled {
        hit("watch", "negative start", start < 0);
        hit("watch", "empty range", answer.cancel_reason.contains("empty"));
        hit("watch", "duplicate id", answer.cancel_reason.contains("duplicate"));
        return;
    }
    hit("watch", "from now", start == 0);
    hit("watch", "from the past", start > 0 && start <= seen.current);
    hit("watch", "from the future", start > seen.current);
    hit("watch", "from the compacted revision", start > 0 && start == seen.compacted);
    hit("watch", if request.watch_id == 0 { "id chosen by server" } else { "id chosen by client" }, true);
    hit("watch", "prev_kv", request.prev_kv);
    hit("watch", "progress_notify", request.progress_notify);
    hit("watch", "fragment", request.fragment);
    let [puts, deletes] = [0, 1].map(|filter| request.filters.contains(&filter));
    hit("watch", "no puts", puts && !deletes);
    hit("watch", "no deletes", deletes && !puts);
    hit("watch", "neither", puts && deletes);
    hit("watch", "unknown filter", request.filters.iter().any(|filter| *filter > 1));
}

/// Counts the kinds of events.
pub fn observe_events(events: &[Event], coverage: &mut Coverage) {
    for event in events {
        let created = event.kv.as_ref().is_some_and(|kv| kv.create_revision == kv.mod_revision);
        let kind = match EventType::try_from(event.r#type) {
            Ok(EventType::Delete) => "delete",
            _ if created => "create",
            _ => "update",
        };
        coverage.hit("event", kind);
        if event.prev_kv.is_some() {
            coverage.hit("event", "with prev_kv");
        }
    }
}

/// Counts the deletes that the end of a lease caused.
pub fn observe_expiry(events: &[Event], coverage: &mut Coverage) {
    events.iter().for_each(|_| coverage.hit("event", "by lease expiry"));
}
