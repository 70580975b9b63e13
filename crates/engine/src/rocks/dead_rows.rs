//! The dead rows of `current`: where they are so many that their files are worth rewriting.
//!
//! Dead rows among as many live ones cost a reader little, and they go when RocksDB rewrites their files anyway. But a
//! range in which everything was deleted, or the head of a queue, consists of dead rows only, and every list that
//! begins there passes all of them. The walk of a compaction visits the deletes in their order. A range delete writes
//! its tombstones in the order of the keys, and so does a consumer of a queue: ascending keys form a [`Run`].

/// A shorter run is not worth a rewrite of its own.
const RUN_ROWS: u64 = 1024;
/// The most runs that are remembered. The rows of further runs count as scattered.
const MOST_RUNS: usize = 64;
/// With this many dead rows a flush is requested, and files are rewritten. A list passes fewer of them
/// in a few milliseconds.
pub(super) const MANY_ROWS: u64 = 16 << 10;
/// All files are rewritten when this fraction of the stored rows is dead: one in so many.
const SCATTERED_SHARE: u64 = 4;
/// The files of a run are not rewritten if they are so many times larger than it: most of their rows are alive.
const MOST_REWRITTEN: u64 = 16;

/// Known dead rows that have not been rewritten yet. Those from before the last start are unknown, and
/// some may be gone already.
#[derive(Debug, Default)]
pub(super) struct DeadRows {
    rows: u64,
    runs: Vec<Run>,
    open: Run,
}

/// Dead rows in the order of their keys.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    rows: u64,
    bytes: u64,
}

/// The files to rewrite.
#[derive(Debug)]
pub(super) enum Rewrite {
    All,
    Runs(Vec<Run>),
}

impl DeadRows {
    /// Records a dead row, in the order of the deaths.
    pub(super) fn add(&mut self, key: &[u8], row_bytes: u32) {
        if key <= &self.open.last[..] {
            self.close();
        }
        let run = &mut self.open;
        if run.rows == 0 {
            run.first = key.to_vec();
        }
        run.last.clear();
        run.last.extend_from_slice(key);
        run.rows += 1;
        run.bytes += key.len() as u64 + u64::from(row_bytes);
        self.rows += 1;
    }

    fn close(&mut self) {
        let run = std::mem::take(&mut self.open);
        if run.rows >= RUN_ROWS && self.runs.len() < MOST_RUNS {
            self.runs.push(run);
        }
    }

    /// Records that all files are rewritten.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether a flush should come, although little may have been written. `stored` is the number of all rows.
    pub(super) fn are_many(&self, stored: u64) -> bool {
        let long = |run: &&Run| run.rows >= RUN_ROWS;
        let in_runs: u64 = self.runs.iter().chain([&self.open]).filter(long).map(|run| run.rows).sum();
        in_runs >= MANY_ROWS || self.are_scattered(stored)
    }

    fn are_scattered(&self, stored: u64) -> bool {
        self.rows >= MANY_ROWS && self.rows >= stored / SCATTERED_SHARE
    }

    /// Takes the runs to rewrite, if there are enough dead rows.
    pub(super) fn take(&mut self, stored: u64) -> Option<Rewrite> {
        if !self.are_many(stored) {
            return None;
        }
        let all = self.are_scattered(stored);
        self.close();
        let Self { runs, .. } = std::mem::take(self);
        Some(if all { Rewrite::All } else { Rewrite::Runs(runs) })
    }
}

impl Run {
    /// Whether its rows make up enough of files of `bytes` bytes.
    pub(super) fn is_dense(&self, bytes: u64) -> bool {
        bytes <= self.bytes.saturating_mul(MOST_REWRITTEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Vec<u8> {
        format!("key{number:08}").into_bytes()
    }

    #[test]
    fn only_so_many_runs_are_remembered() {
        let mut dead = DeadRows::default();
        for _ in 0..2 * MOST_RUNS {
            (0..RUN_ROWS).for_each(|number| dead.add(&key(number), 10));
        }
        let Some(Rewrite::Runs(runs)) = dead.take(u64::MAX) else { panic!("runs") };
        assert_eq!(runs.len(), MOST_RUNS);
    }

    #[test]
    fn a_long_run_is_rewritten_and_scattered_rows_only_when_they_are_a_good_part_of_all() {
        let mut dead = DeadRows::default();
        (0..MANY_ROWS).for_each(|number| dead.add(&key(number), 10));
        assert!(dead.are_many(u64::MAX));
        dead.add(&key(0), 10);
        let Some(Rewrite::Runs(runs)) = dead.take(u64::MAX) else { panic!("runs") };
        assert_eq!(runs.len(), 1);
        assert_eq!((&runs[0].first, &runs[0].last), (&key(0), &key(MANY_ROWS - 1)));
        assert!(runs[0].is_dense(MANY_ROWS * 21) && !runs[0].is_dense(MANY_ROWS * 21 * (MOST_REWRITTEN + 1)));
        assert!(dead.take(0).is_none(), "they are rewritten once");

        (0..MANY_ROWS).for_each(|number| dead.add(&key(number * 7919 % MANY_ROWS), 10));
        assert!(!dead.are_many(MANY_ROWS * SCATTERED_SHARE + SCATTERED_SHARE));
        assert!(matches!(dead.take(MANY_ROWS * SCATTERED_SHARE), Some(Rewrite::All)));
    }

    #[test]
    fn short_runs_are_scattered_rows_and_take_no_place_of_long_ones() {
        let mut dead = DeadRows::default();
        let run = |dead: &mut DeadRows, rows| (0..rows).for_each(|number| dead.add(&key(number), 10));
        (0..2 * MOST_RUNS).for_each(|_| run(&mut dead, RUN_ROWS - 1));
        assert!(!dead.are_many(u64::MAX));
        run(&mut dead, MANY_ROWS - 1);
        assert!(!dead.are_many(u64::MAX), "one row is missing");
        run(&mut dead, RUN_ROWS - 1);
        assert!(!dead.are_many(u64::MAX), "rows of a run that is short so far do not count");
        dead.add(&key(RUN_ROWS), 10);
        assert!(dead.are_many(u64::MAX), "rows of two long runs");
        let Some(Rewrite::Runs(runs)) = dead.take(u64::MAX) else { panic!("runs") };
        let ends: Vec<_> = runs.iter().map(|run| (&run.first, &run.last)).collect();
        assert_eq!(ends, [(&key(0), &key(MANY_ROWS - 2)), (&key(0), &key(RUN_ROWS))], "the run that is not over, too");
    }

    #[test]
    fn a_key_that_dies_again_and_again_is_no_run() {
        let mut dead = DeadRows::default();
        (0..2 * MANY_ROWS).for_each(|_| dead.add(&key(0), 10));
        assert!(!dead.are_many(u64::MAX));
    }

    #[test]
    fn few_dead_rows_wait_however_few_rows_there_are() {
        let mut dead = DeadRows::default();
        (1..MANY_ROWS).for_each(|number| dead.add(&key(number * 7919 % MANY_ROWS), 10));
        assert!(!dead.are_many(0));
        dead.add(&key(0), 10);
        assert!(dead.are_many(0));
        dead.clear();
        assert!(!dead.are_many(0), "all files were rewritten");
    }
}
