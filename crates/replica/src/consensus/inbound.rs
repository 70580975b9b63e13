//! What another member may say: the library takes the impossible for a bug of its own and panics, so it never hears of it.

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, Storage};

/// Bytes that the name of a read round may have; etcd's and ours have 8.
const MAX_READ_CONTEXT_BYTES: usize = 64;

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The message is dropped; its sender may be broken.
    #[error("{kind} from member {from:x}: {why}")]
    Impossible { kind: String, from: u64, why: String },
    /// The message is dropped: it says something that this version does not know.
    #[error("a message from member {from:x} cannot be taken: {why}")]
    Unreadable { from: u64, why: String },
    /// The leader has proof that this member once held more than it does: the member must stop.
    #[error(
        "the leader, member {leader:x}, knows that this member held the log up to entry {held}, but it ends at entry {last}: \
         the data directory is an older copy, or lost writes. Remove this member from the cluster, and add it anew with an \
         empty data directory"
    )]
    LogLost { leader: u64, held: u64, last: u64 },
}

/// Checks a message that came over the network, but for the entries' own bytes.
///
/// # Errors
/// [`Rejected`]
pub fn check<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    let kind = message.get_msg_type();
    let impossible = |why: String| Rejected::Impossible { kind: format!("{kind:?}"), from: message.from, why };
    if message.to != raft.id {
        return Err(impossible(format!("it is for member {:x}", message.to)));
    }
    if message.from == 0 || message.from == raft.id {
        return Err(impossible("no other member's id".into()));
    }
    let forwarded =
        matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgTransferLeader);
    if message.term == 0 && !forwarded {
        return Err(impossible("it names no term".into()));
    }
    // What is of the past or of another kind is ignored by the library.
    match kind {
        MessageType::MsgPropose if message.entries.is_empty() => Err(impossible("it proposes nothing".into())),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => check_read(message).map_err(impossible),
        MessageType::MsgHeartbeat if message.term >= raft.term => check_heartbeat(raft, message),
        MessageType::MsgAppend => check_append(message).map_err(impossible),
        MessageType::MsgAppendResponse if message.term == raft.term && message.index > raft.raft_log.last_index() => {
            Err(impossible(format!("it holds entry {} of a log that ends before", message.index)))
        }
        MessageType::MsgPropose
        | MessageType::MsgHeartbeat
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

fn check_read(message: &Message) -> Result<(), String> {
    match message.entries.as_slice() {
        [entry] if entry.data.len() <= MAX_READ_CONTEXT_BYTES => Ok(()),
        [entry] => Err(format!("a round with a name of {} bytes", entry.data.len())),
        entries => Err(format!("{} rounds", entries.len())),
    }
}

/// A heartbeat's commit index is never beyond what this member has said that it holds.
fn check_heartbeat<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Rejected> {
    let last = raft.raft_log.last_index();
    if message.commit <= last {
        return Ok(());
    }
    Err(Rejected::LogLost { leader: message.from, held: message.commit, last })
}

/// Entries follow each other. (What lies before the commit index the library does not look at.)
fn check_append(message: &Message) -> Result<(), String> {
    let mut term = message.log_term;
    for (expected, entry) in (message.index + 1..).zip(message.entries.iter()) {
        if entry.index != expected || entry.term < term || entry.term > message.term {
            let (index, wrong) = (entry.index, entry.term);
            return Err(format!("entry {index} of term {wrong} where {expected} of term {term} or later is due"));
        }
        term = entry.term;
    }
    Ok(())
}
