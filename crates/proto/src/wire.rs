//! Protobuf by hand, where generated code costs too much: stored rows that are copied into answers as they are, watch
//! responses whose events many watchers share, records of the log, and messages that are measured before they are
//! decoded.

use bytes::BufMut;
use prost::decode_length_delimiter;

/// The number of bytes of `value` as a variable-length integer.
pub const fn varint_len(value: u64) -> usize {
    // 7 bits a byte; the `| 1` gives zero its one byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value` as a variable-length integer.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a variable-length integer at the start of `bytes`; returns it and the number of bytes that it took.
pub fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
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
pub const fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// The number of bytes of an integer field with a one-byte tag; 0 for the default.
pub const fn int_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Appends an integer field; nothing for the default.
pub fn put_int(out: &mut impl BufMut, tag: u8, value: u64) {
    if value != 0 {
        out.put_u8(tag);
        put_varint(out, value);
    }
}

/// Appends the tag and the length of a field; the caller appends the `len` bytes of content.
pub fn put_len(out: &mut impl BufMut, tag: u8, len: usize) {
    out.put_u8(tag);
    put_varint(out, len as u64);
}

/// Appends an integer field, named by its number, which is below 16; nothing for the default.
pub fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    put_int(out, field << 3, number);
}

/// Appends a field of bytes, named like that.
pub fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_len(out, bytes_tag(field), bytes.len());
    out.extend_from_slice(bytes);
}

/// The tag of a length-delimited field.
const fn bytes_tag(field: u8) -> u8 {
    field << 3 | 2
}

/// Appends a message as a field. Its length is known only after it is written. One byte is left free for it, which is
/// enough for a short message; a longer one is moved.
pub fn put_message(out: &mut Vec<u8>, field: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(bytes_tag(field));
    let at = out.len();
    out.push(0);
    fill(out);
    let length = (out.len() - at - 1) as u64;
    let width = varint_len(length);
    if width > 1 {
        let moved = out.len();
        out.resize(moved + width - 1, 0);
        out.copy_within(at + 1..moved, at + width);
    }
    put_varint(&mut &mut out[at..at + width], length);
}

/// Maximum bytes of a varint.
pub const MAX_VARINT_BYTES: usize = 10;

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// The bytes are not a protobuf message, or hold a kind of field that is not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Iterates over (field number, value).
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for i in 0..MAX_VARINT_BYTES {
            let byte = *self.rest.get(i)?;
            if i == MAX_VARINT_BYTES - 1 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Some(value);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

/// Writes a varint into the buffer and returns the place after it.
#[inline]
pub fn write_varint(buffer: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        buffer[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    buffer[at] = value as u8;
    at + 1
}

/// The fields of a message that has varints only, numbered 1 to N. Absent ones are 0.
pub fn varints<const N: usize>(message: &[u8]) -> Result<[u64; N], Malformed> {
    let mut values = [0; N];
    for field in Fields::new(message) {
        let (number, Value::Varint(value)) = field? else { return Err(Malformed) };
        let place = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).ok_or(Malformed)?;
        *values.get_mut(place).ok_or(Malformed)? = value;
    }
    Ok(values)
}

/// Room for three varint fields and a bytes field's tag and length.
const MESSAGE_BYTES: usize = 3 * (1 + MAX_VARINT_BYTES) + 1 + MAX_VARINT_BYTES;

/// A small message under construction: up to three varint fields, and the beginning of a bytes field.
pub struct FlatMessage {
    bytes: [u8; MESSAGE_BYTES],
    len: usize,
}

impl FlatMessage {
    /// A message of varint fields numbered from 1. Fields with the value 0 are written, too, as etcd does.
    #[inline]
    pub fn of(values: &[u64]) -> FlatMessage {
        let mut message = FlatMessage { bytes: [0; MESSAGE_BYTES], len: 0 };
        for (i, value) in values.iter().enumerate() {
            message.bytes[message.len] = (i as u8 + 1) << 3;
            message.len = write_varint(&mut message.bytes, message.len + 1, *value);
        }
        message
    }

    /// Opens bytes field `number`; its `len` bytes follow the message.
    #[inline]
    pub fn open_bytes(mut self, number: u8, len: usize) -> FlatMessage {
        self.bytes[self.len] = bytes_tag(number);
        self.len = write_varint(&mut self.bytes, self.len + 1, len as u64);
        self
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Takes the next field: its number, and its bytes if it has a length.
pub fn take_field<'a>(rest: &mut &'a [u8]) -> Option<(usize, &'a [u8])> {
    let key = decode_length_delimiter(&mut *rest).ok()?;
    let length = match key & 7 {
        0 => decode_length_delimiter(&mut *rest).map(|_value| 0).ok()?,
        1 => 8,
        2 => decode_length_delimiter(&mut *rest).ok()?,
        5 => 4,
        _ => return None,
    };
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((key >> 3, field))
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

    #[test]
    fn values_come_back() {
        for values in [[0, 1, 127], [128, u64::MAX, 1 << 35]] {
            assert_eq!(varints::<3>(FlatMessage::of(&values).as_slice()), Ok(values));
        }
        assert_eq!(varints::<2>(&[]), Ok([0, 0]));
    }

    #[test]
    fn anything_else_is_malformed() {
        assert_eq!(varints::<3>(FlatMessage::of(&[1, 2, 3]).open_bytes(4, 0).as_slice()), Err(Malformed));
        assert_eq!(varints::<2>(FlatMessage::of(&[1, 2, 3]).as_slice()), Err(Malformed));
        for bytes in [
            &[8][..],
            &[8, 0x80],
            &[0, 1],
            &[9, 1],
            &[0x22, 5, 1],
            &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ] {
            assert_eq!(varints::<1>(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
