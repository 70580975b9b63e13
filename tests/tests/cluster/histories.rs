//! The simulator's checkers on histories of real processes: linearizability, exact watches, reads of old
//! revisions, equal members.
//!
//! The variable `HISTORIES` asks for more rounds. Each round has a new cluster and a seed of its own, from `SEED` on. A
//! failed round prints the path of its history. `SEED=n` alone repeats its requests and faults, but not their timing.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse};
use metastore_tests::cluster::Cluster;
use metastore_tests::histories::Recorder;
use metastore_tests::network::Network;
use metastore_tests::paths;
use metastore_tests::programs;
use metastore_tests::random::Random;

use super::{Engines, each_cluster};

const MEMBERS: usize = 3;
const FIRST_SEED: u64 = 1;
/// The number of answers between two faults.
const ANSWERS: usize = 300;
/// How long a member is stopped by SIGSTOP, or cut off, in milliseconds: from a short stall to several elections.
const PAUSE_MS: (i64, i64) = (200, 3000);
const CUT_MS: (i64, i64) = (1000, 4000);
/// How long a killed member is down, in milliseconds.
const DOWN_MS: (i64, i64) = (1, 1500);
/// Members keep so few entries that a member that was down is sent a snapshot.
const SHORT_LOG: [&str; 2] = ["--snapshot-count=20", "--snapshot-catchup-entries=20"];

each_cluster!(what_clients_and_watchers_are_told_is_true);

/// A fault of one member (the leader or any), or of all.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    KillAll,
    Pause,
    /// In both directions.
    CutOff,
    /// The member receives nothing, or its messages reach no other member.
    CutOneWay,
    MoveLeader,
}

/// Each fault occurs once in a round, in random order.
const FAULTS: [Fault; 6] =
    [Fault::Kill, Fault::KillAll, Fault::Pause, Fault::CutOff, Fault::CutOneWay, Fault::MoveLeader];

fn what_clients_and_watchers_are_told_is_true(engines: Engines) {
    let first = number("SEED", FIRST_SEED);
    for seed in first..first + number("HISTORIES", 1) {
        let Some(servers) = engines.processes().servers("histories", MEMBERS) else { return };
        if servers[0].is_etcd() {
            return eprintln!("SKIPPED histories: the checkers are stricter than etcd is");
        }
        let network = programs::or_skip("partitions in histories", Network::new(MEMBERS));
        let mut cluster = Cluster::start_in(network, &servers, &SHORT_LOG);
        round(&mut cluster, seed, &format!("{engines:?}"));
    }
}

/// One history, from an empty store on.
fn round(cluster: &mut Cluster, seed: u64, name: &str) {
    let began = Instant::now();
    let mut random = Random::new(seed);
    let recorder = Recorder::start(&cluster.addresses(), seed);
    let mut faults = FAULTS.to_vec();
    while !faults.is_empty() {
        recorder.progress(ANSWERS);
        let fault = faults.swap_remove(random.below(faults.len()));
        println!("histories: {name}, seed {seed}, {:?}: {fault:?}", began.elapsed());
        befall(cluster, fault, &mut random);
    }
    recorder.progress(ANSWERS);
    let history = recorder.finish(cluster);
    let recorded = began.elapsed();
    history.check();
    cluster.agree();
    println!("histories: {name}, {}; {recorded:?}, judged in {:?}", history.summary(), began.elapsed() - recorded);
}

/// Applies a fault to the cluster, and ends it.
fn befall(cluster: &mut Cluster, fault: Fault, random: &mut Random) {
    let leader = cluster.leader();
    let victim = if random.one_in(2) { leader } else { random.below(MEMBERS) };
    match fault {
        Fault::Kill => kill(cluster, &[victim], random),
        Fault::KillAll => kill(cluster, &[0, 1, 2], random),
        Fault::Pause => {
            cluster.pause(victim);
            last(random, PAUSE_MS);
            cluster.resume(victim);
        }
        Fault::CutOff | Fault::CutOneWay if !cluster.has_network() => {}
        Fault::CutOff | Fault::CutOneWay => {
            let (hears, speaks) = match fault {
                Fault::CutOff => (false, false),
                _ => random.any(&[(false, true), (true, false)]),
            };
            cut(cluster.network(), victim, hears, speaks);
            last(random, CUT_MS);
            cluster.network().heal();
        }
        Fault::MoveLeader => {
            let target_id = cluster.id((leader + 1 + random.below(MEMBERS - 1)) % MEMBERS);
            let request = MoveLeaderRequest { target_id };
            // The node may no longer be the leader, or take too long. Then nothing is moved.
            let _: Result<MoveLeaderResponse, _> = cluster.call(leader, paths::MOVE_LEADER, request);
        }
    }
}

fn cut(network: &Network, victim: usize, hears: bool, speaks: bool) {
    for other in (0..MEMBERS).filter(|other| *other != victim) {
        if !hears {
            network.cut(other, victim);
        }
        if !speaks {
            network.cut(victim, other);
        }
    }
}

/// kill -9 of some members, and their restart.
fn kill(cluster: &mut Cluster, nodes: &[usize], random: &mut Random) {
    nodes.iter().for_each(|node| cluster.kill(*node));
    last(random, DOWN_MS);
    nodes.iter().for_each(|node| cluster.launch(*node));
    nodes.iter().for_each(|node| cluster.wait_until_ready(*node));
}

/// Lets a fault last for a random time.
fn last(random: &mut Random, (least, most): (i64, i64)) {
    let end = Instant::now() + Duration::from_millis(random.between(least, most) as u64);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// The number in an environment variable, otherwise `default`.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}
