//! The memory that decoding a message takes beyond its bytes. A field of two bytes may become an entry of many, so a
//! message is measured before it is decoded.

use bytes::Bytes;
use metastore_proto::wire::take_field;
use metastore_proto::{Message as _, raftpb};

use super::source::Broken;

/// The most entries of one message. An append has at most a mebibyte of them, in etcd too, or a single one; an entry
/// takes at least 5 bytes of that mebibyte, so real messages have fewer.
pub const MAX_ENTRIES: u64 = 1 << 18;

/// An entry in a vector that has grown to twice its length.
const ENTRY_BYTES: usize = 2 * size_of::<raftpb::Entry>();

/// An id of one byte, in a vector that has grown to twice its length.
const ID_BYTES: usize = 2 * size_of::<u64>();

/// The most bytes that decoding a message may take beyond its own.
const MAX_EXTRA_BYTES: usize = MAX_ENTRIES as usize * ENTRY_BYTES;

/// A message that takes more than this is decoded on a blocking thread: decoding it could hold up the heartbeats of
/// other members for milliseconds. An append of a mebibyte with entries of a hundred bytes takes less.
const INLINE_BYTES: usize = 4 << 20;

const SNAPSHOT: usize = 9;
const METADATA: usize = 2;

/// A message that is not decoded yet.
#[derive(Debug)]
pub struct Measured {
    bytes: Bytes,
    /// The bytes that decoding takes beyond the message's own.
    pub extra_bytes: usize,
}

impl Measured {
    /// Walks over the fields without decoding them.
    ///
    /// # Errors
    /// [`Broken::Malformed`]: it is no message, or has more entries than a member sends.
    pub fn new(bytes: Bytes) -> Result<Measured, Broken> {
        let mut extra_bytes = 0;
        let mut add = |more: usize| {
            extra_bytes += more;
            match extra_bytes {
                0..=MAX_EXTRA_BYTES => Ok(()),
                _ => Err(Broken::Malformed(format!("more entries than {MAX_ENTRIES}, or as many other fields or ids"))),
            }
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // Every field counts as an entry, so the walk is bounded too.
            add(ENTRY_BYTES)?;
            let (number, mut inner) = take_field(&mut rest).ok_or_else(cut)?;
            while number == SNAPSHOT && !inner.is_empty() {
                add(ENTRY_BYTES)?;
                if let (METADATA, metadata) = take_field(&mut inner).ok_or_else(cut)? {
                    add(metadata.len().saturating_mul(ID_BYTES))?;
                }
            }
        }
        Ok(Measured { bytes, extra_bytes })
    }

    /// Decodes it; `held` is dropped once that is done, even if nobody waits for it any more.
    ///
    /// # Errors
    /// [`Broken::Malformed`]
    pub async fn decode(self, held: impl Send + 'static) -> Result<raftpb::Message, Broken> {
        let inline = self.bytes.len() + self.extra_bytes <= INLINE_BYTES;
        let decode = move || {
            let _held = held;
            raftpb::Message::decode(self.bytes).map_err(|error| Broken::Malformed(error.to_string()))
        };
        if inline {
            return decode();
        }
        let panicked = |_| Err(Broken::Malformed("decoding panicked".into()));
        tokio::task::spawn_blocking(decode).await.unwrap_or_else(panicked)
    }
}

fn cut() -> Broken {
    Broken::Malformed("a field that is cut off, or of a kind that no member sends".into())
}

#[cfg(test)]
mod tests {
    use metastore_proto::raftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};

    use super::*;

    /// Bytes of entries that a leader puts into one append.
    const APPEND_BYTES: usize = 1 << 20;

    fn measured(bytes: &[u8]) -> Result<usize, Broken> {
        Measured::new(Bytes::copy_from_slice(bytes)).map(|measured| measured.extra_bytes)
    }

    #[test]
    fn the_largest_append_is_taken_and_more_entries_are_not() {
        let entry = Entry { term: Some(1), index: Some(128), ..Entry::default() };
        let entries = vec![entry.clone(); APPEND_BYTES / entry.encoded_len()];
        let append = Message { entries, index: Some(u64::MAX), ..Message::default() };
        let taken = measured(&append.encode_to_vec()).unwrap();
        assert!(taken >= append.entries.len() * size_of::<Entry>(), "{taken}");
        assert!(taken <= MAX_EXTRA_BYTES);
        let empty = |entries| measured(&[0x3a, 0].repeat(entries));
        assert_eq!(empty(MAX_ENTRIES as usize), Ok(MAX_EXTRA_BYTES));
        assert!(matches!(empty(MAX_ENTRIES as usize + 1), Err(Broken::Malformed(_))));
        // Fields of other numbers and kinds: unknown ones, numbers, and the fields of a snapshot.
        for field in [&[0x78, 0x78][..], &[0x10, 1], &[0x7a, 0], &[0x4a, 2, 0x12, 0], &[0x7d, 0, 0, 0, 0]] {
            assert!(
                matches!(measured(&field.repeat(MAX_ENTRIES as usize + 1)), Err(Broken::Malformed(_))),
                "{field:?}"
            );
        }
    }

    #[test]
    fn ids_of_a_state_are_measured_and_its_data_is_not() {
        let state = |ids: usize, data: usize| {
            let conf_state = Some(ConfState { voters: vec![1; ids], ..ConfState::default() });
            let metadata = Some(SnapshotMetadata { conf_state, ..SnapshotMetadata::default() });
            let snapshot = Some(Snapshot { data: Some(vec![0; data].into()), metadata });
            measured(&Message { snapshot, ..Message::default() }.encode_to_vec())
        };
        assert!(state(1000, 0).unwrap() >= 1000 * size_of::<u64>());
        assert_eq!(state(7, 1 << 20).unwrap(), state(7, 1).unwrap());
        assert!(matches!(state(MAX_EXTRA_BYTES / ID_BYTES, 0), Err(Broken::Malformed(_))));
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        for bytes in [&[0x3a][..], &[0x3a, 1], &[0x10], &[0x79, 0], &[0x7b], &[0xff; 40], &[0x4a, 1, 0x12]] {
            assert_eq!(measured(bytes), Err(cut()), "{bytes:?}");
        }
        assert_eq!(measured(&[]), Ok(0));
    }

    /// Tells the thread on which it is dropped.
    struct Held(std::sync::mpsc::Sender<std::thread::ThreadId>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.send(std::thread::current().id()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_large_message_is_decoded_on_another_thread() {
        for (bytes, elsewhere) in [(1 << 20, false), (INLINE_BYTES + 1, true)] {
            let message = Message { context: Some(vec![0; bytes].into()), ..Message::default() };
            let (held, dropped) = std::sync::mpsc::channel();
            let measured = Measured::new(message.encode_to_vec().into()).unwrap();
            assert_eq!(measured.decode(Held(held)).await, Ok(message));
            assert_eq!(dropped.recv().unwrap() != std::thread::current().id(), elsewhere, "{bytes} bytes");
        }
    }
}
