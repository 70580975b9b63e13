//! The two passes: one that counts, and one that writes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::format::{
    BUCKET, BUCKET_BYTES, HEADER_BYTES, Header, Kind, MAX_KEY_BYTES, MAX_VALUE_BYTES, META_PAGES, Meta, PAGE_BYTES,
};
use crate::tree::{Pages, Text, Tree};

/// The page of the list of free pages, which is empty: nothing was ever freed.
const FREELIST: u64 = META_PAGES;
/// The first page of a bucket.
const FIRST: u64 = FREELIST + 1;

/// A bucket or row that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("a row before the first bucket")]
    NoBucket,
    #[error("the key or bucket name has {0} bytes: from 1 to 32768 are possible")]
    KeyLength(usize),
    #[error("the value has {0} bytes: at most 2147483646 are possible")]
    ValueLength(usize),
    #[error("the bucket \"{}\" comes after \"{}\": names must ascend", .name.escape_ascii(), .before.escape_ascii())]
    NameOrder { before: Bytes, name: Bytes },
    #[error("the key \"{}\" comes after \"{}\": keys must ascend", .key.escape_ascii(), .before.escape_ascii())]
    KeyOrder { before: Bytes, key: Bytes },
    #[error("the second pass has other rows than the first one: {second:?} instead of {first:?}")]
    Differs { first: Plan, second: Plan },
}

/// The result of the first pass: all that the meta pages say, and by which the second pass is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    root: u64,
    pages: u64,
    rows: u64,
    /// Over the lengths of all names, keys and values.
    lengths_hash: u64,
}

impl Plan {
    /// The size of the whole file.
    pub fn size_bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }

    /// Number of rows, without those that stand for buckets.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// The part that both passes have in common.
struct Assembly {
    pages: Pages,
    /// The root bucket: its rows are the other buckets.
    root: Tree,
    /// The bucket whose rows come now.
    bucket: Option<(Bytes, Tree)>,
    rows: u64,
    lengths_hash: u64,
}

