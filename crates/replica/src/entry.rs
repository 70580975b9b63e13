//! Log entries in two forms: etcd's, as they stand on disk and on the wire, and the consensus library's.
//!
//! Both number the kinds of membership changes differently: what etcd calls AddLearnerNode the library cannot decode, and
//! etcd's UpdateNode would demote a voter. So the library never sees etcd's bytes: they travel in the entry's `context`,
//! which the library does not read, beside a change in its own numbers.

use bytes::Bytes;
use metastore_proto::Message;
use metastore_proto::raftpb;
use protobuf::Message as _;
use raft::eraftpb;

use crate::wal;

/// Why an entry cannot be handed to consensus.
#[derive(Debug, thiserror::Error)]
#[error("entry {index}: {why}")]
pub struct EntryError {
    pub index: u64,
    pub why: String,
}

/// Kinds of entries, as etcd numbers them.
pub const NORMAL: i32 = raftpb::EntryType::EntryNormal as i32;
pub const CONF_CHANGE: i32 = raftpb::EntryType::EntryConfChange as i32;

/// From disk to consensus.
///
/// # Errors
/// If the entry is of a kind, or changes the membership in a way, that this version does not know.
pub fn to_consensus(entry: wal::Entry) -> Result<eraftpb::Entry, EntryError> {
    let wal::Entry { kind, term, index, data } = entry;
    let mut out = eraftpb::Entry { term, index, ..eraftpb::Entry::default() };
    match kind {
        NORMAL => out.data = data,
        CONF_CHANGE => {
            let change = decode_change(index, &data)?;
            out.set_entry_type(eraftpb::EntryType::EntryConfChange);
            let bytes = library_change(index, &change)?.write_to_bytes();
            out.data = bytes.map_err(|error| EntryError { index, why: error.to_string() })?.into();
            out.context = data;
        }
        other => return Err(EntryError { index, why: format!("kind {other}, which this version does not know") }),
    }
    Ok(out)
}

/// From consensus to disk.
pub fn to_disk(entry: &eraftpb::Entry) -> wal::Entry {
    let (kind, data) = match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => (NORMAL, entry.data.clone()),
        _ => (CONF_CHANGE, entry.context.clone()),
    };
    wal::Entry { kind, term: entry.term, index: entry.index, data }
}

/// Reads etcd's membership change from an entry's bytes.
pub fn decode_change(index: u64, data: &Bytes) -> Result<raftpb::ConfChange, EntryError> {
    let why = |error: metastore_proto::prost::DecodeError| format!("a membership change that cannot be read: {error}");
    raftpb::ConfChange::decode(data.clone()).map_err(|error| EntryError { index, why: why(error) })
}

/// The same change in the library's numbers.
pub fn library_change(index: u64, change: &raftpb::ConfChange) -> Result<eraftpb::ConfChange, EntryError> {
    let mut out = eraftpb::ConfChange { node_id: change.node_id(), id: change.id(), ..eraftpb::ConfChange::default() };
    // Not the getter: it takes a number that it does not know for the default, which is AddNode.
    let number = change.r#type.unwrap_or_default();
    match raftpb::ConfChangeType::try_from(number) {
        Ok(raftpb::ConfChangeType::ConfChangeAddNode) => out.set_change_type(eraftpb::ConfChangeType::AddNode),
        Err(_) => {
            let why = format!("membership change {number}, which this version does not know");
            return Err(EntryError { index, why });
        }
        Ok(other) => {
            let why = format!("membership change {other:?}, which this version does not apply");
            return Err(EntryError { index, why });
        }
    }
    Ok(out)
}
