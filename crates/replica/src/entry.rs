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

/// A membership change as consensus proposes it.
///
/// # Errors
/// If it is of a kind that this version does not know.
pub fn change_entry(change: &raftpb::ConfChange) -> Result<eraftpb::Entry, EntryError> {
    let data = change.encode_to_vec().into();
    to_consensus(wal::Entry { kind: CONF_CHANGE, term: 0, index: 0, data })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: i32) -> Bytes {
        let change =
            raftpb::ConfChange { r#type: Some(number), node_id: Some(7), id: Some(9), context: Some("json".into()) };
        change.encode_to_vec().into()
    }

    fn entry(kind: i32, data: Bytes) -> wal::Entry {
        wal::Entry { kind, term: 3, index: 5, data }
    }

    #[test]
    fn entries_come_back_from_consensus_as_they_stand_on_disk() {
        for entry in [entry(NORMAL, "data".into()), entry(NORMAL, Bytes::new()), entry(CONF_CHANGE, change(0))] {
            let there = to_consensus(entry.clone()).unwrap();
            assert_eq!((there.term, there.index), (3, 5));
            assert_eq!(to_disk(&there), entry);
        }
    }

    #[test]
    fn a_change_reaches_the_library_in_its_own_numbers() {
        let there = to_consensus(entry(CONF_CHANGE, change(0))).unwrap();
        let library = eraftpb::ConfChange::parse_from_bytes(&there.data).unwrap();
        assert_eq!((library.get_change_type(), library.node_id), (eraftpb::ConfChangeType::AddNode, 7));
    }

    #[test]
    fn what_cannot_be_applied_is_named() {
        let cases = [
            (entry(2, "x".into()), "entry 5: kind 2, which this version does not know"),
            (entry(CONF_CHANGE, change(1)), "ConfChangeRemoveNode, which this version does not apply"),
            (entry(CONF_CHANGE, change(4)), "membership change 4, which this version does not know"),
            (entry(CONF_CHANGE, vec![0xff].into()), "a membership change that cannot be read"),
        ];
        for (entry, why) in cases {
            let error = to_consensus(entry).unwrap_err().to_string();
            assert!(error.starts_with("entry 5: ") && error.contains(why), "{error}");
        }
    }
}
