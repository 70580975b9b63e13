//! Reading the stream.

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, KeyRange, Published, Revision, Table, Version};

use super::{FORMAT, HEADER_BYTES, KEY_TABLE, MAGIC, MAX_BLOCK_BYTES, SnapshotError, table_code};
use crate::lease::{Leases, keys};
use crate::mvcc::row::KeyValue;
use crate::schema::{LOADING, parse_revision_key};

/// Reads a stream into an empty engine and publishes it. `read` fills its buffer or fails. The engine writes as it goes on, so
/// that it need not hold all of it, and what it holds is no state until the end: [`crate::Store::open`] refuses it. What an
/// engine that outlives the process was given is durable after its next flush.
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
    let mut loader = Loader::new(engine.as_ref(), published.revision);
    engine.put(Table::Meta, LOADING, b"")?;
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
            return Err(SnapshotError::Damaged(format!("wrong checksum of the block after row {}", loader.rows)));
        }
        if length == 0 {
            loader.end(u64::from_le_bytes(block.try_into().unwrap_or_default()))?;
            engine.delete(Table::Meta, LOADING)?;
            engine.publish(published)?;
            return Ok(published.applied);
        }
        loader.block(&block)?;
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

/// What was read so far.
struct Loader<'a> {
    engine: &'a dyn Engine,
    rows: u64,
    /// The newest revision that the header allows.
    revision: i64,
    /// The revision of the last version.
    last: Revision,
    /// Whether any version names a lease.
    leased: bool,
}

impl<'a> Loader<'a> {
    fn new(engine: &'a dyn Engine, revision: i64) -> Self {
        // The first transaction there can be has a greater one.
        let last = Revision::new(0, i64::MAX);
        Self { engine, rows: 0, revision, last, leased: false }
    }

    fn block(&mut self, block: &[u8]) -> Result<(), SnapshotError> {
        let mut rest = block;
        while !rest.is_empty() {
            let (code, key, value);
            (code, key, value, rest) = split_row(rest).ok_or_else(|| {
                SnapshotError::Damaged(format!("row {} reaches over the end of its block", self.rows))
            })?;
            self.row(code, key, value)?;
            self.rows += 1;
        }
        Ok(self.publish()?)
    }

    fn row(&mut self, code: u8, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if code == KEY_TABLE {
            return self.version(key, value);
        }
        let table = Table::ALL
            .into_iter()
            .find(|&table| table_code(table) == code)
            .ok_or_else(|| SnapshotError::Damaged(format!("unknown table {code}")))?;
        Ok(self.engine.put(table, key, value)?)
    }

    fn version(&mut self, key: &[u8], row: &[u8]) -> Result<(), SnapshotError> {
        let (revision, tombstone) = parse_revision_key(key)
            .ok_or_else(|| SnapshotError::Damaged(format!("{} is no revision", key.escape_ascii())))?;
        let Revision { main, sub } = revision;
        if revision <= self.last || main > self.revision {
            let (after, newest) = (self.last, self.revision);
            let what =
                format!("revision {main}.{sub} after {}.{}, where {newest} is the newest", after.main, after.sub);
            return Err(SnapshotError::Damaged(what));
        }
        let Some(kv) = KeyValue::parse(row) else {
            return Err(SnapshotError::Damaged(format!("the row at revision {main}.{sub} is no key-value record")));
        };
        self.last = revision;
        self.leased |= kv.lease != 0;
        Ok(self.engine.append(kv.key, Version { revision, tombstone, row: row.into() })?)
    }

    /// Hands over what was read, so that the engine need not hold it back.
    fn publish(&self) -> Result<(), EngineError> {
        self.engine.publish(Published { revision: self.last.main, applied: Applied::default() })
    }

    fn end(&mut self, expected: u64) -> Result<(), SnapshotError> {
        let rows = self.rows;
        if expected != rows {
            return Err(SnapshotError::Damaged(format!("{rows} rows where {expected} were written")));
        }
        if self.leased { self.attach_keys() } else { Ok(()) }
    }

    /// Works out which key hangs on which lease: what the key's newest version says.
    fn attach_keys(&self) -> Result<(), SnapshotError> {
        let rows = self.engine.rows(Table::Lease, b"")?;
        let leases = Leases::load(rows.iter().map(|(key, value)| (&key[..], &value[..])))
            .map_err(|error| SnapshotError::Damaged(error.to_string()))?;
        let mut from = Some(Vec::new());
        while let Some(start) = from {
            let mut found = Vec::new();
            let range = KeyRange { start: &start, end: None };
            from = self.engine.scan(range, self.last.main, usize::MAX, &mut found)?;
            for version in &found {
                let KeyValue { key, lease, .. } = KeyValue::of(&version.row);
                if lease == 0 {
                    continue;
                }
                if !leases.contains(lease) {
                    let key = key.escape_ascii();
                    let what = format!("key {key} is attached to lease {lease:016x}, which is not there");
                    return Err(SnapshotError::Damaged(what));
                }
                keys::attach(self.engine, lease, key)?;
            }
            self.publish()?;
        }
        Ok(())
    }
}

/// Table, key and value of the first row, and what follows it.
type Split<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

fn split_row(bytes: &[u8]) -> Option<Split<'_>> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let (key, rest) = rest.split_at_checked(u32_at(head, 1) as usize)?;
    let (value, rest) = rest.split_at_checked(u32_at(head, 5) as usize)?;
    Some((head[0], key, value, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
