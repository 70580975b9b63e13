//! The members of the group (voters and learners), as the state itself records them.

use std::collections::BTreeSet;

use metastore_engine::{EngineError, Table};
use metastore_proto::raftpb;
use metastore_store::schema::CONF_STATE;
use serde::Deserialize;

/// The members, in the JSON that etcd stores.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

/// Reads the row of a state through `get`. The inner error describes a bad row.
pub fn stored(
    get: impl FnOnce(Table, &[u8]) -> Result<Option<Vec<u8>>, EngineError>,
) -> Result<Result<raftpb::ConfState, String>, EngineError> {
    let row = get(Table::Meta, CONF_STATE)?.unwrap_or_default();
    let stored = serde_json::from_slice(&row).map(|stored: Stored| raftpb::ConfState {
        voters: stored.voters,
        learners: stored.learners,
        voters_outgoing: stored.voters_outgoing,
        learners_next: stored.learners_next,
        auto_leave: Some(stored.auto_leave),
    });
    Ok(stored.map_err(|error| format!("row confState of table meta, \"{}\": {error}", row.escape_ascii())))
}

/// Checks that a group of these members is possible; consensus would not start with an impossible one.
///
/// # Errors
/// Describes the first contradiction.
pub fn check(state: &raftpb::ConfState) -> Result<(), String> {
    let raftpb::ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = state;
    let wrong = |what: &str| Err(format!("its members cannot be: {what}: {state:?}"));
    let distinct = |lists: &[&Vec<u64>]| {
        let ids = lists.iter().flat_map(|list| list.iter());
        ids.clone().collect::<BTreeSet<_>>().len() == ids.count()
    };
    if voters.is_empty() {
        return wrong("nobody votes");
    }
    if [voters, learners, voters_outgoing, learners_next].into_iter().any(|ids| ids.contains(&0)) {
        return wrong("no member has the id 0");
    }
    if !distinct(&[voters, learners, learners_next]) || !distinct(&[voters_outgoing, learners]) {
        return wrong("a member is named twice");
    }
    // A member in `learners_next` is still a voter of the outgoing group. Outside a change both lists are empty.
    if !learners_next.iter().all(|id| voters_outgoing.contains(id))
        || auto_leave.unwrap_or_default() && voters_outgoing.is_empty()
    {
        return wrong("it ends a change that is not under way");
    }
    Ok(())
}

/// Whether both name the same members, in any order.
pub fn same(a: &raftpb::ConfState, b: &raftpb::ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    let of = |state: &raftpb::ConfState| {
        let raftpb::ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = state;
        ([voters, learners, voters_outgoing, learners_next].map(|ids| sorted(ids)), auto_leave.unwrap_or_default())
    };
    of(a) == of(b)
}
