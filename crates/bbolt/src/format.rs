//! The layout of bbolt's bytes: meta pages, page headers, elements. All numbers are little endian.

use bytes::{BufMut, BytesMut};

/// The page size of written files: that of etcd's files on nearly every machine. bbolt reads it from the file.
pub(crate) const PAGE_BYTES: usize = 4096;
/// The header of every page: id u64, kind u16, number of elements u16, number of further pages u32.
pub(crate) const HEADER_BYTES: usize = 16;
/// One element, of a leaf page (flags, position, length of the key, length of the value, each u32) as well as of a
/// branch page (position u32, length of the key u32, page u64). A position counts from the start of its element.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// The value of a bucket's element: root page u64, sequence u64. If the root page is 0, its only page follows.
pub(crate) const BUCKET_BYTES: usize = 16;
/// The flag of a leaf's element that holds a bucket.
pub(crate) const BUCKET: u32 = 1;
/// bbolt keeps a bucket inside its parent's element if header and elements take at most a quarter of a page.
pub(crate) const MAX_INLINE_BYTES: usize = PAGE_BYTES / 4;
/// bbolt's longest key.
pub(crate) const MAX_KEY_BYTES: usize = 32768;
/// bbolt's longest value.
pub(crate) const MAX_VALUE_BYTES: usize = (1 << 31) - 2;
/// The first pages of a database: two meta pages.
pub(crate) const META_PAGES: u64 = 2;
/// A meta page, without its header.
pub(crate) const META_BYTES: usize = 64;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// The kind of a page, with bbolt's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Branch = 1,
    Leaf = 2,
    Meta = 4,
    Freelist = 16,
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub id: u64,
    pub kind: u16,
    pub count: u16,
    /// Number of pages that follow and belong to this one.
    pub overflow: u32,
}

impl Header {
    pub fn put(&self, into: &mut BytesMut) {
        into.put_u64_le(self.id);
        into.put_u16_le(self.kind);
        into.put_u16_le(self.count);
        into.put_u32_le(self.overflow);
    }

    /// # Panics
    /// If there are fewer than [`HEADER_BYTES`].
    pub fn get(bytes: &[u8]) -> Self {
        let (kind, count) = (u32_at(bytes, 8) as u16, (u32_at(bytes, 8) >> 16) as u16);
        Self { id: u64_at(bytes, 0), kind, count, overflow: u32_at(bytes, 12) }
    }
}

/// The content of a meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_bytes: u32,
    /// The root page of the root bucket, whose elements are the other buckets.
    pub root: u64,
    /// The page with the list of free pages; all ones in the files of etcd, which finds free pages by a search.
    pub freelist: u64,
    /// The high-water mark: the first page that was never used.
    pub pages: u64,
    pub txid: u64,
}

/// The reason for which a meta page is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaFault {
    #[error("the file ends before it")]
    Missing,
    #[error("its first number is {0:#x}, not that of bbolt")]
    Magic(u32),
    #[error("its version is {0}, and only 2 is known")]
    Version(u32),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its page size is {0}: not a power of two from 1 KiB to 16 MiB")]
    PageSize(u32),
}

impl Meta {
    pub fn put(&self, into: &mut BytesMut) {
        let start = into.len();
        into.put_u32_le(MAGIC);
        into.put_u32_le(VERSION);
        into.put_u32_le(self.page_bytes);
        into.put_u32_le(0); // flags
        into.put_u64_le(self.root);
        into.put_u64_le(0); // the sequence of the root bucket
        into.put_u64_le(self.freelist);
        into.put_u64_le(self.pages);
        into.put_u64_le(self.txid);
        let sum = fnv64a(&into[start..]);
        into.put_u64_le(sum);
    }

    /// # Panics
    /// If there are fewer than [`META_BYTES`].
    pub fn get(bytes: &[u8]) -> Result<Self, MetaFault> {
        let (magic, version, page_bytes) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8));
        if magic != MAGIC {
            return Err(MetaFault::Magic(magic));
        }
        if version != VERSION {
            return Err(MetaFault::Version(version));
        }
        if u64_at(bytes, META_BYTES - 8) != fnv64a(&bytes[..META_BYTES - 8]) {
            return Err(MetaFault::Checksum);
        }
        if !page_bytes.is_power_of_two() || !(1 << 10..=1 << 24).contains(&page_bytes) {
            return Err(MetaFault::PageSize(page_bytes));
        }
        let number = |at| u64_at(bytes, at);
        Ok(Self { page_bytes, root: number(16), freelist: number(32), pages: number(40), txid: number(48) })
    }
}

/// # Panics
/// If the number is not inside.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// # Panics
/// If the number is not inside.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// FNV-1a with 64 bits.
pub(crate) fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { page_bytes: 4096, root: 3, freelist: 2, pages: 4, txid: 1 };

    #[test]
    fn a_meta_page_is_read_back_and_each_flipped_bit_is_seen() {
        let mut bytes = BytesMut::new();
        META.put(&mut bytes);
        assert_eq!(bytes.len(), META_BYTES);
        assert_eq!(Meta::get(&bytes), Ok(META));
        for bit in 0..8 * META_BYTES {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::get(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_sum_is_fnv() {
        // From the page of its authors.
        assert_eq!((fnv64a(b""), fnv64a(b"a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn page_sizes_that_no_machine_has_are_refused() {
        for page_bytes in [0, 512, 4095, 1 << 25] {
            let mut bytes = BytesMut::new();
            Meta { page_bytes, ..META }.put(&mut bytes);
            assert_eq!(Meta::get(&bytes), Err(MetaFault::PageSize(page_bytes)));
        }
    }

    #[test]
    fn a_header_is_read_back() {
        let header = Header { id: 7, kind: Kind::Branch as u16, count: 300, overflow: 70000 };
        let mut bytes = BytesMut::new();
        header.put(&mut bytes);
        assert_eq!((bytes.len(), Header::get(&bytes)), (HEADER_BYTES, header));
    }
}
