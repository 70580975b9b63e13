//! Election safety: at most one leader can be elected in a given term (Ongaro and Ousterhout, "In Search of an
//! Understandable Consensus Algorithm", figure 3 and section 5.2).

use std::collections::BTreeMap;

use crate::history::Violation;

/// The leader of each term.
#[derive(Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, usize>,
}

impl ElectionSafety {
    /// A member leads in `term`, or sends a message that only the leader of `term` sends.
    pub fn leads(&mut self, member: usize, term: u64) -> Result<(), Violation> {
        if term == 0 {
            return Err(format!("member {member} leads in term 0, in which nobody can be elected"));
        }
        let first = *self.leaders.entry(term).or_insert(member);
        if first != member {
            return Err(format!("members {first} and {member} both lead in term {term}"));
        }
        Ok(())
    }

    /// Elections so far.
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_has_one_leader_and_a_member_may_lead_in_many_terms() {
        let mut check = ElectionSafety::default();
        for (member, term) in [(1, 3), (1, 3), (2, 4), (1, 7), (2, 4)] {
            assert_eq!(check.leads(member, term), Ok(()));
        }
        assert_eq!(check.terms(), 3);
    }

    #[test]
    fn two_leaders_in_one_term() {
        let mut check = ElectionSafety::default();
        check.leads(1, 3).unwrap();
        check.leads(2, 4).unwrap();
        assert_eq!(check.leads(2, 3), Err("members 1 and 2 both lead in term 3".into()));
    }

    #[test]
    fn a_leader_before_the_first_term() {
        assert!(ElectionSafety::default().leads(0, 0).is_err());
    }
}
