//! The bytes of one version of a key: a canonical `mvccpb.KeyValue`, written and read without a protobuf library.
//!
//! Canonical means: ascending fields, defaults omitted. etcd stores the same bytes, so hashes and backups agree.

use metastore_engine::Row;

use metastore_proto::wire;

const KEY: u8 = 0x0a;
const CREATE_REVISION: u8 = 0x10;
const MOD_REVISION: u8 = 0x18;
const VERSION: u8 = 0x20;
const VALUE: u8 = 0x2a;
const LEASE: u8 = 0x30;

/// The fields of a row, borrowed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Reads a row. `None` if the bytes are not a `KeyValue` in canonical form.
    pub fn parse(row: &'a [u8]) -> Option<Self> {
        let mut kv = Self::default();
        let mut rest = row;
        let mut last = 0;
        while let Some((&tag, after)) = rest.split_first() {
            if tag <= last {
                return None;
            }
            last = tag;
            let number;
            (number, rest) = varint(after)?;
            match tag {
                KEY => (kv.key, rest) = take(rest, number)?,
                VALUE => (kv.value, rest) = take(rest, number)?,
                CREATE_REVISION => kv.create_revision = number as i64,
                MOD_REVISION => kv.mod_revision = number as i64,
                VERSION => kv.version = number as i64,
                LEASE => kv.lease = number as i64,
                _ => return None,
            }
        }
        Some(kv)
    }

    /// Reads a row that this store wrote or has checked before.
    ///
    /// # Panics
    /// If the bytes are no row: the state is damaged, and going on would spread the damage.
    pub fn of(row: &'a [u8]) -> Self {
        match Self::parse(row) {
            Some(kv) => kv,
            None => panic!("a stored row of {} bytes is not a key-value record: the state is damaged", row.len()),
        }
    }

    /// The row's bytes.
    pub fn to_row(&self) -> Row {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        put_bytes(&mut bytes, KEY, self.key);
        wire::put_int(&mut bytes, CREATE_REVISION, self.create_revision as u64);
        wire::put_int(&mut bytes, MOD_REVISION, self.mod_revision as u64);
        wire::put_int(&mut bytes, VERSION, self.version as u64);
        put_bytes(&mut bytes, VALUE, self.value);
        wire::put_int(&mut bytes, LEASE, self.lease as u64);
        bytes.into()
    }

    fn encoded_len(&self) -> usize {
        // Tags, lengths and numbers: six tags, two lengths of up to 5 bytes, four numbers of up to 10.
        56 + self.key.len() + self.value.len()
    }
}

/// The key of a row, without reading the rest.
pub fn key_of(row: &[u8]) -> &[u8] {
    match row.split_first() {
        Some((&KEY, after)) => varint(after).and_then(|(len, rest)| take(rest, len)).map_or(&[], |(key, _)| key),
        _ => &[],
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        wire::put_len(out, tag, bytes.len());
        out.extend_from_slice(bytes);
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    wire::read_varint(bytes).map(|(number, len)| (number, &bytes[len..]))
}

fn take(bytes: &[u8], len: u64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use metastore_proto::{Message, mvccpb};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_those_of_the_protobuf_library(
            key in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
            numbers in any::<(i64, i64, i64, i64)>(),
        ) {
            let (create_revision, mod_revision, version, lease) = numbers;
            let kv = KeyValue { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let library = mvccpb::KeyValue {
                key: key.clone().into(), create_revision, mod_revision, version, value: value.clone().into(), lease,
            };
            let row = kv.to_row();
            prop_assert_eq!(&row[..], &library.encode_to_vec()[..]);
            prop_assert_eq!(KeyValue::parse(&row), Some(kv));
            prop_assert_eq!(key_of(&row), &key[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = KeyValue::parse(&bytes);
            let _ = key_of(&bytes);
        }
    }
}
