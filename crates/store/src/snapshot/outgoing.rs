//! The stream, row by row.

use metastore_engine::{Published, Table};

use super::{BLOCK_BYTES, FORMAT, HEADER_BYTES, KEY_TABLE, MAGIC, table_code};

/// A stream that is written row by row, in the order of [`table_code`]s and keys. Complete parts are appended to `out`.
#[derive(Default)]
pub struct Outgoing {
    header: Vec<u8>,
    block: Vec<u8>,
    rows: u64,
}

impl Outgoing {
    /// Begins the stream of a state at this position.
    pub fn begin(published: Published, out: &mut Vec<u8>) -> Self {
        let Published { revision, applied } = published;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&applied.index.to_le_bytes());
        header.extend_from_slice(&applied.term.to_le_bytes());
        header.extend_from_slice(&revision.to_le_bytes());
        out.extend_from_slice(&header);
        Self { header, ..Self::default() }
    }

    /// The tables before the versioned keys, or after them, in their order.
    pub fn tables(behind_keys: bool) -> impl Iterator<Item = Table> {
        Table::ALL.into_iter().filter(move |&table| (table_code(table) > KEY_TABLE) == behind_keys)
    }

    pub fn row(&mut self, table: Table, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        self.put(table_code(table), key, value, out);
    }

    /// A stored version, under its revision key.
    pub fn version(&mut self, revision_key: &[u8], row: &[u8], out: &mut Vec<u8>) {
        self.put(KEY_TABLE, revision_key, row, out);
    }

    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        let rows = self.rows.to_le_bytes();
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&self.header), &rows).to_le_bytes());
        out.extend_from_slice(&rows);
    }

    /// Collects rows into blocks, and writes each block with a checksum.
    fn put(&mut self, code: u8, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        self.block.push(code);
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.rows += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.flush(out);
        }
    }

    /// Closes the block that is open.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.block.is_empty() {
            out.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
            out.extend_from_slice(&crc32c::crc32c(&self.block).to_le_bytes());
            out.extend_from_slice(&self.block);
            self.block.clear();
        }
    }
}
