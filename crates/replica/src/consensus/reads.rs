//! Linearizable reads without the log: a leader says how far the log was committed when it was asked, and proves by a round of
//! heartbeats that it still leads; whoever has applied the log that far may read (Ongaro's thesis, 6.4; etcd's ReadIndex).
//!
//! One round serves everybody who asked before it began, and one is under way at a time, so the number of rounds depends on
//! the network, not on the number of reads. The library forgets a round when it knows no leader, and a leader forgets it
//! before its first commit: rounds are asked for again.

//!
//! A round may be asked for twice, because it is asked for again, or because the network brings the question twice. Heartbeats
//! carry the name of the last round, and followers confirm it; so a leader gives each question a name that was never used in its
//! term. Otherwise the late confirmations of the first question would confirm the second, and with it all rounds between the
//! two, of which no follower has heard.

use metastore_mutants::Mutant;
use raft::eraftpb::{Message, MessageType};

/// Ticks after which a round that brought no answer is asked for again; with etcd's heartbeat of 100 ms its 500 ms.
const RETRY_TICKS: u32 = 5;

/// A leader adds so many bytes to the name of each question.
const NUMBER_BYTES: usize = size_of::<u64>();

/// Gives questions that a leader is asked names of their own.
#[derive(Debug, Default)]
pub struct Questions {
    asked: u64,
}

impl Questions {
    /// Renames a question that this leader is about to step.
    pub fn name(&mut self, question: &mut Message) {
        self.asked += 1;
        let number = if metastore_mutants::on(Mutant::ReadRoundReused) { 0 } else { self.asked };
        for entry in question.mut_entries().iter_mut() {
            entry.data = [&entry.data[..], &number.to_be_bytes()].concat().into();
        }
    }

    /// Gives the answers that this leader sends the names under which they were asked for.
    pub fn restore(messages: &mut [Message]) {
        let answers = messages.iter_mut().filter(|message| message.get_msg_type() == MessageType::MsgReadIndexResp);
        for entry in answers.flat_map(|answer| answer.mut_entries().iter_mut()) {
            entry.data.truncate(entry.data.len().saturating_sub(NUMBER_BYTES));
        }
    }
}

/// Who waits to read. The ids are the caller's, unique in the cluster and over restarts.
#[derive(Debug, Default)]
pub struct Reads {
    /// Came after the round that is under way had begun.
    next: Vec<u64>,
    round: Option<Round>,
    /// Who may read once so much of the log is applied.
    confirmed: Vec<(u64, Vec<u64>)>,
}

#[derive(Debug)]
struct Round {
    /// The name of the round: the first of the ids that it began with.
    name: u64,
    ids: Vec<u64>,
    /// Leader and term when it was asked for last.
    asked: (u64, u64),
    ticks: u32,
}

impl Reads {
    /// Somebody wants to read.
    pub fn add(&mut self, id: u64) {
        if metastore_mutants::on(Mutant::ReadWithoutReadIndex) {
            return self.confirmed.push((0, vec![id]));
        }
        self.next.push(id);
    }

    pub fn tick(&mut self) {
        if let Some(round) = &mut self.round {
            round.ticks += 1;
        }
    }

    /// The name of the round to ask for now, if there is one. `leader` and `term` are those of a leader that has committed an
    /// entry of its term, as far as is known here.
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

    /// Whether an answer of this name is one to the round that is under way.
    pub fn asked_for(&self, context: &[u8]) -> bool {
        self.round.as_ref().is_some_and(|round| context == round.name.to_be_bytes())
    }

    /// Forgets those for whom nobody waits: without a leader, or with a log that does not get on, they would be kept for ever.
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

    /// How many wait.
    pub fn count(&self) -> usize {
        let under_way = self.round.as_ref().map_or(0, |round| round.ids.len());
        self.next.len() + under_way + self.confirmed.iter().map(|(_, ids)| ids.len()).sum::<usize>()
    }

    /// The leader has answered a round: everything up to `index` was committed when it was asked for.
    pub fn confirm(&mut self, context: &[u8], index: u64) {
        // An answer that comes twice finds its round gone.
        // The one that this member has given itself, while it leads, has a number behind its name.
        if let Some(round) = self.round.take_if(|round| context.starts_with(&round.name.to_be_bytes())) {
            self.confirmed.push((index, round.ids));
        }
    }

    /// Hands out who may read now that everything up to `applied` is.
    pub fn release(&mut self, applied: u64, into: &mut Vec<u64>) {
        let too_early = metastore_mutants::on(Mutant::ReadBeforeApplied);
        for (_, ids) in self.confirmed.extract_if(.., |(index, _)| *index <= applied || too_early) {
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
