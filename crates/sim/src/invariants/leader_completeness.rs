//! Leader completeness: if a log entry is committed in a given term, then that entry will be present in the logs of the
//! leaders of all higher-numbered terms (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! figure 3 and section 5.4).
//!
//! The term in which an entry is committed may be higher than the entry's own term, and a leader of a term in between
//! may lack the entry: its votes were on their way when a higher term began, and that term committed the entry. So each
//! entry is recorded together with the highest term that had a leader when it was first seen committed.

use std::collections::BTreeMap;

use crate::history::Violation;

/// The number of entries that are searched in a new leader's log although the check of an earlier leader covered them.
/// The entries before them follow from log matching.
const WINDOW: u64 = 512;

/// The committed entries.
#[derive(Default)]
pub struct LeaderCompleteness {
    /// By index.
    committed: BTreeMap<u64, Committed>,
    /// The highest term that had a leader.
    newest: u64,
    /// Committed entries up to this index were searched in the log of some leader.
    looked_for: u64,
}

#[derive(Clone, Copy)]
struct Committed {
    term: u64,
    /// The entry was committed in this term or before.
    no_later_than: u64,
}

impl LeaderCompleteness {
    /// A member has applied this entry. To be called after [`Self::elected`] for all elections that happened before.
    pub fn committed(&mut self, index: u64, term: u64) -> Result<(), Violation> {
        let no_later_than = self.newest.max(term);
        let first = self.committed.entry(index).or_insert(Committed { term, no_later_than });
        if first.term != term {
            let known = first.term;
            return Err(format!("entry {index} is committed both with term {known} and with term {term}"));
        }
        Ok(())
    }

    /// A member is seen leading in `term`, for the first time. `term_at` is the term of the entry that its log holds at
    /// an index; `None` if it holds none there. Entries that were released from the log are part of the state, which
    /// covers the entries up to `applied`.
    pub fn elected(
        &mut self,
        member: usize,
        term: u64,
        term_at: impl Fn(u64) -> Option<u64>,
        applied: u64,
    ) -> Result<(), Violation> {
        let from = self.looked_for.saturating_sub(WINDOW);
        for (&index, entry) in self.committed.range(from..) {
            if entry.no_later_than >= term {
                continue;
            }
            let (wanted, found) = (entry.term, term_at(index));
            let leader = format_args!("member {member} leads in term {term}");
            match found {
                Some(found) if found != wanted => {
                    return Err(format!("{leader}, and holds at {index} term {found}: committed is term {wanted}"));
                }
                None if index > applied => {
                    return Err(format!("{leader} without entry {index} of term {wanted}, which is committed"));
                }
                _ => {}
            }
        }
        self.newest = self.newest.max(term);
        self.looked_for = self.committed.last_key_value().map_or(0, |(index, _)| *index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log from entry 1 on.
    fn log(terms: &'static [u64]) -> impl Fn(u64) -> Option<u64> {
        |index| terms.get(index.checked_sub(1)? as usize).copied()
    }

    /// Entries 1 and 2 are committed in term 1, entry 3 in term 2.
    fn committed() -> LeaderCompleteness {
        let mut check = LeaderCompleteness::default();
        check.elected(0, 1, log(&[]), 0).unwrap();
        check.committed(1, 1).unwrap();
        check.committed(2, 1).unwrap();
        check.elected(1, 2, log(&[1, 1]), 1).unwrap();
        check.committed(3, 2).unwrap();
        check.committed(2, 1).unwrap();
        check
    }

    #[test]
    fn leaders_that_have_everything() {
        committed().elected(2, 3, log(&[1, 1, 2]), 0).unwrap();
        committed().elected(2, 3, log(&[1, 1, 2, 2, 2]), 3).unwrap();
        // Entries up to 2 are part of its state.
        committed().elected(2, 3, |index| (index > 2).then_some(2), 2).unwrap();
        committed().elected(2, 3, |_| None, 3).unwrap();
    }

    #[test]
    fn a_leader_without_a_committed_entry() {
        let violation = committed().elected(2, 3, log(&[1, 1]), 2).unwrap_err();
        assert_eq!(violation, "member 2 leads in term 3 without entry 3 of term 2, which is committed");
    }

    #[test]
    fn a_leader_with_another_entry_in_the_place() {
        let violation = committed().elected(2, 3, log(&[1, 1, 1]), 0).unwrap_err();
        assert_eq!(violation, "member 2 leads in term 3, and holds at 3 term 1: committed is term 2");
        committed().elected(2, 3, log(&[1, 2, 2]), 0).unwrap_err();
    }

    #[test]
    fn two_entries_are_committed_at_one_index() {
        committed().committed(3, 3).unwrap_err();
    }

    #[test]
    fn a_leader_of_the_past_need_not_have_what_was_committed_later() {
        let mut check = LeaderCompleteness::default();
        check.elected(0, 5, log(&[3]), 0).unwrap();
        check.committed(1, 3).unwrap();
        check.committed(2, 5).unwrap();
        check.elected(1, 4, log(&[]), 0).unwrap();
        check.elected(1, 6, log(&[]), 0).unwrap_err();
    }

    #[test]
    fn entries_since_the_last_election_are_all_looked_for() {
        let mut check = LeaderCompleteness::default();
        check.elected(0, 1, log(&[]), 0).unwrap();
        (1..=5000).for_each(|index| check.committed(index, 1).unwrap());
        check.elected(1, 2, |index| (index > 1).then_some(1), 0).unwrap_err();
        check.elected(1, 2, |_| Some(1), 0).unwrap();
        check.elected(2, 3, |index| (index != 4999).then_some(1), 0).unwrap_err();
    }
}
