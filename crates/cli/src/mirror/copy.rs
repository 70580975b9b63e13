//! Makes the destination equal to the source at one revision.

use std::cmp::Ordering;

use indicatif::ProgressBar;
use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse};
use metastore_proto::mvccpb::KeyValue;
use tonic::Status;

use super::{Batch, Both, Keys, Trouble};
use crate::connection::Connection;

/// Keys that are read at a time.
const PAGE: i64 = 200;

/// Returns the revision of the source to which the destination is equal now.
pub(super) async fn run(both: &mut Both, bar: &ProgressBar) -> Result<i64, Trouble> {
    let Both { source, destination, range } = both;
    let (mut theirs, mut ours) = (Pages::new(range, 0), Pages::new(range, 0));
    let (mut batch, mut wanted, mut present) =
        (Batch::default(), theirs.next(source).await?, ours.next(destination).await?);
    loop {
        let order = match (&wanted, &present) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(wanted), Some(present)) => wanted.key.cmp(&present.key),
        };
        if let Some(kv) = wanted.as_ref().filter(|_| order.is_le()) {
            let differs = order.is_lt() || present.as_ref().is_none_or(|present| present.value != kv.value);
            if differs {
                batch.put(destination, &kv.key, &kv.value).await?;
            }
            bar.inc(1);
        }
        if let Some(kv) = present.as_ref().filter(|_| order.is_gt()) {
            batch.delete(destination, &kv.key).await?;
        }
        if order.is_le() {
            wanted = theirs.next(source).await?;
        }
        if order.is_ge() {
            present = ours.next(destination).await?;
        }
    }
    batch.flush(destination).await?;
    Ok(theirs.revision)
}

/// All keys of a range, read in pages at one revision.
pub(super) struct Pages {
    keys: Keys,
    /// The revision that is read; 0 before the first page of the newest one.
    pub revision: i64,
    page: std::vec::IntoIter<KeyValue>,
    more: bool,
}

impl Pages {
    pub fn new(keys: &Keys, revision: i64) -> Self {
        Self { keys: keys.clone(), revision, page: Vec::new().into_iter(), more: true }
    }

    /// The next key and its value.
    pub async fn next(&mut self, from: &mut Connection) -> Result<Option<KeyValue>, Status> {
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
