//! Proof that acknowledged entries are lost.
//!
//! A member whose disk is an older copy, or has lost writes, has forgotten what it promised: entries that it held, and
//! votes that it gave. The members can then elect a leader that lacks committed entries, and two histories go on side
//! by side. Raft assumes that this never happens. Each of the following observations contradicts Raft's own guarantees
//! (Ongaro and Ousterhout, figure 3), so none of them is possible while every disk keeps what was synced.
//!
//! Observed by a leader, in a message of its own term (only the process that leads now has sent anything in that term):
//! - A follower holds an entry beyond the end of the leader's log. A follower reports this in its answer to an append
//!   if its commit index lies beyond that end.
//! - A follower has committed an entry that the leader lacks, or one of the leader's own term that the leader has not
//!   committed.
//! - Another member leads in the same term: a voter has voted twice.
//!
//! Observed by a follower, in an append of its own term or a later one:
//! - The leader holds an entry of another term at an index that this member has committed.
//! - The leader holds another command at the same index and in the same term.
//!
//! Not proof:
//! - A message of an earlier term. A leader sends entries before it has synced them. They may be acknowledged to it
//!   after it has lost them and restarted.
//! - Entries after the commit index. It may be that no other member holds them any more.
//!
//! Not detected here:
//! - A member that is sent a whole state installs it in the place of whatever it held.
//! - Where members have forgotten whole terms, two entries of the same index and term may differ at indexes far below
//!   those that leader and follower compare.
//!
//! HashKV shows both.

use metastore_mutants::{Mutant, mutant};
use raft::eraftpb::{EntryType, Message, MessageType};
use raft::{GetEntriesContext, Raft, Storage};

use super::rejected::Rejected;

/// Looks for proof of loss in a message that is valid otherwise. `leads`: this member leads in the term of the message.
///
/// # Errors
/// [`Rejected::EntriesLost`]: the member must stop.
pub fn check<T: Storage>(raft: &Raft<T>, message: &Message, mut leads: bool) -> Result<(), Rejected> {
    if mutant(Mutant::LossUnnoticed) {
        leads = false;
    }
    let proof = match message.get_msg_type() {
        MessageType::MsgAppend | MessageType::MsgHeartbeat if leads => Some(format!(
            "members {:x} and {:x} both lead in term {}, so a member has voted twice",
            raft.id, message.from, raft.term
        )),
        MessageType::MsgAppend if message.term >= raft.term => leader_contradicts(raft, message),
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse if leads => {
            follower_contradicts(raft, message)
        }
        _ => None,
    };
    match proof {
        Some(proof) => Err(Rejected::EntriesLost { proof }),
        None => Ok(()),
    }
}

/// Entries that a follower reports as held or committed, and that this leader lacks.
fn follower_contradicts<T: Storage>(raft: &Raft<T>, message: &Message) -> Option<String> {
    let log = &raft.raft_log;
    let (last, from) = (log.last_index(), message.from);
    let holds = if message.reject { 0 } else { message.index };
    if message.get_msg_type() == MessageType::MsgAppendResponse && holds > last {
        return Some(format!("member {from:x} holds entry {holds}, but the log of this leader ends at entry {last}"));
    }
    // A follower may know that entries of earlier terms are committed before this leader has committed anything.
    let own_term = |index| log.term(index).is_ok_and(|term| term == raft.term);
    let commit = message.commit;
    if commit > last {
        return Some(format!(
            "member {from:x} has committed entry {commit}, but the log of this leader ends at entry {last}"
        ));
    }
    let committed = log.committed;
    (commit > committed && own_term(commit)).then(|| {
        format!("member {from:x} has committed entry {commit}, but its leader has committed none behind {committed}")
    })
}

