//! The high-water mark of the state. etcd's clients and operators know the state as a file of pages. Its size is the
//! most that its rows ever took since it was last defragmented.
//!
//! The mark must be the same whenever the member is killed, and a restart replays the log. So it may depend neither on
//! how entries are grouped into batches, nor on how far the dropping of old versions lags behind its compaction:
//!
//! > The mark is the most that the state took after any write, if each compaction were done at once.
//!
//! ```text
//!   put  put  compact at 7   put  put   compact at 9   put        the log
//!   └────────┘ highest       └───────┘                 └───
//!                            peak until 7 is finished  peak until 9 is finished
//! ```
//!
//! While versions wait to be dropped, the highest value since their compaction is kept separately as a peak. Each
//! dropped version is subtracted from the peaks of those compactions that drop it, also if a later compaction that
//! overtook them drops it. When a compaction is finished, its peak is what the state took without the dropped versions.

use crate::Usage;

/// The page size to which file sizes are rounded, as in etcd's backend.
const PAGE_BYTES: u64 = 4096;
/// The pages of a backend file without rows: two meta pages, free list, root.
const EMPTY_PAGES: u64 = 5;
/// The bytes that a row takes in a page in addition to its own.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// The most unfinished compactions that are tracked. Beyond that the peak of the first is forgotten.
const MOST_WAITING: usize = 64;

/// The sizes in bytes of a file of pages with the stored rows; the same on every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The high-water mark, but not less than the size in use.
    pub allocated: u64,
    pub in_use: u64,
}

/// The high-water mark of the stored data. Its unit is the bytes that rows take in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HighWaterMark {
    /// The most that was stored, without the values that unfinished compactions may still lower.
    highest: u64,
    /// Unfinished compactions, in the order of their revisions.
    waiting: Vec<Waiting>,
}

/// An unfinished compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    /// Its revision.
    at: i64,
    /// The most that was stored from its request to that of the next one, without what it has dropped.
    peak: u64,
}

impl Usage {
    /// The bytes that the rows take in pages.
    fn in_pages(self) -> u64 {
        self.bytes + self.rows * ROW_OVERHEAD_BYTES
    }
}

impl HighWaterMark {
    /// Records that `usage` is stored now.
    pub(crate) fn raise(&mut self, usage: Usage) {
        let top = self.waiting.last_mut().map_or(&mut self.highest, |last| &mut last.peak);
        *top = (*top).max(usage.in_pages());
    }

