//! Clusters whose members change while they run.

use metastore_proto::Message;
use metastore_tests::cluster::{Cluster, RARE_ELECTIONS};
use metastore_tests::load::Load;
use metastore_tests::membership::{AddRequest, AddResponse, IdRequest, MembersResponse, UpdateRequest};
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::{Engines, Members, each_harness};

const WRITES: usize = 100;
/// Without this flag etcd waits until the connections to new members count as healthy.
const AT_ONCE: [&str; 1] = ["--strict-reconfig-check=false"];
/// The log text of a removed member before it ends.
const REMOVED: &str = "the member has been permanently removed from the cluster";

each_harness!(
    a_learner_is_added_promoted_and_removed,
    a_removed_member_that_starts_again_says_why_it_ends,
    a_member_is_replaced_and_another_moves_under_load,
    it_grows_from_one_to_five_and_shrinks_again;
    mixed: a_learner_gets_all_history_by_snapshot,
);

fn a_learner_is_added_promoted_and_removed(members: Members) {
    let Some(mut cluster) = members.start("learner", 3, &[AT_ONCE[0], RARE_ELECTIONS]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let learner = cluster.add(&members.server(3).expect("a server"), true);
    let refused = cluster.put(learner, "key", "value").expect_err("a learner takes no write");
    assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
    assert!(cluster.status(learner).expect("a status").is_learner);
    cluster.put(0, "key", "value").expect("a write");
    cluster.eventually("the learner learns", |cluster| {
        (cluster.get_serializable(learner, "key").ok()?.as_deref() == Some("value")).then_some(())
    });
    expect_refusals(&cluster, learner);
    // Its data, and its role as a learner, survive.
    cluster.end(learner);
    cluster.join(learner);
    assert!(cluster.status(learner).expect("a status").is_learner);

    cluster.promote(learner);
    // A proposal that a follower sends on may be lost, as in etcd; its client tries again.
    cluster.eventually("a write of the promoted", |cluster| cluster.put(learner, "key", "by the promoted").ok());
    cluster.end(learner);
    cluster.restart(learner);
    assert!(!cluster.status(learner).expect("a status").is_learner);
    load.progress(WRITES);
    cluster.remove(learner);
    let log = cluster.member(learner).log();
    assert!(log.iter().any(|line| line.contains(REMOVED)), "{log:#?}");
    assert_eq!(cluster.members(0, true).expect("a list").len(), 3);
    load.progress(WRITES);
    load.stop().check(&cluster);
}

/// The member's state may already include the removal, so that no log entry reports it again.
fn a_removed_member_that_starts_again_says_why_it_ends(members: Members) {
    let Some(mut cluster) = members.start("removed starts again", 3, &AT_ONCE) else { return };
    let node = cluster.followers()[0];
    cluster.put(node, "key", "value").expect("a write");
    cluster.remove(node);
    for _ in 0..2 {
        cluster.launch(node);
        // etcd ends with 0 or 1, because its start and its end race with each other.
        let etcd = cluster.member(node).server().is_etcd();
        let log = if etcd { cluster.wait_exit(node) } else { cluster.ends_in_success(node) };
        assert!(log.iter().any(|line| line.contains(REMOVED)), "{log:#?}");
    }
    let other = cluster.leader();
    assert_eq!(cluster.get(other, "key").expect("a read"), Some("value".into()));
}

/// Invalid changes, and etcd's refusals of them.
fn expect_refusals(cluster: &Cluster, learner: usize) {
    let other = "http://127.0.0.1:1".to_string();
    let add = |url: String, is_learner| AddRequest { peer_urls: vec![url], is_learner };
    let existing = cluster.member(0).peer_url();
    refused::<_, AddResponse>(cluster, paths::MEMBER_ADD, add(existing, false), "etcdserver: Peer URLs already exists");
    let many = "etcdserver: too many learner members in cluster";
    refused::<_, AddResponse>(cluster, paths::MEMBER_ADD, add(other, true), many);
    let bad = "etcdserver: given member URLs are invalid";
    refused::<_, AddResponse>(cluster, paths::MEMBER_ADD, add("nonsense".into(), false), bad);
    // A client that names no member sends 0.
    for id in [0, 7] {
        let unknown = "etcdserver: member not found";
        refused::<_, MembersResponse>(cluster, paths::MEMBER_REMOVE, IdRequest { id }, unknown);
        let moved = UpdateRequest { id, peer_urls: vec!["http://127.0.0.1:1".into()] };
        refused::<_, MembersResponse>(cluster, paths::MEMBER_UPDATE, moved, unknown);
    }
    let voter = IdRequest { id: cluster.id(0) };
    let promoted = "etcdserver: can only promote a learner member";
    refused::<_, MembersResponse>(cluster, paths::MEMBER_PROMOTE, voter, promoted);
    let target = cluster.id(learner);
    let request = metastore_tests::membership::MoveLeaderRequest { target };
    let moved = cluster.call::<_, MembersResponse>(cluster.leader(), paths::MOVE_LEADER, request);
    assert_eq!(moved.expect_err("a learner cannot lead").message(), "etcdserver: bad leader transferee");
}

fn refused<Q: Message + 'static, R: Message + Default + 'static>(
    cluster: &Cluster,
    path: &'static str,
    request: Q,
    why: &str,
) {
    let answer = cluster.call::<Q, R>(cluster.leader(), path, request).map(|_| ());
    assert_eq!(answer.expect_err("nonsense is refused").message(), why, "{path}");
}

/// This test keeps the wait for healthy connections, as etcd does by default.
fn a_member_is_replaced_and_another_moves_under_load(members: Members) {
    let Some(mut cluster) = members.start("replaced member", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let old = cluster.followers()[0];
    cluster.end(old);
    cluster.remove(old);
    let new = cluster.add(&members.server(old).expect("a server"), false);
    load.progress(WRITES);
    cluster.restart_all();
    load.progress(WRITES);
    let moving = cluster.followers().into_iter().find(|node| *node != new).expect("another follows");
    cluster.move_peer_address(moving);
    // The third member is needed for a quorum now, at its new address.
    cluster.end(new);
    load.progress(WRITES);
    cluster.restart(new);
    load.stop().check(&cluster);
}

fn it_grows_from_one_to_five_and_shrinks_again(members: Members) {
    let Some(mut cluster) = members.start("growth", 1, &AT_ONCE) else { return };
    for node in 1..5 {
        let added = cluster.add(&members.server(node).expect("a server"), true);
        assert_eq!(added, node);
        cluster.promote(node);
        cluster.put(node, "grown", &node.to_string()).expect("a write through the newest");
        cluster.end(node / 2);
        cluster.restart(node / 2);
        cluster.agree();
    }
    for left in (1..5).rev() {
        // Leaders are removed, too.
        let leaves = if left == 3 { cluster.leader() } else { cluster.followers()[0] };
        cluster.remove(leaves);
        cluster.first_write();
        let restarts = cluster.leader();
        cluster.end(restarts);
        cluster.restart(restarts);
        cluster.agree();
        assert_eq!(cluster.members(restarts, true).expect("a list").len(), left);
    }
    let last = cluster.leader();
    assert_eq!(cluster.get(last, "grown").expect("a read").as_deref(), Some("4"));
}

/// From a member on disk to a member in memory.
fn a_learner_gets_all_history_by_snapshot(members: Members) {
    let on_disk = members.with(Engines::All(EngineKind::RocksDb));
    let Some(mut cluster) =
        on_disk.start("learner by snapshot", 1, &["--snapshot-count=100", "--snapshot-catchup-entries=100"])
    else {
        return;
    };
    cluster.put_many(0, 2000, 64);
    let learner = cluster.add(&members.with(Engines::All(EngineKind::Memory)).server(1).expect("a server"), true);
    cluster.promote(learner);
    cluster.agree();
}
