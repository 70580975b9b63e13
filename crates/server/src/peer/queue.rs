//! Messages on their way to one peer: many producers, one reader at a time, two bounds.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use metastore_proto::raftpb::Message;
use parking_lot::Mutex;

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages.
    pub count: usize,
    /// Sum of their encoded sizes. A larger message is taken while the queue is empty.
    pub bytes: usize,
}

/// The result of a push.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    Taken,
    /// No room: dropped.
    Full,
    /// The queue has no reader. The message comes back: there may be another way.
    Closed(Box<Message>),
}

/// One reader of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader(u64);

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<(Message, usize)>,
    bytes: usize,
    waker: Option<Waker>,
    /// The current reader, if there is one.
    reader: Option<Reader>,
    readers: u64,
    /// No message is taken any more; queued ones are still read.
    finishing: bool,
}

/// A queue that takes messages while it has a reader. A new reader replaces the old one, and finds the queue empty: a
/// peer that reconnects must not be sent messages that its raft no longer waits for.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    bounds: Bounds,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Queue {
        Queue { state: Mutex::default(), bounds }
    }

    /// Adds a message of `bytes` bytes.
    pub fn push(&self, message: Message, bytes: usize) -> Pushed {
        let mut state = self.state.lock();
        if state.finishing || state.reader.is_none() {
            drop(state);
            return Pushed::Closed(Box::new(message));
        }
        let over = state.messages.len() >= self.bounds.count || state.bytes + bytes > self.bounds.bytes;
        if over && !state.messages.is_empty() {
            return Pushed::Full;
        }
        state.bytes += bytes;
        state.messages.push_back((message, bytes));
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        Pushed::Taken
    }

    /// Whether the queue has a reader, and takes messages.
    pub fn is_open(&self) -> bool {
        let state = self.state.lock();
        state.reader.is_some() && !state.finishing
    }

    /// Makes the caller the reader. Also returns how many messages the reader before left unread; `None` without one.
    pub fn open(&self) -> (Reader, Option<usize>) {
        let mut state = self.state.lock();
        state.readers += 1;
        let reader = Reader(state.readers);
        let before = state.reader.replace(reader);
        let (unread, waker) = clear(&mut state);
        drop(state);
        wake(waker);
        (reader, before.map(|_| unread.len()))
    }

    /// Removes the reader. Returns how many messages it leaves unread; `None` if another has replaced it.
    pub fn close(&self, reader: Reader) -> Option<usize> {
        let mut state = self.state.lock();
        if state.reader != Some(reader) {
            return None;
        }
        state.reader = None;
        let (unread, _) = clear(&mut state);
        drop(state);
        Some(unread.len())
    }

    /// Drops all queued messages, and returns their number.
    pub fn empty(&self) -> usize {
        let (unread, _) = clear(&mut self.state.lock());
        unread.len()
    }

    /// Takes no more messages, and lets the reader end when it has read the rest.
    pub fn finish(&self) {
        let mut state = self.state.lock();
        state.finishing = true;
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    /// Moves messages into `into` until they have `bytes` bytes or there are no more; true if it moved any, false once
    /// there is nothing more to come for this reader.
    pub fn poll_take(&self, reader: Reader, into: &mut Vec<Message>, bytes: usize, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.reader != Some(reader) {
            return Poll::Ready(false);
        }
        let mut taken = 0;
        while taken < bytes {
            let Some((message, size)) = state.messages.pop_front() else { break };
            state.bytes -= size;
            // An empty message counts, too, or a batch would have no end.
            taken += size.max(1);
            into.push(message);
        }
        if taken > 0 {
            return Poll::Ready(true);
        }
        if state.finishing {
            return Poll::Ready(false);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn clear(state: &mut State) -> (VecDeque<(Message, usize)>, Option<Waker>) {
    state.bytes = 0;
    (std::mem::take(&mut state.messages), state.waker.take())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn message(index: u64) -> Message {
        Message { index: Some(index), ..Message::default() }
    }

    fn take(queue: &Queue, reader: Reader, bytes: usize) -> Poll<(bool, Vec<u64>)> {
        let mut into = Vec::new();
        let more = queue.poll_take(reader, &mut into, bytes, &mut Context::from_waker(Waker::noop()));
        more.map(|more| (more, into.iter().map(Message::index).collect()))
    }

    fn queue() -> Queue {
        Queue::new(Bounds { count: 3, bytes: 100 })
    }

    #[test]
    fn both_bounds_hold_and_reading_makes_room() {
        let queue = queue();
        assert_eq!(queue.push(message(0), 1), Pushed::Closed(Box::new(message(0))));
        let (reader, _) = queue.open();
        assert_eq!(queue.push(message(1), 500), Pushed::Taken, "a large message alone");
        assert_eq!(queue.push(message(2), 1), Pushed::Full);
        assert_eq!(take(&queue, reader, 1000), Poll::Ready((true, vec![1])));
        for index in 3..6 {
            assert_eq!(queue.push(message(index), 33), Pushed::Taken);
        }
        assert_eq!(queue.push(message(6), 0), Pushed::Full);
        assert_eq!(take(&queue, reader, 34), Poll::Ready((true, vec![3, 4])));
        assert_eq!(queue.push(message(7), 67), Pushed::Taken);
        assert_eq!(queue.push(message(8), 1), Pushed::Full);
        assert_eq!(take(&queue, reader, 1000), Poll::Ready((true, vec![5, 7])));
        assert_eq!(take(&queue, reader, 1000), Poll::Pending);
    }

    #[test]
    fn a_new_reader_replaces_the_old_one_and_begins_empty() {
        let queue = queue();
        let (first, before) = queue.open();
        assert_eq!(before, None);
        queue.push(message(1), 1);
        let (second, before) = queue.open();
        assert_eq!(before, Some(1));
        assert_eq!(take(&queue, first, 10), Poll::Ready((false, vec![])));
        assert_eq!(queue.close(first), None);
        queue.push(message(2), 1);
        assert_eq!(take(&queue, second, 10), Poll::Ready((true, vec![2])));
        queue.push(message(3), 1);
        assert_eq!(queue.close(second), Some(1));
        assert!(!queue.is_open());
    }

    #[test]
    fn who_finishes_reads_the_rest() {
        let queue = queue();
        let (reader, _) = queue.open();
        queue.push(message(1), 1);
        queue.finish();
        assert_eq!(queue.push(message(2), 1), Pushed::Closed(Box::new(message(2))));
        assert_eq!(take(&queue, reader, 10), Poll::Ready((true, vec![1])));
        assert_eq!(take(&queue, reader, 10), Poll::Ready((false, vec![])));
    }
}
