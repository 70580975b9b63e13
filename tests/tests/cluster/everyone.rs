//! Faults of every member, at once or one after the other.

use metastore_proto::etcdserverpb::{CompactionRequest, CompactionResponse};
use metastore_tests::load::Load;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::{Engines, Members, each_cluster, each_harness};

const WRITES: usize = 200;
const ROUNDS: usize = 2;
/// The number of stops of a member under load, and the number of writes before each.
const RESTARTS: usize = 2;
const WRITES_AT_WORK: usize = 20_000;
const IN_FLIGHT: usize = 64;

each_cluster!(all_killed_at_once_come_back);

each_harness!(a_rolling_restart_under_load; mixed: one_that_stops_at_work_starts_again_at_once);

fn all_killed_at_once_come_back(engines: Engines) {
    let Some(mut cluster) = engines.start("all killed", 3, &[]) else { return };
    for round in 0..ROUNDS {
        // Each load numbers its writes from 0 again.
        let before = cluster.agree();
        cluster.put(0, "round", &round.to_string()).expect("a write");
        let term = cluster.status(0).expect("a status").raft_term;
        for node in 0..3 {
            cluster.kill(node);
        }
        for node in 0..3 {
            cluster.launch(node);
        }
        for node in 0..3 {
            cluster.wait_until_ready(node);
            assert_eq!(cluster.get(node, "round").expect("a read"), Some(round.to_string()), "node {node}");
        }
        assert!(cluster.status(0).expect("a status").raft_term > term);
        assert_eq!(cluster.agree(), before + 1);
    }
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.launch(node);
    }
    for node in 0..3 {
        cluster.wait_until_ready(node);
    }
    load.progress(WRITES);
    load.stop().check(&cluster);
}

fn a_rolling_restart_under_load(members: Members) {
    let Some(mut cluster) = members.start("rolling restart", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    for node in 0..3 {
        load.progress(WRITES);
        cluster.stop(node);
        load.progress(WRITES);
        cluster.restart(node);
    }
    load.progress(WRITES);
    load.stop().check(&cluster);
}

/// Snapshot writing and the hash of a compaction run on threads beside the member. If one of them outlived the stop, it
/// would still hold the directory, and the next start would fail.
fn one_that_stops_at_work_starts_again_at_once(members: Members) {
    let on_disk = members.with(Engines::All(EngineKind::RocksDb));
    let Some(mut cluster) =
        on_disk.start("stops at work", 1, &["--snapshot-count=100", "--snapshot-catchup-entries=100"])
    else {
        return;
    };
    for round in 0..RESTARTS {
        cluster.put_many(0, WRITES_AT_WORK, IN_FLIGHT);
        cluster.put(0, "round", &round.to_string()).expect("a write");
        let revision = cluster.revision(0).expect("a revision");
        let compaction = CompactionRequest { revision, ..CompactionRequest::default() };
        let _: CompactionResponse = cluster.call(0, paths::COMPACT, compaction).expect("a compaction");
        cluster.stop(0);
        cluster.restart(0);
        assert_eq!(cluster.get(0, "round").expect("a read"), Some(round.to_string()));
    }
}
