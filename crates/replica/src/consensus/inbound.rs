//! Checks of messages from other members. The library is made for messages of honest members, so impossible messages
//! are rejected before it sees them.

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole, Storage};

use super::loss;
use super::rejected::Rejected;
use crate::entry::{check_proposal, check_size};

/// Maximum bytes in the name of a read round; the names of etcd and MetaStore have 8.
const MAX_READ_CONTEXT_BYTES: usize = 64;
/// No cluster holds so many elections. Up to this term, the library's arithmetic stays within its type.
const MAX_TERM: u64 = u64::MAX >> 1;
/// Maximum number of elections that a member may have missed: 136 years with one election a second. Otherwise a single
/// message could raise the term to its maximum, where no leader can be elected any more.
const MAX_MISSED_TERMS: u64 = 1 << 32;

/// Checks a message that came over the network, except for the bytes inside its entries.
///
/// # Errors
/// [`Rejected`]
pub fn check<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    check_ends(raft, message)?;
    check_kind(raft, message)?;
    loss::check(raft, message, leads(raft, message))?;
    match message.get_msg_type() {
        MessageType::MsgAppendResponse if leads(raft, message) => check_append_response(raft, message),
        _ => Ok(()),
    }
}

fn check_kind<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    let kind = message.get_msg_type();
    let impossible = |why: String| Rejected::Impossible { kind: format!("{kind:?}"), from: message.from, why };
    // The library ignores messages of earlier terms and messages that do not fit its role.
    match kind {
        MessageType::MsgPropose | MessageType::MsgReadIndex if message.term != 0 => {
            Err(impossible("what is sent on to a leader names no term".into()))
        }
        MessageType::MsgPropose if message.entries.is_empty() => Err(impossible("it proposes nothing".into())),
        MessageType::MsgPropose => message.entries.iter().try_for_each(check_proposal).map_err(impossible),
        // The library must not forward the message once more.
        MessageType::MsgTransferLeader if message.term == raft.term && raft.state == StateRole::Follower => {
            Err(impossible("this member does not lead".into()))
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => check_read(message).map_err(impossible),
        MessageType::MsgHeartbeat if message.term >= raft.term => check_heartbeat(raft, message),
        MessageType::MsgAppend => check_append(message).map_err(impossible),
        MessageType::MsgTimeoutNow if raft.prs().is_singleton() && raft.promotable() => {
            Err(impossible("this member alone votes".into()))
        }
        MessageType::MsgHeartbeat
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTransferLeader
        | MessageType::MsgTimeoutNow => Ok(()),
        MessageType::MsgSnapshot => Err(impossible("it came without its state".into())),
        _ => Err(impossible("members do not tell each other such a thing".into())),
    }
}

/// Checks the parts common to all kinds: sender, receiver and term.
///
/// # Errors
/// [`Rejected`]
pub fn check_ends<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    let kind = message.get_msg_type();
    let impossible = |why: String| Rejected::Impossible { kind: format!("{kind:?}"), from: message.from, why };
    if message.to != raft.id {
        return Err(impossible(format!("it is for member {:x}", message.to)));
    }
    let forwarded =
        matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgTransferLeader);
    // A forwarded message keeps its origin. It comes back to that member if it has become the leader.
    if message.from == 0 || message.from == raft.id && !forwarded {
        return Err(impossible("no other member's id".into()));
    }
    if message.term == 0 && !forwarded {
        return Err(impossible("it names no term".into()));
    }
    if message.term > MAX_TERM {
        return Err(impossible(format!("nobody gets to term {}", message.term)));
    }
    // A member that joins knows no term yet.
    if raft.term > 0 && message.term > raft.term.saturating_add(MAX_MISSED_TERMS) {
        return Err(impossible(format!(
            "it is of term {}, but this member is in term {}: so many elections are not missed. If the cluster is in \
             that term, remove this member and add it anew with an empty data directory",
            message.term, raft.term
        )));
    }
    Ok(())
}

