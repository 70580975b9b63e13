//! The whole state as a stream of bytes: what a restart and a member that fell behind begin with.
//!
//! ```text
//!   header   "MSTATE\r\n" | version u32 | index u64 | term u64 | revision u64      (little endian)
//!   block*   length u32 (> 0) | CRC-32C u32 | rows
//!   row      table u8 | key length u32 | value length u32 | key | value
//!   end      length 0 u32 | CRC-32C u32 of the header and the number of rows | number of rows u64
//! ```
//!
//! Rows are sorted by table, then key, as in etcd's backend file; versioned keys are the table `key`, between `cluster` and
//! `lease`, under their revision keys. The stream is the same for every engine. It is written from a [`Source`] that was
//! taken at one log position, while the writer goes on.

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Published, Revision, Table, Version};

use crate::Store;
use crate::mvcc::row::{KeyValue, key_of};
use crate::mvcc::{Pin, View};
use crate::schema::{parse_revision_key, revision_key};

const MAGIC: &[u8; 8] = b"MSTATE\r\n";
/// Version of the format; another one is refused.
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 8;
/// A block is closed when it holds this much.
const BLOCK_BYTES: usize = 256 << 10;
/// A block larger than this is damage, not data: it holds one row of any size a request can have, and a little more.
const MAX_BLOCK_BYTES: usize = 1 << 30;
/// Position of the versioned keys among the tables, by name.
const KEY_TABLE: u8 = 5;

/// Keys and values of a small table.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A consistent state at one log position; holds back the dropping of old versions while it lives.
pub struct Source {
    view: View,
    _pin: Pin,
    published: Published,
    tables: Vec<(u8, Rows)>,
}

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Store {
    /// Takes the state as it was last published. The small tables are copied, the versioned keys are not.
    pub fn snapshot(&self) -> Result<Source, EngineError> {
        let view = self.view().clone();
        let pin = view.pin_all();
        let published = view.published();
        let tables = Table::ALL
            .into_iter()
            .map(|table| Ok((table_code(table), self.engine.rows(table, b"")?)))
            .collect::<Result<_, EngineError>>()?;
        Ok(Source { view, _pin: pin, published, tables })
    }
}

impl Source {
    /// The log position of the state.
    pub fn applied(&self) -> Applied {
        self.published.applied
    }

    /// Writes the stream in pieces of about 256 KiB.
    pub fn write(&self, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), SnapshotError> {
        let header = self.header();
        write(&header)?;
        let mut block = Block::default();
        for (code, rows) in self.tables.iter().filter(|(code, _)| *code < KEY_TABLE) {
            block.rows(*code, rows, &mut write)?;
        }
        self.write_versions(&mut block, &mut write)?;
        for (code, rows) in self.tables.iter().filter(|(code, _)| *code > KEY_TABLE) {
            block.rows(*code, rows, &mut write)?;
        }
        block.end(&header, &mut write)?;
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let Published { revision, applied } = self.published;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&applied.index.to_le_bytes());
        header.extend_from_slice(&applied.term.to_le_bytes());
        header.extend_from_slice(&revision.to_le_bytes());
        header
    }

    fn write_versions(
        &self,
        block: &mut Block,
        write: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let mut from = Some(Revision::default());
        let mut versions: Vec<Version> = Vec::new();
        while let Some(next) = from {
            from = self.view.history(next, self.published.revision, &mut versions)?;
            for version in versions.drain(..) {
                block.row(KEY_TABLE, &revision_key(version.revision, version.tombstone), &version.row, write)?;
            }
        }
        Ok(())
    }
}

/// Collects rows and writes them with a checksum.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    rows: u64,
}

impl Block {
    fn rows(
        &mut self,
        code: u8,
        rows: &Rows,
        write: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        rows.iter().try_for_each(|(key, value)| self.row(code, key, value, write))
    }

    fn row(
        &mut self,
        code: u8,
        key: &[u8],
        value: &[u8],
        write: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.bytes.push(code);
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.rows += 1;
        if self.bytes.len() >= BLOCK_BYTES { self.flush(write) } else { Ok(()) }
    }

