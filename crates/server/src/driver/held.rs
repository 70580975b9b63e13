//! Proposals that came while there was no leader, or leadership was being handed over: as in etcd they wait for one, as long as
//! their request does. So the first write after an election is answered at once, and not when it has run out of time. A request
//! that ends before there is a leader is withdrawn: its client may be told that nothing was proposed, and try again.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use metastore_proto::raftpb;
use metastore_replica::{NotProposed, Replica};

use super::event::Waiter;

/// Proposals that wait for a leader; one more is refused.
const HELD: usize = 16 << 10;
/// Bytes of the same.
const HELD_BYTES: usize = 64 << 20;

/// Something to be written to the log, and who waits for its outcome.
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

/// Proposals in the order in which they came.
#[derive(Default)]
pub struct Held {
    queue: VecDeque<Proposal>,
    bytes: usize,
}

impl Held {
    /// Keeps a proposal, if there is room.
    ///
    /// # Errors
    /// The waiter of a proposal for which there is none.
    pub fn push(&mut self, proposal: Proposal) -> Result<(), Waiter> {
        let bytes = self.bytes + proposal.bytes();
        if self.queue.len() >= HELD || (bytes > HELD_BYTES && !self.queue.is_empty()) {
            return Err(proposal.waiter);
        }
        self.bytes = bytes;
        self.queue.push_back(proposal);
        Ok(())
    }

    /// The one that has waited longest.
    pub fn pop(&mut self) -> Option<Proposal> {
        let proposal = self.queue.pop_front()?;
        self.bytes -= proposal.bytes();
        Some(proposal)
    }

    /// Takes a proposal out of the queue; false if it is not there. Requests end in the order in which they came, so the search
    /// is short.
    pub fn remove(&mut self, id: u64) -> bool {
        let found = self.queue.iter().position(|proposal| proposal.id == id);
        let removed = found.and_then(|at| self.queue.remove(at));
        self.bytes -= removed.as_ref().map_or(0, Proposal::bytes);
        removed.is_some()
    }

    /// Puts the one that was given out last back to its place.
    pub fn put_back(&mut self, proposal: Proposal) {
        self.bytes += proposal.bytes();
        self.queue.push_front(proposal);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Everybody who waits.
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
