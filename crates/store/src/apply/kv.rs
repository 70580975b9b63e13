//! Put, DeleteRange and Compact (etcd: `server/etcdserver/txn`).

use metastore_engine::KeyRange;
use metastore_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use metastore_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};

use super::{Applying, HaltCause, Reply};
use crate::lease::keys;
use crate::mvcc::row::KeyValue;
use crate::mvcc::{Order, Put, RangeQuery, RevisionBounds, Target};
use crate::not_done::NotDone;
use crate::{Refusal, Store};

impl Store {
    pub(super) fn put(&mut self, request: &PutRequest) -> Applying<Reply> {
        let checked = self.check_put(request);
        self.work.reads += u64::from(matches!(checked, Err(NotDone::Refused(Refusal::KeyNotFound))));
        checked?;
        let previous = self.put_checked(request)?;
        Ok(Reply::Put { previous })
    }

    /// Checks a put: its lease must exist, and so must the key if the put keeps the key's value or lease.
    pub(super) fn check_put(&self, request: &PutRequest) -> Applying<()> {
        if request.lease != 0 && !self.leases.contains(request.lease) {
            return Err(Refusal::LeaseNotFound.into());
        }
        if (request.ignore_value || request.ignore_lease) && self.mvcc.live(&request.key)?.is_none() {
            return Err(Refusal::KeyNotFound.into());
        }
        Ok(())
    }

    /// Writes the key; returns the previous row if the request asks for it.
    pub(super) fn put_checked(&mut self, request: &PutRequest) -> Result<Option<metastore_engine::Row>, HaltCause> {
        let put = Put {
            key: &request.key,
            value: (!request.ignore_value).then_some(&request.value),
            lease: (!request.ignore_lease).then_some(request.lease),
        };
        let previous = self.mvcc.put(&put)?;
        let (before, value) = previous.as_deref().map_or((0, &[][..]), |row| {
            let row = KeyValue::of(row);
            (row.lease, row.value)
        });
        self.work.puts += 1;
        self.work.put_bytes += (request.key.len() + put.value.map_or(value.len(), |value| value.len())) as u64;
        self.work.reads += u64::from(reads_before(request));
        self.move_key(&request.key, before, put.lease.unwrap_or(before))?;
        Ok(previous.filter(|_| request.prev_kv))
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> Applying<Reply> {
        let (deleted, previous) = self.delete_checked(request)?;
        Ok(Reply::DeleteRange { deleted, previous })
    }

    /// Deletes the keys; returns how many there were, and their rows if the request asks for them.
    pub(super) fn delete_checked(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<(i64, Vec<metastore_engine::Row>), HaltCause> {
        self.work.deletes += 1;
        self.work.reads += u64::from(request.prev_kv);
        let mut previous = Vec::new();
        let engine = self.engine.as_ref();
        let mut deleted = |row: &metastore_engine::Row| {
            let KeyValue { key, lease, .. } = KeyValue::of(row);
            if request.prev_kv {
                previous.push(row.clone());
            }
            if lease == 0 { Ok(()) } else { keys::detach(engine, lease, key) }
        };
        let count = if request.range_end.is_empty() {
            let row = self.mvcc.delete(&request.key)?;
            row.iter().try_for_each(&mut deleted)?;
            i64::from(row.is_some())
        } else {
            let range = KeyRange::from_request(&request.key, &request.range_end);
            self.mvcc.delete_range(range, deleted)?
        };
        Ok((count, previous))
    }

    pub(super) fn compact(&mut self, request: &CompactionRequest) -> Applying<Reply> {
        let CompactionRequest { revision, physical } = *request;
        self.mvcc.compact(revision)?;
        Ok(Reply::Compact { revision, physical })
    }
}

/// Whether etcd reads the key before it puts it.
pub(super) fn reads_before(request: &PutRequest) -> bool {
    request.prev_kv || request.ignore_value || request.ignore_lease
}

/// The query that a request describes. Unknown sort orders and targets, which the API refuses, count as the defaults.
pub fn range_query(request: &RangeRequest) -> RangeQuery<'_> {
    RangeQuery {
        key: &request.key,
        range_end: &request.range_end,
        limit: request.limit,
        revision: request.revision,
        order: match request.sort_order() {
            SortOrder::None => None,
            SortOrder::Ascend => Some(Order::Ascend),
            SortOrder::Descend => Some(Order::Descend),
        },
        target: match request.sort_target() {
            SortTarget::Key => Target::Key,
            SortTarget::Version => Target::Version,
            SortTarget::Create => Target::Create,
            SortTarget::Mod => Target::Mod,
            SortTarget::Value => Target::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        bounds: RevisionBounds {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        },
    }
}
