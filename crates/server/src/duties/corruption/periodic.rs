//! The periodic check: the leader compares its state with that of each other member.

use metastore_store::mvcc::HashKv;

use super::question::Peer;
use super::{hashes_of_others, own_hash, raise};
use crate::grpc::Status;
use crate::member::MemberHandle;

/// Compares once, and raises the alarm for the first member that differs, as in etcd.
///
/// # Errors
/// There is no hash of this member, or it has not proven in time that it knows everything that was acknowledged.
pub(super) async fn check(member: &MemberHandle) -> Result<(), Status> {
    let first = own_hash(member).await?;
    let peers = hashes_of_others(member, first.hash_revision).await;
    // Then a sound member cannot know more than this one. A sole voter asks the engine thread, too: a learner may have
    // applied what this member has not published.
    member.barrier.pass(member.own_call().deadline).await?;
    let second = own_hash(member).await?;
    if let Some(id) = find_corrupt(member.shared.member_id, &first, &second, &peers) {
        raise(member, id).await;
    }
    let checked = peers.iter().filter(|peer| peer.answer.is_ok()).count();
    seldom!(info, (), "number-of-peers-checked" = checked, "finished peer corruption check");
    Ok(())
}

/// The first member that differs, given the hash of this one before and after the others were asked at the first
/// hash's revision.
fn find_corrupt(own: u64, first: &HashKv, second: &HashKv, peers: &[Peer]) -> Option<u64> {
    let mut corrupt = None;
    let at = |hash: &HashKv| (hash.hash_revision, hash.compact_revision);
    if first.hash != second.hash && at(first) == at(second) {
        seldom!(
            warn,
            own,
            "revision-1" = first.hash_revision,
            "compact-revision-1" = first.compact_revision,
            "hash-1" = first.hash,
            "revision-2" = second.hash_revision,
            "compact-revision-2" = second.compact_revision,
            "hash-2" = second.hash,
            "found hash mismatch"
        );
        corrupt = Some(own);
    }
    for Peer { id, answer, .. } in peers {
        let Ok(answer) = answer else { continue };
        let name = format!("{id:x}");
        if answer.header.revision > second.revision {
            seldom!(
                warn, id,
                "leader-revision" = second.revision, "follower-revision" = answer.header.revision,
                "follower-peer-id" = %name, "revision from follower must be less than or equal to leader's"
            );
        } else if answer.compact_revision > second.compact_revision {
            seldom!(
                warn, id,
                "leader-compact-revision" = second.compact_revision,
                "follower-compact-revision" = answer.compact_revision, "follower-peer-id" = %name,
                "compact revision from follower must be less than or equal to leader's"
            );
        } else if answer.compact_revision == first.compact_revision && answer.hash != first.hash {
            seldom!(
                warn, id,
                "leader-compact-revision" = second.compact_revision, "leader-hash" = first.hash,
                "follower-compact-revision" = answer.compact_revision, "follower-hash" = answer.hash,
                "follower-peer-id" = %name, "same compact revision then hashes must match"
            );
        } else {
            continue;
        }
        corrupt = corrupt.or(Some(*id));
    }
    corrupt
}

#[cfg(test)]
mod tests {
    use super::super::question::{Answer, Header, NoHash};
    use super::*;

    const OWN: u64 = 1;

    fn hash(hash: u32, compact_revision: i64, revision: i64) -> HashKv {
        HashKv { hash, compact_revision, hash_revision: revision, revision }
    }

    fn peer(id: u64, hash: u32, compact_revision: i64, revision: i64) -> Peer {
        let answer = Answer { header: Header { revision }, hash, compact_revision, hash_revision: 10 };
        Peer { id, urls: Vec::new(), answer: Ok(answer) }
    }

    #[test]
    fn equal_hashes_are_no_corruption_however_far_the_members_are() {
        let behind = Peer { id: 4, urls: Vec::new(), answer: Err(NoHash::FutureRevision) };
        let compacting = [peer(2, 70, 5, 12), peer(3, 71, 8, 11), behind];
        assert_eq!(find_corrupt(OWN, &hash(70, 5, 10), &hash(90, 8, 12), &compacting), None);
    }

    #[test]
    fn the_first_member_that_differs_is_named() {
        let both = (hash(70, 5, 10), hash(70, 5, 10));
        let named = |peers: &[Peer]| find_corrupt(OWN, &both.0, &both.1, peers);
        assert_eq!(named(&[peer(2, 70, 5, 10), peer(3, 71, 5, 10), peer(4, 72, 5, 10)]), Some(3));
        assert_eq!(named(&[peer(2, 70, 5, 11)]), Some(2), "it has a revision that nobody has");
        assert_eq!(named(&[peer(2, 99, 6, 10)]), Some(2), "it has a compaction that nobody has");
        assert_eq!(named(&[peer(2, 99, 4, 10)]), None, "it has still to compact");
        let differs = find_corrupt(OWN, &both.0, &hash(71, 5, 10), &[peer(2, 71, 5, 10)]);
        assert_eq!(differs, Some(OWN), "this member contradicts itself");
    }
}
