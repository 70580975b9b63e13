//! Vote answers that count: those that this member has asked for, in the election that it holds now.
//!
//! A request for a vote is sent only when this member's own vote is durable. So no answer counts before that, whatever
//! the network delivers. Without this rule the library would elect a candidate whose own vote or log is not durable.

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole, Storage};

/// The election for which votes were requested.
#[derive(Debug, Default)]
pub struct Campaign {
    /// Role and term in which the votes were requested. Together they identify the election.
    asked: Option<(StateRole, u64)>,
}

impl Campaign {
    /// Notes that all messages of this member were handed out, its vote requests among them.
    pub fn asked<T: Storage>(&mut self, raft: &Raft<T>) {
        let campaigns = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
        self.asked = campaigns.then_some((raft.state, raft.term));
    }

    /// Forgets an election that is over, so that its answers no longer count.
    pub fn follow<T: Storage>(&mut self, raft: &Raft<T>) {
        self.asked.take_if(|asked| *asked != (raft.state, raft.term));
    }

    /// Whether the library may see an answer to a vote request.
    pub fn asked_for<T: Storage>(&self, raft: &Raft<T>, answer: &Message) -> bool {
        let role = match answer.get_msg_type() {
            MessageType::MsgRequestPreVoteResponse => StateRole::PreCandidate,
            _ => StateRole::Candidate,
        };
        let asked = self.asked == Some((role, raft.term));
        if answer.reject {
            // A rejection by a member of a later term: that term counts even if no vote was requested.
            return asked || answer.term > raft.term;
        }
        // A granted vote carries the term that was asked for. A pre-vote asks for the next term.
        asked && answer.term == raft.term + u64::from(role == StateRole::PreCandidate)
    }
}
