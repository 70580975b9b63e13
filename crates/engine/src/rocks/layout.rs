//! The bytes of each column family. Numbers are big endian, so that their bytes sort as the numbers do.
//!
//! ```text
//!   default      "state"              ▶ format u32 | revision i64 | index u64 | term u64 | rows u64 | bytes u64
//!                                     | compacted i64 | compacting i64 | next main i64 | next sub i64
//!                                     | the numbers of the mark, u64 each
//!   current      key                  ▶ main i64 | sub i64 | tombstone u8 | row       the newest version of each key;
//!                                                                     a tombstone also after it was dropped
//!   revisions    main i64 | sub i64   ▶ marks u8 | [replaced main i64 | sub i64 | row length u32]      every version
//!                                     | [key length u32 | key] | row
//!   superseded   key length u32 | key | !main i64 | !sub i64                             versions that some compaction
//!                                     ▶ dead i64 | tombstone u8 | row length u32         will drop, or has dropped
//!   tables       table u8 | key       ▶ value                                            the small tables
//! ```
//!
//! A version in `revisions` names the versions that die by it: the version that it replaced, and for a tombstone its
//! key. The bits of `marks`: 1 for a tombstone, whose key follows; 2 for a version that replaced another; 4 if that one
//! is a tombstone. A replaced tombstone of an earlier revision is not named, because it dies by itself.
//!
//! `dead` is the least revision at which a compaction drops the version. That is the main revision of the version that
//! replaced it. For a tombstone it is the revision after its own, if that is less. Revisions of one key are inverted:
//! the newest comes first.

use crate::{Applied, EngineError, HighWaterMark, Published, Result, Revision, Row, Table, Usage, Version};

/// The version of this layout. Any other is refused.
pub(super) const FORMAT: u32 = 2;

pub(super) const CURRENT: &str = "current";
pub(super) const REVISIONS: &str = "revisions";
pub(super) const SUPERSEDED: &str = "superseded";
pub(super) const TABLES: &str = "tables";

/// The only key of the default column family.
pub(super) const STATE_KEY: &[u8] = b"state";

/// The size of a revision.
const REVISION_BYTES: usize = 16;
/// The size of the fields before the row of a current version.
const STAMP_BYTES: usize = REVISION_BYTES + 1;
/// The size of the fields that name the replaced version.
const REPLACED_BYTES: usize = REVISION_BYTES + 4;

/// The bits of `marks` in `revisions`.
const TOMBSTONE: u8 = 1;
const REPLACED: u8 = 2;
const REPLACED_TOMBSTONE: u8 = 4;

/// A version without its row, and the size of the row.
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

/// A version that some compaction will drop, or has dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superseded {
    pub(super) stamp: Stamp,
    /// The least revision at which a compaction drops it.
    pub(super) dead: i64,
}

/// A version as it is stored in `revisions`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written<'a> {
    /// The version that dies by this one.
    pub(super) replaced: Option<Stamp>,
    /// The key, if this is a tombstone.
    pub(super) deleted: Option<&'a [u8]>,
    pub(super) row: &'a [u8],
}

impl Written<'_> {
    pub(super) fn version(&self, revision: Revision) -> Version {
        Version { revision, tombstone: self.deleted.is_some(), row: Row::from(self.row) }
    }
}

/// The progress of compaction: it walks over the revisions once, and drops the versions that die by each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// All versions that a compaction at this revision drops are gone.
    pub(super) done: i64,
    /// The revision of the unfinished compaction; `done` or less if there is none.
    pub(super) at: i64,
    /// Where the walk continues.
    pub(super) next: Revision,
}

impl Walk {
    /// Tombstones of earlier main revisions count as dropped, even where they are still stored.
    pub(super) fn deletes_below(self) -> i64 {
        self.done.max(self.at.min(self.next.main))
    }
}

/// The state that is stored in the same batch as the data that it describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) published: Published,
    pub(super) usage: Usage,
    pub(super) walk: Walk,
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

