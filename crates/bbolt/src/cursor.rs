//! A walk through buckets: the pages from the root to the present row are in memory, and no others.
//!
//! The file may say anything. So each page is visited once in a walk, whichever bucket names it; keys ascend over all
//! pages of a bucket, and no page has a key below the one by which its parent names it; and the path has a bound in
//! pages and in bytes.

use std::mem;
use std::ops::Range;

use crate::database::{Database, ReadAt, ReadError};
use crate::format::{BUCKET_BYTES, HEADER_BYTES, Header, u64_at};
use crate::page::{Element, Holds, Page, PageFault};

/// Maximum number of pages from the root page to a row, over all buckets on the way. Branch pages have at least two
/// children, so that a real tree with longer paths would have 2^59 leaves.
const MAX_DEPTH: usize = 60;

/// A row of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'c> {
    pub key: &'c [u8],
    pub value: Value<'c>,
}

impl Row<'_> {
    pub fn is_bucket(&self) -> bool {
        self.value == Value::Bucket
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'c> {
    Bytes(&'c [u8]),
    /// A bucket, with rows of its own.
    Bucket,
}

/// A page on the path.
#[derive(Debug)]
struct Frame {
    page: Page,
    /// The page in the file; of a bucket inside an element, the page of that element.
    id: u64,
    /// Of the root page of a bucket: the lower bound for keys of the bucket around it.
    around: Option<Bound>,
}

/// A key that the next key must not be below.
#[derive(Debug)]
struct Bound {
    key: Vec<u8>,
    /// Whether the next key may be equal: the bound is the key by which a parent names its child.
    may_equal: bool,
}

impl Bound {
    const NONE: Self = Self { key: Vec::new(), may_equal: true };

    fn allows(&self, key: &[u8]) -> bool {
        key > &*self.key || self.may_equal && key == &*self.key
    }

    fn set(&mut self, key: &[u8], may_equal: bool) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.may_equal = may_equal;
    }
}

/// A place in a database, which moves from row to row.
#[derive(Debug)]
pub struct Cursor<'d, S> {
    database: &'d Database<S>,
    /// One bit for each page of the file.
    visited: Vec<u64>,
    path: Vec<Frame>,
    path_bytes: u64,
    bound: Bound,
    /// The value of the present row, if that is a bucket, and the number of its element.
    bucket: Option<(Range<usize>, usize)>,
    /// The memory of a page that was left.
    spare: Vec<u8>,
}

impl<'d, S: ReadAt> Cursor<'d, S> {
    pub(crate) fn at_root(database: &'d Database<S>) -> Result<Self, ReadError> {
        // The file is at least as long, so this is a small part of it.
        let visited = vec![0; database.meta.pages.div_ceil(64) as usize];
        let (path, spare) = (Vec::new(), Vec::new());
        let mut cursor = Self { database, visited, path, path_bytes: 0, bound: Bound::NONE, bucket: None, spare };
        cursor.open_bucket(database.meta.root)?;
        Ok(cursor)
    }

