//! Data that were written and are not published yet. Only the writer looks here.

use std::collections::BTreeMap;

use rocksdb::WriteBatch;

use super::layout::{Stamp, State};
use crate::{Revision, Table, Version};

/// All writes since the last [`crate::Engine::publish`].
#[derive(Default)]
pub(super) struct Pending {
    /// The same writes as bytes, ready for the database.
    pub(super) batch: WriteBatch,
    /// Keys that the writer has looked up or written.
    pub(super) keys: BTreeMap<Box<[u8]>, Touched>,
    /// The number of these keys that have versions here.
    pub(super) written: usize,
    /// Rows of tables; `None` for a removed row.
    pub(super) rows: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    /// The state as the last batch wrote it.
    pub(super) state: State,
    /// The reason why nothing more is written. After a failed write the data here no longer follow on the stored data.
    pub(super) refusal: Option<String>,
    /// The greatest revision ever appended.
    pub(super) last: Revision,
    /// A buffer for encoding values.
    pub(super) buffer: Vec<u8>,
}

/// A key that the writer has looked up or written.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Its newest published version, which the next version may replace.
    pub(super) base: Option<Stamp>,
    /// The appended versions, oldest first.
    pub(super) versions: Vec<Version>,
}

impl Touched {
    /// The newest version, published or not.
    pub(super) fn newest(&self) -> Option<Stamp> {
        self.versions.last().map(Stamp::of).or(self.base)
    }

    /// The newest unpublished version with `main <= at`.
    pub(super) fn newest_at(&self, at: i64) -> Option<&Version> {
        self.versions.iter().rfind(|version| version.revision.main <= at)
    }
}

impl Pending {
    /// A row of a table, if it was set or removed.
    pub(super) fn row(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        // In the common case no key needs to be allocated.
        if self.rows.is_empty() { None } else { self.rows.get(&(table, key.to_vec())) }
    }

    /// Clears everything after the batch was written.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.rows.clear();
        self.written = 0;
    }
}
