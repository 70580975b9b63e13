//! Leaders that are killed, hang, hand over and come back.

use std::time::Duration;

use metastore_tests::cluster::{Cluster, ELECTION_TIMEOUT, RARE_ELECTIONS};
use metastore_tests::load::Load;

use super::{Engines, Members, each_cluster, each_harness};

/// The number of kills in one test.
const KILLS: usize = 3;
const MEASURED_KILLS: usize = 20;
/// The number of acknowledged writes between two faults.
const WRITES: usize = 200;
/// How long a write may wait for a new leader, in election timeouts; and how long the median write may
/// wait, in tenths of one.
const LONGEST: u32 = 3;
const MEDIAN_TENTHS: u32 = 18;
/// The time that a machine busy with other tests may add.
const MARGIN: Duration = Duration::from_millis(1500);
/// After a leader was asked to stop, or to hand over, another member leads within this time. With [`RARE_ELECTIONS`] an
/// election by timeout takes longer.
const HANDOVER: Duration = Duration::from_millis(1500);

each_cluster!(a_killed_leader_is_replaced_and_comes_back, a_paused_leader_serves_nothing_stale);

each_harness!(leadership_moves_and_is_handed_over_at_a_stop);

fn a_killed_leader_is_replaced_and_comes_back(engines: Engines) {
    let Some(mut cluster) = engines.start("killed leader", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    let took = kill_leaders(&mut cluster, &load, KILLS);
    let history = load.stop();
    history.check(&cluster);
    println!("killed leader: {took:?}, {} acknowledged, {} unknown", history.acknowledged(), history.unknown());
    assert!(took.iter().all(|took| *took < LONGEST * ELECTION_TIMEOUT + MARGIN), "{took:?}");
}

#[test]
#[ignore = "a measurement: it needs a machine that does nothing else"]
fn first_write_after_the_leader_is_killed() {
    for engines in [Engines::All(metastore_tests::programs::EngineKind::Memory), Engines::Mixed] {
        let Some(mut cluster) = engines.start("first write", 3, &[]) else { return };
        let load = Load::start(&cluster.addresses());
        let mut took = kill_leaders(&mut cluster, &load, MEASURED_KILLS);
        load.stop().check(&cluster);
        took.sort();
        let (median, longest) = (took[MEASURED_KILLS / 2], took[MEASURED_KILLS - 1]);
        println!("first write after kill -9, {engines:?}: median {median:?}, maximum {longest:?} of {took:?}");
        assert!(longest < LONGEST * ELECTION_TIMEOUT && median < MEDIAN_TENTHS * ELECTION_TIMEOUT / 10);
    }
}

/// Kills the leader `kills` times, and returns the times until the next acknowledged write.
fn kill_leaders(cluster: &mut Cluster, load: &Load, kills: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..kills {
        load.progress(WRITES);
        let leader = cluster.leader();
        cluster.kill(leader);
        took.push(cluster.first_write());
        load.progress(WRITES);
        cluster.restart(leader);
    }
    took
}

fn a_paused_leader_serves_nothing_stale(engines: Engines) {
    let Some(mut cluster) = engines.start("paused leader", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let old = cluster.leader();
    cluster.put(old, "key", "old").expect("a write");
    cluster.pause(old);
    let new = cluster.leader();
    cluster.put(new, "key", "new").expect("a write");
    cluster.resume(old);
    // The deposed leader may answer with an error, or with the new state. The load reads through it as well.
    if let Ok(read) = cluster.get(old, "key") {
        assert_eq!(read.as_deref(), Some("new"), "the deposed leader");
    }
    cluster.eventually("the old leader follows", |cluster| {
        let status = cluster.status(old).ok()?;
        (status.leader != 0 && status.leader != cluster.id(old)).then_some(())
    });
    load.progress(WRITES);
    load.stop().check(&cluster);
}

fn leadership_moves_and_is_handed_over_at_a_stop(members: Members) {
    let Some(mut cluster) = members.start("handover", 3, &[RARE_ELECTIONS]) else { return };
    let load = Load::start(&cluster.addresses());
    for _ in 0..KILLS {
        load.progress(WRITES);
        let next = cluster.followers()[0];
        cluster.move_leader(next);
        load.progress(WRITES);
    }
    let leader = cluster.leader();
    cluster.begin_stop(leader);
    let mut longest = Duration::ZERO;
    let mut ended = false;
    // One write more after the end: a leader that does not hand over leaves a gap without writes.
    while !ended {
        ended = cluster.member_mut(leader).has_ended(Duration::ZERO);
        longest = longest.max(cluster.first_write());
    }
    println!("handover: no longer than {longest:?} without a write around a leader's end");
    assert!(longest < HANDOVER, "{longest:?}");
    load.progress(WRITES);
    cluster.restart(leader);
    load.stop().check(&cluster);
}
