//! The voters and learners, in the JSON that etcd stores.

use metastore_proto::raftpb;

#[derive(serde::Serialize)]
struct ConfState {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    voters_outgoing: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    learners_next: Vec<u64>,
    auto_leave: bool,
}

impl From<&raftpb::ConfState> for ConfState {
    fn from(state: &raftpb::ConfState) -> Self {
        // Consensus may give the ids in any order; the rows must be the same on all members.
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(&state.voters),
            learners: sorted(&state.learners),
            voters_outgoing: sorted(&state.voters_outgoing),
            learners_next: sorted(&state.learners_next),
            auto_leave: state.auto_leave(),
        }
    }
}

/// The content of the row [`crate::schema::CONF_STATE`].
///
/// # Errors
/// The encoder's own errors; no members cause one.
pub fn conf_state_json(state: &raftpb::ConfState) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&ConfState::from(state))
}
