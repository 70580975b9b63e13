//! Log entries in two forms: etcd's, as on disk and on the wire, and that of the consensus library.
//!
//! The two forms number the kinds of membership changes differently. The library cannot decode etcd's AddLearnerNode,
//! and would take etcd's UpdateNode for the demotion of a voter. So the library never sees etcd's bytes: they travel in
//! the entry's `context`, which the library does not read, next to a change in the library's own numbers.

use bytes::Bytes;
use metastore_mutants::{Mutant, mutant};
use metastore_proto::Message;
use metastore_proto::raftpb::{self, ConfChangeType};
use metastore_store::{Member, check_change, check_command};
use protobuf::Message as _;
use raft::eraftpb;
use serde::{Deserialize, Serialize};

use crate::wal::{self, MAX_ENTRY_BYTES};

/// One entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryId {
    pub index: u64,
    pub term: u64,
}

/// The reason why an entry cannot be handed to consensus.
#[derive(Debug, thiserror::Error)]
#[error("entry {index}: {why}")]
pub struct EntryError {
    pub index: u64,
    pub why: String,
}

/// Kinds of entries, as etcd numbers them.
pub const NORMAL: i32 = raftpb::EntryType::EntryNormal as i32;
pub const CONF_CHANGE: i32 = raftpb::EntryType::EntryConfChange as i32;

/// Converts an entry from its form on disk to the library's.
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

/// The same for an entry that is passed over: a membership change that cannot be read stays in the log as it is.
///
/// # Errors
/// As [`to_consensus`] for an entry that is not a membership change.
pub fn passed_over(entry: wal::Entry) -> Result<eraftpb::Entry, EntryError> {
    if entry.kind != CONF_CHANGE {
        return to_consensus(entry);
    }
    let wal::Entry { term, index, data: context, .. } = entry;
    let mut out = eraftpb::Entry { term, index, context, ..eraftpb::Entry::default() };
    out.set_entry_type(eraftpb::EntryType::EntryConfChange);
    Ok(out)
}

/// Checks that all members can apply an entry that another member forwards for its clients, so that it may become part
/// of the log.
///
/// # Errors
/// The error that would stop a member.
pub fn check_proposal(entry: &eraftpb::Entry) -> Result<(), String> {
    check_size(entry)?;
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => check_command(entry.data.clone()).map_err(|error| error.to_string()),
        _ => check_change(&decode_change(0, &entry.context).map_err(|error| error.why)?),
    }
}

/// Checks that an entry fits into one record of the log.
///
/// # Errors
/// Names the size of the entry.
pub fn check_size(entry: &eraftpb::Entry) -> Result<(), String> {
    match data_bytes(entry) {
        0..=MAX_ENTRY_BYTES => Ok(()),
        bytes => Err(format!("an entry of {bytes} bytes; a record of the log holds {MAX_ENTRY_BYTES}")),
    }
}

/// Bytes of an entry's data on disk.
pub fn data_bytes(entry: &eraftpb::Entry) -> usize {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => entry.data.len(),
        _ => entry.context.len(),
    }
}

/// A membership change in the form in which consensus proposes it.
///
/// # Errors
/// If it is of a kind that this version does not know.
pub fn change_entry(change: &raftpb::ConfChange) -> Result<eraftpb::Entry, EntryError> {
    let data = change.encode_to_vec().into();
    to_consensus(wal::Entry { kind: CONF_CHANGE, term: 0, index: 0, data })
}

