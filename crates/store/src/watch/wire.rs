//! The little of protobuf's encoding that watch responses need: variable-length integers and length-delimited fields.

use bytes::{BufMut, BytesMut};

/// Bytes that `value` takes as a variable-length integer.
pub(super) const fn varint_len(value: u64) -> usize {
    // 7 bits a byte; the `| 1` gives zero its one byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value` as a variable-length integer.
pub(super) fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a variable-length integer at the start of `bytes`; returns it and how many bytes it took.
pub(super) fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Bytes of a one-byte tag, a length and `len` bytes behind it.
pub(super) const fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Bytes of an integer field with a one-byte tag; none for the default.
pub(super) const fn int_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Appends an integer field; nothing for the default.
pub(super) fn put_int(out: &mut BytesMut, tag: u8, value: u64) {
    if value != 0 {
        out.put_u8(tag);
        put_varint(out, value);
    }
}

/// Appends the tag and the length of a field; the `len` bytes are for the caller to append.
pub(super) fn put_len(out: &mut BytesMut, tag: u8, len: usize) {
    out.put_u8(tag);
    put_varint(out, len as u64);
}

/// The key in a stored row. Rows are canonical `KeyValue`s and keys are never empty, so the key is the first field.
///
/// # Panics
/// If the row does not begin with a key: then the store holds something that it did not write.
pub(super) fn key_of(row: &[u8]) -> &[u8] {
    let key = match row.split_first() {
        Some((0x0a, rest)) => read_varint(rest).and_then(|(len, at)| rest.get(at..)?.get(..usize::try_from(len).ok()?)),
        _ => None,
    };
    key.expect("a stored row begins with its key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_and_their_length_is_known() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "length of {value}");
            assert_eq!(read_varint(&out), Some((value, out.len())));
        }
        assert_eq!(read_varint(&[0x80; 11]), None);
    }

    #[test]
    fn the_key_is_the_first_field_of_a_row() {
        assert_eq!(key_of(&[0x0a, 2, b'a', b'b', 0x10, 7]), b"ab");
    }

    #[test]
    #[should_panic(expected = "begins with its key")]
    fn a_row_without_a_key_is_refused() {
        key_of(&[0x0a, 5, b'a']);
    }
}
