//! The voters and learners of a cluster: etcd's form of them, and the form of the `raft` crate.

use metastore_proto::raftpb;
use raft::eraftpb::ConfState;

pub fn to_disk(state: &ConfState) -> raftpb::ConfState {
    raftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: Some(state.auto_leave),
    }
}

pub fn from_disk(state: &raftpb::ConfState) -> ConfState {
    let mut out = ConfState { auto_leave: state.auto_leave(), ..ConfState::default() };
    out.voters.clone_from(&state.voters);
    out.learners.clone_from(&state.learners);
    out.voters_outgoing.clone_from(&state.voters_outgoing);
    out.learners_next.clone_from(&state.learners_next);
    out
}
