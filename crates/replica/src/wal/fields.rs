//! A reader and a writer for protobuf fields, sufficient for the flat messages of the log.

/// Maximum bytes of a varint.
pub(super) const MAX_VARINT_BYTES: usize = 10;

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// The bytes are not a protobuf message, or hold a kind of field that the log does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Iterates over (field number, value).
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Fields<'a> {
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
pub(super) fn put_varint(buffer: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        buffer[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    buffer[at] = value as u8;
    at + 1
}

/// The fields of a message that has varints only, numbered 1 to N. Absent ones are 0.
pub(super) fn varints<const N: usize>(message: &[u8]) -> Result<[u64; N], Malformed> {
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
pub(super) struct Message {
    bytes: [u8; MESSAGE_BYTES],
    len: usize,
}

impl Message {
    /// A message of varint fields numbered from 1. Fields with the value 0 are written, too, as etcd does.
    #[inline]
    pub(super) fn of(values: &[u64]) -> Message {
        let mut message = Message { bytes: [0; MESSAGE_BYTES], len: 0 };
        for (i, value) in values.iter().enumerate() {
            message.bytes[message.len] = (i as u8 + 1) << 3;
            message.len = put_varint(&mut message.bytes, message.len + 1, *value);
        }
        message
    }

    /// Opens bytes field `number`; its `len` bytes follow the message.
    #[inline]
    pub(super) fn open_bytes(mut self, number: u8, len: usize) -> Message {
        self.bytes[self.len] = number << 3 | 2;
        self.len = put_varint(&mut self.bytes, self.len + 1, len as u64);
        self
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        for values in [[0, 1, 127], [128, u64::MAX, 1 << 35]] {
            assert_eq!(varints::<3>(Message::of(&values).as_slice()), Ok(values));
        }
        assert_eq!(varints::<2>(&[]), Ok([0, 0]));
    }

    #[test]
    fn anything_else_is_malformed() {
        assert_eq!(varints::<3>(Message::of(&[1, 2, 3]).open_bytes(4, 0).as_slice()), Err(Malformed));
        assert_eq!(varints::<2>(Message::of(&[1, 2, 3]).as_slice()), Err(Malformed));
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
