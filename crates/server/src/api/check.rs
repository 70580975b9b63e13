//! Checks of a request, before anything is read from the state (etcd: `server/etcdserver/api/v3rpc/key.go`).

use std::collections::{BTreeMap, BTreeSet};

use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::config::url;
use crate::grpc::Status;
use crate::member::errors;

pub fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(errors::empty_key());
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(errors::invalid_sort_option());
    }
    Ok(())
}

pub fn put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(errors::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(errors::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(errors::lease_provided());
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(errors::empty_key()) } else { Ok(()) }
}

/// The most peer URLs that one member may have. Each is tried when the member is dialed, and is in every member list.
const MAX_PEER_URLS: usize = 64;
/// The most bytes of one peer URL. Host names have at most 253.
const MAX_PEER_URL_BYTES: usize = 1024;

/// The peer URLs of a member that is added or updated, sorted as etcd sorts them. A URL that this member could not
/// dial, because it asks for TLS, for example, is refused like a malformed one.
pub fn peer_urls(urls: &[String]) -> Result<Vec<String>, Status> {
    let longest = urls.iter().map(String::len).max().unwrap_or_default();
    if urls.len() > MAX_PEER_URLS || longest > MAX_PEER_URL_BYTES {
        seldom!(
            warn,
            (),
            urls = urls.len(),
            "longest-url-bytes" = longest,
            "refused the peer URLs of a member: at most {MAX_PEER_URLS} of {MAX_PEER_URL_BYTES} bytes each"
        );
        return Err(errors::member_bad_urls());
    }
    let parsed: Result<Vec<_>, _> = urls.iter().map(|text| url::parse(text).map(|url| url.text)).collect();
    let mut urls = parsed.map_err(|error| {
        seldom!(warn, (), error = %error, "refused the peer URLs of a member");
        errors::member_bad_urls()
    })?;
    urls.sort_unstable();
    if urls.is_empty() { Err(errors::member_bad_urls()) } else { Ok(urls) }
}

pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    within_limits(request, max_ops)?;
    // Each branch on its own: only one of them will run.
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

/// Checks the number of operations, the keys, and each operation like its unary counterpart. A nested transaction may
/// use as many operations as the one around it leaves.
fn within_limits(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(errors::too_many_ops());
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(errors::empty_key());
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => within_limits(request, max_ops - ops)?,
            None => return Err(errors::key_not_found()),
        }
    }
    Ok(())
}

/// The keys that a branch puts and the ranges that it deletes, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deleted<'a>,
}

impl<'a> Writes<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), Status> {
        if self.deletes.covers(key) || !self.puts.insert(key) { Err(errors::duplicate_key()) } else { Ok(()) }
    }

    /// Refuses a nested branch that puts a key which is put or deleted here.
    fn admit(&self, nested: &Writes<'_>) -> Result<(), Status> {
        if intersect(&self.puts, &nested.puts) || self.deletes.cover_any(&nested.puts) {
            return Err(errors::duplicate_key());
        }
        Ok(())
    }

    /// Adds the writes of a nested branch. The smaller collection moves into the larger one, here and in the
    /// comparisons above. So a write is moved or compared a logarithmic number of times, however deep it is nested.
    fn absorb(&mut self, mut nested: Writes<'a>) {
        if self.puts.len() < nested.puts.len() {
            std::mem::swap(&mut self.puts, &mut nested.puts);
        }
        self.puts.extend(nested.puts);
        if self.deletes.0.len() < nested.deletes.0.len() {
            std::mem::swap(&mut self.deletes, &mut nested.deletes);
        }
        for (start, end) in nested.deletes.0 {
            self.deletes.insert(start, end);
        }
    }
}

fn intersect(a: &BTreeSet<&[u8]>, b: &BTreeSet<&[u8]>) -> bool {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().any(|key| many.contains(key))
}

/// Where a deleted range ends: before this key, or (`true`) after it.
type End<'a> = (&'a [u8], bool);

/// The ranges that deletes cover, by their first key. They neither overlap nor touch.
#[derive(Default)]
struct Deleted<'a>(BTreeMap<&'a [u8], End<'a>>);

impl<'a> Deleted<'a> {
    /// Only here, etcd takes a range end of one zero byte literally, so that the range covers nothing.
    fn add(&mut self, request: &'a DeleteRangeRequest) {
        let end = if request.range_end.is_empty() { (&request.key[..], true) } else { (&request.range_end[..], false) };
        self.insert(&request.key, end);
    }

    fn insert(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if end <= (start, false) {
            return;
        }
        if let Some((&before, &reach)) = self.0.range::<&[u8], _>(..start).next_back()
            && reach >= (start, false)
        {
            start = before;
        }
        while let Some((&next, &reach)) = self.0.range::<&[u8], _>(start..).next()
            && (next, false) <= end
        {
            self.0.remove(next);
            end = end.max(reach);
        }
        self.0.insert(start, end);
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.0.range::<&[u8], _>(..=key).next_back().is_some_and(|(_, end)| *end > (key, false))
    }

