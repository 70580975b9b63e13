//! The answers that a store should give, computed from a list of everything that was ever written.
//!
//! Nothing is dropped from the list, and there is no index and no cache: every question goes through the whole list.
//! The rules are those of etcd's API, written a second time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use metastore_engine::Row;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use metastore_proto::mvccpb::KeyValue;
use metastore_store::lease::MAX_TTL_S;
use metastore_store::mvcc::RangeReply;
use metastore_store::{OpReply, Refusal, Reply, TxnReply};

/// One version of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub main: i64,
    pub sub: i64,
    pub tombstone: bool,
    pub kv: KeyValue,
    /// The previous value for watchers: the key before the transaction; `None` if the transaction creates the key.
    pub previous: Option<KeyValue>,
}

impl Written {
    pub fn row(&self) -> Row {
        row(&self.kv)
    }
}

pub fn row(kv: &KeyValue) -> Row {
    kv.encode_to_vec().into()
}

/// The model of the store.
#[derive(Debug)]
pub struct Naive {
    pub written: Vec<Written>,
    pub current: i64,
    /// -1 before the first compaction.
    pub compacted: i64,
    pub leases: BTreeMap<i64, i64>,
    /// The hash of the compaction in progress; `None` inside if the hash will not be remembered.
    under_way: Option<Option<Hash>>,
    remembered: Vec<Hash>,
}

/// The answer to HashKV.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hash {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

/// The number of compaction hashes that are remembered.
const MOST_REMEMBERED: usize = 10;

type Answer<T> = Result<T, Refusal>;

impl Default for Naive {
    fn default() -> Self {
        let (leases, under_way, remembered) = Default::default();
        Self { written: Vec::new(), current: 1, compacted: -1, leases, under_way, remembered }
    }
}

impl Naive {
    // ---- content ----

    pub fn alive(&self, key: &[u8], at: i64) -> Option<&KeyValue> {
        let newest = self.written.iter().rfind(|w| w.kv.key == key && w.main <= at)?;
        (!newest.tombstone).then_some(&newest.kv)
    }

    fn keys(&self) -> BTreeSet<&[u8]> {
        self.written.iter().map(|w| &w.kv.key[..]).collect()
    }

    pub fn alive_in(&self, key: &[u8], end: &[u8], at: i64) -> Vec<KeyValue> {
        let inside = |k: &[u8]| match end {
            [] => k == key,
            [0] => k >= key,
            _ => k >= key && k < end,
        };
        self.keys().into_iter().filter(|k| inside(k)).filter_map(|k| self.alive(k, at)).cloned().collect()
    }

    /// The keys of a lease, in order.
    pub fn keys_of(&self, lease: i64) -> Vec<Vec<u8>> {
        let all = self.alive_in(b"", b"\0", i64::MAX);
        all.iter().filter(|kv| kv.lease == lease).map(|kv| kv.key.to_vec()).collect()
    }

    /// The versions that a compaction leaves when it is finished.
    pub fn stored(&self) -> Vec<&Written> {
        self.written.iter().filter(|w| w.main > self.compacted || self.is_kept(w)).collect()
    }

    /// Whether a version up to the compacted revision is the newest one of its key there, and either alive or deleted
    /// exactly at that revision.
    fn is_kept(&self, written: &Written) -> bool {
        let newest = self.written.iter().rfind(|w| w.kv.key == written.kv.key && w.main <= self.compacted);
        newest == Some(written) && (!written.tombstone || written.main == self.compacted)
    }

    // ---- reading ----

    pub fn readable(&self, revision: i64) -> Answer<i64> {
        match revision {
            r if r > self.current => Err(Refusal::FutureRevision),
            r if r <= 0 => Ok(self.current),
            r if r < self.compacted => Err(Refusal::Compacted),
            r => Ok(r),
        }
    }

    /// In a transaction, a negative revision is compared with the compacted one before it counts as the current one.
    fn readable_in_txn(&self, revision: i64) -> Answer<i64> {
        if revision < 0 && revision < self.compacted { Err(Refusal::Compacted) } else { self.readable(revision) }
    }

    pub fn range(&self, request: &RangeRequest) -> Answer<RangeReply> {
        let at = self.readable(request.revision)?;
        Ok(self.range_at(request, at, self.current))
    }

