//! The bytes of a record: encoding, which is on the hot path, and decoding.
//!
//! ```text
//!     length word (8 B)   type    crc      data                      padding
//!     [len | pad<<56|..]  [08 tt] [10 vv*] [1a len | bytes ... ]     [0 to a multiple of 8]
//! ```

use crc32c::crc32c_append;

use metastore_proto::wire::{Fields, Value, write_varint};

/// Frames begin at multiples of this; the length word has the same size.
pub(super) const FRAME_ALIGN: usize = 8;

/// Maximum bytes of a record that is written or accepted. etcd accepts any length that the file holds. A client's
/// request is limited to megabytes, so a greater length is a damaged length.
pub const MAX_RECORD_BYTES: usize = 256 << 20;

/// Marks a length word whose top byte holds the padding length.
const PADDED: u64 = 0x80 << 56;

/// The bits of a length word that hold the length.
const LENGTH_MASK: u64 = (1 << 56) - 1;

/// Record types.
pub(super) const METADATA: u64 = 1;
pub(super) const ENTRY: u64 = 2;
pub(super) const HARD_STATE: u64 = 3;
pub(super) const CRC: u64 = 4;
pub(super) const SNAPSHOT: u64 = 5;

/// A record as it lies in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: u64,
    /// The sum as stored. It covers the data of all records up to this one, but not their types.
    pub(super) crc: u32,
    pub(super) data: &'a [u8],
    /// The place where the data ends in the segment.
    pub(super) data_end: usize,
    /// The place where the next frame begins.
    pub(super) end: usize,
}

/// The meaning of the length word at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Fewer than eight bytes are left in the file.
    EndOfFile,
    /// Nothing was written here.
    Zero,
    /// No writer makes such a word.
    Implausible,
    /// A record of `len` bytes; the next frame begins at `end`.
    Record { len: usize, end: usize },
}

/// Reads the length word at `at`.
pub(super) fn word_at(bytes: &[u8], at: usize) -> Word {
    let Some(word) = bytes.get(at..at + FRAME_ALIGN) else { return Word::EndOfFile };
    let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
    if word == 0 {
        return Word::Zero;
    }
    let len = word & LENGTH_MASK;
    if len == 0 || len > MAX_RECORD_BYTES as u64 || length_word(len as usize).0 != word {
        return Word::Implausible;
    }
    let (len, pad) = (len as usize, length_word(len as usize).1);
    Word::Record { len, end: at + FRAME_ALIGN + len + pad }
}

/// The length word of a record, and its padding.
fn length_word(len: usize) -> (u64, usize) {
    let pad = (FRAME_ALIGN - len % FRAME_ALIGN) % FRAME_ALIGN;
    let top = if pad == 0 { 0 } else { PADDED | (pad as u64) << 56 };
    (len as u64 | top, pad)
}

/// Reads the record whose frame is at `at`, without checking its sum. `None`: there is no whole well-formed record. The
/// checks are stricter than etcd's, because the sum covers neither the fields around the data nor the padding.
pub(super) fn record_at(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let Word::Record { len, end } = word_at(bytes, at) else { return None };
    let start = at + FRAME_ALIGN;
    let (body, padding) = bytes.get(start..end)?.split_at(len);
    if padding.iter().any(|b| *b != 0) {
        return None;
    }
    let mut fields = Fields::new(body);
    let (1, Value::Varint(kind)) = fields.next()?.ok()? else { return None };
    let (2, Value::Varint(crc)) = fields.next()?.ok()? else { return None };
    let crc = u32::try_from(crc).ok()?;
    let data = match fields.next() {
        None => &body[len..],
        Some(Ok((3, Value::Bytes(data)))) => data,
        Some(_) => return None,
    };
    if fields.next().is_some() {
        return None;
    }
    Some(Record { kind, crc, data, data_end: start + len, end })
}

