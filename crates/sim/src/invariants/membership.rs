//! The voters that consensus counts are the voting members: no learner, and no removed member. A membership change
//! takes effect when it is applied (etcd applies configuration changes so; Ongaro's dissertation, chapter 4, explains
//! why one change at a time is safe).

use metastore_store::Members;

use crate::history::Violation;

/// Compares the voters that consensus counts on a member with the members that it knows.
pub fn check(member: usize, counted: &[u64], known: &Members) -> Result<(), Violation> {
    let (mut counted, mut voters) = (counted.to_vec(), Vec::new());
    voters.extend(known.iter().filter(|known| !known.is_learner).map(|known| known.id));
    counted.sort_unstable();
    voters.sort_unstable();
    // A member that joins knows no other member before it has applied the log.
    if counted == voters || voters.is_empty() {
        return Ok(());
    }
    Err(format!("member {member} counts {counted:x?} as voters, and the members that vote are {voters:x?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metastore_engine::Memory;
    use metastore_proto::raftpb::{ConfChange, ConfChangeType, ConfState};
    use metastore_store::Store;

    use super::*;

    /// A store that knows member 1, a voter, and member 2, a learner.
    fn store() -> Store {
        let mut store = Store::open(Arc::new(Memory::new())).unwrap();
        let add = |id: u64, is_learner: bool| {
            let kind = match is_learner {
                true => ConfChangeType::ConfChangeAddLearnerNode,
                false => ConfChangeType::ConfChangeAddNode,
            };
            let context = serde_json::json!({"id": id, "peerURLs": [format!("http://{id}")], "isLearner": is_learner});
            let context = Some(context.to_string().into());
            ConfChange { id: Some(id), r#type: Some(kind.into()), node_id: Some(id), context }
        };
        for (index, change) in [(1, add(1, false)), (2, add(2, true))] {
            let checked = store.check_member_change(index, &change, 1).unwrap();
            store.apply_member_change(index, 1, 0, checked, &ConfState::default()).unwrap();
        }
        store.publish().unwrap();
        store
    }

    #[test]
    fn learners_do_not_count() {
        let store = store();
        assert_eq!(check(0, &[1], store.members()), Ok(()));
        assert!(check(0, &[1, 2], store.members()).is_err());
    }

    #[test]
    fn voters_count() {
        let store = store();
        assert!(check(0, &[], store.members()).is_err());
        assert!(check(0, &[1, 7], store.members()).is_err());
    }
}
