//! Log matching: if two logs contain an entry with the same index and term, then the logs are identical in all entries
//! up through the given index (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", figure 3
//! and section 5.3).
//!
//! The property holds for whole logs if it holds for each entry: index and term determine the entry's bytes and the
//! term of the entry before it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use metastore_proto::raftpb::{Entry, Message, MessageType};

use crate::history::Violation;

/// The entries that members were seen to hold.
#[derive(Default)]
pub struct LogMatching {
    /// By index and term.
    entries: BTreeMap<(u64, u64), Seen>,
}

/// The known facts about an entry.
#[derive(Clone, Copy)]
struct Seen {
    /// The member that showed it first.
    member: usize,
    /// The term of the entry before it.
    prev_term: u64,
    /// The hash of kind and bytes; `None` while only index and term were seen.
    hash: Option<u64>,
}

impl LogMatching {
    /// Checks a message that a member sends. Only `MsgApp` is examined: it shows a part of the sender's log.
    pub fn sends(&mut self, member: usize, message: &Message) -> Result<(), Violation> {
        if message.r#type() != MessageType::MsgApp {
            return Ok(());
        }
        let (mut index, mut term) = (message.index(), message.log_term());
        if (index == 0) != (term == 0) {
            return Err(format!("member {member} sends entries after entry {index} of term {term}"));
        }
        for entry in &message.entries {
            let at = (entry.index(), entry.term());
            if at.0 != index + 1 {
                return Err(format!("member {member} sends entry {} of term {} after entry {index}", at.0, at.1));
            }
            if at.1 > message.term() {
                let sender = message.term();
                return Err(format!("member {member} sends, in term {sender}, entry {} of term {}", at.0, at.1));
            }
            self.see(member, at, term, Some(hash(entry)))?;
            (index, term) = at;
        }
        Ok(())
    }

    /// A member's log holds at `index` an entry of `term`, and before it one of `prev_term` (0 if it is the first).
    pub fn holds(&mut self, member: usize, index: u64, term: u64, prev_term: u64) -> Result<(), Violation> {
        self.see(member, (index, term), prev_term, None)
    }

    fn see(&mut self, member: usize, at: (u64, u64), prev_term: u64, hash: Option<u64>) -> Result<(), Violation> {
        let (index, term) = at;
        if term < prev_term {
            return Err(format!("member {member} has entry {index} of term {term} after one of term {prev_term}"));
        }
        let seen = self.entries.entry(at).or_insert(Seen { member, prev_term, hash });
        let first = seen.member;
        if seen.prev_term != prev_term {
            let known = seen.prev_term;
            return Err(format!(
                "before entry {index} of term {term} stands one of term {known} on member {first}, and one of term \
                 {prev_term} on member {member}"
            ));
        }
        if let Some(hash) = hash
            && *seen.hash.get_or_insert(hash) != hash
        {
            return Err(format!("entry {index} of term {term} differs between members {first} and {member}"));
        }
        Ok(())
    }
}

fn hash(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.r#type() as i32, entry.data.as_deref().unwrap_or_default()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use metastore_proto::raftpb::EntryType;

    use super::*;

    fn entry(index: u64, term: u64, data: &'static str) -> Entry {
        Entry { index: Some(index), term: Some(term), data: Some(data.into()), ..Entry::default() }
    }

    fn append(sender_term: u64, prev: (u64, u64), entries: Vec<Entry>) -> Message {
        Message {
            r#type: Some(MessageType::MsgApp.into()),
            term: Some(sender_term),
            index: Some(prev.0),
            log_term: Some(prev.1),
            entries,
            ..Message::default()
        }
    }

    /// A check that has seen entries 1 and 2 of term 1, and entry 3 of term 4.
    fn seen() -> LogMatching {
        let mut check = LogMatching::default();
        let entries = vec![entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 4, "c")];
        check.sends(0, &append(4, (0, 0), entries)).unwrap();
        check
    }

    fn rejects(message: &Message, why: &str) {
        let violation = seen().sends(1, message).unwrap_err();
        assert!(violation.contains(why), "{violation}");
    }

    #[test]
    fn equal_logs_and_logs_that_part() {
        let mut check = seen();
        check.sends(1, &append(4, (2, 1), vec![entry(3, 4, "c")])).unwrap();
        // Another leader has written other entries in the place of entries 2 and 3.
        check.sends(2, &append(6, (1, 1), vec![entry(2, 2, "x"), entry(3, 6, "y")])).unwrap();
        check.sends(2, &append(6, (3, 6), Vec::new())).unwrap();
        check.holds(1, 3, 4, 1).unwrap();
        check.holds(1, 4, 4, 4).unwrap();
        check.sends(1, &append(4, (3, 4), vec![entry(4, 4, "d")])).unwrap();
    }

    #[test]
    fn other_messages_show_no_log() {
        let message =
            Message { r#type: Some(MessageType::MsgVote.into()), ..append(4, (7, 1), vec![entry(3, 4, "x")]) };
        assert_eq!(seen().sends(1, &message), Ok(()));
    }

    #[test]
    fn other_bytes() {
        rejects(&append(4, (2, 1), vec![entry(3, 4, "x")]), "entry 3 of term 4 differs between members 0 and 1");
    }

    #[test]
    fn other_bytes_after_the_entry_was_seen_in_a_log() {
        let mut check = LogMatching::default();
        check.holds(0, 3, 4, 1).unwrap();
        check.sends(1, &append(4, (2, 1), vec![entry(3, 4, "c")])).unwrap();
        check.holds(2, 3, 4, 1).unwrap();
        check.sends(2, &append(4, (2, 1), vec![entry(3, 4, "x")])).unwrap_err();
    }

    #[test]
    fn another_kind_of_entry() {
        let change = Entry { r#type: Some(EntryType::EntryConfChange.into()), ..entry(3, 4, "c") };
        rejects(&append(4, (2, 1), vec![change]), "entry 3 of term 4 differs");
    }

    #[test]
    fn another_entry_before() {
        rejects(
            &append(4, (2, 2), vec![entry(3, 4, "c")]),
            "before entry 3 of term 4 stands one of term 1 on member 0",
        );
        seen().holds(1, 3, 4, 2).unwrap_err();
    }

    #[test]
    fn a_hole() {
        rejects(&append(4, (2, 1), vec![entry(4, 4, "d")]), "entry 4 of term 4 after entry 2");
    }

    #[test]
    fn terms_that_descend() {
        rejects(&append(4, (3, 4), vec![entry(4, 3, "d")]), "entry 4 of term 3 after one of term 4");
    }

    #[test]
    fn an_entry_of_the_future() {
        rejects(&append(4, (3, 4), vec![entry(4, 5, "d")]), "in term 4, entry 4 of term 5");
    }

    #[test]
    fn a_beginning_that_is_none() {
        rejects(&append(4, (3, 0), Vec::new()), "after entry 3 of term 0");
        rejects(&append(4, (0, 2), vec![entry(1, 3, "a")]), "after entry 0 of term 2");
    }
}