/// Whether this member leads in the message's term. After a power loss, a former leader may receive acknowledgements of
/// entries that it had sent but not written.
fn leads<T: Storage>(raft: &Raft<T>, message: &Message) -> bool {
    raft.state == StateRole::Leader && message.term == raft.term
}

/// Checks that the leader's log holds the entries which the follower acknowledges or reports as missing.
fn check_append_response<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    let index = message.index.max(message.reject_hint);
    if index <= raft.raft_log.last_index() {
        return Ok(());
    }
    let why = format!("it holds entry {index} of a log that ends before");
    Err(Rejected::Impossible { kind: format!("{:?}", message.get_msg_type()), from: message.from, why })
}

fn check_read(message: &Message) -> Result<(), String> {
    match message.entries.as_slice() {
        [entry] if entry.data.len() <= MAX_READ_CONTEXT_BYTES => Ok(()),
        [entry] => Err(format!("a round with a name of {} bytes", entry.data.len())),
        entries => Err(format!("{} rounds", entries.len())),
    }
}

/// A leader's heartbeat never carries a commit index beyond the entries that this member has acknowledged.
fn check_heartbeat<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    let last = raft.raft_log.last_index();
    if message.commit <= last {
        return Ok(());
    }
    Err(Rejected::LogLost { leader: message.from, held: message.commit, last })
}

