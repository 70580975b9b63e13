//! Members of MetaStore and of etcd in one cluster.

use metastore_tests::cluster::Cluster;
use metastore_tests::load::Load;
use metastore_tests::programs::{self, Engine, Server};

/// Writes before the third comes. From 3.6 on an etcd drops the first entry of its log when it has applied a hundred; who
/// comes later is sent the state, in etcd's format.
const BEFORE: usize = 20;
/// (More than 5000 that come at once make a new etcd refuse its own requests, and under load it never stops.)
const MANY_BEFORE: usize = 4_000;
/// Writes that all have applied in the end, at the least.
const WRITES: usize = 10_000;
const IN_FLIGHT: usize = 64;
const MORE_WRITES: usize = 200;

#[test]
fn a_member_joins_two_of_etcd() {
    joins("beside etcd", BEFORE, etcds("newest"), programs::subject(Engine::Memory));
}

#[test]
fn a_member_on_disk_joins_two_of_etcd_3_5() {
    // A newer etcd cannot: it does not know the requests that are in the log of an old one.
    let joiner = programs::subject(Engine::RocksDb)
        .and_then(|subject| if subject.is_etcd() { Ok(etcds("3.5.1")?.remove(0)) } else { Ok(subject) });
    joins("beside etcd 3.5", MANY_BEFORE, etcds("3.5.1"), joiner);
}

#[test]
fn an_etcd_joins_two() {
    let founders =
        programs::subject(Engine::Memory).and_then(|first| Ok(vec![first, programs::subject(Engine::RocksDb)?]));
    joins("etcd beside", MANY_BEFORE, founders, programs::etcd("newest").map(|directory| Server::etcd(&directory)));
}

fn etcds(flavor: &str) -> Result<Vec<Server>, String> {
    let server = Server::etcd(&programs::etcd(flavor)?);
    Ok(vec![server.clone(), server])
}

/// Two are there; a third one comes as a learner, becomes a voter, is killed, comes back, and leads.
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
    // The other kind may lead it again, without it and then with it.
    cluster.kill(third);
    load.progress(MORE_WRITES);
    cluster.restart(third);
    cluster.put(third, "through the third", "").expect("a write");
    load.stop().check(&cluster);
}
