//! Which votes count: those for the election that this member holds, and that it has asked for.
//!
//! A request for a vote goes out when the vote of this member itself is durable. So there is no answer before that, whatever
//! comes over the network: the library would make a leader of a candidate whose own vote, or whose log, is not on the disk yet.

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole, Storage};

/// The election for which votes were asked.
#[derive(Debug, Default)]
pub struct Campaign {
    /// The role and the term in which they were asked for; both name the election.
    asked: Option<(StateRole, u64)>,
}

impl Campaign {
    /// Everything that this member has to say was handed out, and its requests for votes with it.
    pub fn asked<T: Storage>(&mut self, raft: &Raft<T>) {
        let campaigns = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
        self.asked = campaigns.then_some((raft.state, raft.term));
    }

    /// An election that is over takes its answers with it.
    pub fn follow<T: Storage>(&mut self, raft: &Raft<T>) {
        self.asked.take_if(|asked| *asked != (raft.state, raft.term));
    }

    /// Whether the library may hear of an answer to a request for a vote.
    pub fn asked_for<T: Storage>(&self, raft: &Raft<T>, answer: &Message) -> bool {
        let role = match answer.get_msg_type() {
            MessageType::MsgRequestPreVoteResponse => StateRole::PreCandidate,
            _ => StateRole::Candidate,
        };
        let asked = self.asked == Some((role, raft.term));
        if answer.reject {
            // From one that is ahead: its term is news, whatever it was asked for.
            return asked || answer.term > raft.term;
        }
        // A vote that is granted bears the term that was asked for: the next one, if it was asked for beforehand.
        asked && answer.term == raft.term + u64::from(role == StateRole::PreCandidate)
    }
}
