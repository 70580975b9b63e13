//! The requests that wait on the engine thread. Each waits for one thing, until it is answered, withdrawn or forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use metastore_replica::Renewing;

use super::event::Waiter;

/// A request without an answer is forgotten after this time. Its client was answered with a timeout long before.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The thing for which a request waits.
#[derive(Debug)]
pub(super) enum Goal {
    /// The outcome of the proposal with its id.
    Outcome,
    /// The read-index round with its id.
    Read,
    /// The proof that this member leads: the read-index round or the outcome with its id.
    Proof(Box<Renewing>),
    /// The end of an expired lease. [`crate::api`] bounds how many of these one stream has.
    LeaseEnd(i64),
    /// The end of the compaction that is under way.
    Compaction,
    /// The leadership of a member.
    Leader(u64),
}

/// The kinds of [`Goal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoalKind {
    Outcome,
    Read,
    Proof,
    LeaseEnd,
    Compaction,
    Leader,
}

const KINDS: usize = GoalKind::Leader as usize + 1;

impl GoalKind {
    /// At most this many requests wait for things of this kind; one more is refused. With a quorum that answers, there
    /// are far fewer.
    pub(super) const fn most(self) -> usize {
        match self {
            Self::Outcome | Self::Proof => 256 << 10,
            // The reads of one I/O thread share a round.
            Self::Read | Self::LeaseEnd | Self::Compaction => 64 << 10,
            Self::Leader => 1024,
        }
    }
}

impl Goal {
    fn kind(&self) -> GoalKind {
        match self {
            Self::Outcome => GoalKind::Outcome,
            Self::Read => GoalKind::Read,
            Self::Proof(_) => GoalKind::Proof,
            Self::LeaseEnd(_) => GoalKind::LeaseEnd,
            Self::Compaction => GoalKind::Compaction,
            Self::Leader(_) => GoalKind::Leader,
        }
    }

    /// Whether a client waits for it as long as it takes.
    fn is_awaited_for_ever(&self) -> bool {
        matches!(self, Self::LeaseEnd(_) | Self::Compaction)
    }
}

struct Waiting {
    waiter: Waiter,
    goal: Goal,
    since: Instant,
}

/// Waiting requests, by the id of the request or question.
#[derive(Default)]
pub(super) struct Waiters {
    by_id: HashMap<u64, Waiting, BuildHasherDefault<IdHasher>>,
    /// The ids of the requests that wait for the end of each lease.
    by_lease: HashMap<i64, Vec<u64>>,
    counts: [usize; KINDS],
}

impl Waiters {
    pub(super) fn count(&self, kind: GoalKind) -> usize {
        self.counts[kind as usize]
    }

    pub(super) fn has_room(&self, kind: GoalKind) -> bool {
        self.count(kind) < kind.most()
    }

    /// Adds a request that has waited since a moment.
    ///
    /// # Errors
    /// The waiter, if there is no room for more of its kind.
    pub(super) fn add(&mut self, id: u64, waiter: Waiter, goal: Goal, since: Instant) -> Result<(), Waiter> {
        if !self.has_room(goal.kind()) {
            return Err(waiter);
        }
        self.take(id);
        self.counts[goal.kind() as usize] += 1;
        if let Goal::LeaseEnd(lease) = goal {
            self.by_lease.entry(lease).or_default().push(id);
        }
        self.by_id.insert(id, Waiting { waiter, goal, since });
        Ok(())
    }