/// The change by which a member joins, in etcd's form. `id` is that of the request that waits for it, 0 if none does.
///
/// # Errors
/// Only those of the encoder; no member can cause one.
pub fn addition(id: u64, member: &Member) -> serde_json::Result<raftpb::ConfChange> {
    let kind =
        if member.is_learner { ConfChangeType::ConfChangeAddLearnerNode } else { ConfChangeType::ConfChangeAddNode };
    let (node_id, context) = (Some(member.id), Some(member.to_json()?.into()));
    Ok(raftpb::ConfChange { id: (id != 0).then_some(id), r#type: Some(kind as i32), node_id, context })
}

/// Converts an entry from the library's form to that on disk.
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

/// The same change in the library's numbers. An update of addresses changes no vote: it becomes the addition of member
/// 0, which the library skips. (If it became an empty change in the library's second form, the library would replace it
/// by an empty normal entry.)
///
/// # Errors
/// If it is of a kind that this version does not know.
pub fn library_change(index: u64, change: &raftpb::ConfChange) -> Result<eraftpb::ConfChange, EntryError> {
    use eraftpb::ConfChangeType as Library;
    // Not the getter: for an unknown number it returns the default, which is AddNode.
    let number = change.r#type.unwrap_or_default();
    let why = |_| EntryError { index, why: format!("membership change {number}, which this version does not know") };
    let (mut kind, mut node_id) = match ConfChangeType::try_from(number).map_err(why)? {
        ConfChangeType::ConfChangeAddNode => (Library::AddNode, change.node_id()),
        ConfChangeType::ConfChangeRemoveNode => (Library::RemoveNode, change.node_id()),
        ConfChangeType::ConfChangeAddLearnerNode => (Library::AddLearnerNode, change.node_id()),
        ConfChangeType::ConfChangeUpdateNode => (Library::AddNode, 0),
    };
    if mutant(Mutant::RemovedMemberVotes) && kind == Library::RemoveNode {
        (kind, node_id) = (Library::AddNode, 0);
    }
    if mutant(Mutant::LearnerVotes) && kind == Library::AddLearnerNode {
        kind = Library::AddNode;
    }
    let mut out = eraftpb::ConfChange { node_id, id: change.id(), ..eraftpb::ConfChange::default() };
    out.set_change_type(kind);
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
        let changes = [0, 1, 2, 3].map(|kind| entry(CONF_CHANGE, change(kind)));
        for entry in [entry(NORMAL, "data".into()), entry(NORMAL, Bytes::new())].into_iter().chain(changes) {
            let there = to_consensus(entry.clone()).unwrap();
            assert_eq!((there.term, there.index), (3, 5));
            assert_eq!(to_disk(&there), entry);
        }
    }

    #[test]
    fn a_change_reaches_the_library_in_its_own_numbers() {
        use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        for (number, kind, node_id) in [(0, AddNode, 7), (1, RemoveNode, 7), (2, AddNode, 0), (3, AddLearnerNode, 7)] {
            let there = to_consensus(entry(CONF_CHANGE, change(number))).unwrap();
            let library = eraftpb::ConfChange::parse_from_bytes(&there.data).unwrap();
            assert_eq!((library.get_change_type(), library.node_id, library.id), (kind, node_id, 9), "{number}");
        }
    }

    /// The change that etcd proposes for a member of its own, byte by byte.
    #[test]
    fn a_change_is_written_as_etcd_writes_it() {
        // The first entry of a real etcd 3.7.3.
        let etcd = b"\x10\x00\x18\x9c\xa1\xb5\xbb\xbb\xd0\xa0\xe6\x9c\x01\x22\x4d{\"id\":11298549067395453084,\
            \"peerURLs\":[\"http://127.0.0.1:25382\"],\"name\":\"m3\"}";
        let there = to_consensus(entry(CONF_CHANGE, Bytes::from_static(etcd))).unwrap();
        assert_eq!(to_disk(&there).data, etcd[..]);
        let change = decode_change(5, &there.context).unwrap();
        let member: Member = serde_json::from_slice(change.context()).unwrap();
        assert_eq!(change_entry(&addition(0, &member).unwrap()).unwrap().context, etcd[..]);
    }

    #[test]
    fn what_cannot_be_applied_is_named() {
        let cases = [
            (entry(2, "x".into()), "entry 5: kind 2, which this version does not know"),
            (entry(CONF_CHANGE, change(4)), "membership change 4, which this version does not know"),
            (entry(CONF_CHANGE, vec![0xff].into()), "a membership change that cannot be read"),
        ];
        for (entry, why) in cases {
            let error = to_consensus(entry).unwrap_err().to_string();
            assert!(error.starts_with("entry 5: ") && error.contains(why), "{error}");
        }
    }
}
