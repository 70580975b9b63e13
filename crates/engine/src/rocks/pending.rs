//! What was written and is not published yet. Only the writer looks here.

use std::collections::BTreeMap;

use rocksdb::WriteBatch;

use super::layout::{Stamp, State};
use crate::{Revision, Table, Version};

/// Everything since the last [`crate::Engine::publish`].
#[derive(Default)]
pub(super) struct Pending {
    /// The same as bytes, ready to be written.
    pub(super) batch: WriteBatch,
    /// Keys that the writer asked for or wrote.
    pub(super) keys: BTreeMap<Box<[u8]>, Touched>,
    /// How many of them have versions here.
    pub(super) written: usize,
    /// Rows of tables; `None` where one was removed.
    pub(super) rows: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    /// The state as the last batch wrote it.
    pub(super) state: State,
    /// Why nothing more is written: after a write that failed, what is here is no longer what follows what is stored.
    pub(super) refusal: Option<String>,
    /// The greatest revision ever appended.
    pub(super) last: Revision,
    /// For encoding values.
    pub(super) buffer: Vec<u8>,
}

/// A key that the writer asked for or wrote.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Its newest published version, which a version that follows needs to know.
    pub(super) base: Option<Stamp>,
    /// What was appended, oldest first.
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
        // The common case, in which no key need be made.
        if self.rows.is_empty() { None } else { self.rows.get(&(table, key.to_vec())) }
    }

    /// Everything was written: the batch was taken.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.rows.clear();
        self.written = 0;
    }
}
