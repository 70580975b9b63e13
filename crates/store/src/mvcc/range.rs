//! Range: reading keys at a revision, with limit, order and bounds (etcd: `server/etcdserver/txn/range.go`).

use std::cmp::Ordering;

use metastore_engine::{KeyRange, Row, Version};
use metastore_mutants::{Mutant, mutant};

use super::row::KeyValue;
use super::view::{Pin, ReadError, View};

/// A read of one key or a range of keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeQuery<'a> {
    pub key: &'a [u8],
    /// Empty: only `key`; one zero byte: no end.
    pub range_end: &'a [u8],
    /// 0: no limit.
    pub limit: i64,
    /// 0 or less: the current revision.
    pub revision: i64,
    pub order: Option<Order>,
    pub target: Target,
    pub keys_only: bool,
    pub count_only: bool,
    pub bounds: RevisionBounds,
}

/// Direction of sorting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascend,
    Descend,
}

/// The field by which rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// Inclusive bounds on the revisions of the returned keys; 0 leaves a bound open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionBounds {
    pub min_mod: i64,
    pub max_mod: i64,
    pub min_create: i64,
    pub max_create: i64,
}

impl RevisionBounds {
    fn is_open(&self) -> bool {
        *self == Self::default()
    }

    fn admit(&self, kv: &KeyValue<'_>) -> bool {
        let within = |n, min, max| (min == 0 || n >= min) && (max == 0 || n <= max);
        within(kv.mod_revision, self.min_mod, self.max_mod)
            && within(kv.create_revision, self.min_create, self.max_create)
    }
}

/// The answer to a [`RangeQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The newest revision of the store at the time of the read.
    pub revision: i64,
    pub rows: Vec<Row>,
    /// Whether more keys would match than `limit` allows.
    pub more: bool,
    /// Keys alive in the range at the revision that was read; neither the limit nor the bounds change it.
    pub count: i64,
}

impl RangeQuery<'_> {
    /// Whether rows are returned in plain key order, so that a limit also bounds the work.
    fn in_key_order(&self) -> bool {
        self.order.is_none() || (self.order == Some(Order::Ascend) && self.target == Target::Key)
    }

    /// How many rows to read; `usize::MAX` if all must be read. One row beyond the limit shows that more follow.
    fn fetch(&self) -> usize {
        if self.count_only {
            0
        } else if self.limit > 0 && self.in_key_order() && self.bounds.is_open() {
            usize::try_from(self.limit).map_or(usize::MAX, |limit| limit.saturating_add(1))
        } else {
            usize::MAX
        }
    }
}

/// The number of bounded engine steps that a read may take.
type Steps = usize;

impl View {
    /// Reads at the current revision, or at the revision that the query names.
    ///
    /// # Errors
    /// [`crate::Refusal::FutureRevision`], [`crate::Refusal::Compacted`], or a failed medium.
    pub fn range(&self, query: &RangeQuery<'_>) -> Result<RangeReply, ReadError> {
        loop {
            if let Some(reply) = self.range_within(query, Steps::MAX)? {
                return Ok(reply);
            }
        }
    }

