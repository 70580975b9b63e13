//! Both clusters, key by key in one order.

use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse};
use metastore_proto::mvccpb::KeyValue;
use tonic::Status;

use super::{Both, Keys};
use crate::connection::Connection;

/// Keys that are read at a time.
const PAGE: i64 = 200;

/// A key with its rows; at least one of both.
pub struct Pair {
    pub source: Option<KeyValue>,
    pub destination: Option<KeyValue>,
}

impl Pair {
    /// Whether both sides have the key, with the same value.
    pub fn is_equal(&self) -> bool {
        let [source, destination] = [&self.source, &self.destination].map(|row| row.as_ref().map(|row| &row.value));
        source == destination
    }
}

/// A walk through the keys of both clusters.
pub struct Join {
    source: Pages,
    destination: Pages,
    /// The next row of each side.
    next: (Option<KeyValue>, Option<KeyValue>),
}

impl Join {
    /// Begins a walk at a revision of the source; 0: its newest one.
    pub async fn begin(both: &mut Both, revision: i64) -> Result<Self, Status> {
        let (mut source, mut destination) = (Pages::new(&both.range, revision), Pages::new(&both.range, 0));
        let next = (source.next(&mut both.source).await?, destination.next(&mut both.destination).await?);
        Ok(Self { source, destination, next })
    }

    /// The revision of the source that is read.
    pub fn revision(&self) -> i64 {
        self.source.revision
    }

    /// The next key of either side.
    pub async fn next(&mut self, both: &mut Both) -> Result<Option<Pair>, Status> {
        let (source, destination) = &mut self.next;
        let Some(key) = [&*source, &*destination].into_iter().flatten().map(|row| row.key.clone()).min() else {
            return Ok(None);
        };
        let is_here = |row: &mut KeyValue| row.key == key;
        let pair = Pair { source: source.take_if(is_here), destination: destination.take_if(is_here) };
        if pair.source.is_some() {
            *source = self.source.next(&mut both.source).await?;
        }
        if pair.destination.is_some() {
            *destination = self.destination.next(&mut both.destination).await?;
        }
        Ok(Some(pair))
    }
}

/// All keys of a range, read in pages at one revision.
struct Pages {
    keys: Keys,
    /// The revision that is read; 0 before the first page of the newest one.
    revision: i64,
    page: std::vec::IntoIter<KeyValue>,
    more: bool,
}

impl Pages {
    fn new(keys: &Keys, revision: i64) -> Self {
        Self { keys: keys.clone(), revision, page: Vec::new().into_iter(), more: true }
    }

    /// The next key and its value.
    async fn next(&mut self, from: &mut Connection) -> Result<Option<KeyValue>, Status> {
        if let Some(kv) = self.page.next() {
            return Ok(Some(kv));
        }
        if !self.more {
            return Ok(None);
        }
        let Keys { start, end } = self.keys.clone();
        let (key, range_end) = (start.into(), end.into());
        let request = RangeRequest { key, range_end, limit: PAGE, revision: self.revision, ..RangeRequest::default() };
        let answer: RangeResponse = from.call("/etcdserverpb.KV/Range", request).await?;
        if self.revision == 0 {
            self.revision = answer.header.unwrap_or_default().revision;
        }
        self.more = answer.more;
        if let Some(last) = answer.kvs.last() {
            self.keys.start = [&last.key[..], b"\0"].concat();
        }
        self.page = answer.kvs.into_iter();
        Ok(self.page.next())
    }
}
