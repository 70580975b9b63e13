//! The bytes of each column family. Numbers are big endian, so that bytes sort as numbers do.
//!
//! ```text
//!   default      "state"                        ▶ format u32 | revision i64 | index u64 | term u64 | rows u64 | bytes u64
//!   current      key                            ▶ main i64 | sub i64 | tombstone u8 | row       the newest version of each key
//!   revisions    main i64 | sub i64             ▶ tombstone u8 | row                            every version
//!   superseded   key length u32 | key | !main i64 | !sub i64                                    every version that some
//!                                               ▶ dead i64 | tombstone u8 | row length u32      compaction will drop
//!   tables       table u8 | key                 ▶ value                                         the small tables
//! ```
//!
//! `dead` is the least revision at which a compaction drops the version: the main revision of the version that replaced it,
//! or for a tombstone the one after its own, if that is less. Revisions of one key are inverted: the newest comes first.

use crate::{Applied, EngineError, Published, Result, Revision, Row, Table, Usage, Version};

/// Version of this layout; another one is refused.
pub(super) const FORMAT: u32 = 1;

pub(super) const CURRENT: &str = "current";
pub(super) const REVISIONS: &str = "revisions";
pub(super) const SUPERSEDED: &str = "superseded";
pub(super) const TABLES: &str = "tables";

/// The one key of the default column family.
pub(super) const STATE_KEY: &[u8] = b"state";

/// Bytes of a revision.
const REVISION_BYTES: usize = 16;
/// Bytes before the row of a current version.
const STAMP_BYTES: usize = REVISION_BYTES + 1;

/// Which version, and how large its row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) revision: Revision,
    pub(super) tombstone: bool,
    pub(super) row_bytes: u32,
}

impl Stamp {
    pub(super) fn of(version: &Version) -> Self {
        let Version { revision, tombstone, row } = version;
        Self { revision: *revision, tombstone: *tombstone, row_bytes: row.len() as u32 }
    }

    pub(super) fn usage(self) -> Usage {
        Usage::of_version(self.row_bytes as usize, self.tombstone)
    }
}

/// A version that some compaction will drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superseded {
    pub(super) stamp: Stamp,
    /// The least revision at which a compaction drops it.
    pub(super) dead: i64,
}

pub(super) fn revision_key(revision: Revision) -> [u8; REVISION_BYTES] {
    let mut key = [0; REVISION_BYTES];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[8..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

pub(super) fn parse_revision_key(bytes: &[u8]) -> Result<Revision> {
    let (main, sub) = bytes.split_at_checked(8).ok_or_else(|| damaged("a revision", bytes))?;
    Ok(Revision::new(i64_of(main, bytes)?, i64_of(sub, bytes)?))
}

/// Sets `into` to the value of a current version.
pub(super) fn write_current(version: &Version, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&revision_key(version.revision));
    into.push(u8::from(version.tombstone));
    into.extend_from_slice(&version.row);
}

/// The part of a current version's value that is also its value among the revisions.
pub(super) fn revision_value(current: &[u8]) -> &[u8] {
    &current[REVISION_BYTES..]
}

pub(super) fn parse_current(value: &[u8]) -> Result<(Stamp, &[u8])> {
    let (head, row) = value.split_at_checked(STAMP_BYTES).ok_or_else(|| damaged("a current version", value))?;
    let revision = parse_revision_key(&head[..REVISION_BYTES])?;
    let stamp = Stamp { revision, tombstone: head[REVISION_BYTES] != 0, row_bytes: row.len() as u32 };
    Ok((stamp, row))
}

pub(super) fn parse_revision(revision: Revision, value: &[u8]) -> Result<Version> {
    let (&tombstone, row) = value.split_first().ok_or_else(|| damaged("a version", value))?;
    Ok(Version { revision, tombstone: tombstone != 0, row: Row::from(row) })
}

/// The versions of `key` with `main <= at` come from here on, the newest first.
pub(super) fn superseded_from(key: &[u8], at: i64) -> Vec<u8> {
    superseded_key(key, Revision::new(at, i64::MAX))
}

pub(super) fn superseded_key(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + key.len() + REVISION_BYTES);
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&(!revision.main).to_be_bytes());
    out.extend_from_slice(&(!revision.sub).to_be_bytes());
    out
}

/// The part of a superseded version's key that names its user key: what the bloom filter knows.
pub(super) fn superseded_prefix(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(REVISION_BYTES)]
}

pub(super) fn superseded_value(superseded: Superseded) -> [u8; 13] {
    let mut value = [0; 13];
    value[..8].copy_from_slice(&superseded.dead.to_be_bytes());
    value[8] = u8::from(superseded.stamp.tombstone);
    value[9..].copy_from_slice(&superseded.stamp.row_bytes.to_be_bytes());
    value
}

/// The user key of a superseded version, and what is known of it.
pub(super) fn parse_superseded<'a>(key: &'a [u8], value: &[u8]) -> Result<(&'a [u8], Superseded)> {
    let wrong = || damaged("a superseded version", key);
    let at = key.len().checked_sub(REVISION_BYTES).ok_or_else(wrong)?;
    let (named, inverted) = key.split_at(at);
    let Revision { main, sub } = parse_revision_key(inverted)?;
    let (dead, rest) = value.split_at_checked(8).ok_or_else(wrong)?;
    let (&tombstone, row_bytes) = rest.split_first().ok_or_else(wrong)?;
    let row_bytes = u32::from_be_bytes(row_bytes.try_into().map_err(|_| wrong())?);
    let stamp = Stamp { revision: Revision::new(!main, !sub), tombstone: tombstone != 0, row_bytes };
    Ok((named.get(4..).ok_or_else(wrong)?, Superseded { stamp, dead: i64_of(dead, key)? }))
}

pub(super) fn table_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8], key].concat()
}

/// What was published, and what was stored then.
pub(super) fn state_value(published: Published, usage: Usage) -> [u8; 44] {
    let Published { revision, applied } = published;
    let mut value = [0; 44];
    value[..4].copy_from_slice(&FORMAT.to_be_bytes());
    let numbers = [revision as u64, applied.index, applied.term, usage.rows, usage.bytes];
    for (at, number) in numbers.into_iter().enumerate() {
        value[4 + 8 * at..12 + 8 * at].copy_from_slice(&number.to_be_bytes());
    }
    value
}

pub(super) fn parse_state(value: &[u8]) -> Result<(Published, Usage)> {
    let wrong = || damaged("the state", value);
    let (format, numbers) = value.split_at_checked(4).ok_or_else(wrong)?;
    let format = u32::from_be_bytes(format.try_into().map_err(|_| wrong())?);
    if format != FORMAT {
        let why = format!("the state is of format {format}, but this version reads format {FORMAT}");
        return Err(EngineError(why));
    }
    let numbers: Vec<i64> = numbers.chunks(8).map(|number| i64_of(number, value)).collect::<Result<_>>()?;
    let [revision, index, term, rows, bytes] = numbers[..] else { return Err(wrong()) };
    let applied = Applied { index: index as u64, term: term as u64 };
    Ok((Published { revision, applied }, Usage { rows: rows as u64, bytes: bytes as u64 }))
}

fn i64_of(number: &[u8], whole: &[u8]) -> Result<i64> {
    number.try_into().map(i64::from_be_bytes).map_err(|_| damaged("a number", whole))
}

fn damaged(what: &str, bytes: &[u8]) -> EngineError {
    EngineError(format!("damaged: {what} cannot be read from {} bytes: {}", bytes.len(), bytes.escape_ascii()))
}