impl Assembly {
    fn new(out: Option<BytesMut>) -> Self {
        Self { pages: Pages::new(FIRST, out), root: Tree::new(), bucket: None, rows: 0, lengths_hash: 0 }
    }

    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        check_key(name.len())?;
        if let Some((before, _)) = &self.bucket
            && **before >= *name
        {
            return Err(WriteError::NameOrder { before: before.clone(), name: Bytes::copy_from_slice(name) });
        }
        self.end_bucket();
        // A number that no length of a key is.
        self.note(usize::MAX, name.len());
        self.bucket = Some((Bytes::copy_from_slice(name), Tree::new()));
        Ok(())
    }

    fn row(&mut self, key: Text<'_>, value: Text<'_>) -> Result<(), WriteError> {
        check_key(key.len())?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(WriteError::ValueLength(value.len()));
        }
        let Some((_, tree)) = &mut self.bucket else { return Err(WriteError::NoBucket) };
        tree.row(0, key, value, &mut self.pages);
        self.rows += 1;
        self.note(key.len(), value.len());
        Ok(())
    }

    fn end_bucket(&mut self) {
        let Some((name, tree)) = self.bucket.take() else { return };
        let mut value = BytesMut::new();
        if let Some(inline_bytes) = tree.inline_bytes() {
            value.resize(BUCKET_BYTES, 0);
            match self.pages.out() {
                Some(_) => tree.put_inline(&mut value),
                None => value.resize(BUCKET_BYTES + inline_bytes, 0),
            }
        } else {
            value.put_u64_le(tree.finish(&mut self.pages));
            value.put_u64_le(0); // sequence
        }
        self.root.row(BUCKET, Text::Bytes(&name), Text::Bytes(&value), &mut self.pages);
    }

    fn finish(mut self) -> (Plan, Pages) {
        self.end_bucket();
        let root = self.root.finish(&mut self.pages);
        let plan = Plan { root, pages: self.pages.count(), rows: self.rows, lengths_hash: self.lengths_hash };
        (plan, self.pages)
    }

    fn note(&mut self, key: usize, value: usize) {
        for length in [key, value] {
            self.lengths_hash = (self.lengths_hash ^ length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

fn check_key(length: usize) -> Result<(), WriteError> {
    if (1..=MAX_KEY_BYTES).contains(&length) { Ok(()) } else { Err(WriteError::KeyLength(length)) }
}

/// The first pass: it is told each bucket, and the lengths of its rows, in order.
pub struct Layout(Assembly);

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

impl Layout {
    pub fn new() -> Self {
        Self(Assembly::new(None))
    }

    /// Begins the next bucket.
    ///
    /// # Errors
    /// If its name is empty or too long, or not greater than the name before it.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.0.bucket(name)
    }

    /// Counts the next row of the bucket.
    ///
    /// # Errors
    /// If bbolt could not hold the row, or there is no bucket yet.
    pub fn row(&mut self, key_len: usize, value_len: usize) -> Result<(), WriteError> {
        self.0.row(Text::Length(key_len), Text::Length(value_len))
    }

    pub fn finish(self) -> Plan {
        self.0.finish().0
    }
}

/// The second pass: it is given the same buckets and rows again, and writes the file from the first byte to the last.
///
/// After an error the file cannot be completed.
pub struct Writer {
    plan: Plan,
    assembly: Assembly,
    last_key: Vec<u8>,
    /// Whether `last_key` is of this bucket.
    has_row: bool,
}

impl Writer {
    /// Begins a file: its first pages are finished at once.
    pub fn new(plan: Plan) -> Self {
        let mut out = BytesMut::with_capacity(FIRST as usize * PAGE_BYTES);
        for id in 0..META_PAGES {
            Header { id, kind: Kind::Meta as u16, count: 0, overflow: 0 }.put(&mut out);
            // As in a new file of bbolt: the second meta page is the newer one, and both say the same.
            let (page_bytes, txid) = (PAGE_BYTES as u32, id);
            Meta { page_bytes, root: plan.root, freelist: FREELIST, pages: plan.pages, txid }.put(&mut out);
            out.resize((id as usize + 1) * PAGE_BYTES, 0);
        }
        Header { id: FREELIST, kind: Kind::Freelist as u16, count: 0, overflow: 0 }.put(&mut out);
        out.resize(FIRST as usize * PAGE_BYTES, 0);
        Self { plan, assembly: Assembly::new(Some(out)), last_key: Vec::new(), has_row: false }
    }

    /// Begins the next bucket.
    ///
    /// # Errors
    /// As [`Layout::bucket`]; and if there are more pages than the first pass has counted.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.assembly.bucket(name)?;
        self.has_row = false;
        self.check_size()
    }

    /// Writes the next row of the bucket.
    ///
    /// # Errors
    /// As [`Layout::row`]; if the key is not greater than the one before it; and if there are more pages than the first
    /// pass has counted.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        if self.has_row && *self.last_key >= *key {
            let before = Bytes::copy_from_slice(&self.last_key);
            return Err(WriteError::KeyOrder { before, key: Bytes::copy_from_slice(key) });
        }
        self.assembly.row(Text::Bytes(key), Text::Bytes(value))?;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.has_row = true;
        self.check_size()
    }

    /// The pages that are finished and were not taken yet. The caller takes them away (`split`), as often as it likes.
    pub fn finished(&mut self) -> &mut BytesMut {
        self.assembly.pages.out().expect("this pass writes")
    }

    /// Ends the file, and returns the rest of its pages.
    ///
    /// # Errors
    /// If the rows were others than in the first pass: in number, or in a length. (Rows of the same lengths with other
    /// content make a valid file.)
    pub fn finish(self) -> Result<BytesMut, WriteError> {
        let (second, mut pages) = self.assembly.finish();
        if second != self.plan {
            return Err(WriteError::Differs { first: self.plan, second });
        }
        Ok(std::mem::take(pages.out().expect("this pass writes")))
    }

    fn check_size(&self) -> Result<(), WriteError> {
        let (pages, rows, lengths_hash) = (self.assembly.pages.count(), self.assembly.rows, self.assembly.lengths_hash);
        if pages <= self.plan.pages {
            return Ok(());
        }
        Err(WriteError::Differs { first: self.plan, second: Plan { root: 0, pages, rows, lengths_hash } })
    }
}

const _: () = assert!(HEADER_BYTES + BUCKET_BYTES + MAX_KEY_BYTES + MAX_VALUE_BYTES < u32::MAX as usize);