/// Checks that indexes are consecutive, terms do not decrease, and each entry fits into one record of the log. The
/// entry before the first one must have a term. (The library does not look at entries up to the commit index.)
fn check_append(message: &Message) -> Result<(), String> {
    let mut term = message.log_term;
    if message.index > 0 && term == 0 {
        return Err(format!("entry {} has no term", message.index));
    }
    for (nth, entry) in (1..).zip(message.entries.iter()) {
        let expected = message.index.wrapping_add(nth);
        if entry.index != expected || entry.term < term || entry.term > message.term {
            let (index, wrong) = (entry.index, entry.term);
            return Err(format!("entry {index} of term {wrong} where {expected} of term {term} or later is due"));
        }
        check_size(entry)?;
        term = entry.term;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{ConfState, Entry, HardState};
    use raft::{Config, RawNode};
    use slog::{Discard, Logger, o};

    use super::*;
    use crate::entry_log::EntryLog;

    const OWN: u64 = 1;
    const OTHER: u64 = 2;
    const TERM: u64 = 3;
    const LAST: u64 = 4;

    /// A follower of three that has heard of no leader in its term, and holds the log up to [`LAST`].
    fn node() -> RawNode<EntryLog> {
        let hard_state = HardState { term: TERM, commit: LAST, ..HardState::default() };
        let conf_state = ConfState { voters: vec![OWN, OTHER, 3], ..ConfState::default() };
        let log = EntryLog::new(hard_state, conf_state, (LAST, TERM));
        let config = Config { applied: LAST, ..Config::new(OWN) };
        RawNode::new(&config, log, &Logger::root(Discard, o!())).unwrap()
    }

    fn leader() -> RawNode<EntryLog> {
        let mut node = node();
        node.raft.become_candidate();
        node.raft.become_leader();
        node
    }

    fn message(kind: MessageType) -> Message {
        let mut message = Message { to: OWN, from: OTHER, term: TERM, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn with_entries(mut message: Message, entries: &[(u64, u64)]) -> Message {
        let entry = |&(index, term)| Entry { index, term, ..Entry::default() };
        message.entries = entries.iter().map(entry).collect::<Vec<_>>().into();
        message
    }

    fn why(node: &RawNode<EntryLog>, message: &Message) -> String {
        check(&node.raft, message).unwrap_err().to_string()
    }

    #[test]
    fn what_was_sent_on_may_come_back_to_its_origin() {
        for (kind, entries) in [
            (MessageType::MsgPropose, &[(0, 0)][..]),
            (MessageType::MsgReadIndex, &[(0, 0)]),
            (MessageType::MsgTransferLeader, &[]),
        ] {
            let mut message = with_entries(message(kind), entries);
            (message.from, message.term) = (OWN, 0);
            assert_eq!(check(&node().raft, &message), Ok(()), "{kind:?}");
        }
        let mut message = message(MessageType::MsgHeartbeat);
        message.from = OWN;
        assert!(why(&node(), &message).contains("no other member's id"));
    }

    #[test]
    fn entries_that_were_sent_but_not_written_may_be_acknowledged_after_a_restart() {
        let mut message = message(MessageType::MsgAppendResponse);
        message.index = LAST + 2;
        assert_eq!(check(&node().raft, &message), Ok(()));
        message.term = TERM + 1;
        assert!(
            why(&leader(), &message).contains("member 2 holds entry 6, but the log of this leader ends at entry 5")
        );
        assert!(check(&leader().raft, &message).is_err_and(|rejected| rejected.is_fatal()));
    }

    #[test]
    fn a_commit_index_beyond_the_log_is_proof_of_loss() {
        let mut message = message(MessageType::MsgHeartbeat);
        message.commit = LAST;
        assert_eq!(check(&node().raft, &message), Ok(()));
        message.commit = LAST + 1;
        let lost = Rejected::LogLost { leader: OTHER, held: LAST + 1, last: LAST };
        assert_eq!(check(&node().raft, &message), Err(lost));
        message.term = TERM - 1;
        assert_eq!(check(&node().raft, &message), Ok(()), "of the past, and ignored");
    }

    #[test]
    fn entries_follow_each_other() {
        let append = |entries: &[(u64, u64)]| {
            let mut message = with_entries(message(MessageType::MsgAppend), entries);
            (message.term, message.index, message.log_term) = (TERM + 1, LAST, TERM);
            message
        };
        assert_eq!(check(&node().raft, &append(&[(5, 3), (6, 4)])), Ok(()));
        for wrong in [&[(6, 3)][..], &[(5, 3), (7, 3)], &[(5, 4), (6, 3)], &[(5, 2)], &[(5, 5)]] {
            assert!(why(&node(), &append(wrong)).contains("is due"), "{wrong:?}");
        }
    }

    /// The library expects none of these messages.
    #[test]
    fn what_the_library_cannot_stand_is_refused() {
        let mut follower = node();
        follower.raft.become_follower(TERM, OTHER);
        for kind in [MessageType::MsgPropose, MessageType::MsgReadIndex] {
            assert!(why(&follower, &with_entries(message(kind), &[(0, 0)])).contains("names no term"), "{kind:?}");
        }
        assert!(why(&follower, &message(MessageType::MsgTransferLeader)).contains("does not lead"));
        let beyond = Message { index: LAST + 1, ..message(MessageType::MsgAppend) };
        assert!(why(&follower, &beyond).contains("entry 5 has no term"));
        let late = Message { term: u64::MAX, ..message(MessageType::MsgRequestVote) };
        assert!(why(&follower, &late).contains("nobody gets to term"));
        let lacking = Message { term: TERM + 1, reject_hint: u64::MAX, ..message(MessageType::MsgAppendResponse) };
        assert!(why(&leader(), &lacking).contains("of a log that ends before"));
    }

    #[test]
    fn what_members_never_say_is_refused() {
        let node = node();
        for kind in [
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgUnreachable,
            MessageType::MsgSnapStatus,
            MessageType::MsgCheckQuorum,
            MessageType::MsgSnapshot,
            MessageType::MsgPropose,
            MessageType::MsgReadIndex,
            MessageType::MsgReadIndexResp,
        ] {
            assert!(matches!(check(&node.raft, &message(kind)), Err(Rejected::Impossible { .. })), "{kind:?}");
        }
        let vote = message(MessageType::MsgRequestVote);
        assert_eq!(check(&node.raft, &vote), Ok(()));
        for wrong in
            [Message { to: 9, ..vote.clone() }, Message { from: 0, ..vote.clone() }, Message { term: 0, ..vote }]
        {
            assert!(matches!(check(&node.raft, &wrong), Err(Rejected::Impossible { .. })), "{wrong:?}");
        }
    }
}
