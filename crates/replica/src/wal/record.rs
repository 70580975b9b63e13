//! The content of records.

use bytes::Bytes;
use metastore_proto::raftpb::{ConfState, EntryType, HardState};
use metastore_proto::{Message as _, walpb};

use super::frame::{ENTRY, Encoder, HARD_STATE, METADATA, SNAPSHOT};
use metastore_proto::wire::{Fields, FlatMessage, Malformed, Value, varints};

/// The owner of a log. It is the same in every segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The id of the member.
    pub node_id: u64,
    /// The id of the cluster.
    pub cluster_id: u64,
}

/// A log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The kind of the data, by etcd's numbers (`raftpb.EntryType`): 0 a command, or nothing; 1 and 2 a membership
    /// change.
    pub kind: i32,
    /// The term in which the entry was proposed.
    pub term: u64,
    /// The entry's place in the log; the first is 1.
    pub index: u64,
    /// The command or membership change.
    pub data: Bytes,
}

/// Bytes that an entry takes in the log in addition to its data: frame, record and the entry's own fields.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// Approximate bytes that an entry takes in the log. The overhead counts: a state of many small rows is no larger than
/// the log that made it. Without the overhead it would always seem larger.
pub fn log_bytes(data_bytes: usize) -> u64 {
    ENTRY_OVERHEAD_BYTES + data_bytes as u64
}

impl Entry {
    pub(super) fn decode(message: &[u8]) -> Result<Entry, Malformed> {
        let mut entry = Entry::default();
        for field in Fields::new(message) {
            match field? {
                (1, Value::Varint(kind)) => entry.kind = known_kind(kind).ok_or(Malformed)?,
                (2, Value::Varint(term)) => entry.term = term,
                (3, Value::Varint(index)) => entry.index = index,
                // A copy, because a slice would keep the whole segment in memory as long as the entry lives.
                (4, Value::Bytes(data)) => entry.data = Bytes::copy_from_slice(data),
                _ => return Err(Malformed),
            }
        }
        // A hard state record whose type was damaged into that of an entry decodes as a membership change without data.
        if entry.kind != 0 && entry.data.is_empty() { Err(Malformed) } else { Ok(entry) }
    }
}

fn known_kind(number: u64) -> Option<i32> {
    let kind = i32::try_from(number).ok()?;
    EntryType::try_from(kind).ok().map(|_| kind)
}

pub(super) fn decode_hard_state(message: &[u8]) -> Result<HardState, Malformed> {
    let [term, vote, commit] = varints(message)?;
    // An entry record whose type was damaged into that of a hard state begins with the entry's kind.
    if term == 0 {
        return Err(Malformed);
    }
    Ok(HardState { term: Some(term), vote: Some(vote), commit: Some(commit) })
}

impl Metadata {
    pub(super) fn decode(message: &[u8]) -> Result<Metadata, Malformed> {
        let [node_id, cluster_id] = varints(message)?;
        Ok(Metadata { node_id, cluster_id })
    }
}

impl Encoder {
    pub(super) fn put_metadata(&mut self, metadata: Metadata) {
        self.put(METADATA, FlatMessage::of(&[metadata.node_id, metadata.cluster_id]).as_slice(), &[]);
    }

    pub(super) fn put_hard_state(&mut self, state: &HardState) {
        self.put(HARD_STATE, FlatMessage::of(&[state.term(), state.vote(), state.commit()]).as_slice(), &[]);
    }

    #[inline]
    pub(super) fn put_entry(&mut self, entry: &Entry) {
        let message = FlatMessage::of(&[entry.kind as u64, entry.term, entry.index]);
        if entry.data.is_empty() {
            self.put(ENTRY, message.as_slice(), &[]);
        } else {
            self.put(ENTRY, message.open_bytes(4, entry.data.len()).as_slice(), &entry.data);
        }
    }

    pub(super) fn put_snapshot(&mut self, index: u64, term: u64, conf_state: Option<ConfState>) {
        let snapshot = walpb::Snapshot { index: Some(index), term: Some(term), conf_state };
        self.put(SNAPSHOT, &snapshot.encode_to_vec(), &[]);
    }
}