    /// Adds an unfinished compaction at a revision, if that is later than those before.
    pub(crate) fn begin(&mut self, at: i64, usage: Usage) {
        if self.waiting.last().is_some_and(|last| last.at >= at) {
            return;
        }
        if self.waiting.len() == MOST_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { at, peak: usage.in_pages() });
    }

    /// Records a dropped version, which compactions at `dead` and later drop.
    pub(crate) fn dropped(&mut self, dead: i64, version: Usage) {
        for waiting in self.waiting.iter_mut().rev().take_while(|waiting| waiting.at >= dead) {
            waiting.peak = waiting.peak.saturating_sub(version.in_pages());
        }
    }

    /// Records that compactions up to this revision are finished.
    pub(crate) fn through(&mut self, at: i64) {
        let through = self.waiting.iter().take_while(|waiting| waiting.at <= at).count();
        let peaks = self.waiting.drain(..through).map(|waiting| waiting.peak);
        self.highest = peaks.fold(self.highest, u64::max);
    }

    /// The mark of a defragmented state: the present usage.
    #[must_use]
    pub fn lowered(&self, usage: Usage) -> Self {
        let stored = usage.in_pages();
        match self.waiting.last() {
            // The value after the unfinished compactions is not known yet.
            Some(last) => Self { highest: 0, waiting: vec![Waiting { at: last.at, peak: stored }] },
            None => Self { highest: stored, waiting: Vec::new() },
        }
    }

    /// The sizes with this mark and the present usage.
    pub fn sizes(&self, usage: Usage) -> Sizes {
        let pages = |bytes: u64| (EMPTY_PAGES + bytes.div_ceil(PAGE_BYTES)) * PAGE_BYTES;
        let in_use = pages(usage.in_pages());
        Sizes { allocated: pages(self.highest).max(in_use), in_use }
    }

    /// The mark as numbers, for storing it: the highest value, then revision and peak of each unfinished compaction.
    pub fn to_numbers(&self) -> Vec<u64> {
        let waiting = self.waiting.iter().flat_map(|waiting| [waiting.at as u64, waiting.peak]);
        [self.highest].into_iter().chain(waiting).collect()
    }

    /// Reads the result of [`HighWaterMark::to_numbers`]; `None` if the numbers cannot be a mark.
    pub fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let (&highest, waiting) = numbers.split_first()?;
        let (waiting, []) = waiting.as_chunks::<2>() else { return None };
        if waiting.len() > MOST_WAITING || !waiting.is_sorted_by(|a, b| (a[0] as i64) < (b[0] as i64)) {
            return None;
        }
        let waiting = waiting.iter().map(|&[at, peak]| Waiting { at: at as i64, peak }).collect();
        Some(Self { highest, waiting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(bytes: u64) -> Usage {
        Usage { rows: 0, bytes }
    }

    #[test]
    fn sizes_are_those_of_a_file_of_pages() {
        let mut mark = HighWaterMark::default();
        assert_eq!(mark.sizes(usage(0)), Sizes { allocated: 5 * 4096, in_use: 5 * 4096 });
        mark.raise(Usage { rows: 1, bytes: 4080 });
        assert_eq!(mark.sizes(Usage { rows: 1, bytes: 4080 }), Sizes { allocated: 6 * 4096, in_use: 6 * 4096 });
        mark.raise(Usage { rows: 1, bytes: 4081 });
        assert_eq!(mark.sizes(usage(1)), Sizes { allocated: 7 * 4096, in_use: 6 * 4096 });
    }

    #[test]
    fn what_waits_to_be_dropped_does_not_count_in_the_end() {
        let mut mark = HighWaterMark::default();
        mark.raise(usage(100));
        mark.begin(7, usage(100));
        mark.raise(usage(130));
        mark.begin(9, usage(130));
        mark.raise(usage(150));
        // The first compaction drops 60, the second one 40 more.
        mark.dropped(7, usage(60));
        mark.dropped(8, usage(40));
        assert_eq!(mark.to_numbers(), [100, 7, 70, 9, 50]);
        assert_eq!(HighWaterMark::from_numbers(&mark.to_numbers()).as_ref(), Some(&mark));
        mark.through(9);
        assert_eq!(mark.to_numbers(), [100]);
        mark.begin(12, usage(95));
        mark.raise(usage(180));
        mark.dropped(10, usage(70));
        mark.through(12);
        assert_eq!(mark.to_numbers(), [110]);
    }

    #[test]
    fn a_mark_falls_to_what_is_stored() {
        let mut mark = HighWaterMark::from_numbers(&[100]).unwrap();
        assert_eq!(mark.lowered(usage(60)).to_numbers(), [60]);
        mark.begin(7, usage(90));
        mark.begin(8, usage(90));
        let mut lowered = mark.lowered(usage(80));
        lowered.dropped(7, usage(50));
        lowered.through(8);
        assert_eq!(lowered.to_numbers(), [30]);
    }

    #[test]
    fn what_is_no_mark_is_refused() {
        let most: Vec<u64> = (0..2 * MOST_WAITING as u64 + 3).collect();
        for numbers in [&[][..], &[1, 2], &[1, 2, 3, 2, 3], &most] {
            assert_eq!(HighWaterMark::from_numbers(numbers), None, "{numbers:?}");
        }
        let mut mark = HighWaterMark::default();
        (0..100).for_each(|at| mark.begin(at, usage(1)));
        assert!(HighWaterMark::from_numbers(&mark.to_numbers()).is_some(), "it is bounded");
    }
}
