//! Linearizable reads without the log. A leader answers with its commit index at the time of the question, and proves
//! by a round of heartbeats that it still leads. A member that has applied the log up to that index may serve the read
//! (Ongaro's thesis, 6.4; etcd's ReadIndex).
//!
//! One round serves all reads that were added before it began, and only one is under way at a time. So the number of
//! rounds depends on the network, not on the number of reads. The library drops a round while it knows no leader, and a
//! leader drops it before its first commit: such rounds are asked for again.

//!
//! A question may reach the leader twice: it is asked again, or the network duplicates it. Heartbeats carry the name of
//! the last round, and followers confirm that name. So a leader gives each question a name that was never used in its
//! term. Otherwise late confirmations of the first question would confirm the second one, and with it all rounds
//! between the two, which no follower has confirmed.

use metastore_mutants::{Mutant, mutant};
use raft::eraftpb::{Message, MessageType};

/// A round without an answer is asked for again after so many ticks: after 500 ms with etcd's heartbeat of 100 ms, as
/// in etcd.
const RETRY_TICKS: u32 = 5;

/// Bytes that a leader appends to the name of each question.
const NUMBER_BYTES: usize = size_of::<u64>();

/// Gives each question that a leader receives a unique name.
#[derive(Debug, Default)]
pub struct Questions {
    asked: u64,
}

impl Questions {
    /// Renames a question that this leader is about to step.
    pub fn name(&mut self, question: &mut Message) {
        self.asked += 1;
        let mut number = self.asked;
        if mutant(Mutant::ReadRoundReused) {
            number = 0;
        }
        for entry in question.mut_entries().iter_mut() {
            entry.data = [&entry.data[..], &number.to_be_bytes()].concat().into();
        }
    }

    /// Restores, in the answers that this leader sends, the names under which the rounds were asked for.
    pub fn restore(messages: &mut [Message]) {
        let answers = messages.iter_mut().filter(|message| message.get_msg_type() == MessageType::MsgReadIndexResp);
        for entry in answers.flat_map(|answer| answer.mut_entries().iter_mut()) {
            entry.data.truncate(entry.data.len().saturating_sub(NUMBER_BYTES));
        }
    }
}

/// Linearizable reads that wait. Their ids come from the caller, and are unique in the cluster and over restarts.
#[derive(Debug, Default)]
pub struct Reads {
    /// Reads that were added after the current round had begun.
    next: Vec<u64>,
    round: Option<Round>,
    /// Reads that may be served once the log is applied up to an index, each group with that index.
    confirmed: Vec<(u64, Vec<u64>)>,
}

#[derive(Debug)]
struct Round {
    /// The name of the round: the first of the ids that it began with.
    name: u64,
    ids: Vec<u64>,
    /// Leader and term when the round was last asked for.
    asked: (u64, u64),
    ticks: u32,
}

impl Reads {
    /// Adds a read.
    pub fn add(&mut self, id: u64) {
        if mutant(Mutant::ReadWithoutReadIndex) {
            return self.confirmed.push((0, vec![id]));
        }
        self.next.push(id);
    }

    pub fn tick(&mut self) {
        if let Some(round) = &mut self.round {
            round.ticks += 1;
        }
    }

    /// The name of the round to ask for now, if any. `leader` and `term` belong to a leader that has committed an entry
    /// of its term, as far as this member knows.
    pub fn ask(&mut self, leader: u64, term: u64) -> Option<u64> {
        let asked = (leader, term);
        match &mut self.round {
            Some(round) if round.asked == asked && round.ticks < RETRY_TICKS => return None,
            Some(round) => (round.asked, round.ticks) = (asked, 0),
            None => {
                let name = *self.next.first()?;
                self.round = Some(Round { name, ids: std::mem::take(&mut self.next), asked, ticks: 0 });
            }
        }
        self.round.as_ref().map(|round| round.name)
    }

    /// Whether an answer with this name belongs to the round that is under way.
    pub fn asked_for(&self, context: &[u8]) -> bool {
        self.round.as_ref().is_some_and(|round| context == round.name.to_be_bytes())
    }

