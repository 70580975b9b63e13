//! The check of compactions: all members compact at the same revisions, so the hashes that they computed then are
//! equal. It reads no keys, and so costs next to nothing.

use std::collections::BTreeMap;

use metastore_store::mvcc::HashKv;

use super::question::{Answer, Peer};
use super::{hashes_of_others, raise};
use crate::member::MemberHandle;

/// Compares the newest hash that all other members have, unless it is not beyond the revision `checked`, at which all
/// were equal. Raises the alarm for each member that differs from a majority of all members, or for the cluster if
/// there is no such majority.
pub(super) async fn check(member: &MemberHandle, checked: &mut i64) {
    let own = member.shared.member_id;
    seldom!(
        info, own,
        "local-member-id" = %format_args!("{own:x}"), timeout = ?member.limits.request_timeout,
        "starting compact hash check"
    );
    let mut count = 0;
    for hash in member.view().hashes_of_compactions() {
        if hash.hash_revision <= *checked {
            break;
        }
        count += 1;
        let peers = hashes_of_others(member, hash.hash_revision).await;
        match compare(own, &hash, &peers) {
            Comparison::Incomplete => {}
            Comparison::Equal => {
                *checked = hash.hash_revision;
                break;
            }
            Comparison::Corrupt(members) => {
                for id in members {
                    raise(member, id).await;
                }
                break;
            }
        }
    }
    seldom!(info, own, "number-of-hashes-checked" = count, "finished compaction hash check");
}

#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// No difference was found, but not all members have answered.
    Incomplete,
    Equal,
    /// These members differ from a majority of all members; 0 stands for the cluster, if there is none.
    Corrupt(Vec<u64>),
}

/// Compares the hash of a compaction with what the others have answered.
fn compare(own: u64, hash: &HashKv, peers: &[Peer]) -> Comparison {
    let mut members_by_hash = BTreeMap::from([(hash.hash, vec![own])]);
    let mut checked = 0;
    for peer in peers {
        match &peer.answer {
            Ok(Answer { hash: other, compact_revision, .. }) if *compact_revision == hash.compact_revision => {
                members_by_hash.entry(*other).or_default().push(peer.id);
                checked += 1;
            }
            answer => skip(own, hash, peer.id, answer.as_ref().ok()),
        }
    }
    if members_by_hash.len() == 1 {
        return consistent(hash, checked, peers.len());
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let majority = members_by_hash.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash);
    let mut corrupt = Vec::new();
    for (other, members) in members_by_hash.iter().filter(|(hash, _)| Some(**hash) != majority) {
        let ids: Vec<_> = members.iter().map(|id| format!("{id:x}")).collect();
        seldom!(
            error, (own, other),
            "leader-id" = %format_args!("{own:x}"), "leader-revision" = hash.hash_revision,
            "leader-compact-revision" = hash.compact_revision, "leader-hash" = hash.hash, "peer-hash" = other,
            "peer-ids" = ids.join(","), "quorum-exist" = majority.is_some(), "Detected compaction hash mismatch"
        );
        corrupt.extend(members);
    }
    Comparison::Corrupt(if majority.is_some() { corrupt } else { vec![0] })
}

fn skip(own: u64, hash: &HashKv, peer: u64, answer: Option<&Answer>) {
    let reason = match answer {
        Some(Answer { compact_revision: theirs, .. }) => format!(
            "the peer's CompactRevision {theirs} doesn't match leader's CompactRevision {}",
            hash.compact_revision
        ),
        None => "no response".to_owned(),
    };
    seldom!(
        warn, (own, peer),
        "leader-id" = %format_args!("{own:x}"), "peer-id" = %format_args!("{peer:x}"), reason, "Skipped peer's hash"
    );
}

fn consistent(hash: &HashKv, checked: usize, peers: usize) -> Comparison {
    let HashKv { hash_revision: revision, compact_revision, .. } = *hash;
    // A single member has nobody to ask, now or later.
    if checked == peers {
        seldom!(
            info,
            (),
            "number-of-peers-checked" = checked,
            revision,
            compactRevision = compact_revision,
            "successfully checked hash on whole cluster"
        );
        return Comparison::Equal;
    }
    seldom!(
        warn,
        (),
        "number-of-peers-checked" = checked,
        "number-of-peers" = peers,
        revision,
        compactRevision = compact_revision,
        "skipped revision in compaction hash check; was not able to check all peers"
    );
    Comparison::Incomplete
}

#[cfg(test)]
mod tests {
    use super::super::question::{Header, NoHash};
    use super::*;

    const OWN: HashKv = HashKv { hash: 70, compact_revision: 5, hash_revision: 10, revision: 12 };

    fn peer(id: u64, hash: u32) -> Peer {
        let answer = Answer { header: Header { revision: 12 }, hash, compact_revision: 5, hash_revision: 10 };
        Peer { id, urls: Vec::new(), answer: Ok(answer) }
    }

    fn silent(id: u64) -> Peer {
        Peer { id, urls: Vec::new(), answer: Err(NoHash::Compacted) }
    }

    fn restarted(id: u64, hash: u32) -> Peer {
        let answer = Answer { header: Header { revision: 12 }, hash, compact_revision: 10, hash_revision: 10 };
        Peer { id, urls: Vec::new(), answer: Ok(answer) }
    }

    #[test]
    fn members_that_differ_from_a_majority_are_named() {
        let corrupt = |peers: &[Peer]| match compare(1, &OWN, peers) {
            Comparison::Corrupt(members) => members,
            other => panic!("{other:?}"),
        };
        assert_eq!(corrupt(&[peer(2, 70), peer(3, 71)]), [3]);
        assert_eq!(corrupt(&[peer(2, 71), peer(3, 71)]), [1], "the leader itself");
        assert_eq!(corrupt(&[peer(2, 70), peer(3, 70), peer(4, 71), peer(5, 72)]), [4, 5]);
        assert_eq!(corrupt(&[peer(2, 71)]), [0], "one of two");
        assert_eq!(corrupt(&[peer(2, 71), silent(3)]), [0]);
        assert_eq!(corrupt(&[peer(2, 70), peer(3, 71), peer(4, 71)]), [0]);
    }

    #[test]
    fn members_without_that_hash_are_passed_over() {
        assert_eq!(compare(1, &OWN, &[peer(2, 70), peer(3, 70)]), Comparison::Equal);
        assert_eq!(compare(1, &OWN, &[peer(2, 70), silent(3)]), Comparison::Incomplete);
        assert_eq!(compare(1, &OWN, &[peer(2, 70), restarted(3, 71)]), Comparison::Incomplete);
        assert_eq!(compare(1, &OWN, &[]), Comparison::Equal);
    }
}
