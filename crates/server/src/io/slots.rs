//! Requests that wait for an answer on one worker.
//!
//! A slot is a place in a table; its key travels with the request to the engine and comes back with the answer. The key
//! carries a generation: a place that was freed and given to another request never receives the earlier one's answer.
//!
//! Deadlines are checked by a sweep, not by a timer per request. A client does not notice that its request ends up to
//! [`SWEEP_INTERVAL`] late, but a timer would cost time for every request that is answered before its deadline.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// How often deadlines are checked.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Identifies one waiting request of one worker, and no later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    place: u32,
    generation: u32,
}

/// The deadline passed before the answer came. The request may still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

#[derive(Debug)]
enum Slot<T> {
    Free { next: Option<u32> },
    Waiting { waker: Option<Waker>, deadline: Option<Instant> },
    Answered(T),
    Expired,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    slot: Slot<T>,
}

#[derive(Debug)]
struct Table<T> {
    places: Vec<Place<T>>,
    free: Option<u32>,
    used: usize,
}

/// The table of one worker. Clones are the same table.
#[derive(Debug)]
pub struct Slots<T>(Rc<RefCell<Table<T>>>);

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Slots(self.0.clone())
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots(Rc::new(RefCell::new(Table { places: Vec::new(), free: None, used: 0 })))
    }
}

impl<T> Slots<T> {
    /// Takes a slot. It is free again when the returned future is ready or dropped.
    pub fn register(&self, deadline: Option<Instant>) -> Wait<T> {
        let mut table = self.0.borrow_mut();
        let place = match table.free {
            Some(place) => place,
            None => {
                let place = u32::try_from(table.places.len()).expect("fewer than 2^32 waiting requests");
                table.places.push(Place { generation: 0, slot: Slot::Free { next: None } });
                place
            }
        };
        let entry = &mut table.places[place as usize];
        let Slot::Free { next } = entry.slot else { unreachable!("the free list holds free places") };
        entry.slot = Slot::Waiting { waker: None, deadline };
        let key = Key { place, generation: entry.generation };
        table.free = next;
        table.used += 1;
        drop(table);
        Wait { slots: self.clone(), key }
    }

    /// Delivers an answer. False if no request waits for it any more; the answer is dropped then.
    pub fn complete(&self, key: Key, value: T) -> bool {
        let mut table = self.0.borrow_mut();
        let Some(entry) = table.places.get_mut(key.place as usize) else { return false };
        if entry.generation != key.generation {
            return false;
        }
        let Slot::Waiting { waker, .. } = &mut entry.slot else { return false };
        let waker = waker.take();
        entry.slot = Slot::Answered(value);
        drop(table);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Ends the waiting of every request whose deadline is not after `now`.
    pub fn expire(&self, now: Instant) {
        let mut table = self.0.borrow_mut();
        if table.used == 0 {
            return;
        }
        for entry in &mut table.places {
            let Slot::Waiting { waker, deadline: Some(deadline) } = &mut entry.slot else { continue };
            if *deadline > now {
                continue;
            }
            let waker = waker.take();
            entry.slot = Slot::Expired;
            if let Some(waker) = waker {
                // Only marks the task as runnable: it does not run, and cannot reach for the table, before we return.
                waker.wake();
            }
        }
    }

    /// Calls [`Slots::expire`] every [`SWEEP_INTERVAL`], for ever. To be spawned on the worker.
    pub async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.expire(ticks.tick().await);
        }
    }

    /// Requests that hold a slot.
    pub fn len(&self) -> usize {
        self.0.borrow().used
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Table<T> {
    /// Frees a place under a new generation. A generation wraps after 2^32 uses of one place, hours after the oldest
    /// answer that could still be under way.
    fn free(&mut self, place: u32) -> Slot<T> {
        let next = self.free.replace(place);
        self.used -= 1;
        let entry = &mut self.places[place as usize];
        entry.generation = entry.generation.wrapping_add(1);
        std::mem::replace(&mut entry.slot, Slot::Free { next })
    }
}

/// A request that waits. Resolves to the answer, or to [`Expired`].
#[derive(Debug)]
pub struct Wait<T> {
    slots: Slots<T>,
    key: Key,
}

impl<T> Wait<T> {
    /// The key that the answer must be addressed to.
    pub fn key(&self) -> Key {
        self.key
    }
}

impl<T> Future for Wait<T> {
    type Output = Result<T, Expired>;

    /// # Panics
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut table = self.slots.0.borrow_mut();
        let entry = &mut table.places[self.key.place as usize];
        assert_eq!(entry.generation, self.key.generation, "polled after it was ready");
        if let Slot::Waiting { waker, .. } = &mut entry.slot {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        Poll::Ready(match table.free(self.key.place) {
            Slot::Answered(value) => Ok(value),
            Slot::Expired => Err(Expired),
            Slot::Free { .. } | Slot::Waiting { .. } => unreachable!("a slot in use that does not wait"),
        })
    }
}

impl<T> Drop for Wait<T> {
    fn drop(&mut self) {
        let mut table = self.slots.0.borrow_mut();
        if table.places[self.key.place as usize].generation == self.key.generation {
            let slot = table.free(self.key.place);
            drop(table);
            drop(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_its_request() {
        let slots = Slots::default();
        let (first, second) = (slots.register(None), slots.register(None));
        assert!(slots.complete(second.key(), "second"));
        assert!(slots.complete(first.key(), "first"));
        assert_eq!((first.await, second.await), (Ok("first"), Ok("second")));
        assert!(slots.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_request_frees_its_slot_and_never_gets_anothers_answer() {
        let slots = Slots::default();
        let late = {
            let gone = slots.register(None);
            gone.key()
        };
        assert!(slots.is_empty());
        let reused = slots.register(None);
        assert_eq!(reused.key().place, late.place);
        assert!(!slots.complete(late, "for the one that went away"));
        assert!(slots.complete(reused.key(), "mine"));
        assert!(!slots.complete(reused.key(), "twice"));
        assert_eq!(reused.await, Ok("mine"));
    }

    #[tokio::test]
    async fn an_answered_request_that_is_dropped_frees_its_slot() {
        let slots = Slots::default();
        let answered = slots.register(None);
        let value = Rc::new(());
        slots.complete(answered.key(), value.clone());
        drop(answered);
        assert!(slots.is_empty());
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_wait() {
        let slots = Slots::<()>::default();
        let start = Instant::now();
        let deadline = start + Duration::from_secs(7);
        let (waits, patient) = (slots.register(Some(deadline)), slots.register(None));
        let key = waits.key();
        let sweep = slots.clone().sweep();
        tokio::select! {
            result = waits => assert_eq!(result, Err(Expired)),
            () = sweep => unreachable!(),
        }
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_secs(7) && waited <= Duration::from_secs(7) + SWEEP_INTERVAL * 2,
            "{waited:?}"
        );
        assert!(!slots.complete(key, ()), "an answer after the deadline");
        assert_eq!(slots.len(), 1, "the one without a deadline still waits");
        drop(patient);
    }
}
