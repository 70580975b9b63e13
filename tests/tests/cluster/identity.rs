//! Who is no member is turned away, and says why.

use metastore_tests::cluster::Cluster;

use super::Engines;

/// What is in the log of one side or the other, in small letters, when the ids of two clusters meet.
const MISMATCH: [&str; 2] = ["cluster id mismatch", "cluster-id-mismatch"];

#[test]
fn another_token_is_another_cluster() {
    let Some(mut cluster) = Engines::Mixed.start("token", 3, &[]) else { return };
    let stranger = cluster.followers()[0];
    cluster.kill(stranger);
    cluster.wipe(stranger);
    cluster.add_flag(stranger, "--initial-cluster-token=another");
    cluster.launch(stranger);
    cluster.eventually("somebody says that the cluster ids differ", |cluster| {
        (0..3).any(|node| says_mismatch(cluster, node)).then_some(())
    });
    assert_eq!(cluster.status(stranger).map_or(0, |status| status.leader), 0, "nobody votes for it");
    cluster.kill(stranger);
    cluster.first_write();
    cluster.agree();
}

fn says_mismatch(cluster: &Cluster, node: usize) -> bool {
    let log = cluster.member(node).log();
    log.iter().map(|line| line.to_lowercase()).any(|line| MISMATCH.iter().any(|words| line.contains(words)))
}

#[test]
fn who_was_not_added_does_not_join() {
    let Some(mut cluster) = Engines::Mixed.start("intruder", 3, &[]) else { return };
    let intruder = cluster.intruder(&Engines::Mixed.server(3).expect("a server"));
    cluster.launch(intruder);
    let log = cluster.wait_exit(intruder);
    assert!(log.iter().any(|line| line.contains("member count is unequal")), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
    assert_eq!(cluster.members(0, true).expect("a list").len(), 3);
    cluster.agree();
}
