//! The check at the start of a member that has run before, when it has applied its log and before it sends its first
//! message: a member whose state differs from another one's must neither vote nor serve.

use std::time::Duration;

use metastore_replica::Fatal;
use metastore_store::mvcc::{HashKv, ReadError};
use tokio::runtime::{Builder, LocalOptions};

use super::question::{Answer, NoHash, Peer, ask_all};
use crate::peer::Transport;
use crate::shared::Shared;

/// The revision of a state without keys. A member that holds none has nothing to compare; a new one is such a member.
const EMPTY: i64 = 1;

/// Compares the published state with that of each other member that answers within `patience`. Blocks until then. Needs
/// no runtime.
///
/// # Errors
/// [`Fatal::Inconsistent`], or the state cannot be read.
pub fn check(shared: &Shared, transport: &Transport, patience: Duration) -> Result<(), Fatal> {
    let (own, view) = (shared.member_id, shared.views.now());
    if view.revision() <= EMPTY {
        return Ok(());
    }
    seldom!(
        info, own,
        "local-member-id" = %format_args!("{own:x}"), timeout = ?patience, "starting initial corruption check"
    );
    let hash = match view.hash_kv(0) {
        Ok(hash) => hash,
        Err(ReadError::Engine(error)) => return Err(error.into()),
        Err(ReadError::Refused(refusal)) => panic!("the current revision can be hashed: {refusal}"),
    };
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            seldom!(warn, own, error = %error, "cannot ask the other members for their hashes");
            return Ok(());
        }
    };
    let peers = runtime.block_on(ask_all(shared, transport, hash.hash_revision, patience));
    // Otherwise this would wait for a name that does not resolve.
    runtime.shutdown_background();
    let differing = peers.iter().filter(|peer| differs(own, &hash, peer)).count();
    if differing > 0 {
        return Err(Fatal::Inconsistent { id: own });
    }
    seldom!(
        info, own,
        "local-member-id" = %format_args!("{own:x}"), "initial corruption checking passed; no corruption"
    );
    Ok(())
}

/// Whether a member holds another state, and not only after another compaction.
fn differs(own: u64, hash: &HashKv, peer: &Peer) -> bool {
    let what = match &peer.answer {
        Ok(answer) if answer.hash == hash.hash => return false,
        Ok(Answer { compact_revision, .. }) if *compact_revision == hash.compact_revision => {
            "found different hash values from remote peer"
        }
        Ok(_) => "found different compact revision values from remote peer",
        Err(NoHash::FutureRevision) => "cannot fetch hash from slow remote peer",
        Err(NoHash::Compacted) => "cannot fetch hash from remote peer; local member is behind",
        Err(NoHash::OtherCluster) => "cluster ID mismatch",
        // The request has failed, and is logged.
        Err(NoHash::Unknown(_)) => return false,
    };
    let answer = peer.answer.as_ref().ok();
    seldom!(
        warn, (own, peer.id),
        "local-member-id" = %format_args!("{own:x}"), "local-member-revision" = hash.hash_revision,
        "local-member-compact-revision" = hash.compact_revision, "local-member-hash" = hash.hash,
        "remote-peer-id" = %format_args!("{:x}", peer.id), "remote-peer-endpoints" = peer.urls.join(","),
        "remote-peer-revision" = answer.map(|answer| answer.header.revision),
        "remote-peer-compact-revision" = answer.map(|answer| answer.compact_revision),
        "remote-peer-hash" = answer.map(|answer| answer.hash), "{what}"
    );
    answer.is_some_and(|answer| answer.compact_revision == hash.compact_revision)
}

#[cfg(test)]
mod tests {
    use super::super::question::Header;
    use super::*;

    #[test]
    fn only_another_hash_after_the_same_compaction_is_a_difference() {
        let hash = HashKv { hash: 70, compact_revision: 5, hash_revision: 10, revision: 10 };
        let answers = |answer| differs(1, &hash, &Peer { id: 2, urls: Vec::new(), answer });
        let with = |hash, compact_revision| {
            Ok(Answer { header: Header { revision: 12 }, hash, compact_revision, hash_revision: 10 })
        };
        assert!(answers(with(71, 5)));
        assert!(!answers(with(70, 5)));
        assert!(!answers(with(71, 6)));
        for none in [NoHash::Compacted, NoHash::FutureRevision, NoHash::OtherCluster, NoHash::Unknown("x".into())] {
            assert!(!answers(Err(none)));
        }
    }
}