/// Entries in a leader's append that contradict entries of this member.
fn leader_contradicts<T: Storage>(raft: &Raft<T>, message: &Message) -> Option<String> {
    let log = &raft.raft_log;
    let (last, committed, from) = (log.last_index(), log.committed, message.from);
    // 0 where the log does not hold the index: compacted, or not appended yet.
    let own_term = |index| log.term(index).unwrap_or(0);
    let other = |index, term| index <= committed && ![0, term].contains(&own_term(index));
    let overlap = message.entries.iter().take_while(|entry| entry.index <= last);
    let positions = std::iter::once((message.index, message.log_term));
    let positions = positions.chain(overlap.clone().map(|entry| (entry.index, entry.term)));
    if let Some((index, term)) = positions.into_iter().find(|(index, term)| other(*index, *term)) {
        let own = own_term(index);
        return Some(format!(
            "the leader, member {from:x}, holds entry {index} of term {term}; this member has committed one of term \
                {own}"
        ));
    }
    let same = overlap.filter(|entry| own_term(entry.index) == entry.term);
    let command = |entry: &raft::eraftpb::Entry| entry.get_entry_type() == EntryType::EntryNormal;
    let mut same = same.filter(|entry| command(entry));
    let differs = same.find(|entry| {
        let own = log.slice(entry.index, entry.index + 1, None, GetEntriesContext::empty(false)).unwrap_or_default();
        own.first().is_some_and(|own| command(own) && own.data != entry.data)
    })?;
    let (index, term) = (differs.index, differs.term);
    Some(format!("entry {index} of term {term} is another command at the leader, member {from:x}, than here"))
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{ConfState, Entry, HardState};
    use raft::{Config, RawNode};
    use slog::{Discard, Logger, o};

    use super::super::inbound;
    use super::*;
    use crate::entry_log::EntryLog;

    const OWN: u64 = 1;
    const OTHER: u64 = 2;
    const TERM: u64 = 3;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: format!("{index} of {term}").into(), ..Entry::default() }
    }

    /// A follower of three in term 3. Its log holds entries 5 to 8 of term 2; 5 and 6 are committed.
    fn follower() -> RawNode<EntryLog> {
        let hard_state = HardState { term: TERM, commit: 6, ..HardState::default() };
        let conf_state = ConfState { voters: vec![OWN, OTHER, 3], ..ConfState::default() };
        let mut log = EntryLog::new(hard_state, conf_state, (4, 1));
        log.append(&[entry(5, 2), entry(6, 2), entry(7, 2), entry(8, 2)]);
        RawNode::new(&Config { applied: 4, ..Config::new(OWN) }, log, &Logger::root(Discard, o!())).unwrap()
    }

    /// The same member as the leader of term 4, with an entry 9 of that term that is not committed.
    fn leader() -> RawNode<EntryLog> {
        let mut node = follower();
        node.raft.become_candidate();
        node.raft.become_leader();
        node
    }

    fn message(kind: MessageType, term: u64) -> Message {
        let mut message = Message { to: OWN, from: OTHER, term, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn proof(node: &RawNode<EntryLog>, message: &Message) -> Option<String> {
        match inbound::check(&node.raft, message) {
            Ok(()) => None,
            Err(Rejected::EntriesLost { proof }) => Some(proof),
            Err(other) => panic!("{other}"),
        }
    }

    fn append(term: u64, (index, log_term): (u64, u64), entries: &[Entry]) -> Message {
        let mut append = Message { index, log_term, ..message(MessageType::MsgAppend, term) };
        append.entries = entries.to_vec().into();
        append
    }

    #[test]
    fn a_follower_that_holds_more_than_its_leader_in_the_leaders_term_is_proof() {
        let held = |term, index| Message { index, ..message(MessageType::MsgAppendResponse, term) };
        let leader = leader();
        assert_eq!(proof(&leader, &held(4, 9)), None);
        assert!(proof(&leader, &held(4, 10)).unwrap().contains("member 2 holds entry 10"));
        // The leader of an earlier term may have lost entries that it had sent but not synced.
        assert_eq!(proof(&leader, &held(3, 10)), None);
        assert_eq!(proof(&follower(), &held(3, 10)), None);
    }

    #[test]
    fn a_follower_that_has_committed_what_its_leader_has_not_is_proof() {
        for kind in [MessageType::MsgAppendResponse, MessageType::MsgHeartbeatResponse] {
            let committed = |term, commit| Message { commit, ..message(kind, term) };
            let leader = leader();
            assert!(proof(&leader, &committed(4, 10)).unwrap().contains("has committed entry 10"), "{kind:?}");
            assert!(proof(&leader, &committed(4, 9)).unwrap().contains("has committed none behind 6"), "{kind:?}");
            assert_eq!(proof(&leader, &committed(4, 8)), None, "{kind:?}: by the leader before this one");
            assert_eq!(proof(&leader, &committed(3, 10)), None, "{kind:?}: in an earlier term");
        }
    }

    #[test]
    fn two_leaders_in_one_term_are_proof() {
        assert!(proof(&leader(), &message(MessageType::MsgHeartbeat, 4)).unwrap().contains("both lead in term 4"));
        assert_eq!(proof(&leader(), &message(MessageType::MsgHeartbeat, 3)), None);
        assert_eq!(proof(&follower(), &message(MessageType::MsgHeartbeat, 4)), None);
    }

    #[test]
    fn a_leader_without_an_entry_that_is_committed_here_is_proof() {
        let node = follower();
        assert_eq!(proof(&node, &append(4, (5, 2), &[entry(6, 2), entry(7, 4)])), None, "entry 7 is not committed");
        assert!(proof(&node, &append(4, (5, 2), &[entry(6, 4)])).unwrap().contains("holds entry 6 of term 4"));
        assert!(proof(&node, &append(4, (5, 1), &[])).unwrap().contains("holds entry 5 of term 1"));
        assert_eq!(proof(&node, &append(4, (3, 1), &[entry(4, 1)])), None, "the log here no longer tells");
        assert_eq!(proof(&node, &append(4, (8, 3), &[])), None, "entry 8 is not committed");
        assert_eq!(proof(&node, &append(2, (5, 1), &[entry(6, 1)])), None, "of an earlier term, and ignored");
    }

    #[test]
    fn two_commands_at_one_index_and_term_are_proof() {
        let node = follower();
        assert_eq!(proof(&node, &append(3, (6, 2), &[entry(7, 2)])), None);
        let other = Entry { data: "another".into(), ..entry(7, 2) };
        assert!(proof(&node, &append(3, (6, 2), &[other])).unwrap().contains("entry 7 of term 2 is another command"));
    }
}
