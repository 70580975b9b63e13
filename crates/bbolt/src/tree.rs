//! The tree of one bucket, built from its rows in order: leaf pages as they fill, and a branch page above them as soon
//! as it is certain that at least two of its children remain for the next one.
//!
//! ```text
//!   level 1                     [a .. ][m .. ]            open page: children whose ids are known
//!   level 0         [a d g][m p s]                [t v]  + w     `w` did not fit: it waits for one more child
//!   leaves      a d g m p s t v w                 [y z           rows of the open leaf
//! ```
//!
//! Both passes run this code, the first one with lengths only: so they give each page the same id and size.

use std::mem;

use bytes::{BufMut, BytesMut};

use crate::format::{ELEMENT_BYTES, HEADER_BYTES, Header, Kind, MAX_INLINE_BYTES, PAGE_BYTES};

/// A key or a value; in the first pass only its length.
#[derive(Clone, Copy)]
pub(crate) enum Text<'a> {
    Length(usize),
    Bytes(&'a [u8]),
}

impl<'a> Text<'a> {
    pub fn len(self) -> usize {
        match self {
            Text::Length(length) => length,
            Text::Bytes(bytes) => bytes.len(),
        }
    }

    /// Empty in the first pass.
    fn bytes(self) -> &'a [u8] {
        match self {
            Text::Length(_) => &[],
            Text::Bytes(bytes) => bytes,
        }
    }
}

/// The finished pages, one after the other.
pub(crate) struct Pages {
    /// The id of the next page.
    next: u64,
    /// None in the first pass, which only counts.
    out: Option<BytesMut>,
}

impl Pages {
    /// Pages from the id `first` on, which are counted or written.
    pub fn new(first: u64, out: Option<BytesMut>) -> Self {
        Self { next: first, out }
    }

    pub fn count(&self) -> u64 {
        self.next
    }

    /// The bytes that were not taken yet, if pages are written.
    pub fn out(&mut self) -> Option<&mut BytesMut> {
        self.out.as_mut()
    }

    /// Adds a page, with as many pages behind it as it needs, and returns its id.
    fn add(&mut self, kind: Kind, count: usize, size_bytes: usize, content: impl FnOnce(&mut BytesMut)) -> u64 {
        let (id, pages) = (self.next, size_bytes.div_ceil(PAGE_BYTES));
        self.next += pages as u64;
        if let Some(out) = &mut self.out {
            let start = out.len();
            out.reserve(pages * PAGE_BYTES);
            Header { id, kind: kind as u16, count: count as u16, overflow: pages as u32 - 1 }.put(out);
            content(out);
            assert_eq!(out.len() - start, size_bytes, "page {id} is as long as the first pass said");
            out.resize(start + pages * PAGE_BYTES, 0);
        }
        id
    }
}

/// The rows of the leaf that is not full yet.
struct Leaf {
    /// Flags, length of the key, length of the value.
    elements: Vec<(u32, u32, u32)>,
    /// Keys and values; empty in the first pass.
    data: Vec<u8>,
    /// Header, elements and data.
    size_bytes: usize,
}

impl Leaf {
    fn new() -> Self {
        Self { elements: Vec::new(), data: Vec::new(), size_bytes: HEADER_BYTES }
    }

    fn put(&self, out: &mut BytesMut) {
        let mut position = self.elements.len() * ELEMENT_BYTES;
        for &(flags, key, value) in &self.elements {
            for number in [flags, position as u32, key, value] {
                out.put_u32_le(number);
            }
            position += key as usize + value as usize;
            position -= ELEMENT_BYTES;
        }
        out.extend_from_slice(&self.data);
    }

    /// The key of the first row.
    fn first_key(&self) -> Key {
        let length = self.elements.first().map_or(0, |(_, key, _)| *key as usize);
        Key { length, bytes: self.data.get(..length).unwrap_or_default().into() }
    }
}

/// The first key below a page.
struct Key {
    length: usize,
    /// Empty in the first pass.
    bytes: Box<[u8]>,
}

/// A finished page, as the page above names it.
struct Child {
    key: Key,
    page: u64,
}

impl Child {
    fn size_bytes(&self) -> usize {
        ELEMENT_BYTES + self.key.length
    }
}

/// The branch page of one level that is not full yet.
#[derive(Default)]
struct Level {
    open: Vec<Child>,
    /// A child that did not fit. The page is not finished before a second one comes, so that the next page has two
    /// children. bbolt never leaves fewer in a branch page, and relies on it when it merges pages.
    extra: Option<Child>,
}

impl Level {
    /// Adds a child. Returns the children of a page that is full.
    fn add(&mut self, child: Child) -> Option<Vec<Child>> {
        if let Some(extra) = self.extra.take() {
            return Some(mem::replace(&mut self.open, vec![extra, child]));
        }
        if self.open.len() >= 2 && branch_bytes(&self.open) + child.size_bytes() > PAGE_BYTES {
            self.extra = Some(child);
        } else {
            self.open.push(child);
        }
        None
    }

