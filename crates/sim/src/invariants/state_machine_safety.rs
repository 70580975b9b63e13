//! State machine safety: if a member has applied an entry at a given index to its state, no other member will ever
//! apply a different entry for that index (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! figure 3 and section 5.4.3). Applying is deterministic, so all members also have the same state after an entry.

use std::collections::BTreeMap;

use metastore_store::mvcc::HashKv;

use crate::history::Violation;

/// The state after each entry. All states are kept: a member may lag by any number of entries.
#[derive(Default)]
pub struct StateMachineSafety {
    /// By index.
    states: BTreeMap<u64, State>,
}

struct State {
    /// The member that reached it first.
    member: usize,
    term: u64,
    hash: HashKv,
}

impl StateMachineSafety {
    /// A member has applied the entry at `index` of `term`; `hash` is over all of its keys after that entry.
    pub fn applied(&mut self, member: usize, (index, term): (u64, u64), hash: HashKv) -> Result<(), Violation> {
        let state = self.states.entry(index).or_insert(State { member, term, hash });
        let first = state.member;
        if state.term != term {
            let known = state.term;
            return Err(format!(
                "as entry {index}, member {first} applied one of term {known}, {member} one of {term}"
            ));
        }
        if state.hash != hash {
            let known = state.hash;
            return Err(format!(
                "after entry {index} of term {term}, member {first} has {known:?}, {member} has {hash:?}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, revision: i64) -> HashKv {
        HashKv { hash, compact_revision: 1, hash_revision: revision, revision }
    }

    #[test]
    fn members_that_apply_the_same_at_different_times() {
        let mut check = StateMachineSafety::default();
        for member in 0..3 {
            for index in 1..1000 {
                check.applied(member, (index, 2), hash(index as u32 * 7, index as i64)).unwrap();
            }
        }
        // After a restart, a member applies again from its snapshot.
        check.applied(1, (500, 2), hash(3500, 500)).unwrap();
    }

    #[test]
    fn other_keys() {
        let mut check = StateMachineSafety::default();
        check.applied(0, (5, 2), hash(1, 3)).unwrap();
        (6..5000).for_each(|index| check.applied(0, (index, 2), hash(1, 3)).unwrap());
        let violation = check.applied(1, (5, 2), hash(2, 3)).unwrap_err();
        assert!(violation.starts_with("after entry 5 of term 2, member 0 has HashKv { hash: 1,"), "{violation}");
    }

    #[test]
    fn another_revision_or_compaction() {
        let mut check = StateMachineSafety::default();
        check.applied(0, (5, 2), hash(1, 3)).unwrap();
        check.applied(1, (5, 2), hash(1, 4)).unwrap_err();
        check.applied(1, (5, 2), HashKv { compact_revision: 2, ..hash(1, 3) }).unwrap_err();
    }

    #[test]
    fn another_entry() {
        let mut check = StateMachineSafety::default();
        check.applied(0, (5, 2), hash(1, 3)).unwrap();
        let violation = check.applied(1, (5, 3), hash(1, 3)).unwrap_err();
        assert_eq!(violation, "as entry 5, member 0 applied one of term 2, 1 one of 3");
    }
}
