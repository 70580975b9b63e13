//! Proposals that arrive while there is no leader, or while leadership is being transferred. As in etcd, they wait for
//! a leader as long as their request does. So the first write after an election is answered at once, and not when its
//! time has run out. A request that ends before there is a leader is withdrawn: its client may be answered that nothing
//! was proposed, and try again.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use metastore_proto::raftpb;
use metastore_replica::{NotProposed, Replica};

use super::event::Waiter;

/// At most this many proposals wait for a leader; one more is refused.
const HELD: usize = 16 << 10;
/// At most this many bytes of them.
const HELD_BYTES: usize = 64 << 20;

/// A change to be written to the log, and the waiter for its outcome.
pub struct Proposal {
    pub waiter: Waiter,
    pub id: u64,
    pub what: What,
    pub since: Instant,
}

pub enum What {
    Command(Bytes),
    Change(Box<raftpb::ConfChange>),
}

impl Proposal {
    pub fn submit(&self, replica: &mut Replica) -> Result<(), NotProposed> {
        match &self.what {
            What::Command(data) => replica.propose(data.clone()),
            What::Change(change) => replica.propose_change(change),
        }
    }

    fn bytes(&self) -> usize {
        match &self.what {
            What::Command(data) => data.len(),
            What::Change(change) => change.context().len(),
        }
    }
}

/// Proposals in the order in which they arrived.
#[derive(Default)]
pub struct Held {
    queue: VecDeque<Proposal>,
    bytes: usize,
}

impl Held {
    /// Holds a proposal, if there is room.
    ///
    /// # Errors
    /// The waiter of a proposal for which there is no room.
    pub fn push(&mut self, proposal: Proposal) -> Result<(), Waiter> {
        let bytes = self.bytes + proposal.bytes();
        if self.queue.len() >= HELD || (bytes > HELD_BYTES && !self.queue.is_empty()) {
            return Err(proposal.waiter);
        }
        self.bytes = bytes;
        self.queue.push_back(proposal);
        Ok(())
    }

    /// Takes the proposal that has waited longest.
    pub fn pop(&mut self) -> Option<Proposal> {
        let proposal = self.queue.pop_front()?;
        self.bytes -= proposal.bytes();
        Some(proposal)
    }

    /// Takes a proposal out of the queue; false if it is not there. Requests end in the order in which they came, so
    /// the search is short.
    pub fn remove(&mut self, id: u64) -> bool {
        let found = self.queue.iter().position(|proposal| proposal.id == id);
        let removed = found.and_then(|at| self.queue.remove(at));
        self.bytes -= removed.as_ref().map_or(0, Proposal::bytes);
        removed.is_some()
    }

    /// Puts the proposal that was taken last back to the front.
    pub fn put_back(&mut self, proposal: Proposal) {
        self.bytes += proposal.bytes();
        self.queue.push_front(proposal);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All waiters.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiter> + '_ {
        self.bytes = 0;
        self.queue.drain(..).map(|proposal| proposal.waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::slots::Slots;

    fn proposal(id: u64, bytes: usize) -> Proposal {
        let waiter = Waiter { worker: 0, key: Slots::<()>::default().register(None).key() };
        Proposal { waiter, id, what: What::Command(vec![0; bytes].into()), since: Instant::now() }
    }

    #[test]
    fn they_come_back_in_order_unless_they_were_withdrawn() {
        let mut held = Held::default();
        (1..=4).for_each(|id| held.push(proposal(id, 1)).unwrap());
        assert!(held.remove(3) && held.remove(1));
        assert!(!held.remove(1), "once");
        let next = held.pop().unwrap();
        assert_eq!(next.id, 2);
        held.put_back(next);
        assert_eq!((held.pop().unwrap().id, held.pop().unwrap().id), (2, 4));
        assert!(held.is_empty() && held.bytes == 0);
        assert!(!held.remove(2), "it was proposed");
    }

    #[test]
    fn both_bounds_hold() {
        let mut held = Held::default();
        held.push(proposal(1, HELD_BYTES + 1)).unwrap();
        assert!(held.push(proposal(2, 1)).is_err());
        assert_eq!(held.drain().count(), 1, "a large one alone");
        (0..HELD as u64).for_each(|id| held.push(proposal(id, 1)).unwrap());
        assert!(held.push(proposal(0, 1)).is_err());
        assert_eq!(held.drain().count(), HELD);
    }
}
