//! What the records say.

use bytes::Bytes;
use metastore_proto::raftpb::ConfState;
use metastore_proto::{Message as _, walpb};

use super::fields::{Fields, Malformed, Message, Value, varints};
use super::frame::{ENTRY, Encoder, HARD_STATE, METADATA, SNAPSHOT};

/// Whose log this is. The same in every segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The id of the member.
    pub node_id: u64,
    /// The id of the cluster.
    pub cluster_id: u64,
}

/// What a member promised to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// Whom the member voted for in this term; 0 for nobody.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// What an entry's data is. Numbers are etcd's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A command, or nothing (the first entry of a term).
    #[default]
    Normal = 0,
    /// A membership change, `raftpb.ConfChange`.
    ConfChange = 1,
    /// A membership change, `raftpb.ConfChangeV2`.
    ConfChangeV2 = 2,
}

/// An entry that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What the data is.
    pub kind: EntryKind,
    /// The term in which it was proposed.
    pub term: u64,
    /// Its place in the log; the first is 1.
    pub index: u64,
    /// The command or membership change.
    pub data: Bytes,
}

/// An entry to be written.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// What the data is.
    pub kind: EntryKind,
    /// The term in which it was proposed.
    pub term: u64,
    /// Its place in the log; the first is 1.
    pub index: u64,
    /// The command or membership change.
    pub data: &'a [u8],
}

impl Entry {
    /// The same entry, to be written.
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { kind: self.kind, term: self.term, index: self.index, data: &self.data }
    }

    pub(super) fn decode(message: &[u8]) -> Result<Entry, Malformed> {
        let mut entry = Entry::default();
        for field in Fields::new(message) {
            match field? {
                (1, Value::Varint(kind)) => entry.kind = EntryKind::from_number(kind).ok_or(Malformed)?,
                (2, Value::Varint(term)) => entry.term = term,
                (3, Value::Varint(index)) => entry.index = index,
                // A copy, because a slice would keep the whole segment in memory for as long as the entry.
                (4, Value::Bytes(data)) => entry.data = Bytes::copy_from_slice(data),
                _ => return Err(Malformed),
            }
        }
        Ok(entry)
    }
}

impl EntryKind {
    fn from_number(number: u64) -> Option<EntryKind> {
        match number {
            0 => Some(EntryKind::Normal),
            1 => Some(EntryKind::ConfChange),
            2 => Some(EntryKind::ConfChangeV2),
            _ => None,
        }
    }
}

impl HardState {
    pub(super) fn decode(message: &[u8]) -> Result<HardState, Malformed> {
        let [term, vote, commit] = varints(message)?;
        Ok(HardState { term, vote, commit })
    }
}

impl Metadata {
    pub(super) fn decode(message: &[u8]) -> Result<Metadata, Malformed> {
        let [node_id, cluster_id] = varints(message)?;
        Ok(Metadata { node_id, cluster_id })
    }
}

impl Encoder {
    pub(super) fn put_metadata(&mut self, metadata: Metadata) {
        self.put(METADATA, Message::of(&[metadata.node_id, metadata.cluster_id]).as_slice(), &[]);
    }

    pub(super) fn put_hard_state(&mut self, state: HardState) {
        self.put(HARD_STATE, Message::of(&[state.term, state.vote, state.commit]).as_slice(), &[]);
    }

    #[inline]
    pub(super) fn put_entry(&mut self, entry: EntryRef<'_>) {
        let message = Message::of(&[entry.kind as u64, entry.term, entry.index]);
        if entry.data.is_empty() {
            self.put(ENTRY, message.as_slice(), &[]);
        } else {
            self.put(ENTRY, message.open_bytes(4, entry.data.len()).as_slice(), entry.data);
        }
    }

    pub(super) fn put_snapshot(&mut self, index: u64, term: u64, conf_state: Option<ConfState>) {
        let snapshot = walpb::Snapshot { index: Some(index), term: Some(term), conf_state };
        self.put(SNAPSHOT, &snapshot.encode_to_vec(), &[]);
    }
}
