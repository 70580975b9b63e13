//! The names and formats of everything in the state; byte tables are in `docs/formats.md`. The content is etcd's.

use metastore_engine::{Engine, EngineError, Revision, Table};

/// Row of [`Table::Meta`]: the revision of the last compaction that was requested.
pub const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
/// Row of [`Table::Meta`]: the revision of the last compaction that has dropped all its old versions.
pub const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
/// Row of [`Table::Meta`]: a state stream is being loaded into this engine, and has not ended yet.
pub const LOADING: &[u8] = b"loading";
/// Row of [`Table::Cluster`]: the version that all members support, as text.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// Row of [`Table::Cluster`]: whether a downgrade is in progress, and its target version, as etcd's JSON.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// Row of [`Table::Meta`]: the voters and learners, as etcd's JSON.
pub const CONF_STATE: &[u8] = b"confState";
/// Row of [`Table::Auth`]: one byte, 1 if clients must authenticate. It exists after authentication was first enabled.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
/// Row of [`Table::Auth`]: a counter of changes of users, roles and permissions; 8 bytes, big endian.
pub const AUTH_REVISION: &[u8] = b"authRevision";
/// The auth revision of a cluster without users.
pub const FIRST_AUTH_REVISION: u64 = 1;
/// Rows of [`Table::Meta`] that differ between members or change with every entry; hashes over the state omit them.
pub const NOT_HASHED: [&[u8]; 3] = [CONSISTENT_INDEX, TERM, STORAGE_VERSION];
/// Rows of [`Table::Meta`] in etcd: index and term of the last entry that was applied, 8 bytes each, big endian.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub const TERM: &[u8] = b"term";
/// Row of [`Table::Meta`] in etcd: the version of the storage, as text.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";

/// The key of a stored version: main and sub revision, and a mark for a tombstone.
pub fn revision_key(revision: Revision, tombstone: bool) -> RevisionKey {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
    bytes[8] = b'_';
    bytes[9..17].copy_from_slice(&revision.sub.to_be_bytes());
    bytes[17] = b't';
    RevisionKey { bytes, len: if tombstone { 18 } else { 17 } }
}

/// 17 bytes, 18 for a tombstone: `main` (8, big endian), `_`, `sub` (8, big endian), `t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionKey {
    bytes: [u8; 18],
    len: usize,
}

impl std::ops::Deref for RevisionKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Reads a [`RevisionKey`]; `None` if the bytes are not one.
pub fn parse_revision_key(bytes: &[u8]) -> Option<(Revision, bool)> {
    let tombstone = match bytes.len() {
        17 => false,
        18 if bytes[17] == b't' => true,
        _ => return None,
    };
    let number = |at: usize| bytes[at..at + 8].try_into().map(i64::from_be_bytes).ok();
    (bytes[8] == b'_').then_some((Revision::new(number(0)?, number(9)?), tombstone))
}

/// Reads one of the compaction rows of [`Table::Meta`].
pub fn compact_revision(engine: &dyn Engine, row: &[u8]) -> Result<Option<i64>, EngineError> {
    let Some(bytes) = engine.get(Table::Meta, row)? else { return Ok(None) };
    match parse_revision_key(&bytes) {
        Some((revision, _)) => Ok(Some(revision.main)),
        None => Err(EngineError(format!(
            "row {} of table meta is damaged: expected a revision, found {bytes:?}",
            String::from_utf8_lossy(row)
        ))),
    }
}