    fn cover_any(&self, keys: &BTreeSet<&[u8]>) -> bool {
        if keys.len() < self.0.len() {
            return keys.iter().any(|key| self.covers(key));
        }
        self.0
            .iter()
            .any(|(start, end)| keys.range::<&[u8], _>(*start..).next().is_some_and(|key| (*key, false) < *end))
    }
}

/// Collects the writes of a branch, and refuses a key that is put twice, or put and deleted. The branches of a nested
/// transaction may overlap each other, because only one of them runs. As in etcd, a put is compared with the deletes of
/// this branch and of the nested transactions before it, not with those of a later one. The order of comparisons is
/// etcd's; their cost is O(n log n).
fn writes(ops: &[RequestOp]) -> Result<Writes<'_>, Status> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            all.deletes.add(request);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(request)) = &op.request else { continue };
        let (success, failure) = (writes(&request.success)?, writes(&request.failure)?);
        all.admit(&success)?;
        all.admit(&failure)?;
        all.absorb(success);
        all.absorb(failure);
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request {
            all.put(&request.key)?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put_op(key: &'static str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.into(), ..Default::default() }))
    }

    fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
        let request = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
        op(Request::RequestDeleteRange(request))
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest { compare: vec![], success, failure }))
    }

    fn checked(success: Vec<RequestOp>) -> Result<(), String> {
        checked_within(success, 4)
    }

    fn checked_within(success: Vec<RequestOp>, max_ops: usize) -> Result<(), String> {
        let request = TxnRequest { compare: vec![], success, failure: vec![] };
        txn(&request, max_ops).map_err(|status| status.message.into_owned())
    }

    fn duplicate() -> Result<(), String> {
        Err("etcdserver: duplicate key given in txn request".into())
    }

    #[test]
    fn a_key_is_written_once() {
        assert_eq!(checked(vec![put_op("a"), put_op("a")]), duplicate());
        assert_eq!(checked(vec![put_op("b"), delete_op("a", "c")]), duplicate());
        assert_eq!(checked(vec![delete_op("b", ""), put_op("b")]), duplicate());
        assert_eq!(checked(vec![put_op("b"), delete_op("a", "\0")]), Ok(()), "etcd does not see this one");
        assert_eq!(checked(vec![put_op("c"), delete_op("a", "c")]), Ok(()));
        assert_eq!(checked(vec![delete_op("a", "c"), delete_op("b", "")]), Ok(()));
        assert_eq!(checked(vec![put_op("b"), delete_op("c", "a")]), Ok(()), "an empty range deletes nothing");
    }

    #[test]
    fn nested_branches_may_overlap_each_other_but_nothing_else() {
        assert_eq!(checked(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]), Ok(()));
        assert_eq!(checked(vec![put_op("a"), txn_op(vec![], vec![put_op("a")])]), duplicate());
        assert_eq!(checked(vec![delete_op("a", "b"), txn_op(vec![put_op("a")], vec![])]), duplicate());
        let (put, delete) = (txn_op(vec![put_op("a")], vec![]), txn_op(vec![delete_op("a", "")], vec![]));
        assert_eq!(checked(vec![delete.clone(), put.clone()]), duplicate());
        assert_eq!(checked(vec![put, delete]), Ok(()), "etcd does not look ahead");
    }

    #[test]
    fn a_delete_within_another_leaves_the_rest_of_it() {
        for (first, second) in [(("a", "f"), ("b", "c")), (("b", "c"), ("a", "f")), (("a", "c"), ("b", "f"))] {
            for put in ["a", "b", "c", "d", "e"] {
                let deletes = [first, second].map(|(key, end)| delete_op(key, end));
                assert_eq!(checked([&deletes[..], &[put_op(put)]].concat()), duplicate(), "{first:?} {second:?} {put}");
            }
            let deletes = [first, second].map(|(key, end)| delete_op(key, end));
            assert_eq!(checked([&deletes[..], &[put_op("f")]].concat()), Ok(()), "{first:?} {second:?}");
        }
    }

    /// The rule as it reads: every put against every delete and every other put.
    fn naive(ops: &[RequestOp]) -> Result<(Vec<&[u8]>, Vec<&DeleteRangeRequest>), ()> {
        let covers = |deletes: &[&DeleteRangeRequest], key: &[u8]| {
            deletes.iter().any(|delete| match &delete.range_end[..] {
                b"" => delete.key == key,
                end => &delete.key[..] <= key && key < end,
            })
        };
        let requests = || ops.iter().filter_map(|op| op.request.as_ref());
        let (mut puts, mut deletes) = (Vec::<&[u8]>::new(), Vec::new());
        deletes.extend(requests().filter_map(|request| match request {
            Request::RequestDeleteRange(delete) => Some(delete),
            _ => None,
        }));
        for request in requests() {
            let Request::RequestTxn(nested) = request else { continue };
            let (success, failure) = (naive(&nested.success)?, naive(&nested.failure)?);
            if success.0.iter().chain(&failure.0).any(|key| covers(&deletes, key) || puts.contains(key)) {
                return Err(());
            }
            puts.extend(success.0.iter().chain(&failure.0));
            deletes.extend(success.1.iter().chain(&failure.1));
        }
        for request in requests() {
            let Request::RequestPut(put) = request else { continue };
            if covers(&deletes, &put.key) || puts.contains(&&put.key[..]) {
                return Err(());
            }
            puts.push(&put.key);
        }
        Ok((puts, deletes))
    }

    fn key() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "b\0", "c", "d", "e", "ea", "f", "\0"])
    }

    fn ops() -> impl Strategy<Value = Vec<RequestOp>> {
        let end = prop_oneof![Just(""), key()];
        let leaf = prop_oneof![
            3 => key().prop_map(put_op),
            2 => (key(), end).prop_map(|(key, end)| delete_op(key, end)),
        ];
        let op = leaf.prop_recursive(3, 24, 4, |inner| {
            let branch = prop::collection::vec(inner, 0..4).boxed();
            (branch.clone(), branch).prop_map(|(success, failure)| txn_op(success, failure))
        });
        prop::collection::vec(op, 0..4)
    }

    proptest! {
        #[test]
        fn the_verdict_is_that_of_the_naive_rule(ops in ops()) {
            prop_assert_eq!(writes(&ops).is_ok(), naive(&ops).is_ok());
        }
    }

    #[test]
    fn the_largest_transaction_is_judged_at_once() {
        const OPS: usize = 64_000;
        let name = |n: usize| format!("{n:06}");
        let put = |n| op(Request::RequestPut(PutRequest { key: name(2 * n).into(), ..Default::default() }));
        let delete = |n| {
            let request = DeleteRangeRequest { key: name(2 * n + 1).into(), ..Default::default() };
            op(Request::RequestDeleteRange(request))
        };
        let puts: Vec<_> = (0..OPS).map(put).collect();
        let deletes: Vec<_> = (0..OPS).map(delete).collect();
        // Nested as deep as a message may be, so that every write is moved as often as possible.
        let nested = |mut ops: Vec<RequestOp>| {
            for level in 0..45 {
                ops = vec![txn_op(ops, vec![put(OPS + level)])];
            }
            ops
        };
        let one_by_one = |ops: Vec<RequestOp>| ops.into_iter().map(|op| txn_op(vec![op], vec![])).collect::<Vec<_>>();
        let both = || deletes.iter().chain(&puts).cloned().collect::<Vec<_>>();
        for ops in [both(), nested(both()), one_by_one(both()), one_by_one(nested(both()))] {
            let began = Instant::now();
            assert_eq!(checked_within(ops, 2 * OPS + 100), Ok(()));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
    }

    #[test]
    fn a_nested_transaction_has_what_is_left_of_the_operations() {
        let puts = |count: usize| ["a", "b", "c", "d", "e"][..count].iter().map(|key| put_op(key)).collect::<Vec<_>>();
        assert_eq!(checked(puts(4)), Ok(()));
        let too_many = Err("etcdserver: too many operations in txn request".to_string());
        assert_eq!(checked(puts(5)), too_many);
        assert_eq!(checked(vec![txn_op(puts(3), vec![])]), Ok(()));
        assert_eq!(checked(vec![txn_op(puts(4), vec![])]), too_many);
    }

    #[test]
    fn operations_are_checked_like_their_own_requests() {
        assert_eq!(checked(vec![put_op("")]), Err("etcdserver: key is not provided".into()));
        assert_eq!(checked(vec![RequestOp { request: None }]), Err("etcdserver: key not found".into()));
    }

    #[test]
    fn peer_urls_are_sorted_or_refused() {
        let checked = |urls: &[&str]| {
            let urls: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
            peer_urls(&urls).map_err(|status| status.message.into_owned())
        };
        assert_eq!(checked(&["HTTP://b:1 ", "http://a:2"]), Ok(vec!["http://a:2".into(), "http://b:1".into()]));
        for bad in [
            &[][..],
            &[""],
            &["http://a:1", "a:1"],
            &["http://a"],
            &["http://a:1/x"],
            &["ftp://a:1"],
            &["http://[::1:1"],
        ] {
            assert_eq!(checked(bad), Err("etcdserver: given member URLs are invalid".into()), "{bad:?}");
        }
        let long = format!("http://{}:1", "a".repeat(MAX_PEER_URL_BYTES));
        assert!(checked(&[&long]).is_err());
        let many: Vec<String> = (1..=MAX_PEER_URLS + 1).map(|port| format!("http://a:{port}")).collect();
        assert!(peer_urls(&many).is_err() && peer_urls(&many[1..]).is_ok());
    }
}