    /// As [`View::range`], but returns `None` if the read takes more than `steps` bounded steps of the engine. For
    /// callers that must not be held up.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn range_within(&self, query: &RangeQuery<'_>, steps: usize) -> Result<Option<RangeReply>, ReadError> {
        loop {
            let current = self.revision();
            match self.range_at(query, current, steps) {
                // Compacted after `current` was read: a query for the current revision starts again with a newer one.
                Err(ReadError::Refused(crate::Refusal::Compacted)) if query.revision <= 0 => {}
                other => return other,
            }
        }
    }

    fn range_at(&self, query: &RangeQuery<'_>, current: i64, steps: Steps) -> Result<Option<RangeReply>, ReadError> {
        let at = self.readable(query.revision, current)?;
        if query.range_end.is_empty() {
            let reply = self.read_visible(query, at, current, steps)?;
            // One key takes one step. So no pin is taken; it is enough to check that no compaction came in between.
            self.readable(at, current)?;
            return Ok(reply);
        }
        let _pin = self.pin(at)?;
        self.read_visible(query, at, current, steps)
    }

    /// Reads at `at` without checking that this revision is readable; the writer's own reads use it.
    pub(crate) fn range_visible(
        &self,
        query: &RangeQuery<'_>,
        at: i64,
        revision: i64,
    ) -> Result<RangeReply, ReadError> {
        Ok(self.read_visible(query, at, revision, Steps::MAX)?.unwrap_or_default())
    }

    fn read_visible(
        &self,
        query: &RangeQuery<'_>,
        at: i64,
        revision: i64,
        steps: Steps,
    ) -> Result<Option<RangeReply>, ReadError> {
        let Some((versions, count)) = self.fetch(query, at, steps)? else { return Ok(None) };
        let mut rows: Vec<Row> = versions.into_iter().map(|version| version.row).collect();
        if !query.bounds.is_open() {
            rows.retain(|row| query.bounds.admit(&KeyValue::of(row)));
        }
        sort(&mut rows, query);
        let mut more = false;
        if let Ok(limit) = usize::try_from(query.limit)
            && limit > 0
            && rows.len() > limit
        {
            rows.truncate(limit);
            more = true;
        }
        if query.keys_only {
            rows.iter_mut().for_each(|row| *row = without_value(row, query.target));
        }
        Ok(Some(RangeReply { revision, rows, more, count }))
    }

    /// The rows of a range, and the number of live keys in it; `None` if that takes more than `steps`.
    fn fetch(
        &self,
        query: &RangeQuery<'_>,
        at: i64,
        mut steps: Steps,
    ) -> Result<Option<(Vec<Version>, i64)>, ReadError> {
        let engine = self.engine();
        let fetch = query.fetch();
        if query.range_end.is_empty() {
            let found = engine.newest(query.key, at)?.filter(|version| !version.tombstone);
            let count = i64::from(found.is_some());
            return Ok(Some((found.into_iter().take(fetch).collect(), count)));
        }
        let range = KeyRange::from_request(query.key, query.range_end);
        let mut rows = Vec::new();
        let mut next = Some(query.key.to_vec());
        while let Some(from) = &next
            && rows.len() < fetch
        {
            let Some(left) = steps.checked_sub(1) else { return Ok(None) };
            steps = left;
            next = engine.scan(KeyRange { start: from, ..range }, at, fetch - rows.len(), &mut rows)?;
            if rows.len() < fetch {
                lose_border(&mut next);
            }
        }
        let mut count = rows.len() as u64;
        while let Some(from) = next {
            let Some(left) = steps.checked_sub(1) else { return Ok(None) };
            steps = left;
            next = engine.count(KeyRange { start: &from, ..range }, at, &mut count)?;
            lose_border(&mut next);
        }
        Ok(Some((rows, count as i64)))
    }

    /// Appends up to `limit` rows of the range; returns the key where the rest of the range begins, if there is a rest.
    pub(crate) fn collect(
        &self,
        range: KeyRange<'_>,
        at: i64,
        limit: usize,
        rows: &mut Vec<Version>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let mut next = self.engine().scan(range, at, limit, rows)?;
        while let Some(from) = &next
            && rows.len() < limit
        {
            let wanted = limit - rows.len();
            next = self.engine().scan(KeyRange { start: from, ..range }, at, wanted, rows)?;
        }
        Ok(next)
    }
}

/// A deliberate bug: the next step skips the key at which a step ended.
fn lose_border(next: &mut Option<Vec<u8>>) {
    if mutant(Mutant::BorderKeyLost) {
        next.iter_mut().for_each(|key| key.push(0));
    }
}

/// Sorts as etcd does: for a target other than the key, rows are sorted ascending even if no order was requested. The
/// limit was applied before that, in key order.
fn sort(rows: &mut [Row], query: &RangeQuery<'_>) {
    let order = match query.order {
        None if query.target == Target::Key => return,
        order => order.unwrap_or(Order::Ascend),
    };
    if query.target == Target::Key {
        // Already ascending.
        if order == Order::Descend {
            rows.reverse();
        }
        return;
    }
    rows.sort_by(|a, b| {
        let by_target = compare(&KeyValue::of(a), &KeyValue::of(b), query.target);
        if order == Order::Descend { by_target.reverse() } else { by_target }
    });
}

fn compare(a: &KeyValue<'_>, b: &KeyValue<'_>, target: Target) -> Ordering {
    match target {
        Target::Key => a.key.cmp(b.key),
        Target::Version => a.version.cmp(&b.version),
        Target::Create => a.create_revision.cmp(&b.create_revision),
        Target::Mod => a.mod_revision.cmp(&b.mod_revision),
        Target::Value => a.value.cmp(b.value),
    }
}