    fn range_at(&self, request: &RangeRequest, at: i64, revision: i64) -> RangeReply {
        let mut kvs = self.alive_in(&request.key, &request.range_end, at);
        let count = kvs.len() as i64;
        let (order, target) = (request.sort_order(), request.sort_target());
        let bounds = [
            (request.min_mod_revision, request.max_mod_revision),
            (request.min_create_revision, request.max_create_revision),
        ];
        let is_default = order == SortOrder::None || (order == SortOrder::Ascend && target == SortTarget::Key);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        if request.count_only {
            kvs.clear();
        } else if is_default && bounds == [(0, 0); 2] {
            kvs.truncate(limit.saturating_add(1));
        }
        let within = |n: i64, (min, max): (i64, i64)| (min == 0 || min <= n) && (max == 0 || n <= max);
        kvs.retain(|kv| within(kv.mod_revision, bounds[0]) && within(kv.create_revision, bounds[1]));
        kvs.sort_by(|a, b| {
            let ordering = match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if order == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        for kv in kvs.iter_mut().filter(|_| request.keys_only) {
            kv.value.clear();
            kv.lease = if target == SortTarget::Value { kv.lease } else { 0 };
        }
        RangeReply { revision, rows: kvs.iter().map(row).collect(), more, count }
    }

    // ---- writing ----

    /// The versions that the open transaction has written.
    fn open(&self) -> Vec<&Written> {
        self.written.iter().filter(|w| w.main > self.current).collect()
    }

    /// The revision that the open transaction sees.
    fn seen(&self) -> i64 {
        self.current + i64::from(!self.open().is_empty())
    }

    /// Ends a command: the versions that it wrote are the new revision.
    pub fn end(&mut self) -> Vec<Written> {
        let changes = self.open().into_iter().cloned().collect();
        self.current = self.seen();
        changes
    }

    fn write(&mut self, tombstone: bool, kv: KeyValue) {
        let begins = kv.create_revision == self.current + 1;
        let previous = self.alive(&kv.key, self.current).filter(|_| !begins).cloned();
        let (main, sub) = (self.current + 1, self.open().len() as i64);
        self.written.push(Written { main, sub, tombstone, kv, previous });
    }

    fn delete(&mut self, key: &[u8]) {
        self.write(true, KeyValue { key: key.to_vec().into(), ..KeyValue::default() });
    }

    fn check_put(&self, put: &PutRequest) -> Answer<()> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.alive(&put.key, self.current).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn do_put(&mut self, put: &PutRequest) -> Option<Row> {
        let before = self.alive(&put.key, i64::MAX).cloned();
        let old = before.clone().unwrap_or_default();
        self.write(
            false,
            KeyValue {
                key: put.key.clone(),
                create_revision: if before.is_some() { old.create_revision } else { self.current + 1 },
                mod_revision: self.current + 1,
                version: old.version + 1,
                value: if put.ignore_value { old.value } else { put.value.clone() },
                lease: if put.ignore_lease { old.lease } else { put.lease },
            },
        );
        before.filter(|_| put.prev_kv).map(|kv| row(&kv))
    }

    fn do_delete(&mut self, request: &DeleteRangeRequest) -> (i64, Vec<Row>) {
        let gone = self.alive_in(&request.key, &request.range_end, i64::MAX);
        gone.iter().for_each(|kv| self.delete(&kv.key));
        (gone.len() as i64, gone.iter().filter(|_| request.prev_kv).map(row).collect())
    }

    pub fn put(&mut self, put: &PutRequest) -> Answer<Reply> {
        self.check_put(put)?;
        Ok(Reply::Put { previous: self.do_put(put) })
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> Answer<Reply> {
        let (deleted, previous) = self.do_delete(request);
        Ok(Reply::DeleteRange { deleted, previous })
    }

    pub fn compact(&mut self, revision: i64, physical: bool) -> Answer<Reply> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.current {
            return Err(Refusal::FutureRevision);
        }
        // The hash covers everything since the previous compaction, if that one is finished.
        self.under_way = Some(if self.under_way.is_none() { Some(self.hash_at(revision, true)) } else { None });
        self.compacted = revision;
        Ok(Reply::Compact { revision, physical })
    }

    /// The compaction is finished.
    pub fn compaction_done(&mut self) {
        self.remembered.extend(self.under_way.take().flatten());
        let excess = self.remembered.len().saturating_sub(MOST_REMEMBERED);
        self.remembered.drain(..excess);
    }

    /// The hash of the compaction in progress is not computed.
    pub fn no_hash(&mut self) {
        self.under_way = self.under_way.map(|_| None);
    }

    /// Forgets everything that a restart forgets.
    pub fn restart(&mut self) {
        self.remembered.clear();
        self.no_hash();
    }

    pub fn grant(&mut self, id: i64, ttl_s: i64) -> Answer<Reply> {
        match id {
            0 => Err(Refusal::LeaseNotFound),
            _ if ttl_s > MAX_TTL_S => Err(Refusal::LeaseTtlTooLarge),
            _ if self.leases.contains_key(&id) => Err(Refusal::LeaseExists),
            _ => {
                // The shortest time to live is 0 if it is not set.
                let ttl_s = ttl_s.max(0);
                self.leases.insert(id, ttl_s);
                Ok(Reply::LeaseGrant { id, ttl_s })
            }
        }
    }

    pub fn revoke(&mut self, id: i64) -> Answer<Reply> {
        self.leases.remove(&id).ok_or(Refusal::LeaseNotFound)?;
        self.keys_of(id).iter().for_each(|key| self.delete(key));
        Ok(Reply::LeaseRevoke { id })
    }

    // ---- transactions ----

    pub fn txn(&mut self, txn: &TxnRequest) -> Answer<Reply> {
        Ok(Reply::Txn(self.do_txn_checked(txn)?))
    }

    pub fn read_txn(&mut self, txn: &TxnRequest) -> Answer<(i64, TxnReply)> {
        Ok((self.current, self.do_txn_checked(txn)?))
    }

    fn do_txn_checked(&mut self, txn: &TxnRequest) -> Answer<TxnReply> {
        self.check(txn)?;
        Ok(self.do_txn(txn))
    }

    /// Whether all comparisons hold on the state before the transaction, which is still in the list.
    fn holds(&self, txn: &TxnRequest) -> bool {
        txn.compare.iter().all(|compare| {
            let kvs = self.alive_in(&compare.key, &compare.range_end, self.current);
            if kvs.is_empty() {
                return compare.target() != CompareTarget::Value && equals(compare, &KeyValue::default());
            }
            kvs.iter().all(|kv| equals(compare, kv))
        })
    }

    fn branch<'a>(&self, txn: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        if self.holds(txn) { (true, &txn.success) } else { (false, &txn.failure) }
    }

    fn check(&self, txn: &TxnRequest) -> Answer<()> {
        self.branch(txn).1.iter().try_for_each(|op| match op.request.as_ref().unwrap() {
            Request::RequestRange(range) => self.readable_in_txn(range.revision).map(|_| ()),
            Request::RequestPut(put) => self.check_put(put),
            Request::RequestDeleteRange(_) => Ok(()),
            Request::RequestTxn(txn) => self.check(txn),
        })
    }

    fn do_txn(&mut self, txn: &TxnRequest) -> TxnReply {
        let (succeeded, branch) = self.branch(txn);
        let mut ops = Vec::new();
        for op in branch {
            ops.push(match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let at = if range.revision > 0 { range.revision } else { i64::MAX };
                    OpReply::Range(self.range_at(range, at, self.seen()))
                }
                Request::RequestPut(put) => {
                    let previous = self.do_put(put);
                    OpReply::Put { revision: self.seen(), previous }
                }
                Request::RequestDeleteRange(request) => {
                    let (deleted, previous) = self.do_delete(request);
                    OpReply::DeleteRange { revision: self.seen(), deleted, previous }
                }
                Request::RequestTxn(txn) => OpReply::Txn(self.do_txn(txn)),
            });
        }
        TxnReply { succeeded, ops }
    }

    // ---- hash ----

    /// The hash of a compaction at exactly this revision is remembered; other hashes are computed.
    pub fn hash_kv(&self, revision: i64) -> Answer<Hash> {
        if let Some(remembered) = self.remembered.iter().find(|hash| hash.hash_revision == revision) {
            return Ok(*remembered);
        }
        if revision > self.current {
            return Err(Refusal::FutureRevision);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        Ok(self.hash_at(if revision == 0 { self.current } else { revision }, false))
    }

    /// HashKV by its definition, with a bitwise checksum. A compaction also keeps the tombstones at its revision.
    fn hash_at(&self, at: i64, compaction: bool) -> Hash {
        let newest = |w: &Written| self.written.iter().rfind(|v| v.kv.key == w.kv.key && v.main <= at) == Some(w);
        let keep: Vec<&Written> = self.written.iter().filter(|w| !w.tombstone && newest(w)).collect();
        let keeps_tombstone = compaction && self.written.iter().any(|w| w.tombstone && w.main == at);
        let mut bytes = b"key".to_vec();
        for w in self.stored().into_iter().filter(|w| w.main <= at) {
            let is_old = w.main <= self.compacted && (keeps_tombstone || !keep.is_empty()) && !keep.contains(&w);
            if is_old || (w.main == self.compacted && w.tombstone) {
                continue;
            }
            bytes.extend_from_slice(&w.main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend_from_slice(&w.sub.to_be_bytes());
            bytes.extend_from_slice(if w.tombstone { b"t" } else { b"" });
            bytes.extend_from_slice(&w.row());
        }
        Hash { hash: crc32c(&bytes), compact_revision: self.compacted, hash_revision: at }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// Compares one key. A value in the request that belongs to another target counts as zero or empty.
fn equals(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let number = |n: i64, wanted: Option<i64>| n.cmp(&wanted.unwrap_or(0));
    let ordering = match compare.target() {
        CompareTarget::Version => {
            number(kv.version, union.and_then(|u| if let TargetUnion::Version(n) = u { Some(*n) } else { None }))
        }
        CompareTarget::Create => number(
            kv.create_revision,
            union.and_then(|u| if let TargetUnion::CreateRevision(n) = u { Some(*n) } else { None }),
        ),
        CompareTarget::Mod => number(
            kv.mod_revision,
            union.and_then(|u| if let TargetUnion::ModRevision(n) = u { Some(*n) } else { None }),
        ),
        CompareTarget::Lease => {
            number(kv.lease, union.and_then(|u| if let TargetUnion::Lease(n) = u { Some(*n) } else { None }))
        }
        CompareTarget::Value => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(&[]),
        },
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Less => ordering == Ordering::Less,
        CompareResult::Greater => ordering == Ordering::Greater,
    }
}
