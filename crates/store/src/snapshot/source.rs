//! Writing the stream.

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Published, Revision, Table, Version};
use metastore_mutants::Mutant;

use super::{BLOCK_BYTES, FORMAT, HEADER_BYTES, KEY_TABLE, MAGIC, SnapshotError, table_code};
use crate::Store;
use crate::mvcc::View;
use crate::schema::revision_key;

/// A consistent state at one log position: the engine's own copy, which nobody writes, and which holds nothing back.
pub struct Source(Arc<dyn Engine>);

impl Store {
    /// Takes the state as it was last published; everything that was applied must be published. Waits for the medium if
    /// the engine outlives the process; else it is taken at once, and what compactions drop stays in memory as long as
    /// it lives.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn snapshot(&self) -> Result<Source, EngineError> {
        Ok(Source(self.engine.checkpoint()?))
    }
}

impl View {
    /// As [`Store::snapshot`], from any thread, of an engine that outlives the process.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn freeze(&self) -> Result<Source, EngineError> {
        Ok(Source(self.engine().checkpoint()?))
    }
}

impl Source {
    /// The log position of the state.
    pub fn applied(&self) -> Applied {
        self.0.published().applied
    }

    /// A row of a small table, as it is in this state.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.get(table, key)
    }

    /// Writes the stream in pieces of about 256 KiB.
    pub fn write(&self, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), SnapshotError> {
        let header = self.header();
        write(&header)?;
        let mut block = Block::default();
        for table in Table::ALL.into_iter().filter(|table| table_code(*table) < KEY_TABLE) {
            self.write_table(table, &mut block, &mut write)?;
        }
        self.write_versions(&mut block, &mut write)?;
        for table in Table::ALL.into_iter().filter(|table| table_code(*table) > KEY_TABLE) {
            self.write_table(table, &mut block, &mut write)?;
        }
        block.end(&header, &mut write)?;
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let Published { revision, applied } = self.0.published();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&applied.index.to_le_bytes());
        header.extend_from_slice(&applied.term.to_le_bytes());
        header.extend_from_slice(&revision.to_le_bytes());
        header
    }

    fn write_table(
        &self,
        table: Table,
        block: &mut Block,
        write: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let rows = self.0.rows(table, b"")?;
        Ok(rows.iter().try_for_each(|(key, value)| block.row(table_code(table), key, value, write))?)
    }

    fn write_versions(
        &self,
        block: &mut Block,
        write: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let to = self.0.published().revision - i64::from(metastore_mutants::on(Mutant::StateLacksLastRevision));
        let mut from = Some(Revision::default());
        let mut versions: Vec<Version> = Vec::new();
        while let Some(next) = from {
            from = self.0.history(next, to, &mut versions)?;
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
