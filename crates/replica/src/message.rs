//! Messages between members in two forms: etcd's, as on the wire, and that of the consensus library.
//!
//! Numbers and meanings are the same, with two exceptions: membership changes (see [`crate::entry`]), and four fields
//! that the library adds. Those fields are never sent, because etcd gives two of their numbers another meaning.

use bytes::Bytes;
use metastore_proto::raftpb;
use protobuf::ProtobufEnum;
use raft::eraftpb::{self, MessageType};

use crate::conf_state;
use crate::entry::{EntryError, to_consensus, to_disk};
use crate::wal;

/// Converts a message from the library's form to that on the wire.
pub fn to_wire(message: eraftpb::Message) -> raftpb::Message {
    let snapshot = message.snapshot.as_ref().map(|snapshot| snapshot_to_wire(snapshot.get_metadata()));
    // etcd omits fields that are 0, and so do we: messages are written hundreds of thousands of times a second.
    let number = |value: u64| (value != 0).then_some(value);
    raftpb::Message {
        r#type: Some(message.get_msg_type().value()),
        to: number(message.to),
        from: number(message.from),
        term: number(message.term),
        log_term: number(message.log_term),
        index: number(message.index),
        entries: message.entries.iter().map(entry_to_wire).collect(),
        commit: number(message.commit),
        snapshot,
        reject: message.reject.then_some(true),
        reject_hint: number(message.reject_hint),
        context: (!message.context.is_empty()).then_some(message.context),
    }
}

fn entry_to_wire(entry: &eraftpb::Entry) -> raftpb::Entry {
    let wal::Entry { kind, term, index, data } = to_disk(entry);
    raftpb::Entry { r#type: Some(kind), term: Some(term), index: Some(index), data: Some(data) }
}

fn snapshot_to_wire(metadata: &eraftpb::SnapshotMetadata) -> raftpb::Snapshot {
    let conf_state = Some(conf_state::to_disk(metadata.get_conf_state()));
    let metadata = raftpb::SnapshotMetadata { conf_state, index: Some(metadata.index), term: Some(metadata.term) };
    raftpb::Snapshot { data: None, metadata: Some(metadata) }
}

/// Converts a message from its form on the wire to the library's.
///
/// # Errors
/// If the type is unknown, or consensus cannot take an entry.
pub fn from_wire(message: raftpb::Message) -> Result<eraftpb::Message, EntryError> {
    let kind = message.r#type.unwrap_or_default();
    let Some(kind) = MessageType::from_i32(kind) else {
        return Err(EntryError { index: message.index(), why: format!("a message of type {kind}, which is unknown") });
    };
    let mut out = eraftpb::Message {
        to: message.to(),
        from: message.from(),
        term: message.term(),
        log_term: message.log_term(),
        index: message.index(),
        commit: message.commit(),
        reject: message.reject(),
        reject_hint: message.reject_hint(),
        ..eraftpb::Message::default()
    };
    out.set_msg_type(kind);
    out.context = message.context.unwrap_or_default();
    let entries: Result<Vec<_>, _> = message.entries.into_iter().map(entry_from_wire).collect();
    out.entries = entries?.into();
    if let Some(metadata) = message.snapshot.and_then(|snapshot| snapshot.metadata) {
        out.mut_snapshot().set_metadata(metadata_from_wire(&metadata));
    }
    Ok(out)
}

fn entry_from_wire(entry: raftpb::Entry) -> Result<eraftpb::Entry, EntryError> {
    let (kind, term, index) = (entry.r#type.unwrap_or_default(), entry.term(), entry.index());
    to_consensus(wal::Entry { kind, term, index, data: entry.data.unwrap_or_default() })
}

fn metadata_from_wire(metadata: &raftpb::SnapshotMetadata) -> eraftpb::SnapshotMetadata {
    let mut out = eraftpb::SnapshotMetadata {
        index: metadata.index(),
        term: metadata.term(),
        ..eraftpb::SnapshotMetadata::default()
    };
    out.set_conf_state(metadata.conf_state.as_ref().map(conf_state::from_disk).unwrap_or_default());
    out
}

/// A request for the read index; `context` is the name of the round.
pub fn read_index(context: u64) -> eraftpb::Message {
    let mut message = eraftpb::Message::default();
    message.set_msg_type(MessageType::MsgReadIndex);
    let data = Bytes::copy_from_slice(&context.to_be_bytes());
    message.entries = vec![eraftpb::Entry { data, ..eraftpb::Entry::default() }].into();
    message
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use proptest::prelude::*;
    use raft::eraftpb::ConfState;

    use super::*;

    #[test]
    fn an_append_goes_over_the_wire_and_back() {
        let change = raftpb::ConfChange { r#type: Some(0), node_id: Some(7), id: Some(9), context: Some("{}".into()) };
        let entries = [
            wal::Entry { kind: 0, term: 3, index: 6, data: "put".into() },
            wal::Entry { kind: 1, term: 3, index: 7, data: change.encode_to_vec().into() },
        ];
        let mut message =
            eraftpb::Message { to: 2, from: 1, term: 3, log_term: 2, index: 5, commit: 4, ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = entries.clone().map(|entry| to_consensus(entry).unwrap()).to_vec().into();
        message.priority = 9;
        message.commit_term = 9;
        let wire = to_wire(message.clone());
        assert_eq!(wire.entries[1].r#type, Some(1));
        assert_eq!(wire.entries[1].data(), entries[1].data, "etcd's own bytes");
        let bytes = Bytes::from(wire.encode_to_vec());
        let back = from_wire(raftpb::Message::decode(bytes).unwrap()).unwrap();
        (message.priority, message.commit_term) = (0, 0);
        assert_eq!(back, message, "and nothing that etcd does not know");
    }

    #[test]
    fn a_snapshot_carries_its_position_and_members() {
        let mut message = eraftpb::Message { to: 2, from: 1, term: 3, ..Default::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (10, 3);
        metadata.set_conf_state(ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() });
        assert_eq!(from_wire(to_wire(message.clone())).unwrap(), message);
    }

    #[test]
    fn what_consensus_cannot_take_is_named() {
        let message = raftpb::Message { r#type: Some(99), ..Default::default() };
        assert!(from_wire(message).unwrap_err().to_string().contains("type 99"));
        let entry = raftpb::Entry { r#type: Some(2), index: Some(4), ..Default::default() };
        let message = raftpb::Message { r#type: Some(3), entries: vec![entry], ..Default::default() };
        assert!(from_wire(message).unwrap_err().to_string().starts_with("entry 4: kind 2"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = raftpb::Message::decode(Bytes::from(bytes)) {
                let _ = from_wire(message);
            }
        }
    }
}
