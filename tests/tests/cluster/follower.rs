//! Followers that are killed, hang, fall behind, or lose their disk.

use std::path::Path;
use std::process::Command;

use metastore_tests::cluster::Cluster;
use metastore_tests::load::Load;

use super::{Engines, each_cluster};

const WRITES: usize = 200;
/// With these flags a leader keeps less of its log than [`MISSED`] writes.
const SHORT_LOG: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=100"];
/// The number of writes that a member misses.
const MISSED: usize = 2000;
/// The number of writes in flight.
const IN_FLIGHT: usize = 64;
/// The log text of a leader that has sent a snapshot.
const SENT_SNAPSHOT: &str = "sent database snapshot";

each_cluster!(
    a_killed_or_paused_follower_catches_up,
    a_follower_behind_a_compacted_log_gets_a_snapshot,
    an_emptied_disk_is_refused_until_the_member_is_added_again,
    an_old_copy_of_a_disk_is_not_believed,
);

fn a_killed_or_paused_follower_catches_up(engines: Engines) {
    let Some(mut cluster) = engines.start("follower", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let [first, second] = cluster.followers()[..] else { panic!("two follow") };
    cluster.kill(first);
    load.progress(WRITES);
    cluster.restart(first);
    cluster.pause(second);
    load.progress(WRITES);
    cluster.resume(second);
    load.progress(WRITES);
    load.stop().check(&cluster);
}

fn a_follower_behind_a_compacted_log_gets_a_snapshot(engines: Engines) {
    let Some(mut cluster) = engines.start("snapshot", 3, &SHORT_LOG) else { return };
    cluster.put(0, "before", "value").expect("a write");
    let behind = cluster.followers()[0];
    cluster.kill(behind);
    cluster.put_many(cluster.leader(), MISSED, IN_FLIGHT);
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    cluster.restart(behind);
    load.progress(WRITES);
    load.stop().check(&cluster);
    let leader = cluster.leader();
    cluster.eventually("the leader says that it sent a snapshot, or this test must write more", |cluster| {
        cluster.member(leader).log().iter().any(|line| line.contains(SENT_SNAPSHOT)).then_some(())
    });

    // The state that came as a snapshot is on disk.
    cluster.kill(behind);
    cluster.restart(behind);
    cluster.agree();
}

fn an_emptied_disk_is_refused_until_the_member_is_added_again(engines: Engines) {
    let Some(mut cluster) = engines.start("emptied disk", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let victim = cluster.followers()[0];
    cluster.kill(victim);
    cluster.wipe(victim);
    cluster.launch(victim);
    let log = cluster.wait_exit(victim);
    assert!(log.iter().any(|line| line.contains("has already been bootstrapped")), "{log:#?}");
    expect_no_panic(&cluster, victim);

    load.progress(WRITES);
    let old = cluster.id(victim);
    cluster.remove(victim);
    cluster.forget(victim);
    if cluster.member(victim).data_directory().exists() {
        cluster.wipe(victim);
    }
    cluster.announce(victim, false);
    cluster.join(victim);
    assert_ne!(cluster.id(victim), old, "a member that is added again is another one");
    load.progress(WRITES);
    load.stop().check(&cluster);
}

/// The member's log lacks entries that it has acknowledged. It must not vote or go on, and it must log the reason.
fn an_old_copy_of_a_disk_is_not_believed(engines: Engines) {
    let Some(mut cluster) = engines.start("old copy", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let victim = cluster.followers()[0];
    cluster.kill(victim);
    let data = cluster.member(victim).data_directory();
    let aside = data.with_file_name("aside");
    copy(&data, &aside);
    cluster.restart(victim);
    load.progress(WRITES);
    // Its acknowledgement counts for writes that the old copy of its disk does not have.
    let revision = cluster.revision(cluster.leader()).expect("a revision");
    cluster.eventually("it catches up", |cluster| (cluster.revision(victim).ok()? >= revision).then_some(()));
    cluster.kill(victim);
    cluster.wipe(victim);
    copy(&aside, &data);
    cluster.launch(victim);
    cluster.wait_exit(victim);
    expect_no_panic(&cluster, victim);
    load.progress(WRITES);
    load.stop().check(&cluster);
}

pub(super) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "{} can be copied", from.display());
}

/// A member that ends must log the reason, and not panic. An etcd may panic.
fn expect_no_panic(cluster: &Cluster, node: usize) {
    let member = cluster.member(node);
    if member.server().is_etcd() {
        return;
    }
    let log = member.log();
    assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
    assert!(
        log.iter().any(|line| line.contains("\"level\":\"error\"") || line.contains("\"level\":\"fatal\"")),
        "{log:#?}"
    );
}
