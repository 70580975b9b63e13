//! The part of protobuf's encoding that rows and watch responses need: varints and length-delimited fields.

use bytes::BufMut;

/// The number of bytes of `value` as a variable-length integer.
pub(crate) const fn varint_len(value: u64) -> usize {
    // 7 bits a byte; the `| 1` gives zero its one byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value` as a variable-length integer.
pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a variable-length integer at the start of `bytes`; returns it and the number of bytes that it took.
pub(crate) fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

/// The number of bytes of a field: a one-byte tag, the length, and `len` bytes of content.
pub(crate) const fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// The number of bytes of an integer field with a one-byte tag; 0 for the default.
pub(crate) const fn int_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Appends an integer field; nothing for the default.
pub(crate) fn put_int(out: &mut impl BufMut, tag: u8, value: u64) {
    if value != 0 {
        out.put_u8(tag);
        put_varint(out, value);
    }
}

/// Appends the tag and the length of a field; the caller appends the `len` bytes of content.
pub(crate) fn put_len(out: &mut impl BufMut, tag: u8, len: usize) {
    out.put_u8(tag);
    put_varint(out, len as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_and_their_length_is_known() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "length of {value}");
            assert_eq!(read_varint(&out), Some((value, out.len())));
        }
        assert_eq!(read_varint(&[0x80; 11]), None);
    }
}
