//! Reading the stream.

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, KeyRange, Published, Revision, Table, Version};
use metastore_mutants::{Mutant, mutant};

use super::{FORMAT, HEADER_BYTES, KEY_TABLE, MAGIC, MAX_BLOCK_BYTES, SnapshotError, table_code};
use crate::lease::{Leases, keys};
use crate::mvcc::{begin_mark, row::KeyValue};
use crate::schema::{LOADING, parse_revision_key};

/// No transaction can make this many changes; engines need not be able to store a greater number.
const MAX_SUB: i64 = u32::MAX as i64;
/// No cluster makes this many revisions. A damaged state that says so would have no revision left for the next write.
const MAX_REVISION: i64 = i64::MAX >> 1;

/// A state stream that is loaded into an empty engine, in pieces of any size. The engine writes during the loading, so
/// it need not hold the whole stream in memory. Its content is not a state before the end: [`crate::Store::open`]
/// refuses it. In an engine that outlives the process, the loaded state is durable after the next flush.
///
/// After an error the engine must be thrown away.
pub struct Incoming {
    loader: Loader,
    /// Received bytes that are not a complete part yet.
    bytes: Vec<u8>,
    expected: Part,
    header: [u8; HEADER_BYTES],
    published: Published,
}

/// The part that comes next in the stream.
#[derive(Clone, Copy)]
enum Part {
    Header,
    /// Length and checksum of a block.
    Frame,
    Block {
        length: usize,
        crc: u32,
    },
    /// The number of rows.
    End {
        crc: u32,
    },
    Nothing,
}

impl Part {
    fn bytes(self) -> usize {
        match self {
            Self::Header => HEADER_BYTES,
            Self::Frame | Self::End { .. } => 8,
            Self::Block { length, .. } => length,
            Self::Nothing => 1,
        }
    }
}

impl Incoming {
    /// Loads the stream into an empty engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self::with(engine, true)
    }

    /// Checks the stream, row by row, and loads the small tables alone, so that they can be checked as a whole. Whether
    /// the keys of a lease have one is seen when all of it is loaded.
    pub fn checking(engine: Arc<dyn Engine>) -> Self {
        Self::with(engine, false)
    }

    fn with(engine: Arc<dyn Engine>, keeps_versions: bool) -> Self {
        let (bytes, header, published) = (Vec::new(), [0; HEADER_BYTES], Published::default());
        Self { loader: Loader::new(engine, keeps_versions), bytes, expected: Part::Header, header, published }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// If the stream is damaged or of another version, or the engine fails.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.extend_from_slice(piece);
        let mut rest = &bytes[..];
        while let Some((part, after)) = rest.split_at_checked(self.expected.bytes()) {
            self.expected = self.part(part)?;
            rest = after;
        }
        let complete = bytes.len() - rest.len();
        bytes.drain(..complete);
        self.bytes = bytes;
        Ok(())
    }

    /// Ends the stream; returns the log position of the state.
    ///
    /// # Errors
    /// If the stream was cut short.
    pub fn finish(self) -> Result<Applied, SnapshotError> {
        match self.expected {
            Part::Nothing => Ok(self.published.applied),
            _ => Err(SnapshotError::Damaged(format!("it ends too early, after row {}", self.loader.rows))),
        }
    }

    /// Processes a complete part, and returns the part that follows.
    fn part(&mut self, bytes: &[u8]) -> Result<Part, SnapshotError> {
        match self.expected {
            Part::Header => {
                self.header.copy_from_slice(bytes);
                self.published = parse_header(&self.header)?;
                self.loader.begin(self.published.revision)?;
                Ok(Part::Frame)
            }
            Part::Frame => match (u32_at(bytes, 0) as usize, u32_at(bytes, 4)) {
                (0, crc) => Ok(Part::End { crc }),
                (length, _) if length > MAX_BLOCK_BYTES => {
                    Err(SnapshotError::Damaged(format!("a block of {length} bytes")))
                }
                (length, crc) => Ok(Part::Block { length, crc }),
            },
            Part::Block { crc, .. } => {
                self.check(crc, crc32c::crc32c(bytes))?;
                self.loader.block(bytes)?;
                Ok(Part::Frame)
            }
            Part::End { crc } => {
                // The checksum at the end also covers the header.
                self.check(crc, crc32c::crc32c_append(crc32c::crc32c(&self.header), bytes))?;
                self.loader.end(u64_at(bytes, 0), self.published)?;
                Ok(Part::Nothing)
            }
            Part::Nothing => Err(SnapshotError::Damaged("there is something behind its end".into())),
        }
    }

    fn check(&self, expected: u32, crc: u32) -> Result<(), SnapshotError> {
        if expected == crc {
            return Ok(());
        }
        Err(SnapshotError::Damaged(format!("wrong checksum of the block after row {}", self.loader.rows)))
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
    let revision = u64_at(header, 28) as i64;
    if !(0..=MAX_REVISION).contains(&revision) {
        return Err(SnapshotError::Damaged(format!("revision {revision}, but no cluster passes {MAX_REVISION}")));
    }
    Ok(Published { revision, applied })
}

/// The state of the loading: the rows that were read so far.
struct Loader {
    engine: Arc<dyn Engine>,
    /// Whether versions are loaded, or only checked.
    keeps_versions: bool,
    rows: u64,
    /// The newest revision, as given in the header.
    revision: i64,
    /// The revision of the last version that was read.
    last: Revision,
    /// Whether any version names a lease.
    leased: bool,
}

impl Loader {
    fn new(engine: Arc<dyn Engine>, keeps_versions: bool) -> Self {
        // The first possible revision is greater.
        let last = Revision::new(0, i64::MAX);
        Self { engine, keeps_versions, rows: 0, revision: 0, last, leased: false }
    }

    fn begin(&mut self, revision: i64) -> Result<(), EngineError> {
        self.revision = revision;
        self.engine.put(Table::Meta, LOADING, b"")
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
        if revision <= self.last || main > self.revision || !(0..=MAX_SUB).contains(&sub) {
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
        if !self.keeps_versions {
            return Ok(());
        }
        Ok(self.engine.append(kv.key, Version { revision, tombstone, row: row.into() })?)
    }

    /// Publishes the rows that were read, so that the engine need not hold them back.
    fn publish(&self) -> Result<(), EngineError> {
        self.engine.publish(Published { revision: self.last.main, applied: Applied::default() })
    }

    fn end(&mut self, expected: u64, published: Published) -> Result<(), SnapshotError> {
        let rows = self.rows;
        if expected != rows {
            return Err(SnapshotError::Damaged(format!("{rows} rows where {expected} were written")));
        }
        if mutant(Mutant::StateLacksLeaseKeys) {
            self.leased = false;
        }
        if self.leased && self.keeps_versions {
            self.attach_keys()?;
        }
        self.engine.delete(Table::Meta, LOADING)?;
        begin_mark(self.engine.as_ref())?;
        Ok(self.engine.publish(published)?)
    }

    /// Rebuilds the table of lease keys: the newest version of each key names its lease.
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
                keys::attach(self.engine.as_ref(), lease, key)?;
            }
            self.publish()?;
        }
        Ok(())
    }
}

/// Table, key and value of the first row, and the bytes after it.
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
