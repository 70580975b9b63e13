//! Writing the stream.

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Published, Revision, Table, Version};
use metastore_mutants::{Mutant, mutant};

use super::{BLOCK_BYTES, FORMAT, HEADER_BYTES, KEY_TABLE, MAGIC, SnapshotError, table_code};
use crate::Store;
use crate::mvcc::View;
use crate::schema::revision_key;

/// Key and value of a row of a small table.
pub type TableRow = (Vec<u8>, Vec<u8>);

/// A consistent state at one log position: a read-only copy that the engine made, which holds nothing back.
pub struct Source {
    engine: Arc<dyn Engine>,
    published: Published,
}

impl Store {
    /// Takes the state as it was last published; everything that was applied must be published. If the engine outlives
    /// the process, this waits for the medium. Otherwise it returns at once, and versions that compactions drop stay in
    /// memory as long as the copy lives.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn snapshot(&self) -> Result<Source, EngineError> {
        if mutant(Mutant::StateNotFrozen) {
            return Ok(Source::new(self.engine.clone()));
        }
        Ok(Source::new(self.engine.checkpoint()?))
    }
}

impl View {
    /// As [`Store::snapshot`], from any thread, for an engine that outlives the process.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn freeze(&self) -> Result<Source, EngineError> {
        Ok(Source::new(self.engine().checkpoint()?))
    }
}

impl Source {
    fn new(engine: Arc<dyn Engine>) -> Self {
        let published = engine.published();
        Self { engine, published }
    }

    /// The log position of the state.
    pub fn applied(&self) -> Applied {
        self.published.applied
    }

    /// A row of a small table, as it is in this state.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.get(table, key)
    }

    /// All rows of a small table, in order of their keys.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn rows(&self, table: Table) -> Result<Vec<TableRow>, EngineError> {
        self.engine.rows(table, b"")
    }

    /// Appends one bounded step of stored versions from a revision on; returns the revision where the next step begins.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn versions(&self, from: Revision, rows: &mut Vec<Version>) -> Result<Option<Revision>, EngineError> {
        self.engine.history(from, self.published.revision, rows)
    }

    /// Writes the stream in pieces of about 256 KiB.
    pub fn write(&self, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), SnapshotError> {
        let (mut cursor, mut piece) = (Cursor::default(), Vec::new());
        while self.step(&mut cursor, &mut piece)? {
            if !piece.is_empty() {
                write(&piece)?;
                piece.clear();
            }
        }
        Ok(())
    }

    /// Reads one bounded step, and appends the complete part of the stream to `out`. Returns false after the end of the
    /// stream. The writer may continue between two steps.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn step(&self, cursor: &mut Cursor, out: &mut Vec<u8>) -> Result<bool, SnapshotError> {
        let Cursor { part, block } = cursor;
        let before = |table: &Table| table_code(*table) < KEY_TABLE;
        *part = match *part {
            Part::Header => {
                out.extend_from_slice(&self.header());
                Part::Before(0)
            }
            Part::Before(nth) => match Table::ALL.into_iter().filter(before).nth(nth) {
                Some(table) => {
                    self.write_table(table, block, out)?;
                    Part::Before(nth + 1)
                }
                None => Part::Versions(Revision::default()),
            },
            Part::Versions(from) => match self.write_versions(from, block, out)? {
                Some(next) => Part::Versions(next),
                None => Part::After(0),
            },
            Part::After(nth) => match Table::ALL.into_iter().filter(|table| table_code(*table) > KEY_TABLE).nth(nth) {
                Some(table) => {
                    self.write_table(table, block, out)?;
                    Part::After(nth + 1)
                }
                None => {
                    block.flush(out);
                    Part::End
                }
            },
            Part::End => {
                block.end(&self.header(), out);
                Part::Over
            }
            Part::Over => return Ok(false),
        };
        Ok(true)
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

    fn write_table(&self, table: Table, block: &mut Block, out: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let rows = self.rows(table)?;
        rows.iter().for_each(|(key, value)| block.row(table_code(table), key, value, out));
        Ok(())
    }

    /// Writes one step of versions from a revision on; returns the revision where the next step begins.
    fn write_versions(
        &self,
        from: Revision,
        block: &mut Block,
        out: &mut Vec<u8>,
    ) -> Result<Option<Revision>, SnapshotError> {
        let mut to = self.published.revision;
        if mutant(Mutant::StateLacksLastRevision) {
            to -= 1;
        }
        let mut versions: Vec<Version> = Vec::new();
        let next = self.engine.history(from, to, &mut versions)?;
        for version in versions {
            block.row(KEY_TABLE, &revision_key(version.revision, version.tombstone), &version.row, out);
        }
        Ok(next)
    }
}

/// The position of a reader in a state.
#[derive(Default)]
pub struct Cursor {
    part: Part,
    block: Block,
}

/// The part that is read next.
#[derive(Clone, Copy, Default)]
enum Part {
    #[default]
    Header,
    /// The tables before the versioned keys, by index.
    Before(usize),
    Versions(Revision),
    /// The tables after the versioned keys.
    After(usize),
    End,
    Over,
}

/// Collects rows into blocks, and writes each block with a checksum.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    rows: u64,
}

impl Block {
    fn row(&mut self, code: u8, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        self.bytes.push(code);
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.rows += 1;
        if self.bytes.len() >= BLOCK_BYTES {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.bytes.is_empty() {
            out.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(&crc32c::crc32c(&self.bytes).to_le_bytes());
            out.extend_from_slice(&self.bytes);
            self.bytes.clear();
        }
    }

    fn end(&self, header: &[u8], out: &mut Vec<u8>) {
        let rows = self.rows.to_le_bytes();
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(header), &rows).to_le_bytes());
        out.extend_from_slice(&rows);
    }
}
