//! The queue between the threads that serve calls and the one that writes the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// At most this many records wait; further ones are dropped and counted. It is what a second of writes makes.
const MOST: usize = 1 << 16;
/// The writer waits this long for more records before it writes those that have arrived: it is woken once for many.
const GATHERING: Duration = Duration::from_millis(5);

/// A queue with a bound. Clones are the same queue.
pub struct Queue<T>(Arc<State<T>>);

struct State<T> {
    waiting: Mutex<Waiting<T>>,
    arrived: Condvar,
    written: Condvar,
    lost: AtomicU64,
}

struct Waiting<T> {
    records: Vec<T>,
    /// Records that were dropped since the last ones were taken.
    dropped: u64,
    /// Whether the writer waits for a record.
    asleep: bool,
    writing: bool,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let waiting = Waiting { records: Vec::new(), dropped: 0, asleep: false, writing: false };
        let (arrived, written, lost) = Default::default();
        Self(Arc::new(State { waiting: Mutex::new(waiting), arrived, written, lost }))
    }
}

impl<T> Queue<T> {
    /// Adds a record; never waits for the writer.
    pub fn push(&self, record: T) {
        let mut waiting = self.0.waiting.lock();
        if waiting.records.len() >= MOST {
            waiting.dropped += 1;
            drop(waiting);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            seldom!(error, (), "the audit log is behind: records are lost");
            return;
        }
        waiting.records.push(record);
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.0.arrived.notify_one();
        }
    }

    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Returns once all records that were pushed are written.
    pub fn finish(&self) {
        let mut waiting = self.0.waiting.lock();
        while !waiting.records.is_empty() || waiting.writing {
            self.0.written.wait(&mut waiting);
        }
    }

    /// Hands records to `write`, with the number of those that were dropped before them, for ever.
    pub fn drain(&self, mut write: impl FnMut(&mut Vec<T>, u64)) {
        let mut taken = Vec::new();
        loop {
            let mut waiting = self.0.waiting.lock();
            while waiting.records.is_empty() {
                waiting.asleep = true;
                self.0.arrived.wait(&mut waiting);
            }
            drop(waiting);
            std::thread::sleep(GATHERING);
            let mut waiting = self.0.waiting.lock();
            std::mem::swap(&mut taken, &mut waiting.records);
            let dropped = std::mem::take(&mut waiting.dropped);
            waiting.writing = true;
            drop(waiting);
            write(&mut taken, dropped);
            taken.clear();
            self.0.waiting.lock().writing = false;
            self.0.written.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_beyond_the_bound_are_counted_and_reported_once() {
        let queue = Queue::default();
        (0..MOST + 3).for_each(|record| queue.push(record));
        assert_eq!(queue.lost(), 3);
        let (sender, seen) = std::sync::mpsc::channel();
        let writer = queue.clone();
        std::thread::spawn(move || {
            writer.drain(|records: &mut Vec<usize>, lost| {
                sender.send((records.len(), records.last().copied(), lost)).unwrap();
            });
        });
        queue.finish();
        assert_eq!(seen.recv(), Ok((MOST, Some(MOST - 1), 3)));
        queue.push(7);
        queue.finish();
        assert_eq!(seen.recv(), Ok((1, Some(7), 0)));
    }
}