/// Encodes records into one buffer, and keeps the running sum.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    pub(super) buffer: Vec<u8>,
    pub(super) sum: u32,
}

/// Room for the longest length word, type, sum and data length.
const HEAD_BYTES: usize = FRAME_ALIGN + 2 + 6 + 11;

impl Encoder {
    /// Adds a record whose data is `head` followed by `body`. The body is copied once; its sum is computed in place.
    #[inline]
    pub(super) fn put(&mut self, kind: u64, head: &[u8], body: &[u8]) {
        self.sum = crc32c_append(self.sum, head);
        if !body.is_empty() {
            self.sum = crc32c_append(self.sum, body);
        }
        let data_len = head.len() + body.len();
        let mut frame = [0; HEAD_BYTES];
        let mut at = self.put_type_and_sum(&mut frame, kind);
        frame[at] = 0x1a;
        at = write_varint(&mut frame, at + 1, data_len as u64);
        let pad = set_length(&mut frame, at - FRAME_ALIGN + data_len);
        self.buffer.reserve(at + data_len + pad);
        self.buffer.extend_from_slice(&frame[..at]);
        self.buffer.extend_from_slice(head);
        self.buffer.extend_from_slice(body);
        self.buffer.extend_from_slice(&[0; FRAME_ALIGN][..pad]);
    }

    /// Adds a crc record: it states the running sum and has no data.
    pub(super) fn put_sum(&mut self) {
        let mut frame = [0; HEAD_BYTES];
        let at = self.put_type_and_sum(&mut frame, CRC);
        let pad = set_length(&mut frame, at - FRAME_ALIGN);
        self.buffer.extend_from_slice(&frame[..at + pad]);
    }

    fn put_type_and_sum(&self, frame: &mut [u8; HEAD_BYTES], kind: u64) -> usize {
        frame[FRAME_ALIGN] = 0x08;
        frame[FRAME_ALIGN + 1] = kind as u8;
        frame[FRAME_ALIGN + 2] = 0x10;
        write_varint(frame, FRAME_ALIGN + 3, u64::from(self.sum))
    }
}

/// Writes the length word of a frame and returns the padding.
fn set_length(frame: &mut [u8; HEAD_BYTES], len: usize) -> usize {
    let (word, pad) = length_word(len);
    frame[..FRAME_ALIGN].copy_from_slice(&word.to_le_bytes());
    pad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_every_length_is_aligned() {
        for len in 0..40 {
            let mut encoder = Encoder { sum: 7, ..Encoder::default() };
            let body = vec![0xab; len];
            encoder.put(ENTRY, b"h", &body);
            encoder.put_sum();
            assert_eq!(encoder.buffer.len() % FRAME_ALIGN, 0);
            let record = record_at(&encoder.buffer, 0).unwrap();
            assert_eq!((record.kind, record.data.len(), record.crc), (ENTRY, len + 1, encoder.sum));
            assert_eq!(&encoder.buffer[record.data_end - record.data.len()..record.data_end], record.data);
            let closing = record_at(&encoder.buffer, record.end).unwrap();
            assert_eq!((closing.kind, closing.crc, closing.end), (CRC, encoder.sum, encoder.buffer.len()));
        }
    }

    #[test]
    fn a_word_that_no_writer_makes_is_implausible() {
        for word in [1, 0x81 << 56, 0x88 << 56 | 8, 0x07 << 56 | 1, 0x86 << 56 | 1, (MAX_RECORD_BYTES as u64) + 8] {
            assert_eq!(word_at(&word.to_le_bytes(), 0), Word::Implausible, "{word:x}");
        }
        assert_eq!(word_at(&[0; 8], 0), Word::Zero);
        assert_eq!(word_at(&[0; 8], 8), Word::EndOfFile);
        assert_eq!(word_at(&(0x87_u64 << 56 | 1).to_le_bytes(), 0), Word::Record { len: 1, end: 16 });
    }
}
