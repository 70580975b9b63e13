//! Members that are cut off from each other, in one or both directions, while clients reach them all.
//!
//! Storage engines are not involved, so both are in one cluster here.

use metastore_tests::load::Load;

use super::Engines;

const WRITES: usize = 200;

#[test]
fn a_leader_cut_off_is_deposed() {
    let Some(cluster) = Engines::Mixed.start_in_network("partition", 3) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let old = cluster.leader();
    cluster.put(old, "key", "old").expect("a write");
    cluster.network().isolate(old);
    let new = cluster.eventually("another leads", |cluster| Some(cluster.leader()).filter(|new| *new != old));
    cluster.put(new, "key", "new").expect("a write with two of three");
    // The old leader answers no linearizable read, but still serves serializable ones.
    let refused = cluster.get(old, "key").expect_err("a read without a quorum");
    println!("partition: the old leader answers {refused:?}");
    assert_eq!(cluster.get_serializable(old, "key").expect("a local read").as_deref(), Some("old"));
    load.progress(WRITES);
    cluster.network().heal();
    cluster.eventually("the old leader has caught up", |cluster| {
        (cluster.get(old, "key").ok()?.as_deref() == Some("new")).then_some(())
    });
    load.progress(WRITES);
    load.stop().check(&cluster);
}

#[test]
fn a_leader_that_only_hears_or_only_speaks_is_replaced() {
    let Some(cluster) = Engines::Mixed.start_in_network("one direction", 3) else { return };
    let load = Load::start(&cluster.addresses());
    for hears in [true, false] {
        load.progress(WRITES);
        let old = cluster.leader();
        for other in cluster.followers() {
            let (from, to) = if hears { (old, other) } else { (other, old) };
            cluster.network().cut(from, to);
        }
        cluster.eventually("another leads", |cluster| Some(cluster.leader()).filter(|new| *new != old));
        load.progress(WRITES);
        cluster.network().heal();
        load.progress(WRITES);
    }
    load.stop().check(&cluster);
}

#[test]
fn a_follower_cut_off_does_not_disturb_the_leader() {
    let Some(cluster) = Engines::Mixed.start_in_network("follower cut off", 3) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let term = cluster.status(cluster.leader()).expect("a status").raft_term;
    let follower = cluster.followers()[0];
    cluster.network().isolate(follower);
    cluster.eventually("the follower misses its leader", |cluster| {
        (cluster.status(follower).ok()?.leader == 0).then_some(())
    });
    load.progress(WRITES);
    cluster.network().heal();
    cluster.eventually("the follower is back", |cluster| cluster.get(follower, "load/0").ok());
    // With pre-vote it asked for votes before it started an election, so the leader did not have to step down.
    assert_eq!(cluster.status(cluster.leader()).expect("a status").raft_term, term);
    load.stop().check(&cluster);
}
