//! Watch (placeholder until merged).
use metastore_engine::{Row, Version};

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub version: Version,
    pub previous: Option<Row>,
}
/// All changes of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionEvents {
    pub revision: i64,
    pub changes: Vec<Change>,
}
