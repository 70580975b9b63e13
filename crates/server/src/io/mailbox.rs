//! Answers on their way from the engine thread to one worker: one lock and one wake-up per batch.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

#[derive(Debug)]
struct State<T> {
    queue: Vec<T>,
    reader: Option<Waker>,
    closed: bool,
}

/// The engine's end. Clones lead to the same worker.
#[derive(Debug)]
pub struct Sender<T>(Arc<Mutex<State<T>>>);

/// The worker's end.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Mutex<State<T>>>);

/// A mailbox. It has no bound of its own: the engine posts at most one answer per registered slot.
pub fn mailbox<T: Send>() -> (Sender<T>, Receiver<T>) {
    let state = Arc::new(Mutex::new(State { queue: Vec::new(), reader: None, closed: false }));
    (Sender(state.clone()), Receiver(state))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Moves everything out of `batch`, which keeps its memory for the next one, and wakes the worker if it waits.
    /// Once the worker is gone, the batch is dropped.
    pub fn post(&self, batch: &mut Vec<T>) {
        if batch.is_empty() {
            return;
        }
        let mut state = self.0.lock();
        if state.closed {
            drop(state);
            batch.clear();
            return;
        }
        if state.queue.is_empty() {
            std::mem::swap(&mut state.queue, batch);
        } else {
            state.queue.append(batch);
        }
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for answers and moves all of them into `into`, which must be empty. Safe to drop and call again.
    pub async fn take(&mut self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.queue.is_empty() {
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut state.queue, into);
            Poll::Ready(())
        })
        .await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        drop(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_once() {
        let wakes = Arc::<Wakes>::default();
        let waker = wakes.clone().into();
        let mut cx = Context::from_waker(&waker);
        let (sender, mut receiver) = mailbox();
        let mut into = Vec::new();
        {
            let mut take = std::pin::pin!(receiver.take(&mut into));
            assert!(take.as_mut().poll(&mut cx).is_pending());
            sender.post(&mut vec![1, 2, 3]);
            sender.post(&mut vec![4]);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
            assert!(take.poll(&mut cx).is_ready());
        }
        assert_eq!(into, [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn answers_cross_threads() {
        let (sender, mut receiver) = mailbox();
        let poster = std::thread::spawn(move || {
            let mut batch = Vec::new();
            for round in 0..1000 {
                batch.extend([round, round]);
                sender.post(&mut batch);
            }
        });
        let (mut seen, mut into) = (Vec::new(), Vec::new());
        while seen.len() < 2000 {
            receiver.take(&mut into).await;
            seen.append(&mut into);
        }
        poster.join().unwrap();
        assert!(seen.is_sorted());
    }

    #[test]
    fn what_is_posted_to_nobody_is_dropped() {
        let (sender, receiver) = mailbox();
        sender.post(&mut vec![Arc::new(())]);
        drop(receiver);
        let value = Arc::new(());
        sender.post(&mut vec![value.clone()]);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
