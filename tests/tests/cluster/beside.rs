//! Members of MetaStore and of etcd in one cluster.

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, permission};
use metastore_tests::cluster::{Cluster, block_on, put_request};
use metastore_tests::following::Following;
use metastore_tests::load::Load;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};

/// The number of writes before the third member joins. From version 3.6 on, an etcd drops the first entry of its log
/// when it has applied a hundred. A member that joins later is sent the state, in etcd's format.
const BEFORE: usize = 20;
/// For joiners to which the log can be replayed: so few entries that an etcd serves requests while it catches up.
const MANY_BEFORE: usize = 4_000;
/// The least number of writes that all members have applied at the end.
const WRITES: usize = 10_000;
const IN_FLIGHT: usize = 64;
/// The number of entries that MetaStore members keep for others.
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

#[test]
fn a_member_that_joins_etcd_late_is_sent_its_database() {
    for engine in [EngineKind::Memory, EngineKind::RocksDb] {
        let found = programs::etcd("newest").and_then(|etcd| Ok((Server::etcd(&etcd), programs::subject(engine)?)));
        let Some((etcd, subject)) = programs::or_skip("a database of etcd's", found) else { return };
        let mut cluster = Cluster::start(&[etcd], &[]);
        furnish(&cluster);
        cluster.put_many(0, TOO_MANY, IN_FLIGHT);
        let joiner = cluster.add(&subject, true);
        cluster.promote(joiner);
        cluster.agree();
        // After a kill everything is there, and the member can lead.
        cluster.kill(joiner);
        cluster.restart(joiner);
        cluster.agree();
        cluster.move_leader(joiner);
        cluster.put(0, "through the etcd", "").expect("a write");
        cluster.agree();
    }
}

/// Regression: the etcd was sent a state in MetaStore's format, replaced its database with it, and never started again.
#[test]
fn an_etcd_that_lacks_too_much_is_sent_a_database() {
    is_sent_a_database("an etcd that lacks too much", "newest", &[]);
}

/// An etcd 3.5 also reads its old store, which comes with the database.
#[test]
fn an_etcd_3_5_that_lacks_too_much_is_sent_a_database() {
    is_sent_a_database("an etcd 3.5 that lacks too much", "3.5.1", &["--reported-version=3.5.1"]);
}

fn is_sent_a_database(test: &str, flavor: &str, flags: &[&str]) {
    let Some((etcd, mut founders)) = programs::or_skip(test, etcd_and_subjects(flavor)) else { return };
    if founders[0].is_etcd() {
        println!("{test}: skipped, because its flags are not those of an etcd");
        return;
    }
    for founder in &mut founders {
        founder.flags.extend(FEW_ENTRIES.iter().chain(flags).map(|flag| flag.to_string()));
    }
    let mut cluster = Cluster::start(&founders, &[]);
    furnish(&cluster);
    cluster.put_many(cluster.leader(), TOO_MANY, IN_FLIGHT);
    let third = cluster.add(&etcd, true);
    cluster.promote(third);
    // Away for too long, under either leader.
    for leader in [0, 1] {
        cluster.move_leader(third);
        cluster.kill(third);
        cluster.put_many(cluster.leader(), TOO_MANY, IN_FLIGHT);
        if cluster.leader() != leader {
            cluster.move_leader(leader);
        }
        cluster.restart(third);
        cluster.put(third, "back", &leader.to_string()).expect("a write");
        cluster.agree();
    }
}

/// Under load and watched, three etcds are replaced by MetaStore one by one, and those by etcds again.
#[test]
fn a_live_cluster_changes_its_program_member_by_member_and_back() {
    let found = etcd_and_subjects("newest");
    let Some((etcd, subjects)) = programs::or_skip("a live cluster changes its program", found) else { return };
    let mut cluster = Cluster::start(&[etcd.clone(), etcd.clone(), etcd.clone()], &[]);
    furnish(&cluster);
    cluster.put_many(cluster.leader(), TOO_MANY, IN_FLIGHT);
    let load = Load::start(&cluster.addresses());
    let following = Following::start(&cluster.addresses(), cluster.revision(0).expect("a revision"));
    let (memory, rocksdb) = (&subjects[0], &subjects[1]);
    let mut members = vec![0, 1, 2];
    for servers in [[memory, rocksdb, memory], [&etcd, &etcd, &etcd]] {
        for server in servers {
            let new = cluster.add(server, true);
            load.also_through(cluster.address(new));
            following.also_through(cluster.address(new));
            cluster.promote(new);
            members.push(new);
            cluster.remove(members.remove(0));
            load.progress(MORE_WRITES);
        }
    }
    let history = load.stop();
    history.check(&cluster);
    let watched = following.reach(cluster.agree());
    assert!(watched >= 3, "events of {watched} members");
}

/// A lease with a key, and a user: what a state holds besides keys.
fn furnish(cluster: &Cluster) {
    let leader = cluster.leader();
    let grant = LeaseGrantRequest { id: 77, ttl: 3_600 };
    let _: LeaseGrantResponse = cluster.call(leader, paths::LEASE_GRANT, grant).expect("a lease");
    let put = PutRequest { lease: 77, ..put_request("leased", "") };
    let _: PutResponse = cluster.call(leader, paths::PUT, put).expect("a write");
    let user = block_on(async {
        let client = cluster.client(leader);
        Admin(&client).add_user_with("alice", "alice's", permission(Type::Readwrite, "a", "b")).await
    });
    user.expect("a user");
}

/// An etcd, and two MetaStore members.
fn etcd_and_subjects(flavor: &str) -> Result<(Server, Vec<Server>), String> {
    let etcd = Server::etcd(&programs::etcd(flavor)?);
    Ok((etcd, vec![programs::subject(EngineKind::Memory)?, programs::subject(EngineKind::RocksDb)?]))
}