    /// Takes a request out, so that it can be answered.
    pub(super) fn take(&mut self, id: u64) -> Option<(Waiter, Goal)> {
        let Waiting { waiter, goal, .. } = self.by_id.remove(&id)?;
        self.counts[goal.kind() as usize] -= 1;
        if let Goal::LeaseEnd(lease) = goal
            && let Some(ids) = self.by_lease.get_mut(&lease)
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_lease.remove(&lease);
            }
        }
        Some((waiter, goal))
    }

    /// Takes out the requests that wait for the end of a lease.
    pub(super) fn take_lease(&mut self, lease: i64) -> Vec<Waiter> {
        let ids = self.by_lease.remove(&lease).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.take(id)).map(|(waiter, _)| waiter).collect()
    }

    /// Takes out the requests of some kinds that wait for `which`. It looks at all requests, but only if there are any
    /// of these kinds.
    pub(super) fn take_all(&mut self, kinds: &[GoalKind], which: impl Fn(&Goal) -> bool) -> Vec<Waiter> {
        if kinds.iter().all(|kind| self.count(*kind) == 0) {
            return Vec::new();
        }
        let wanted = |waiting: &Waiting| kinds.contains(&waiting.goal.kind()) && which(&waiting.goal);
        let ids: Vec<u64> = self.by_id.iter().filter(|(_, waiting)| wanted(waiting)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).map(|(waiter, _)| waiter).collect()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Forgets the requests whose clients no longer wait.
    pub(super) fn forget(&mut self, now: Instant) {
        let counts = &mut self.counts;
        self.by_id.retain(|_, Waiting { goal, since, .. }| {
            let keep = goal.is_awaited_for_ever() || now.duration_since(*since) < FORGET_AFTER;
            counts[goal.kind() as usize] -= usize::from(!keep);
            keep
        });
    }

    /// Takes all requests out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiter> {
        std::mem::take(self).by_id.into_values().map(|waiting| waiting.waiter)
    }
}

/// Request ids are distinct in their low bits already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::slots::Slots;

    fn waiter() -> Waiter {
        Waiter { worker: 0, key: Slots::<()>::default().register(None).key() }
    }

    fn add(waiters: &mut Waiters, id: u64, goal: Goal) -> Result<(), Waiter> {
        waiters.add(id, waiter(), goal, Instant::now())
    }

    #[test]
    fn each_kind_has_room_of_its_own() {
        const WAITING: usize = GoalKind::LeaseEnd.most();
        let mut waiters = Waiters::default();
        (0..WAITING as u64).for_each(|id| add(&mut waiters, id, Goal::LeaseEnd(id as i64 % 100)).unwrap());
        assert!(add(&mut waiters, 1 << 32, Goal::LeaseEnd(7)).is_err());
        add(&mut waiters, 1 << 32, Goal::Outcome).unwrap();
        assert_eq!(waiters.take_lease(7).len(), WAITING.div_ceil(100));
        add(&mut waiters, 2 << 32, Goal::LeaseEnd(7)).unwrap();
        assert_eq!(waiters.take_all(&[GoalKind::LeaseEnd], |_| true).len(), WAITING - WAITING.div_ceil(100) + 1);
        assert_eq!((waiters.count(GoalKind::LeaseEnd), waiters.drain().count()), (0, 1));
        assert_eq!((waiters.count(GoalKind::Outcome), waiters.by_lease.len()), (0, 0));
    }

    #[test]
    fn a_request_is_taken_once_and_with_its_goal() {
        let mut waiters = Waiters::default();
        add(&mut waiters, 1, Goal::Leader(5)).unwrap();
        add(&mut waiters, 2, Goal::Leader(6)).unwrap();
        add(&mut waiters, 3, Goal::LeaseEnd(6)).unwrap();
        assert_eq!(waiters.take_all(&[GoalKind::Leader], |goal| matches!(goal, Goal::Leader(6))).len(), 1);
        assert!(matches!(waiters.take(1), Some((_, Goal::Leader(5)))));
        assert!(waiters.take(1).is_none() && waiters.take(2).is_none());
        assert!(waiters.contains(3) && waiters.take(3).is_some());
        assert!(waiters.take_lease(6).is_empty() && waiters.by_lease.is_empty());
    }

    #[test]
    fn only_those_are_forgotten_whose_clients_wait_no_longer() {
        let mut waiters = Waiters::default();
        let (now, goals) = (Instant::now(), [Goal::Outcome, Goal::Read, Goal::Leader(1), Goal::Compaction]);
        for (id, goal) in (1..).zip(goals) {
            waiters.add(id, waiter(), goal, now).unwrap();
        }
        waiters.forget(now + FORGET_AFTER - Duration::from_millis(1));
        assert!((1..=4).all(|id| waiters.contains(id)));
        waiters.forget(now + FORGET_AFTER);
        assert_eq!([1, 2, 3, 4].map(|id| waiters.contains(id)), [false, false, false, true]);
        let counts =
            [GoalKind::Outcome, GoalKind::Read, GoalKind::Leader, GoalKind::Compaction].map(|kind| waiters.count(kind));
        assert_eq!(counts, [0, 0, 0, 1]);
    }
}
