//! Reading a range of keys (etcd: `server/etcdserver/txn/range.go`).

use std::cmp::Ordering;
use std::sync::Arc;

use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse};
use metastore_proto::mvccpb::KeyValue;

use super::header;

/// The position of `key` in a sorted list, or the position at which it would be inserted.
pub(super) fn find(keys: &[Arc<KeyValue>], key: &[u8]) -> Result<usize, usize> {
    keys.binary_search_by(|kv| kv.key[..].cmp(key))
}

/// Whether a key lies in a range: an empty `end` means `start` alone, one zero byte every key from `start` on.
pub fn is_inside(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

/// The part of a sorted list that lies in a range.
pub(super) fn alive<'a>(keys: &'a [Arc<KeyValue>], start: &[u8], end: &[u8]) -> Vec<&'a KeyValue> {
    let from = keys.partition_point(|kv| kv.key[..] < *start);
    keys[from..].iter().map(|kv| &**kv).take_while(|kv| is_inside(&kv.key, start, end)).collect()
}

/// Answers a range from the keys that were alive in it, in order. `revision` is the store's current revision.
pub fn answer(mut kvs: Vec<&KeyValue>, request: &RangeRequest, revision: i64) -> RangeResponse {
    let count = kvs.len() as i64;
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    if request.count_only {
        kvs.clear();
    }
    // etcd fetches only as many keys as it needs if it reads in key order, and sorts only the fetched keys. With a sort
    // target but no sort order this gives a wrong answer, but it is etcd's answer.
    if is_default_order(request) && !has_bounds(request) {
        kvs.truncate(limit.saturating_add(1));
    }
    kvs.retain(|kv| {
        is_within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && is_within(kv.create_revision, request.min_create_revision, request.max_create_revision)
    });
    kvs.sort_by(|a, b| {
        let ordering = compare(a, b, request.sort_target());
        if request.sort_order() == SortOrder::Descend { ordering.reverse() } else { ordering }
    });
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    let kvs =
        kvs.into_iter().map(|kv| if request.keys_only { without_value(kv, request) } else { kv.clone() }).collect();
    RangeResponse { header: header(revision), kvs, more, count }
}

fn is_default_order(request: &RangeRequest) -> bool {
    match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    }
}

fn has_bounds(request: &RangeRequest) -> bool {
    let bounds = [request.min_mod_revision, request.max_mod_revision];
    bounds != [0, 0] || [request.min_create_revision, request.max_create_revision] != [0, 0]
}

/// Bounds are inclusive; 0 is none.
fn is_within(number: i64, min: i64, max: i64) -> bool {
    (min == 0 || min <= number) && (max == 0 || number <= max)
}

/// The order of two keys in an answer that is sorted by `target`.
pub fn compare(a: &KeyValue, b: &KeyValue, target: SortTarget) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// For `keys_only` etcd answers from its index, which knows no leases, unless it had to read the values to sort by
/// them.
fn without_value(kv: &KeyValue, request: &RangeRequest) -> KeyValue {
    let lease = if request.sort_target() == SortTarget::Value { kv.lease } else { 0 };
    KeyValue { key: kv.key.clone(), value: Default::default(), lease, ..*kv }
}
