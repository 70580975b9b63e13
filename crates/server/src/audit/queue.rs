//! The queue between the threads that serve calls and the one that writes the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// At most this many records wait; further ones are dropped and counted. It is what a second of writes makes.
const MOST: usize = 1 << 16;
/// At most about so many bytes wait: records of transactions with long keys are large.
const MOST_BYTES: usize = 64 << 20;
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
    bytes: usize,
    /// Records that were lost since the last ones were written.
    dropped: u64,
    /// Whether the writer waits for a record.
    asleep: bool,
    /// Records that the writer has taken and not yet written.
    writing: usize,
    /// Whether the writer has ended, because it panicked. Nothing is written any more.
    gone: bool,
}

/// Says that the writer has ended, so that nobody waits for it, and counts what it leaves.
struct Writer<'a, T>(&'a State<T>);

impl<T> Waiting<T> {
    fn unwritten(&self) -> usize {
        self.records.len() + self.writing
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let waiting = Waiting { records: Vec::new(), bytes: 0, dropped: 0, asleep: false, writing: 0, gone: false };
        let (arrived, written, lost) = Default::default();
        Self(Arc::new(State { waiting: Mutex::new(waiting), arrived, written, lost }))
    }
}

impl<T> Queue<T> {
    /// Adds a record, which takes about so many bytes; never waits for the writer.
    pub fn push(&self, record: T, bytes: usize) {
        let mut waiting = self.0.waiting.lock();
        if waiting.records.len() >= MOST || waiting.bytes + bytes > MOST_BYTES || waiting.gone {
            waiting.dropped += 1;
            let gone = waiting.gone;
            drop(waiting);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            match gone {
                false => seldom!(error, (), "the audit log is behind: records are lost"),
                true => {
                    seldom!(error, (), "the thread of the audit log has ended: records are lost; restart the member")
                }
            }
            return;
        }
        waiting.records.push(record);
        waiting.bytes += bytes;
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.0.arrived.notify_one();
        }
    }

    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until all records that were pushed are written, nobody is left to write them, or the patience ends.
    /// Returns how many are not written.
    pub fn finish(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut waiting = self.0.waiting.lock();
        while !waiting.gone && waiting.unwritten() > 0 {
            if self.0.written.wait_until(&mut waiting, deadline).timed_out() {
                break;
            }
        }
        waiting.unwritten()
    }

    /// Hands records to `write`, with the number of those that were lost before them, for ever. Records are lost, too,
    /// if `write` says that it could not write them.
    pub fn drain(&self, mut write: impl FnMut(&[T], u64) -> bool) {
        let _writer = Writer(&self.0);
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
            waiting.bytes = 0;
            let dropped = std::mem::take(&mut waiting.dropped);
            waiting.writing = taken.len();
            drop(waiting);
            let written = write(&taken, dropped);
            let mut waiting = self.0.waiting.lock();
            if !written {
                waiting.dropped += dropped + taken.len() as u64;
                self.0.lost.fetch_add(taken.len() as u64, Ordering::Relaxed);
            }
            waiting.writing = 0;
            drop(waiting);
            taken.clear();
            self.0.written.notify_all();
        }
    }
}

impl<T> Drop for Writer<'_, T> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        let unwritten = waiting.unwritten();
        (waiting.gone, waiting.records, waiting.writing) = (true, Vec::new(), 0);
        drop(waiting);
        self.0.lost.fetch_add(unwritten as u64, Ordering::Relaxed);
        self.0.written.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn records_beyond_the_bound_are_counted_and_reported_once() {
        let queue = Queue::default();
        (0..MOST + 3).for_each(|record| queue.push(record, 1));
        assert_eq!(queue.lost(), 3);
        let (sender, seen) = std::sync::mpsc::channel();
        let writer = queue.clone();
        std::thread::spawn(move || {
            writer.drain(|records: &[usize], lost| sender.send((records.len(), records.last().copied(), lost)).is_ok());
        });
        assert_eq!(queue.finish(LONG), 0);
        assert_eq!(seen.recv(), Ok((MOST, Some(MOST - 1), 3)));
        queue.push(7, 1);
        assert_eq!(queue.finish(LONG), 0);
        assert_eq!(seen.recv(), Ok((1, Some(7), 0)));
    }

    #[test]
    fn large_records_have_a_bound_of_bytes() {
        let queue = Queue::default();
        [MOST_BYTES / 2, MOST_BYTES / 2, 1].into_iter().for_each(|bytes| queue.push((), bytes));
        assert_eq!((queue.finish(Duration::ZERO), queue.lost()), (2, 1));
    }

    #[test]
    fn records_that_could_not_be_written_are_reported_with_the_next_ones() {
        let (queue, (sender, seen)) = (Queue::default(), std::sync::mpsc::channel());
        let writer = queue.clone();
        std::thread::spawn(move || {
            writer.drain(|records: &[u8], lost| {
                sender.send((records.to_vec(), lost)).unwrap();
                records != [1]
            });
        });
        for record in [1, 2, 3] {
            queue.push(record, 1);
            assert_eq!(queue.finish(LONG), 0);
        }
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen, [(vec![1], 0), (vec![2], 1), (vec![3], 0)]);
        assert_eq!(queue.lost(), 1);
    }

    #[test]
    fn nobody_waits_for_a_writer_that_panicked() {
        let queue = Queue::default();
        queue.push(1, 1);
        let writer = queue.clone();
        let ended = std::thread::spawn(move || writer.drain(|_: &[u8], _| panic!("a deliberate panic")));
        let began = Instant::now();
        assert_eq!(queue.finish(LONG), 0);
        assert!(began.elapsed() < LONG && ended.join().is_err());
        queue.push(2, 1);
        assert_eq!(queue.finish(LONG), 0);
        assert_eq!(queue.lost(), 2, "the record at which the writer panicked, and the one after it");
    }

    #[test]
    fn the_wait_for_a_writer_that_hangs_ends() {
        let queue = Queue::default();
        let (go_on, gate) = std::sync::mpsc::channel();
        let writer = queue.clone();
        std::thread::spawn(move || writer.drain(|_: &[u8], _| gate.recv().is_ok()));
        queue.push(1, 1);
        queue.push(2, 1);
        assert_eq!(queue.finish(Duration::from_millis(50)), 2);
        // The two may be taken together or one after the other.
        [(), ()].into_iter().for_each(|()| go_on.send(()).unwrap());
        assert_eq!(queue.finish(LONG), 0);
    }
}
