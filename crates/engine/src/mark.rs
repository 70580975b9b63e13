//! How large the state is, as etcd's clients and operators know it: as a file of pages, whose size is the most that its rows
//! ever took since it was last defragmented.
//!
//! The mark must be the same whenever the member is killed, and a restart replays the log. So it must not depend on how
//! entries are put into batches, nor on how far the dropping of old versions lags behind its compaction:
//!
//! > The mark is the most that the state took after any write, if each compaction were done at once.
//!
//! ```text
//!   put  put  compact at 7   put  put   compact at 9   put        the log
//!   └────────┘ highest       └───────┘                 └───
//!                            peak until 7 is through   peak until 9 is through
//! ```
//!
//! While versions wait to be dropped, the highest value since their compaction is kept aside as a peak. Each version that is
//! dropped is taken off the peaks of those compactions that it is dropped by, be it dropped by a later one that overtook
//! them; what is left when they are through is what the state took without it.

use crate::Usage;

/// Page size that file sizes are rounded to, as in etcd's backend.
const PAGE_BYTES: u64 = 4096;
/// Pages of a backend file without rows: two meta pages, free list, root.
const EMPTY_PAGES: u64 = 5;
/// What a row takes in a page beside its bytes.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// Compactions at most that wait to be through; of more, the peak of the first is forgotten.
const MOST_WAITING: usize = 64;

/// Sizes in bytes of a file of pages with the rows that are stored; the same on every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The high-water mark, but not less than what is in use.
    pub allocated: u64,
    pub in_use: u64,
}

/// The high-water mark of what is stored. Its unit is the bytes that rows take in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The most that was stored, as far as it is known.
    highest: u64,
    /// Compactions that are not through, in the order of their revisions.
    waiting: Vec<Waiting>,
}

/// A compaction that is not through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    /// Its revision.
    at: i64,
    /// The most that was stored since it was asked for, and until the next one was, without what it has dropped.
    peak: u64,
}

impl Usage {
    /// The bytes that the rows take in pages.
    fn in_pages(self) -> u64 {
        self.bytes + self.rows * ROW_OVERHEAD_BYTES
    }
}

impl Mark {
    /// So much is stored now.
    pub(crate) fn raise(&mut self, usage: Usage) {
        let top = self.waiting.last_mut().map_or(&mut self.highest, |last| &mut last.peak);
        *top = (*top).max(usage.in_pages());
    }

    /// From here on a compaction at a revision waits, if it is later than those before.
    pub(crate) fn begin(&mut self, at: i64, usage: Usage) {
        if self.waiting.last().is_some_and(|last| last.at >= at) {
            return;
        }
        if self.waiting.len() == MOST_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { at, peak: usage.in_pages() });
    }

    /// A version is dropped that compactions at `dead` and later drop.
    pub(crate) fn dropped(&mut self, dead: i64, version: Usage) {
        for waiting in self.waiting.iter_mut().rev().take_while(|waiting| waiting.at >= dead) {
            waiting.peak = waiting.peak.saturating_sub(version.in_pages());
        }
    }

    /// Compactions up to this revision are through.
    pub(crate) fn through(&mut self, at: i64) {
        let through = self.waiting.iter().take_while(|waiting| waiting.at <= at).count();
        let peaks = self.waiting.drain(..through).map(|waiting| waiting.peak);
        self.highest = peaks.fold(self.highest, u64::max);
    }

    /// The mark of a state that was defragmented: what is stored now.
    #[must_use]
    pub fn lowered(&self, usage: Usage) -> Self {
        let stored = usage.in_pages();
        match self.waiting.last() {
            // What this is once it is through, is not known yet.
            Some(last) => Self { highest: 0, waiting: vec![Waiting { at: last.at, peak: stored }] },
            None => Self { highest: stored, waiting: Vec::new() },
        }
    }

    /// Sizes with this mark, when so much is stored.
    pub fn sizes(&self, usage: Usage) -> Sizes {
        let pages = |bytes: u64| (EMPTY_PAGES + bytes.div_ceil(PAGE_BYTES)) * PAGE_BYTES;
        let in_use = pages(usage.in_pages());
        Sizes { allocated: pages(self.highest).max(in_use), in_use }
    }

    /// The mark as numbers, to be stored: the highest, then revision and peak of each compaction that waits.
    pub fn to_numbers(&self) -> Vec<u64> {
        let waiting = self.waiting.iter().flat_map(|waiting| [waiting.at as u64, waiting.peak]);
        [self.highest].into_iter().chain(waiting).collect()
    }

    /// Reads [`Mark::to_numbers`]; `None` if they are not a mark's.
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
        let mut mark = Mark::default();
        assert_eq!(mark.sizes(usage(0)), Sizes { allocated: 5 * 4096, in_use: 5 * 4096 });
        mark.raise(Usage { rows: 1, bytes: 4080 });
        assert_eq!(mark.sizes(Usage { rows: 1, bytes: 4080 }), Sizes { allocated: 6 * 4096, in_use: 6 * 4096 });
        mark.raise(Usage { rows: 1, bytes: 4081 });
        assert_eq!(mark.sizes(usage(1)), Sizes { allocated: 7 * 4096, in_use: 6 * 4096 });
    }

    #[test]
    fn what_waits_to_be_dropped_does_not_count_in_the_end() {
        let mut mark = Mark::default();
        mark.raise(usage(100));
        mark.begin(7, usage(100));
        mark.raise(usage(130));
        mark.begin(9, usage(130));
        mark.raise(usage(150));
        // The first compaction drops 60 of its own, the second one 40 more.
        mark.dropped(7, usage(60));
        mark.dropped(8, usage(40));
        assert_eq!(mark.to_numbers(), [100, 7, 70, 9, 50]);
        assert_eq!(Mark::from_numbers(&mark.to_numbers()).as_ref(), Some(&mark));
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
        let mut mark = Mark::from_numbers(&[100]).unwrap();
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
            assert_eq!(Mark::from_numbers(numbers), None, "{numbers:?}");
        }
        let mut mark = Mark::default();
        (0..100).for_each(|at| mark.begin(at, usage(1)));
        assert!(Mark::from_numbers(&mark.to_numbers()).is_some(), "it is bounded");
    }
}