    /// Forgets the reads for which `waits` is false. Without a leader, or while the log makes no progress, they would
    /// be kept for ever.
    pub fn retain(&mut self, waits: impl Fn(u64) -> bool) {
        self.next.retain(|id| waits(*id));
        if let Some(round) = &mut self.round {
            round.ids.retain(|id| waits(*id));
        }
        self.round.take_if(|round| round.ids.is_empty());
        self.confirmed.retain_mut(|(_, ids)| {
            ids.retain(|id| waits(*id));
            !ids.is_empty()
        });
    }

    /// Number of waiting reads.
    pub fn count(&self) -> usize {
        let under_way = self.round.as_ref().map_or(0, |round| round.ids.len());
        self.next.len() + under_way + self.confirmed.iter().map(|(_, ids)| ids.len()).sum::<usize>()
    }

    /// Takes the leader's answer to a round: everything up to `index` was committed when the round was asked for.
    pub fn confirm(&mut self, context: &[u8], index: u64) {
        // The second copy of an answer finds its round gone. An answer that this member gave itself as the leader has a
        // number after the name.
        if let Some(round) = self.round.take_if(|round| context.starts_with(&round.name.to_be_bytes())) {
            self.confirmed.push((index, round.ids));
        }
    }

    /// Moves to `into` the reads that may be served once everything up to `applied` is applied.
    pub fn release(&mut self, mut applied: u64, into: &mut Vec<u64>) {
        if mutant(Mutant::ReadBeforeApplied) {
            applied = u64::MAX;
        }
        for (_, ids) in self.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            into.extend(ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(reads: &mut Reads, applied: u64) -> Vec<u64> {
        let mut into = Vec::new();
        reads.release(applied, &mut into);
        into
    }

    #[test]
    fn a_round_serves_who_asked_before_it_and_no_later_one() {
        let mut reads = Reads::default();
        assert_eq!(reads.ask(1, 2), None, "nobody wants to read");
        reads.add(10);
        reads.add(11);
        assert_eq!(reads.ask(1, 2), Some(10));
        reads.add(12);
        assert_eq!(reads.ask(1, 2), None, "one at a time");
        reads.confirm(&10u64.to_be_bytes(), 7);
        assert_eq!(released(&mut reads, 6), [0; 0]);
        assert_eq!(released(&mut reads, 7), [10, 11]);
        assert_eq!(reads.ask(1, 2), Some(12));
        reads.confirm(&10u64.to_be_bytes(), 8);
        assert_eq!(released(&mut reads, 9), [0; 0], "an answer to another round");
    }

    #[test]
    fn who_is_forgotten_may_not_read_and_takes_an_empty_round_along() {
        let mut reads = Reads::default();
        reads.add(10);
        assert_eq!(reads.ask(1, 2), Some(10));
        reads.confirm(&10u64.to_be_bytes(), 7);
        (11..=14).for_each(|id| reads.add(id));
        assert_eq!(reads.ask(1, 2), Some(11));
        (15..=16).for_each(|id| reads.add(id));
        reads.retain(|id| id.is_multiple_of(2) && id != 10);
        assert_eq!(reads.count(), 3, "12 and 14 under way, 16 next");
        assert!(reads.asked_for(&11u64.to_be_bytes()), "the round keeps its name");
        reads.confirm(&11u64.to_be_bytes(), 8);
        assert_eq!(released(&mut reads, 9), [12, 14]);
        assert_eq!(reads.ask(1, 2), Some(16));
        reads.retain(|_| false);
        assert_eq!((reads.count(), reads.ask(1, 2)), (0, None));
        assert!(!reads.asked_for(&16u64.to_be_bytes()));
    }

    #[test]
    fn a_round_is_asked_for_again() {
        let mut reads = Reads::default();
        reads.add(10);
        assert_eq!(reads.ask(1, 2), Some(10));
        (1..RETRY_TICKS).for_each(|_| reads.tick());
        assert_eq!(reads.ask(1, 2), None);
        reads.tick();
        assert_eq!(reads.ask(1, 2), Some(10), "after a while");
        assert_eq!(reads.ask(1, 2), None);
        assert_eq!(reads.ask(3, 2), Some(10), "of another leader");
        assert_eq!(reads.ask(3, 3), Some(10), "in another term");
    }
}