    /// The children of the last page, or of the last two.
    fn finish(mut self) -> (Vec<Child>, Option<Vec<Child>>) {
        match self.extra.take() {
            None => (self.open, None),
            Some(extra) if self.open.len() > 2 => {
                let last = self.open.pop().into_iter().chain([extra]).collect();
                (self.open, Some(last))
            }
            // Three keys that are longer than a page: it gets pages behind it.
            Some(extra) => {
                self.open.push(extra);
                (self.open, None)
            }
        }
    }
}

fn branch_bytes(children: &[Child]) -> usize {
    HEADER_BYTES + children.iter().map(Child::size_bytes).sum::<usize>()
}

fn put_branch(children: &[Child], out: &mut BytesMut) {
    let mut position = children.len() * ELEMENT_BYTES;
    for child in children {
        out.put_u32_le(position as u32);
        out.put_u32_le(child.key.length as u32);
        out.put_u64_le(child.page);
        position += child.key.length;
        position -= ELEMENT_BYTES;
    }
    for child in children {
        out.extend_from_slice(&child.key.bytes);
    }
}

/// The tree of one bucket. Its memory is one page for each level.
pub(crate) struct Tree {
    leaf: Leaf,
    /// From the one above the leaves upwards.
    levels: Vec<Level>,
}

impl Tree {
    pub fn new() -> Self {
        Self { leaf: Leaf::new(), levels: Vec::new() }
    }

    /// Adds a row. A row that is longer than a page gets a leaf of its own, with pages behind it.
    pub fn row(&mut self, flags: u32, key: Text<'_>, value: Text<'_>, pages: &mut Pages) {
        let size_bytes = ELEMENT_BYTES + key.len() + value.len();
        if !self.leaf.elements.is_empty() && self.leaf.size_bytes + size_bytes > PAGE_BYTES {
            self.close_leaf(pages);
        }
        self.leaf.elements.push((flags, key.len() as u32, value.len() as u32));
        self.leaf.data.extend_from_slice(key.bytes());
        self.leaf.data.extend_from_slice(value.bytes());
        self.leaf.size_bytes += size_bytes;
    }

    /// The size of the only page, if bbolt keeps such a bucket inside the element of its parent.
    pub fn inline_bytes(&self) -> Option<usize> {
        let size_bytes = self.leaf.size_bytes;
        (self.levels.is_empty() && size_bytes <= MAX_INLINE_BYTES).then_some(size_bytes)
    }

    /// Writes the only page, for the element of the parent.
    pub fn put_inline(&self, out: &mut BytesMut) {
        let count = self.leaf.elements.len() as u16;
        Header { id: 0, kind: Kind::Leaf as u16, count, overflow: 0 }.put(out);
        self.leaf.put(out);
    }

    /// Finishes all pages that are left, and returns the id of the root page.
    pub fn finish(mut self, pages: &mut Pages) -> u64 {
        if self.levels.is_empty() {
            return self.write_leaf(pages);
        }
        self.close_leaf(pages);
        let mut number = 0;
        loop {
            let (children, more) = mem::take(&mut self.levels[number]).finish();
            let is_root = more.is_none() && number + 1 == self.levels.len();
            let page = self.branch(children, pages);
            if is_root {
                return page.page;
            }
            self.add(number + 1, page, pages);
            if let Some(children) = more {
                let page = self.branch(children, pages);
                self.add(number + 1, page, pages);
            }
            number += 1;
        }
    }

    fn write_leaf(&mut self, pages: &mut Pages) -> u64 {
        let leaf = &self.leaf;
        pages.add(Kind::Leaf, leaf.elements.len(), leaf.size_bytes, |out| leaf.put(out))
    }

    fn close_leaf(&mut self, pages: &mut Pages) {
        let page = self.write_leaf(pages);
        let child = Child { key: self.leaf.first_key(), page };
        self.leaf.elements.clear();
        self.leaf.data.clear();
        self.leaf.size_bytes = HEADER_BYTES;
        self.add(0, child, pages);
    }

    /// Adds a finished page to a level, and the pages that this fills to the levels above it.
    fn add(&mut self, mut number: usize, mut child: Child, pages: &mut Pages) {
        loop {
            if number == self.levels.len() {
                self.levels.push(Level::default());
            }
            let Some(children) = self.levels[number].add(child) else { return };
            child = self.branch(children, pages);
            number += 1;
        }
    }

    /// Writes a branch page.
    fn branch(&self, mut children: Vec<Child>, pages: &mut Pages) -> Child {
        let size_bytes = branch_bytes(&children);
        let page = pages.add(Kind::Branch, children.len(), size_bytes, |out| put_branch(&children, out));
        Child { key: children.swap_remove(0).key, page }
    }
}
