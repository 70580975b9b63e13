//! The segment files of a log: their names, their order, and which of them are needed.

use std::path::{Path, PathBuf};

use super::{Result, WalError};
use crate::disk::Disk;

/// The suffix of a segment's name.
const SUFFIX: &str = ".wal";

/// The suffix of a file under construction; left-over files are removed.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Hex digits of each number in a name.
const DIGITS: usize = 16;

/// A segment, identified by its name. Segments are ordered by sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// Increases by one with every segment.
    pub(super) sequence: u64,
    /// The index that the next entry would have had when the segment was begun; 0 for the first segment.
    pub(super) first_index: u64,
}

impl Segment {
    pub(super) fn name(self) -> String {
        format!("{:016x}-{:016x}{SUFFIX}", self.sequence, self.first_index)
    }

    fn parse(name: &str) -> Option<Segment> {
        let (sequence, first_index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let number = |digits: &str| {
            let plain = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        Some(Segment { sequence: number(sequence)?, first_index: number(first_index)? })
    }
}

/// The segments in a directory, in order. Files whose names do not end in `.wal` are ignored (etcd leaves `.tmp` and
/// `.broken` files there).
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<Segment>> {
    if !disk.exists(dir)? {
        return Err(WalError::NotFound { dir: dir.to_owned() });
    }
    let mut segments = Vec::new();
    for name in disk.list(dir)?.into_iter().filter(|name| name.ends_with(SUFFIX)) {
        let segment = Segment::parse(&name);
        segments.push(segment.ok_or_else(|| WalError::ForeignFile { file: dir.join(&name) })?);
    }
    if segments.is_empty() {
        return Err(WalError::NotFound { dir: dir.to_owned() });
    }
    segments.sort();
    Ok(segments)
}

/// The position of the segment that holds the entries after `index`: the last one that begins at or before `index`.
pub(super) fn holding(segments: &[Segment], index: u64) -> Option<usize> {
    segments.iter().rposition(|segment| segment.first_index <= index)
}

/// All segments of a log, and the position of the one from which a snapshot at `index` is continued.
pub(super) fn from_snapshot(disk: &dyn Disk, dir: &Path, index: u64) -> Result<(Vec<Segment>, usize)> {
    let segments = list(disk, dir)?;
    let Some(first) = holding(&segments, index) else {
        return Err(WalError::Released { dir: dir.to_owned(), first: segments[0].first_index, index });
    };
    check_sequence(dir, &segments[first..])?;
    Ok((segments, first))
}

/// Refuses a gap in the sequence numbers.
fn check_sequence(dir: &Path, segments: &[Segment]) -> Result<()> {
    match segments.windows(2).find(|pair| pair[0].sequence.checked_add(1) != Some(pair[1].sequence)) {
        None => Ok(()),
        Some(pair) => {
            Err(WalError::MissingSegment { file: path(dir, pair[1]), missing: pair[0].sequence.saturating_add(1) })
        }
    }
}

/// The last segments without a gap. A release that was cut short by a power loss may leave older segments behind.
pub(super) fn newest_run(segments: &[Segment]) -> &[Segment] {
    let gap = segments.windows(2).rposition(|pair| pair[0].sequence.checked_add(1) != Some(pair[1].sequence));
    &segments[gap.map_or(0, |at| at + 1)..]
}

/// The file of a segment.
pub(super) fn path(dir: &Path, segment: Segment) -> PathBuf {
    dir.join(segment.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u64, first_index: u64) -> Segment {
        Segment { sequence, first_index }
    }

    #[test]
    fn names_are_etcds() {
        assert_eq!(segment(1, 0xabc).name(), "0000000000000001-0000000000000abc.wal");
        assert_eq!(Segment::parse("0000000000000001-0000000000000abc.wal"), Some(segment(1, 0xabc)));
        for name in
            ["1-2.wal", "0000000000000001-+000000000000abc.wal", "0000000000000001_0000000000000abc.wal", ".wal"]
        {
            assert_eq!(Segment::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_right_segment_is_found() {
        let segments = [segment(3, 10), segment(4, 20), segment(6, 15)];
        assert_eq!(holding(&segments, 9), None);
        assert_eq!(holding(&segments, 10), Some(0));
        assert_eq!(holding(&segments, 17), Some(2));
        assert_eq!(newest_run(&segments), [segment(6, 15)]);
        assert_eq!(newest_run(&segments[..2]), &segments[..2]);
        assert!(matches!(check_sequence(Path::new("w"), &segments), Err(WalError::MissingSegment { missing: 5, .. })));
        assert!(check_sequence(Path::new("w"), &segments[..2]).is_ok());
    }
}
