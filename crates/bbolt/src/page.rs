//! One page that was read, and its elements, each checked before it is used.

use std::ops::Range;

use crate::format::{BUCKET, ELEMENT_BYTES, HEADER_BYTES, Header, Kind, u32_at, u64_at};

/// The reason for which a page is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    #[error("it is not among the pages for rows, from 2 to {last}")]
    Outside { last: u64 },
    #[error("a second way leads to it")]
    Visited,
    #[error("it says that it is page {0}")]
    Id(u64),
    #[error("its kind is {0:#x}: neither branch nor leaf")]
    Kind(u16),
    #[error("it continues on {0} pages, beyond the last one")]
    Overflow(u32),
    #[error("with the pages above it, it takes {size_bytes} bytes: at most {max_bytes} are read at once")]
    Size { size_bytes: u64, max_bytes: u64 },
    #[error("it has {0} elements, more than fit")]
    Count(u16),
    #[error("it is a branch without children")]
    NoChildren,
    #[error("{0} pages are above it: more than any real tree has")]
    Depth(usize),
    #[error("element {0} lies outside of it")]
    ElementOutside(usize),
    #[error("element {0} overlaps with what stands before it")]
    ElementOverlaps(usize),
    #[error("element {0} has no key")]
    NoKey(usize),
    #[error("element {0} has unknown flags")]
    Flags(usize),
    #[error("the key of element {0} does not ascend")]
    KeyOrder(usize),
    #[error("element {0} is a bucket, and too short for one")]
    Bucket(usize),
}

/// Places in the bytes of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub number: usize,
    pub key: Range<usize>,
    pub holds: Holds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Child(u64),
    Value(Range<usize>),
    Bucket(Range<usize>),
}

/// A page with the pages behind it, read from its first element to its last.
#[derive(Debug)]
pub(crate) struct Page {
    pub bytes: Vec<u8>,
    is_leaf: bool,
    count: usize,
    /// The number of the next element.
    next: usize,
    /// The end of the data of all elements before it. Data that overlap would make a small page a long list of rows.
    data_end: usize,
}

impl Page {
    /// A page from its bytes. Its id is not looked at.
    ///
    /// # Panics
    /// If there are fewer than [`HEADER_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, PageFault> {
        let header = Header::get(&bytes);
        let is_leaf = header.kind == Kind::Leaf as u16;
        if !is_leaf && header.kind != Kind::Branch as u16 {
            return Err(PageFault::Kind(header.kind));
        }
        let count = usize::from(header.count);
        let data_end = HEADER_BYTES + count * ELEMENT_BYTES;
        if data_end > bytes.len() {
            return Err(PageFault::Count(header.count));
        }
        if !is_leaf && count == 0 {
            return Err(PageFault::NoChildren);
        }
        Ok(Self { bytes, is_leaf, count, next: 0, data_end })
    }

    /// The next element; None after the last one.
    pub fn next(&mut self) -> Result<Option<Element>, PageFault> {
        let number = self.next;
        if number == self.count {
            return Ok(None);
        }
        self.next += 1;
        let at = HEADER_BYTES + number * ELEMENT_BYTES;
        let field = |number: usize| u32_at(&self.bytes, at + 4 * number);
        let (flags, position, key_len, value_len) =
            if self.is_leaf { (field(0), field(1), field(2), field(3)) } else { (0, field(0), field(1), 0) };
        // Numbers of 32 bits, which cannot overflow in 64.
        let start = at as u64 + u64::from(position);
        let key_end = start + u64::from(key_len);
        let end = key_end + u64::from(value_len);
        if end > self.bytes.len() as u64 {
            return Err(PageFault::ElementOutside(number));
        }
        let (start, key_end, end) = (start as usize, key_end as usize, end as usize);
        if start < self.data_end {
            return Err(PageFault::ElementOverlaps(number));
        }
        if key_len == 0 {
            return Err(PageFault::NoKey(number));
        }
        self.data_end = end;
        let holds = match flags {
            _ if !self.is_leaf => Holds::Child(u64_at(&self.bytes, at + 8)),
            0 => Holds::Value(key_end..end),
            BUCKET => Holds::Bucket(key_end..end),
            _ => return Err(PageFault::Flags(number)),
        };
        Ok(Some(Element { number, key: start..key_end, holds }))
    }
}
