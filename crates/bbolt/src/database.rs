//! A file that is read: its meta page, and the pages that it names.

use std::io;

use crate::cursor::Cursor;
use crate::format::{HEADER_BYTES, META_BYTES, META_PAGES, Meta, MetaFault};
use crate::page::PageFault;

/// Bytes that can be read at any place. A file is one, and so are bytes in memory.
pub trait ReadAt {
    fn size_bytes(&self) -> io::Result<u64>;

    /// Fills `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// If they cannot be read, or there are fewer.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for &[u8] {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = rest.and_then(|rest| rest.get(..into.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file that is no database of bbolt, or a damaged one.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the database cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(
        "this is no database of bbolt: the first meta page is not valid ({first}), nor is the second one ({second})"
    )]
    NoMeta { first: MetaFault, second: MetaFault },
    #[error("the database was cut off: it has {size_bytes} bytes, and should have {pages} pages of {page_bytes}")]
    Truncated { size_bytes: u64, pages: u64, page_bytes: u32 },
    #[error("the database is damaged at page {page}: {fault}")]
    Page { page: u64, fault: PageFault },
}

/// A database that can be read.
#[derive(Debug)]
pub struct Database<S> {
    pub(crate) source: S,
    pub(crate) meta: Meta,
    pub(crate) max_path_bytes: u64,
}

impl<S: ReadAt> Database<S> {
    /// Reads the meta pages, and chooses the valid one that was written last.
    ///
    /// `max_path_bytes` bounds the memory of a cursor: the pages from the root to a row together, each with the pages
    /// that it continues on. A page is as long as its longest row.
    ///
    /// # Errors
    /// If no meta page is valid, or the file is shorter than it says.
    pub fn open(source: S, max_path_bytes: u64) -> Result<Self, ReadError> {
        let size_bytes = source.size_bytes()?;
        let meta = newest_meta(&source, size_bytes)?;
        let Meta { pages, page_bytes, .. } = meta;
        match pages.checked_mul(u64::from(page_bytes)) {
            Some(needed) if needed <= size_bytes => Ok(Self { source, meta, max_path_bytes }),
            _ => Err(ReadError::Truncated { size_bytes, pages, page_bytes }),
        }
    }

    /// The rows of the root bucket, which are the other buckets. [`Cursor::enter`] leads to their rows.
    ///
    /// # Errors
    /// If the root page is damaged.
    pub fn root(&self) -> Result<Cursor<'_, S>, ReadError> {
        Cursor::at_root(self)
    }

    /// The rows of a bucket of the root bucket; None if there is none of this name.
    ///
    /// # Errors
    /// If a page on the way is damaged.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Cursor<'_, S>>, ReadError> {
        let mut cursor = self.root()?;
        while let Some(row) = cursor.next()? {
            if row.key == name && row.is_bucket() {
                cursor.enter()?;
                return Ok(Some(cursor.only()));
            }
        }
        Ok(None)
    }

    /// The last key of a bucket of the root bucket; None if there is no such bucket, or it is empty. Reads only the
    /// pages on the way.
    ///
    /// # Errors
    /// If a page on the way is damaged.
    pub fn last_key(&self, bucket: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.bucket(bucket)?.map_or(Ok(None), Cursor::last_key)
    }
}

/// The valid meta page with the higher number of its transaction.
fn newest_meta(source: &impl ReadAt, size_bytes: u64) -> Result<Meta, ReadError> {
    let first = meta_at(source, size_bytes, 0)?;
    let second_at = match first {
        Ok(meta) => vec![u64::from(meta.page_bytes)],
        // The page size is unknown. As in bbolt, every possible one is tried.
        Err(_) => (10..=24).map(|bit| 1 << bit).collect(),
    };
    let mut second = Err(MetaFault::Missing);
    for at in second_at {
        match meta_at(source, size_bytes, at)? {
            Ok(meta) if u64::from(meta.page_bytes) == at => second = Ok(meta),
            Ok(meta) => second = second.or(Err(MetaFault::PageSize(meta.page_bytes))),
            Err(fault) => second = second.or(Err(fault)),
        }
        if second.is_ok() {
            break;
        }
    }
    match (first, second) {
        (Ok(first), Ok(second)) if first.txid < second.txid => Ok(second),
        (Ok(meta), _) | (_, Ok(meta)) => Ok(meta),
        (Err(first), Err(second)) => Err(ReadError::NoMeta { first, second }),
    }
}

fn meta_at(source: &impl ReadAt, size_bytes: u64, at: u64) -> Result<Result<Meta, MetaFault>, ReadError> {
    let start = at + HEADER_BYTES as u64;
    if size_bytes < start + META_BYTES as u64 {
        return Ok(Err(MetaFault::Missing));
    }
    let mut bytes = [0; META_BYTES];
    source.read_at(start, &mut bytes)?;
    Ok(Meta::get(&bytes))
}

impl<S> Database<S> {
    /// The bytes of a page, without those that it continues on.
    pub(crate) fn page_bytes(&self) -> u64 {
        u64::from(self.meta.page_bytes)
    }

    pub(crate) fn check_place(&self, page: u64) -> Result<(), PageFault> {
        let place = META_PAGES..self.meta.pages;
        let last = self.meta.pages.saturating_sub(1);
        if place.contains(&page) { Ok(()) } else { Err(PageFault::Outside { last }) }
    }
}
