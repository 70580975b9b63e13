//! Requests, written as words.
//!
//! ```text
//!   put KEY VALUE [lease=N] [prev_kv] [ignore_value] [ignore_lease]
//!   del KEY [end=KEY | prefix | from] [prev_kv]
//!   get KEY [end=KEY | prefix | from] [rev=N] [limit=N] [order=ascend|descend] [sort=key|version|create|mod|value]
//!           [keys_only] [count_only] [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//!   txn [if { COMPARE ; ... }] [then { OP ; ... }] [else { OP ; ... }]         OP is put, del, get or txn
//!   COMPARE: version|create|mod|lease|value KEY [end=KEY | prefix | from] =|!=|<|> VALUE
//! ```

use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::words::{Options, Result, bytes, number, word};

pub fn put(words: &[&str]) -> Result<PutRequest> {
    let options =
        Options::new(words.get(2..).unwrap_or_default(), &["lease", "prev_kv", "ignore_value", "ignore_lease"])?;
    Ok(PutRequest {
        key: bytes(word(words, 0)?)?.into(),
        value: bytes(word(words, 1)?)?.into(),
        lease: options.number("lease")?,
        prev_kv: options.has("prev_kv"),
        ignore_value: options.has("ignore_value"),
        ignore_lease: options.has("ignore_lease"),
    })
}

pub fn delete(words: &[&str]) -> Result<DeleteRangeRequest> {
    let options = Options::new(words.get(1..).unwrap_or_default(), &["end", "prefix", "from", "prev_kv"])?;
    let key = bytes(word(words, 0)?)?;
    let range_end = options.range_end(&key)?.into();
    Ok(DeleteRangeRequest { key: key.into(), range_end, prev_kv: options.has("prev_kv") })
}

const RANGE_OPTIONS: [&str; 13] = [
    "end",
    "prefix",
    "from",
    "rev",
    "limit",
    "order",
    "sort",
    "keys_only",
    "count_only",
    "min_mod",
    "max_mod",
    "min_create",
    "max_create",
];

pub fn range(words: &[&str]) -> Result<RangeRequest> {
    let options = Options::new(words.get(1..).unwrap_or_default(), &RANGE_OPTIONS)?;
    let key = bytes(word(words, 0)?)?;
    let order = match options.get("order") {
        None => SortOrder::None,
        Some("ascend") => SortOrder::Ascend,
        Some("descend") => SortOrder::Descend,
        Some(other) => return Err(format!("unknown order {other:?}")),
    };
    let target = match options.get("sort") {
        None | Some("key") => SortTarget::Key,
        Some("version") => SortTarget::Version,
        Some("create") => SortTarget::Create,
        Some("mod") => SortTarget::Mod,
        Some("value") => SortTarget::Value,
        Some(other) => return Err(format!("unknown sort target {other:?}")),
    };
    Ok(RangeRequest {
        range_end: options.range_end(&key)?.into(),
        key: key.into(),
        limit: options.number("limit")?,
        revision: options.number("rev")?,
        sort_order: order.into(),
        sort_target: target.into(),
        serializable: false,
        keys_only: options.has("keys_only"),
        count_only: options.has("count_only"),
        min_mod_revision: options.number("min_mod")?,
        max_mod_revision: options.number("max_mod")?,
        min_create_revision: options.number("min_create")?,
        max_create_revision: options.number("max_create")?,
    })
}

pub fn txn(mut words: &[&str]) -> Result<TxnRequest> {
    let mut txn = TxnRequest::default();
    while let Some((&part, rest)) = words.split_first() {
        let (items, after) = block(rest)?;
        words = after;
        match part {
            "if" => txn.compare = items.into_iter().map(compare).collect::<Result<_>>()?,
            "then" => txn.success = items.into_iter().map(operation).collect::<Result<_>>()?,
            "else" => txn.failure = items.into_iter().map(operation).collect::<Result<_>>()?,
            other => return Err(format!("expected if, then or else, found {other:?}")),
        }
    }
    Ok(txn)
}

/// The items between `{` and its matching `}`, and the words after them.
fn block<'w, 'a>(words: &'w [&'a str]) -> Result<(Vec<&'w [&'a str]>, &'w [&'a str])> {
    if words.first() != Some(&"{") {
        return Err("expected {".into());
    }
    let (mut depth, mut begin, mut items) = (0, 1, Vec::new());
    for (at, word) in words.iter().enumerate() {
        match *word {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && *word == ";") {
            items.push(&words[begin..at]);
            begin = at + 1;
        }
        if depth == 0 {
            items.retain(|item| !item.is_empty());
            return Ok((items, &words[begin..]));
        }
    }
    Err("a { without its }".into())
}

fn operation(words: &[&str]) -> Result<RequestOp> {
    let rest = words.get(1..).unwrap_or_default();
    let request = match word(words, 0)? {
        "put" => Request::RequestPut(put(rest)?),
        "del" => Request::RequestDeleteRange(delete(rest)?),
        "get" => Request::RequestRange(range(rest)?),
        "txn" => Request::RequestTxn(txn(rest)?),
        other => return Err(format!("unknown operation {other:?}")),
    };
    Ok(RequestOp { request: Some(request) })
}

fn compare(words: &[&str]) -> Result<Compare> {
    let (target, key) = (word(words, 0)?, bytes(word(words, 1)?)?);
    let Some([between @ .., result, value]) = words.get(2..) else { return Err("a comparison is cut short".into()) };
    let options = Options::new(between, &["end", "prefix", "from"])?;
    let (target, union) = match target {
        "version" => (CompareTarget::Version, TargetUnion::Version(number(value)?)),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(value)?)),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(value)?)),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(value)?)),
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(value)?.into())),
        other => return Err(format!("unknown target {other:?}")),
    };
    let result = match *result {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        other => return Err(format!("unknown comparison {other:?}")),
    };
    let range_end = options.range_end(&key)?.into();
    let (target, result) = (target.into(), result.into());
    Ok(Compare { result, target, key: key.into(), range_end, target_union: Some(union) })
}