    /// The next row of the bucket. After its last row, None; then the cursor continues in the bucket around it, behind
    /// the row that it entered.
    ///
    /// # Errors
    /// If a page is damaged or cannot be read. Then the walk is over.
    #[allow(clippy::should_implement_trait, reason = "rows are borrowed from the cursor")]
    pub fn next(&mut self) -> Result<Option<Row<'_>>, ReadError> {
        match self.advance() {
            Ok(None) => Ok(None),
            Err(error) => {
                self.path.clear();
                Err(error)
            }
            Ok(Some(Element { key, holds, .. })) => {
                let bytes = &self.path.last().expect("the page of the row").page.bytes;
                let value = match holds {
                    Holds::Value(value) => Value::Bytes(&bytes[value]),
                    Holds::Bucket(_) => Value::Bucket,
                    Holds::Child(_) => unreachable!("a row is an element of a leaf"),
                };
                Ok(Some(Row { key: &bytes[key], value }))
            }
        }
    }

    /// Enters the bucket that is the present row: `next` returns its rows.
    ///
    /// # Errors
    /// If its root page is damaged or cannot be read. Then the walk is over.
    ///
    /// # Panics
    /// If the present row is not a bucket.
    pub fn enter(&mut self) -> Result<(), ReadError> {
        let (value, number) = self.bucket.take().expect("only a row that is a bucket can be entered");
        let entered = self.enter_value(value, number);
        if entered.is_err() {
            self.path.clear();
        }
        entered
    }

    /// Forgets the buckets around this one: the walk is over after its last row.
    pub(crate) fn only(mut self) -> Self {
        let start = self.path.iter().rposition(|frame| frame.around.is_some()).unwrap_or_default();
        self.path_bytes -= self.path.drain(..start).map(|frame| frame.page.bytes.len() as u64).sum::<u64>();
        self
    }

    /// The last key of the bucket, without a walk through it. Only the pages on the way are checked.
    pub(crate) fn last_key(mut self) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            let Some(Frame { page, id, .. }) = self.path.last_mut() else { return Ok(None) };
            let mut last = None;
            while let Some(element) = page.next().map_err(|fault| ReadError::Page { page: *id, fault })? {
                last = Some(element);
            }
            match last {
                Some(Element { holds: Holds::Child(child), .. }) => {
                    let page = self.load(child)?;
                    self.push(page, child, false);
                }
                last => return Ok(last.map(|element| page.bytes[element.key].to_vec())),
            }
        }
    }

    fn enter_value(&mut self, value: Range<usize>, number: usize) -> Result<(), ReadError> {
        let Frame { page, id, .. } = self.path.last().expect("the page of the bucket");
        let (value, id) = (&page.bytes[value], *id);
        let short = ReadError::Page { page: id, fault: PageFault::Bucket(number) };
        if value.len() < BUCKET_BYTES {
            return Err(short);
        }
        match u64_at(value, 0) {
            0 => {
                let inside = value[BUCKET_BYTES..].to_vec();
                if inside.len() < HEADER_BYTES {
                    return Err(short);
                }
                self.check_depth(id)?;
                self.check_path_bytes(id, inside.len() as u64)?;
                let page = Page::new(inside).map_err(|fault| ReadError::Page { page: id, fault })?;
                self.push(page, id, true);
                Ok(())
            }
            root => self.open_bucket(root),
        }
    }

    /// Moves to the next row of the bucket, an element of the last page of the path.
    fn advance(&mut self) -> Result<Option<Element>, ReadError> {
        self.bucket = None;
        loop {
            let Some(Frame { page, id, .. }) = self.path.last_mut() else { return Ok(None) };
            let damaged = |fault| ReadError::Page { page: *id, fault };
            let Some(element) = page.next().map_err(damaged)? else {
                if self.pop() {
                    return Ok(None);
                }
                continue;
            };
            let key = &page.bytes[element.key.clone()];
            if !self.bound.allows(key) {
                return Err(damaged(PageFault::KeyOrder(element.number)));
            }
            self.bound.set(key, matches!(element.holds, Holds::Child(_)));
            if let Holds::Child(child) = element.holds {
                let page = self.load(child)?;
                self.push(page, child, false);
                continue;
            }
            if let Holds::Bucket(value) = &element.holds {
                self.bucket = Some((value.clone(), element.number));
            }
            return Ok(Some(element));
        }
    }

    fn open_bucket(&mut self, root: u64) -> Result<(), ReadError> {
        let page = self.load(root)?;
        self.push(page, root, true);
        Ok(())
    }

    fn push(&mut self, page: Page, id: u64, is_bucket: bool) {
        self.path_bytes += page.bytes.len() as u64;
        let around = is_bucket.then(|| mem::replace(&mut self.bound, Bound::NONE));
        self.path.push(Frame { page, id, around });
    }

    /// Leaves the last page of the path. Returns whether this was the end of a bucket.
    fn pop(&mut self) -> bool {
        let Some(frame) = self.path.pop() else { return true };
        self.path_bytes -= frame.page.bytes.len() as u64;
        self.spare = frame.page.bytes;
        let Some(around) = frame.around else { return false };
        self.bound = around;
        true
    }

    /// Reads a page, with the pages that it continues on.
    fn load(&mut self, id: u64) -> Result<Page, ReadError> {
        let damaged = |fault| ReadError::Page { page: id, fault };
        self.check_depth(id)?;
        self.database.check_place(id).map_err(damaged)?;
        let page_bytes = self.database.page_bytes();
        self.check_path_bytes(id, page_bytes)?;
        let mut bytes = mem::take(&mut self.spare);
        // A page that was long has left more memory than this one needs.
        bytes.truncate(page_bytes as usize);
        bytes.shrink_to(page_bytes as usize);
        bytes.resize(page_bytes as usize, 0);
        self.database.source.read_at(id * page_bytes, &mut bytes)?;
        let header = Header::get(&bytes);
        if header.id != id {
            return Err(damaged(PageFault::Id(header.id)));
        }
        let end = id + u64::from(header.overflow) + 1;
        if end > self.database.meta.pages {
            return Err(damaged(PageFault::Overflow(header.overflow)));
        }
        let size_bytes = (end - id) * page_bytes;
        self.check_path_bytes(id, size_bytes)?;
        for page in id..end {
            self.visit(page)?;
        }
        if header.overflow > 0 {
            bytes.resize(size_bytes as usize, 0);
            self.database.source.read_at((id + 1) * page_bytes, &mut bytes[page_bytes as usize..])?;
        }
        Page::new(bytes).map_err(damaged)
    }

    fn visit(&mut self, page: u64) -> Result<(), ReadError> {
        let (word, bit) = (&mut self.visited[(page / 64) as usize], 1 << (page % 64));
        if *word & bit != 0 {
            return Err(ReadError::Page { page, fault: PageFault::Visited });
        }
        *word |= bit;
        Ok(())
    }

    fn check_depth(&self, page: u64) -> Result<(), ReadError> {
        let above = self.path.len();
        if above < MAX_DEPTH { Ok(()) } else { Err(ReadError::Page { page, fault: PageFault::Depth(above) }) }
    }

    fn check_path_bytes(&self, page: u64, more_bytes: u64) -> Result<(), ReadError> {
        let (size_bytes, max_bytes) = (self.path_bytes + more_bytes, self.database.max_path_bytes);
        if size_bytes <= max_bytes {
            return Ok(());
        }
        Err(ReadError::Page { page, fault: PageFault::Size { size_bytes, max_bytes } })
    }
}
