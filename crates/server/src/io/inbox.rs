//! The queue into the engine thread, which takes all events that arrived since its last look in one swap.

use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The bounds of an inbox.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events.
    pub count: usize,
    /// Sum of the sizes that were given with the events.
    pub bytes: usize,
}

/// Why an event was not taken. The event comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum NotQueued<E> {
    /// The engine is behind by the whole bound: the client is answered that there are too many requests.
    Full(E),
    /// The engine has stopped.
    Closed(E),
}

#[derive(Debug)]
struct State<E> {
    queue: Vec<E>,
    bytes: usize,
    sleeper: Option<Thread>,
    closed: bool,
}

/// A queue with many producers and one consumer, which is a thread. Clones are the same queue.
#[derive(Debug)]
pub struct Inbox<E> {
    state: Arc<Mutex<State<E>>>,
    bounds: Bounds,
}

impl<E> Clone for Inbox<E> {
    fn clone(&self) -> Self {
        Inbox { state: self.state.clone(), bounds: self.bounds }
    }
}

impl<E: Send> Inbox<E> {
    pub fn new(bounds: Bounds) -> Inbox<E> {
        let state = State { queue: Vec::new(), bytes: 0, sleeper: None, closed: false };
        Inbox { state: Arc::new(Mutex::new(state)), bounds }
    }

    /// Adds an event of `bytes` bytes. An event larger than the whole bound is taken while the inbox is empty.
    pub fn push(&self, event: E, bytes: usize) -> Result<(), NotQueued<E>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(NotQueued::Closed(event));
        }
        let over = state.queue.len() >= self.bounds.count || state.bytes + bytes > self.bounds.bytes;
        if over && !state.queue.is_empty() {
            return Err(NotQueued::Full(event));
        }
        state.bytes += bytes;
        state.queue.push(event);
        wake(state);
        Ok(())
    }

    /// Adds an event that must not be refused for lack of room: messages of members, results of jobs, shutdown. Their
    /// number is bounded at their sources. False if the engine has stopped.
    pub fn push_control(&self, event: E) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.queue.push(event);
        wake(state);
        true
    }

    /// Refuses all events from now on. Returns the queued events, whose senders wait for an answer.
    #[must_use]
    pub fn close(&self) -> Vec<E> {
        let mut state = self.state.lock();
        state.closed = true;
        state.bytes = 0;
        let queue = std::mem::take(&mut state.queue);
        wake(state);
        queue
    }

    /// Moves all events into `into`, which must be empty and gives its memory to the queue. Sleeps up to `patience` if
    /// there are none, and may return with none. To be called by one thread only.
    pub fn drain(&self, into: &mut Vec<E>, patience: Duration) {
        debug_assert!(into.is_empty());
        let until = Instant::now() + patience;
        loop {
            let mut state = self.state.lock();
            // Every exit passes here: a producer must not find a sleeper that is awake.
            state.sleeper = None;
            if !state.queue.is_empty() {
                state.bytes = 0;
                std::mem::swap(&mut state.queue, into);
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return;
            }
            // Set under the lock, so that the next producer sees that this thread sleeps. If that producer unparks this
            // thread before it parks, the token of `unpark` makes `park` return at once.
            state.sleeper = Some(std::thread::current());
            drop(state);
            std::thread::park_timeout(left);
        }
    }
}

fn wake<E>(mut state: parking_lot::MutexGuard<'_, State<E>>) {
    let sleeper = state.sleeper.take();
    drop(state);
    if let Some(sleeper) = sleeper {
        sleeper.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { count: 3, bytes: 100 };

    #[test]
    fn both_bounds_hold_and_draining_makes_room() {
        let inbox = Inbox::new(BOUNDS);
        inbox.push(1, 60).unwrap();
        assert_eq!(inbox.push(2, 41), Err(NotQueued::Full(2)));
        inbox.push(2, 40).unwrap();
        inbox.push(3, 0).unwrap();
        assert_eq!(inbox.push(4, 0), Err(NotQueued::Full(4)));
        assert!(inbox.push_control(5));
        let mut into = Vec::new();
        inbox.drain(&mut into, Duration::ZERO);
        assert_eq!(into, [1, 2, 3, 5]);
        inbox.push(6, 500).expect("a large event alone");
    }

    #[test]
    fn an_empty_inbox_waits_no_longer_than_told() {
        let inbox = Inbox::<()>::new(BOUNDS);
        let (start, patience) = (Instant::now(), Duration::from_millis(5));
        inbox.drain(&mut Vec::new(), patience);
        assert!(start.elapsed() >= patience);
    }

    #[test]
    fn a_sleeping_consumer_is_woken() {
        let inbox = Inbox::new(Bounds { count: 10, bytes: 10 });
        let producer = inbox.clone();
        let consumer = std::thread::spawn(move || {
            let (mut seen, mut into) = (0, Vec::new());
            while seen < 100_000 {
                inbox.drain(&mut into, Duration::from_secs(30));
                assert!(!into.is_empty(), "slept through an event");
                seen += into.drain(..).count();
            }
        });
        for event in 0..100_000 {
            while producer.push(event, 1).is_err() {
                std::thread::yield_now();
            }
        }
        consumer.join().unwrap();
    }

    #[test]
    fn a_closed_inbox_refuses() {
        let inbox = Inbox::new(BOUNDS);
        inbox.push(1, 1).unwrap();
        assert_eq!(inbox.close(), [1]);
        assert_eq!(inbox.push(2, 1), Err(NotQueued::Closed(2)));
        assert!(!inbox.push_control(3));
        let mut into = Vec::new();
        inbox.drain(&mut into, Duration::from_secs(30));
        assert!(into.is_empty());
    }
}
