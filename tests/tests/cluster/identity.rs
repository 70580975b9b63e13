//! Processes that are not members are refused, and log the reason.

use std::time::Duration;

use metastore_proto::etcdserverpb::{StatusRequest, StatusResponse};
use metastore_tests::cluster::{Cluster, ELECTION_TIMEOUT, HEARTBEAT, call};
use metastore_tests::load::Load;
use metastore_tests::member::{Identity, Member};
use metastore_tests::paths;
use metastore_tests::programs::{EngineKind, subject};

use super::follower::copy;
use super::{Engines, Members, each_harness};

/// The log texts of either side, in lower case, when two clusters with different ids meet.
const MISMATCH: [&str; 2] = ["cluster id mismatch", "cluster-id-mismatch"];

/// How long a duplicate process of a member may run.
const TWIN_PATIENCE: Duration = Duration::from_secs(15);
/// Longer than a member takes to detect, twice, another process at its peer URL.
const NAMESAKE_PATIENCE: Duration = Duration::from_secs(8);
const WRITES: usize = 200;

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

each_harness!(; mixed: who_was_not_added_does_not_join);

fn who_was_not_added_does_not_join(members: Members) {
    let Some(mut cluster) = members.start("intruder", 3, &[]) else { return };
    let intruder = cluster.intruder(&members.server(3).expect("a server"));
    cluster.launch(intruder);
    let log = cluster.wait_exit(intruder);
    assert!(log.iter().any(|line| line.contains("member count is unequal")), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
    assert_eq!(cluster.members(0, true).expect("a list").len(), 3);
    cluster.agree();
}

/// A copy of a data directory is started while the original member runs.
#[test]
fn a_second_process_of_one_member_ends() {
    let Some(mut cluster) = Engines::Mixed.start("twin", 3, &[]) else { return };
    let original = cluster.followers()[0];
    let Some(mut twin) = twin(&mut cluster, original) else { return };
    cluster.restart(original);
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    twin.launch().expect("a process");
    expect_twin_ends(&cluster, original, &mut twin);
    load.progress(WRITES);
    // A leader that took messages of the duplicate process for those of the original would stop the original.
    load.stop().check(&cluster);
    assert_eq!(cluster.voters().len(), 3);
}

/// The original member did not answer when its duplicate process started.
#[test]
fn a_second_process_of_a_paused_member_ends_once_that_goes_on() {
    let Some(mut cluster) = Engines::Mixed.start("paused twin", 3, &[]) else { return };
    let original = cluster.followers()[0];
    let Some(mut twin) = twin(&mut cluster, original) else { return };
    cluster.restart(original);
    cluster.agree();
    cluster.pause(original);
    twin.restart();
    cluster.resume(original);
    expect_twin_ends(&cluster, original, &mut twin);
    cluster.agree();
}

/// Two single members with the same name, peer URL and token have the same ids. The second one
/// listens at the URL of both.
#[test]
fn two_single_members_that_were_founded_alike_leave_each_other_alone() {
    let Some(server) = metastore_tests::programs::or_skip("namesakes", subject(EngineKind::Memory)) else { return };
    let (first, second) = (Identity::local("m"), Identity::local("m"));
    let url = format!("http://{}", second.peer_address);
    let flags = [format!("--initial-advertise-peer-urls={url}"), format!("--initial-cluster=m={url}")];
    let member = |identity| {
        let mut member = Member::with_identity(&server, identity, &flags.each_ref().map(String::as_str));
        member.restart();
        member
    };
    let mut members = [member(first), member(second)];
    let id = |member: &Member| {
        let status: StatusResponse =
            call(member.client_address(), paths::STATUS, StatusRequest {}, NAMESAKE_PATIENCE).expect("a status");
        status.header.unwrap_or_default().member_id
    };
    assert_eq!(id(&members[0]), id(&members[1]), "etcd's ids follow from the settings");
    assert!(!members[0].has_ended(NAMESAKE_PATIENCE), "{:#?}", members[0].log());
    // The first member also starts again without complaint.
    members[0].stop();
    members[0].restart();
    members.iter().for_each(|member| _ = id(member));
}

/// A duplicate process, not yet started, on a copy of a member's data directory. The member is killed for the copy. The
/// duplicate listens on other ports.
fn twin(cluster: &mut Cluster, original: usize) -> Option<Member> {
    let member = cluster.member(original);
    if member.server().is_etcd() {
        println!("skipped: etcd does not look for a second process of a member");
        return None;
    }
    let identity = Identity { name: member.identity().name.clone(), ..Identity::local("twin") };
    let flags = [
        format!("--heartbeat-interval={}", HEARTBEAT.as_millis()),
        format!("--election-timeout={}", ELECTION_TIMEOUT.as_millis()),
        // The client URLs that the cluster already has, so that the duplicate does not need to publish its own.
        format!("--advertise-client-urls={}", member.client_url()),
    ];
    let twin = Member::with_identity(member.server(), identity, &flags.each_ref().map(String::as_str));
    cluster.kill(original);
    copy(&cluster.member(original).data_directory(), &twin.data_directory());
    Some(twin)
}

fn expect_twin_ends(cluster: &Cluster, original: usize, twin: &mut Member) {
    let status = twin.wait_exit(TWIN_PATIENCE);
    let log = twin.log();
    assert!(status.is_some_and(|status| !status.success()), "{status:?}: {log:#?}");
    let words = format!(
        "another process runs as member {:x}, at {}",
        cluster.id(original),
        cluster.member(original).peer_url()
    );
    assert!(log.iter().any(|line| line.contains(&words)), "{words} not in {log:#?}");
    assert!(log.iter().all(|line| !line.contains("panicked")), "{log:#?}");
}
