//! Proposals that came while there was no leader, or leadership was being handed over: as in etcd they wait for one, as long as
//! whoever proposed them does. So the first write after an election is answered at once, and not when it has run out of time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_proto::raftpb;
use metastore_replica::{Dropped, Replica};

use super::event::Waiter;

/// Proposals that wait for a leader; what comes on top is lost, and runs out of time.
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
    pub fn submit(&self, replica: &mut Replica) -> Result<(), Dropped> {
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
    pub fn push(&mut self, proposal: Proposal) {
        let bytes = self.bytes + proposal.bytes();
        if self.queue.len() < HELD && (self.queue.is_empty() || bytes <= HELD_BYTES) {
            self.bytes = bytes;
            self.queue.push_back(proposal);
        }
    }

    /// The one that has waited longest. It is not given out any more if it has waited for longer than `patience`: nobody may
    /// be surprised by a write for which its client was told that the time is up.
    pub fn pop(&mut self, now: Instant, patience: Duration) -> Option<Proposal> {
        loop {
            let proposal = self.queue.pop_front()?;
            self.bytes -= proposal.bytes();
            if now.duration_since(proposal.since) < patience {
                return Some(proposal);
            }
        }
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

    fn proposal(id: u64, bytes: usize, since: Instant) -> Proposal {
        let waiter = Waiter { worker: 0, key: Slots::<()>::default().register(None).key() };
        Proposal { waiter, id, what: What::Command(vec![0; bytes].into()), since }
    }

    #[test]
    fn they_come_back_in_order_unless_their_time_is_over() {
        let (mut held, start) = (Held::default(), Instant::now());
        let second = Duration::from_secs(1);
        for (id, after) in [(1, 0), (2, 5), (3, 6)] {
            held.push(proposal(id, 1, start + second * after));
        }
        let next = held.pop(start + second * 8, second * 7).unwrap();
        assert_eq!(next.id, 2, "the first has waited for 8 s");
        held.put_back(next);
        assert_eq!(held.pop(start + second * 8, second * 7).unwrap().id, 2);
        assert_eq!(held.pop(start + second * 8, second * 7).unwrap().id, 3);
        assert!(held.is_empty() && held.bytes == 0);
    }

    #[test]
    fn both_bounds_hold() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.push(proposal(1, HELD_BYTES + 1, now));
        held.push(proposal(2, 1, now));
        assert_eq!(held.drain().count(), 1, "a large one alone");
        (0..HELD as u64 + 1).for_each(|id| held.push(proposal(id, 1, now)));
        assert_eq!(held.drain().count(), HELD);
    }
}
