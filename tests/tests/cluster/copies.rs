//! Copies of members' directories that are put back, as docs/backup.md describes it.

use metastore_tests::cluster::Cluster;

use super::follower::copy;
use super::{Engines, each_cluster};

/// The number of writes that two of three members lose.
const FORGOTTEN: usize = 300;
const IN_FLIGHT: usize = 64;
/// The log text of a member that has seen proof of a loss.
const LOST: &str = "acknowledged writes are lost";

each_cluster!(
    copies_taken_one_after_the_other_end_a_member_that_says_why,
    copies_taken_while_all_members_were_stopped_bring_everything_back,
    one_directory_and_empty_members_bring_everything_back,
);

/// Two members come back without the last writes and go on, before the member that has these writes comes back.
fn copies_taken_one_after_the_other_end_a_member_that_says_why(engines: Engines) {
    for written in [1, 2 * FORGOTTEN] {
        let Some(mut cluster) = engines.start("copies", 3, &[]) else { return };
        if cluster.member(0).server().is_etcd() {
            return eprintln!("SKIPPED copies: etcd goes on");
        }
        let (leader, followers) = (cluster.leader(), cluster.followers());
        for &follower in &followers {
            cluster.kill(follower);
            let data = cluster.member(follower).data_directory();
            copy(&data, &data.with_file_name("aside"));
            cluster.restart(follower);
        }
        cluster.put_many(leader, FORGOTTEN, IN_FLIGHT);
        cluster.agree();
        (0..3).for_each(|node| cluster.kill(node));
        for &follower in &followers {
            cluster.wipe(follower);
            let data = cluster.member(follower).data_directory();
            copy(&data.with_file_name("aside"), &data);
            cluster.launch(follower);
        }
        followers.iter().for_each(|follower| cluster.wait_until_ready(*follower));
        cluster.put_many(cluster.leader(), written, IN_FLIGHT);
        cluster.launch(leader);
        let ended = cluster.eventually("a member says that writes are lost", |cluster| {
            (0..3).find(|node| cluster.member(*node).log().iter().any(|line| line.contains(LOST)))
        });
        let log = cluster.wait_exit(ended);
        assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
    }
}

fn copies_taken_while_all_members_were_stopped_bring_everything_back(engines: Engines) {
    let Some(mut cluster) = engines.start("copies of all", 3, &[]) else { return };
    cluster.put_many(0, FORGOTTEN, IN_FLIGHT);
    cluster.put(0, "kept", "value").expect("a write");
    cluster.agree();
    (0..3).for_each(|node| _ = cluster.stop(node));
    for node in 0..3 {
        let data = cluster.member(node).data_directory();
        copy(&data, &data.with_file_name("aside"));
        cluster.launch(node);
    }
    (0..3).for_each(|node| cluster.wait_until_ready(node));
    cluster.put(0, "kept", "overwritten").expect("a write");
    (0..3).for_each(|node| cluster.kill(node));
    for node in 0..3 {
        cluster.wipe(node);
        let data = cluster.member(node).data_directory();
        copy(&data.with_file_name("aside"), &data);
        cluster.launch(node);
    }
    (0..3).for_each(|node| cluster.wait_until_ready(node));
    assert_eq!(cluster.get(0, "kept").expect("a read").as_deref(), Some("value"));
    cluster.agree();
}

/// The member that still has its directory logs which members it waits for, and leads once a majority is there.
fn one_directory_and_empty_members_bring_everything_back(engines: Engines) {
    let Some(mut cluster) = engines.start("one directory", 3, &[]) else { return };
    cluster.put_many(0, FORGOTTEN, IN_FLIGHT);
    cluster.put(0, "kept", "value").expect("a write");
    cluster.agree();
    (0..3).for_each(|node| cluster.kill(node));
    cluster.launch(0);
    says_what_it_waits_for(&cluster);
    for node in [1, 2] {
        cluster.wipe(node);
        cluster.add_flag(node, "--initial-cluster-state=existing");
        cluster.launch(node);
        cluster.wait_until_ready(node);
    }
    cluster.wait_until_ready(0);
    for node in 0..3 {
        assert_eq!(cluster.get(node, "kept").expect("a read").as_deref(), Some("value"), "at node {node}");
    }
    cluster.agree();
}

fn says_what_it_waits_for(cluster: &Cluster) {
    if cluster.member(0).server().is_etcd() {
        return;
    }
    cluster.eventually("it says which members are missing", |cluster| {
        let log = cluster.member(0).log();
        let said: Vec<_> = log.iter().filter(|line| line.contains("waiting for a leader")).collect();
        let missing = ["m1", "m2"].iter().all(|name| said.iter().any(|line| line.contains(name)));
        (missing && said.iter().any(|line| line.contains("backup.md"))).then_some(())
    });
}