/// Sets `into` to the value of a version in `revisions`; `replaced` is the version that dies by it.
pub(super) fn write_revision(key: &[u8], version: &Version, replaced: Option<Stamp>, into: &mut Vec<u8>) {
    into.clear();
    into.push(if version.tombstone { TOMBSTONE } else { 0 });
    if let Some(Stamp { revision, tombstone, row_bytes }) = replaced {
        into[0] |= REPLACED | if tombstone { REPLACED_TOMBSTONE } else { 0 };
        into.extend_from_slice(&revision_key(revision));
        into.extend_from_slice(&row_bytes.to_be_bytes());
    }
    if version.tombstone {
        into.extend_from_slice(&(key.len() as u32).to_be_bytes());
        into.extend_from_slice(key);
    }
    into.extend_from_slice(&version.row);
}

pub(super) fn parse_current(value: &[u8]) -> Result<(Stamp, &[u8])> {
    let (head, row) = value.split_at_checked(STAMP_BYTES).ok_or_else(|| damaged("a current version", value))?;
    let revision = parse_revision_key(&head[..REVISION_BYTES])?;
    let stamp = Stamp { revision, tombstone: head[REVISION_BYTES] != 0, row_bytes: row.len() as u32 };
    Ok((stamp, row))
}

pub(super) fn parse_revision(value: &[u8]) -> Result<Written<'_>> {
    let wrong = || damaged("a version", value);
    let (&marks, mut rest) = value.split_first().ok_or_else(wrong)?;
    if marks & !(TOMBSTONE | REPLACED | REPLACED_TOMBSTONE) != 0 {
        return Err(wrong());
    }
    let mut take = |bytes: usize| rest.split_off(..bytes).ok_or_else(wrong);
    let mut replaced = None;
    if marks & REPLACED != 0 {
        let (revision, row_bytes) = take(REPLACED_BYTES)?.split_at(REVISION_BYTES);
        let (revision, row_bytes) = (parse_revision_key(revision)?, u32_of(row_bytes, value)?);
        replaced = Some(Stamp { revision, tombstone: marks & REPLACED_TOMBSTONE != 0, row_bytes });
    }
    let mut deleted = None;
    if marks & TOMBSTONE != 0 {
        let length = u32_of(take(4)?, value)?;
        deleted = Some(take(length as usize)?);
    }
    Ok(Written { replaced, deleted, row: rest })
}

/// The key from which the versions of `key` with `main <= at` follow, the newest first.
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

/// The part of a key in `superseded` that identifies its user key: the bloom filter covers this prefix.
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

/// The user key of a superseded version, and the fields of its row.
pub(super) fn parse_superseded<'a>(key: &'a [u8], value: &[u8]) -> Result<(&'a [u8], Superseded)> {
    let wrong = || damaged("a superseded version", key);
    let at = key.len().checked_sub(REVISION_BYTES).ok_or_else(wrong)?;
    let (named, inverted) = key.split_at(at);
    let Revision { main, sub } = parse_revision_key(inverted)?;
    let (dead, rest) = value.split_at_checked(8).ok_or_else(wrong)?;
    let (&tombstone, row_bytes) = rest.split_first().ok_or_else(wrong)?;
    let row_bytes = u32_of(row_bytes, key)?;
    let stamp = Stamp { revision: Revision::new(!main, !sub), tombstone: tombstone != 0, row_bytes };
    Ok((named.get(4..).ok_or_else(wrong)?, Superseded { stamp, dead: i64_of(dead, key)? }))
}

pub(super) fn table_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8], key].concat()
}

/// The least revision at which a compaction drops a superseded version, from its value; `None` if it cannot be read.
pub(super) fn dead_at(superseded_value: &[u8]) -> Option<i64> {
    superseded_value.first_chunk().map(|dead| i64::from_be_bytes(*dead))
}

/// The main revision of a current version that is a tombstone, from its value; `None` if it is alive or unreadable.
pub(super) fn deleted_at(current_value: &[u8]) -> Option<i64> {
    let tombstone = *current_value.get(REVISION_BYTES)? != 0;
    current_value.first_chunk().filter(|_| tombstone).map(|main| i64::from_be_bytes(*main))
}

