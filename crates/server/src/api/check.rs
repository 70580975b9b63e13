//! What is wrong with a request, before anything is asked of the state (etcd: `server/etcdserver/api/v3rpc/key.go`).

use std::collections::BTreeSet;

use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::errors;
use crate::config::url;
use crate::grpc::Status;

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

/// Peer URLs that one member may have. Each is tried when the member is dialed, and goes into every list of members.
const MAX_PEER_URLS: usize = 64;
/// Bytes of one of them. Host names have 253 at most.
const MAX_PEER_URL_BYTES: usize = 1024;

/// The URLs of a member that joins or moves, sorted as etcd sorts them. One that asks for TLS could not be reached, and is
/// refused with the others.
pub fn peer_urls(urls: &[String]) -> Result<Vec<String>, Status> {
    let longest = urls.iter().map(String::len).max().unwrap_or_default();
    if urls.len() > MAX_PEER_URLS || longest > MAX_PEER_URL_BYTES {
        tracing::warn!(
            urls = urls.len(),
            "longest-url-bytes" = longest,
            "refused the peer URLs of a member: at most {MAX_PEER_URLS} of {MAX_PEER_URL_BYTES} bytes each"
        );
        return Err(errors::member_bad_urls());
    }
    let mut urls: Vec<_> = urls.iter().map(|url| url.trim().to_owned()).collect();
    urls.sort_unstable();
    let bad = urls.iter().find_map(|text| url::parse(text).err());
    if let Some(error) = &bad {
        tracing::warn!(error = %error, "refused the peer URLs of a member");
    }
    if bad.is_some() || urls.is_empty() { Err(errors::member_bad_urls()) } else { Ok(urls) }
}

pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    within_limits(request, max_ops)?;
    // Both branches on their own: only one of them will run.
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

/// Size, keys, and each operation as its unary counterpart. A nested transaction has what the one around it leaves.
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

/// Keys that a branch puts, and what it deletes.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<&'a DeleteRangeRequest>,
}

impl<'a> Writes<'a> {
    /// Whether a delete covers the key. Here, and only here, etcd takes a range that ends in one zero byte literally, so
    /// that it covers nothing.
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|request| {
            if request.range_end.is_empty() {
                request.key == key
            } else {
                &request.key[..] <= key && key < &request.range_end[..]
            }
        })
    }

    fn put(&mut self, key: &'a [u8], allowed: bool) -> Result<(), Status> {
        if self.deletes(key) || (!self.puts.insert(key) && !allowed) {
            return Err(errors::duplicate_key());
        }
        Ok(())
    }
}

/// Collects what a branch writes, and refuses a key that is put twice, or put and deleted. The branches of a nested
/// transaction may overlap each other, because only one of them runs. As in etcd, a put is compared with the deletes of
/// this branch and of the nested transactions before it, not with those of a later one.
fn writes(ops: &[RequestOp]) -> Result<Writes<'_>, Status> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            all.deletes.push(request);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(request)) = &op.request else { continue };
        let (success, failure) = (writes(&request.success)?, writes(&request.failure)?);
        for key in &success.puts {
            all.put(key, false)?;
        }
        for key in &failure.puts {
            all.put(key, success.puts.contains(key))?;
        }
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request {
            all.put(&request.key, false)?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
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
        let request = TxnRequest { compare: vec![], success, failure: vec![] };
        txn(&request, 4).map_err(|status| status.message.into_owned())
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
        assert_eq!(checked(&["http://b:1 ", "http://a:2"]), Ok(vec!["http://a:2".into(), "http://b:1".into()]));
        for bad in [&[][..], &[""], &["http://a:1", "a:1"], &["http://a"], &["http://a:1/x"], &["https://a:1"]] {
            assert_eq!(checked(bad), Err("etcdserver: given member URLs are invalid".into()), "{bad:?}");
        }
        let long = format!("http://{}:1", "a".repeat(MAX_PEER_URL_BYTES));
        assert!(checked(&[&long]).is_err());
        let many: Vec<String> = (1..=MAX_PEER_URLS + 1).map(|port| format!("http://a:{port}")).collect();
        assert!(peer_urls(&many).is_err() && peer_urls(&many[1..]).is_ok());
    }
}