    fn flush(&mut self, write: &mut impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        if !self.bytes.is_empty() {
            write(&(self.bytes.len() as u32).to_le_bytes())?;
            write(&crc32c::crc32c(&self.bytes).to_le_bytes())?;
            write(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn end(&mut self, header: &[u8], write: &mut impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        self.flush(write)?;
        let rows = self.rows.to_le_bytes();
        write(&0u32.to_le_bytes())?;
        write(&crc32c::crc32c_append(crc32c::crc32c(header), &rows).to_le_bytes())?;
        write(&rows)
    }
}

/// Reads a stream into an empty engine and publishes it. `read` fills its buffer or fails.
///
/// # Errors
/// If the stream is damaged, cut short, or of another version; the engine must then be thrown away.
pub fn load(
    engine: &Arc<dyn Engine>,
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<()>,
) -> Result<Applied, SnapshotError> {
    let mut header = [0; HEADER_BYTES];
    read(&mut header)?;
    let published = parse_header(&header)?;
    let mut rows = 0u64;
    loop {
        let mut frame = [0; 8];
        read(&mut frame)?;
        let length = u32_at(&frame, 0) as usize;
        let crc = u32_at(&frame, 4);
        if length > MAX_BLOCK_BYTES {
            return Err(SnapshotError::Damaged(format!("a block of {length} bytes")));
        }
        let mut block = vec![0; if length == 0 { 8 } else { length }];
        read(&mut block)?;
        // The end vouches for the header, too.
        let before = if length == 0 { crc32c::crc32c(&header) } else { 0 };
        if crc32c::crc32c_append(before, &block) != crc {
            return Err(SnapshotError::Damaged(format!("wrong checksum of the block after row {rows}")));
        }
        if length == 0 {
            let expected = u64::from_le_bytes(block.try_into().unwrap_or_default());
            if expected != rows {
                return Err(SnapshotError::Damaged(format!("{rows} rows where {expected} were written")));
            }
            engine.publish(published)?;
            return Ok(published.applied);
        }
        rows += load_block(engine.as_ref(), &block)?;
    }
}

fn parse_header(header: &[u8; HEADER_BYTES]) -> Result<Published, SnapshotError> {
    if &header[..8] != MAGIC {
        return Err(SnapshotError::Damaged("not a MetaStore state file".into()));
    }
    let format = u32_at(header, 8);
    if format != FORMAT {
        return Err(SnapshotError::Damaged(format!("format {format}, but this version reads format {FORMAT}")));
    }
    let applied = Applied { index: u64_at(header, 12), term: u64_at(header, 20) };
    Ok(Published { revision: u64_at(header, 28) as i64, applied })
}

fn load_block(engine: &dyn Engine, block: &[u8]) -> Result<u64, SnapshotError> {
    let mut rest = block;
    let mut rows = 0;
    while !rest.is_empty() {
        let (code, key, value);
        (code, key, value, rest) = split_row(rest)
            .ok_or_else(|| SnapshotError::Damaged(format!("a row reaches over the end of its block, row {rows}")))?;
        load_row(engine, code, key, value)?;
        rows += 1;
    }
    Ok(rows)
}

/// Table, key and value of the first row, and what follows it.
type Split<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

fn split_row(bytes: &[u8]) -> Option<Split<'_>> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let (key, rest) = rest.split_at_checked(u32_at(head, 1) as usize)?;
    let (value, rest) = rest.split_at_checked(u32_at(head, 5) as usize)?;
    Some((head[0], key, value, rest))
}

fn load_row(engine: &dyn Engine, code: u8, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
    if code == KEY_TABLE {
        let (revision, tombstone) =
            parse_revision_key(key).ok_or_else(|| SnapshotError::Damaged(format!("{key:?} is no revision")))?;
        if KeyValue::parse(value).is_none() {
            return Err(SnapshotError::Damaged(format!("the row at revision {revision:?} is no key-value record")));
        }
        return Ok(engine.append(key_of(value), Version { revision, tombstone, row: value.into() })?);
    }
    let table = Table::ALL
        .into_iter()
        .find(|&table| table_code(table) == code)
        .ok_or_else(|| SnapshotError::Damaged(format!("unknown table {code}")))?;
    Ok(engine.put(table, key, value)?)
}

/// Tables by position in the order of their names, with the versioned keys at [`KEY_TABLE`].
fn table_code(table: Table) -> u8 {
    let position = table as u8;
    if position < KEY_TABLE { position } else { position + 1 }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