/// The row of a keys-only answer. etcd takes it from its index, which does not hold leases, except when values had to
/// be read for sorting.
fn without_value(row: &Row, target: Target) -> Row {
    let kv = KeyValue::of(row);
    let lease = if target == Target::Value { kv.lease } else { 0 };
    KeyValue { value: &[], lease, ..kv }.to_row()
}

/// A range that is read in pieces, at the revision that was current at its beginning.
///
/// Between two pieces it holds back nothing: no compaction, and no state that was replaced by another one. A client may
/// take as long as it likes to read a piece. So each piece is read from the state of that moment, and is refused if its
/// revision was compacted since, as in etcd.
pub struct RangeCursor {
    at: i64,
    /// The query is for the current revision, and nothing was read yet: a compaction before the first piece moves `at`.
    unfixed: bool,
    revision: i64,
    end: Option<Vec<u8>>,
    next: Option<Vec<u8>>,
    /// The number of rows that the limit still allows.
    left: usize,
    keys_only: bool,
    count: i64,
}

impl View {
    /// Begins to read a range in key order, without sorting and bounds.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn cursor(&self, query: &RangeQuery<'_>) -> Result<RangeCursor, ReadError> {
        let unfixed = query.revision <= 0;
        let revision = self.revision();
        let at = if unfixed { revision } else { self.readable(query.revision, revision)? };
        let end = if query.range_end.is_empty() {
            Some([query.key, &[0]].concat())
        } else {
            KeyRange::from_request(query.key, query.range_end).end.map(<[u8]>::to_vec)
        };
        let limit = usize::try_from(query.limit).unwrap_or_default();
        let left = match (query.count_only, limit) {
            (true, _) => 0,
            (false, 0) => usize::MAX,
            (false, limit) => limit,
        };
        let next = Some(query.key.to_vec());
        Ok(RangeCursor { at, unfixed, revision, end, next, left, keys_only: query.keys_only, count: 0 })
    }
}

impl RangeCursor {
    /// Pins the revision for the time that one piece takes.
    fn pin(&mut self, view: &View) -> Result<Pin, ReadError> {
        loop {
            match view.pin(self.at) {
                Err(_compacted) if self.unfixed => {
                    self.revision = view.revision();
                    self.at = self.revision;
                }
                pinned => {
                    self.unfixed = false;
                    return Ok(pinned?);
                }
            }
        }
    }

    /// The next rows, at most `limit`, from the current state; empty after the end of the range or of the limit.
    ///
    /// # Errors
    /// [`crate::Refusal::Compacted`] if the revision was compacted in between, or a failed medium.
    pub fn next_rows(&mut self, view: &View, limit: usize) -> Result<Vec<Row>, ReadError> {
        let wanted = limit.min(self.left);
        let mut versions = Vec::new();
        if wanted > 0 && self.next.is_some() {
            let _pin = self.pin(view)?;
            let start = self.next.take().unwrap_or_default();
            let range = KeyRange { start: &start, end: self.end.as_deref() };
            self.next = view.collect(range, self.at, wanted, &mut versions)?;
        }
        self.left -= versions.len();
        self.count += versions.len() as i64;
        let keys_only = self.keys_only;
        let row = |version: Version| if keys_only { without_value(&version.row, Target::Key) } else { version.row };
        Ok(versions.into_iter().map(row).collect())
    }

    /// The rest of the answer, without rows: the revision, the count, and whether there are more rows than were read.
    ///
    /// # Errors
    /// As [`RangeCursor::next_rows`].
    pub fn finish(mut self, view: &View) -> Result<RangeReply, ReadError> {
        let returned = self.count;
        let _pin = self.next.is_some().then(|| self.pin(view)).transpose()?;
        while let Some(start) = self.next.take() {
            let mut count = 0;
            let range = KeyRange { start: &start, end: self.end.as_deref() };
            self.next = view.engine().count(range, self.at, &mut count)?;
            self.count += count as i64;
        }
        // If no rows were requested, the limit cannot have cut off any.
        let more = self.left == 0 && returned > 0 && self.count > returned;
        Ok(RangeReply { revision: self.revision, rows: Vec::new(), more, count: self.count })
    }
}
