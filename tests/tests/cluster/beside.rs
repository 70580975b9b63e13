//! Members of MetaStore and of etcd in one cluster.

use metastore_tests::cluster::Cluster;
use metastore_tests::load::Load;
use metastore_tests::programs::{self, EngineKind, Server};

/// The number of writes before the third member joins. From version 3.6 on, an etcd drops the first entry of its log
/// when it has applied a hundred. A member that joins later is sent the state, in etcd's format.
const BEFORE: usize = 20;
/// For joiners to which the log can be replayed: so few entries that an etcd serves requests while it catches up.
const MANY_BEFORE: usize = 4_000;
/// The least number of writes that all members have applied at the end.
const WRITES: usize = 10_000;
const IN_FLIGHT: usize = 64;
/// The number of entries that MetaStore members keep for other MetaStore members. They keep more for a known etcd.
const FEW_ENTRIES: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=100"];
/// More than that number, and more than an etcd keeps for a member that joins.
const TOO_MANY: usize = 1_000;
const MORE_WRITES: usize = 200;

#[test]
fn a_member_joins_two_of_etcd() {
    joins("beside etcd", BEFORE, etcds("newest"), programs::subject(EngineKind::Memory));
}

#[test]
fn a_member_on_disk_joins_two_of_etcd_3_5() {
    // A newer etcd cannot join: it does not know the requests in the log of an old one.
    let joiner = programs::subject(EngineKind::RocksDb)
        .and_then(|subject| if subject.is_etcd() { Ok(etcds("3.5.1")?.remove(0)) } else { Ok(subject) });
    joins("beside etcd 3.5", MANY_BEFORE, etcds("3.5.1"), joiner);
}

#[test]
fn an_etcd_joins_two() {
    let founders = programs::subject(EngineKind::Memory)
        .and_then(|first| Ok(vec![first, programs::subject(EngineKind::RocksDb)?]));
    joins("etcd beside", MANY_BEFORE, founders, programs::etcd("newest").map(|directory| Server::etcd(&directory)));
}

fn etcds(flavor: &str) -> Result<Vec<Server>, String> {
    let server = Server::etcd(&programs::etcd(flavor)?);
    Ok(vec![server.clone(), server])
}

/// Two members form a cluster. A third one joins as a learner, becomes a voter, is killed, comes back, and leads.
fn joins(name: &str, before: usize, founders: Result<Vec<Server>, String>, joiner: Result<Server, String>) {
    let found = founders.and_then(|founders| Ok((founders, joiner?)));
    let Some((founders, joiner)) = programs::or_skip(name, found) else { return };
    let mut cluster = Cluster::start(&founders, &[]);
    cluster.put_many(cluster.leader(), before, IN_FLIGHT);
    let third = cluster.add(&joiner, true);
    cluster.put_many(cluster.leader(), WRITES - before, IN_FLIGHT);
    cluster.promote(third);
    cluster.agree();

    let load = Load::start(&cluster.addresses());
    load.progress(MORE_WRITES);
    cluster.kill(third);
    load.progress(MORE_WRITES);
    cluster.restart(third);
    load.progress(MORE_WRITES);
    cluster.move_leader(third);
    load.progress(MORE_WRITES);
    // A founder may lead the third member's cluster again, first without it and then with it.
    cluster.kill(third);
    load.progress(MORE_WRITES);
    cluster.restart(third);
    cluster.put(third, "through the third", "").expect("a write");
    load.stop().check(&cluster);
}

/// Regression: the joiner refused ten states a second without end.
#[test]
fn a_member_that_is_sent_a_database_of_etcds_says_so_once_and_ends() {
    for engine in [EngineKind::Memory, EngineKind::RocksDb] {
        let found = programs::etcd("newest").and_then(|etcd| Ok((Server::etcd(&etcd), programs::subject(engine)?)));
        let Some((etcd, subject)) = programs::or_skip("a database of etcd's", found) else { return };
        if subject.is_etcd() {
            println!("a database of etcd's: skipped, because an etcd reads it");
            return;
        }
        let mut cluster = Cluster::start(&[etcd], &[]);
        cluster.put_many(0, TOO_MANY, IN_FLIGHT);
        let joiner = cluster.intruder(&subject);
        cluster.announce(joiner, true);
        cluster.launch(joiner);
        let log = cluster.wait_exit(joiner);
        let said = |what: &str| log.iter().filter(|line| line.contains(what)).count();
        assert_eq!(said("as a database of etcd's, which this version of MetaStore does not read"), 1, "{log:#?}");
        assert!(said("receiving database snapshot") <= 3, "{log:#?}");
        cluster.put(0, "the etcd", "goes on").expect("a write");
    }
}

/// Regression: the etcd was sent a state in MetaStore's format, replaced its database with it, and never started again.
#[test]
fn an_etcd_that_lacks_too_much_is_sent_nothing_and_stays_whole() {
    let Some((etcd, founders)) = programs::or_skip("an etcd that lacks too much", etcd_and_subjects()) else { return };
    if founders[0].is_etcd() {
        println!("an etcd that lacks too much: skipped, because an etcd sends it its database");
        return;
    }
    let mut cluster = Cluster::start(&founders, &FEW_ENTRIES);
    let leader = cluster.leader();
    cluster.put_many(leader, TOO_MANY, IN_FLIGHT);
    let joiner = cluster.intruder(&etcd);
    cluster.announce(joiner, true);
    let withheld = |cluster: &Cluster| {
        let log = cluster.member(leader).log();
        log.iter().filter(|line| line.contains("nothing is sent to it")).count()
    };
    for start in 0..2 {
        cluster.launch(joiner);
        cluster.eventually("the leader says that it withholds its state", |cluster| {
            (withheld(cluster) == 1).then_some(())
        });
        cluster.put_many(leader, TOO_MANY, IN_FLIGHT);
        let log = cluster.member(joiner).log();
        assert!(log.iter().all(|line| !line.contains("receiving database snapshot")), "start {start}: {log:#?}");
        cluster.kill(joiner);
    }
    assert_eq!(withheld(&cluster), 1);
}

/// Members keep their log for a known etcd, because they cannot send it a state.
#[test]
fn an_etcd_that_was_away_catches_up_from_the_log() {
    let Some((etcd, founders)) = programs::or_skip("an etcd that was away", etcd_and_subjects()) else { return };
    let mut cluster = Cluster::start(&[founders, vec![etcd]].concat(), &FEW_ENTRIES);
    cluster.agree();
    cluster.move_leader(0);
    // Followers keep as much of the log as the leader: any of them may lead when the etcd is back.
    for (number, leader) in [0, 1].into_iter().enumerate() {
        cluster.kill(2);
        cluster.put_many(cluster.leader(), TOO_MANY, IN_FLIGHT);
        cluster.move_leader(leader);
        cluster.restart(2);
        cluster.put(2, "back", &number.to_string()).expect("a write");
        cluster.agree();
    }
}

/// An etcd, and two MetaStore members.
fn etcd_and_subjects() -> Result<(Server, Vec<Server>), String> {
    let etcd = Server::etcd(&programs::etcd("newest")?);
    Ok((etcd, vec![programs::subject(EngineKind::Memory)?, programs::subject(EngineKind::RocksDb)?]))
}