/// The state and the mark. The number of the mark's numbers varies.
pub(super) fn state_value(state: &State, mark: &HighWaterMark) -> Vec<u8> {
    let State { published: Published { revision, applied }, usage, walk } = *state;
    let [published, done, at, main, sub] =
        [revision, walk.done, walk.at, walk.next.main, walk.next.sub].map(|number| number as u64);
    let numbers = [published, applied.index, applied.term, usage.rows, usage.bytes, done, at, main, sub];
    let numbers = numbers.into_iter().chain(mark.to_numbers()).flat_map(u64::to_be_bytes);
    FORMAT.to_be_bytes().into_iter().chain(numbers).collect()
}

pub(super) fn parse_state(value: &[u8]) -> Result<(State, HighWaterMark)> {
    let wrong = || damaged("the state", value);
    let (format, numbers) = value.split_at_checked(4).ok_or_else(wrong)?;
    let format = u32_of(format, value)?;
    if format != FORMAT {
        let why = format!("the state is of format {format}, but this version reads format {FORMAT}");
        return Err(EngineError(why));
    }
    let (numbers, []) = numbers.as_chunks() else { return Err(wrong()) };
    let numbers: Vec<u64> = numbers.iter().map(|&number| u64::from_be_bytes(number)).collect();
    let [revision, index, term, rows, bytes, done, at, main, sub, ref mark @ ..] = numbers[..] else {
        return Err(wrong());
    };
    let mark = HighWaterMark::from_numbers(mark).ok_or_else(wrong)?;
    let [revision, done, at, main, sub] = [revision, done, at, main, sub].map(|number| number as i64);
    let walk = Walk { done, at, next: Revision::new(main, sub) };
    let published = Published { revision, applied: Applied { index, term } };
    Ok((State { published, usage: Usage { rows, bytes }, walk }, mark))
}

fn u32_of(number: &[u8], whole: &[u8]) -> Result<u32> {
    number.try_into().map(u32::from_be_bytes).map_err(|_| damaged("a length", whole))
}

fn i64_of(number: &[u8], whole: &[u8]) -> Result<i64> {
    number.try_into().map(i64::from_be_bytes).map_err(|_| damaged("a number", whole))
}

fn damaged(what: &str, bytes: &[u8]) -> EngineError {
    EngineError(format!("damaged: {what} cannot be read from {} bytes: {}", bytes.len(), bytes.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_were_written() {
        let replaced =
            [false, true].map(|tombstone| Stamp { revision: Revision::new(7, 3), tombstone, row_bytes: 1 << 20 });
        for replaced in [None, Some(replaced[0]), Some(replaced[1])] {
            for tombstone in [false, true] {
                let row = Row::from(&b"the row"[..]);
                let version = Version { revision: Revision::new(9, 0), tombstone, row };
                let mut value = b"what was there before".to_vec();
                write_revision(b"key", &version, replaced, &mut value);
                let written = parse_revision(&value).unwrap();
                assert_eq!(written.version(version.revision), version);
                assert_eq!((written.replaced, written.deleted), (replaced, tombstone.then_some(&b"key"[..])));
                let head = value.len() - version.row.len();
                for length in 0..head {
                    assert!(parse_revision(&value[..length]).is_err(), "{length} of {} bytes", value.len());
                }
            }
        }
        assert!(parse_revision(&[8, 0]).is_err(), "an unknown mark");
    }

    #[test]
    fn the_state_is_read_as_it_was_written() {
        let state = State {
            published: Published { revision: 1, applied: Applied { index: 2, term: 3 } },
            usage: Usage { rows: 4, bytes: 5 },
            walk: Walk { done: 6, at: 7, next: Revision::new(8, 9) },
        };
        let mark = HighWaterMark::from_numbers(&[10, 11, 12]).unwrap();
        let value = state_value(&state, &mark);
        assert_eq!(parse_state(&value).unwrap(), (state, mark));
        // One byte less; half of a compaction less; no mark.
        for less in [1, 8, 3 * 8] {
            assert!(parse_state(&value[..value.len() - less]).is_err(), "{less} bytes less");
        }
    }
}
