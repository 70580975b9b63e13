//! The input of the hub from the store: new revisions, and history.

use metastore_engine::{Result, Revision, Row, Version};

use crate::mvcc::row::key_of;

/// All changes of one revision, in the order of the operations. The store hands it out after it has published the
/// revision.
#[derive(Debug)]
pub struct RevisionEvents {
    pub revision: i64,
    pub changes: Vec<Change>,
}

/// One changed key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The new version. A tombstone's row is a `KeyValue` with the key alone, as etcd stores it.
    pub version: Version,
    /// The row before the change, if the key was alive.
    pub previous: Option<Row>,
}

impl Change {
    /// The key that was changed, read from the row.
    pub fn key(&self) -> &[u8] {
        key_of(&self.version.row)
    }
}

/// Read access to the store's history. All calls may run while the writer works.
pub trait HistorySource: Send + Sync {
    /// The newest revision that readers may see.
    fn current_revision(&self) -> i64;

    /// The revision of the last compaction; 0 or less before the first one. It is raised before the first row is
    /// dropped. So rows that were read *before* this call are complete from the returned revision on.
    fn compact_revision(&self) -> i64;

    /// Appends to `rows`, in order of revision, stored versions with `from <= revision` and `main <= to`, tombstones
    /// included: about `limit` of them (fewer or somewhat more). Returns the revision to continue from, or `None` at
    /// the end.
    fn history(&self, from: Revision, to: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Revision>>;

    /// The row of `key` at revision `main`: `None` if it did not exist then, or if that revision has been compacted.
    fn value_at(&self, key: &[u8], main: i64) -> Result<Option<Row>>;
}
