//! `metactl migrate`.

use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::programs::{EngineKind, Server};

use super::content::{change, read};
use super::{Programs, shown};
use crate::bad_days::observe::tree;

each_engine!(an_etcd_becomes_a_metastore_and_a_metastore_an_etcd);

/// A member that takes another one's place: the same name and addresses, a directory of its own.
fn in_the_place_of(server: &Server, member: &Member) -> Member {
    Member::with_identity(server, member.identity().clone(), &[])
}

fn changed(member: &Member, seed: u64) -> super::content::Content {
    block_on(async {
        let client = Client::new(member.client_address());
        change(&client, seed).await;
        read(&client).await
    })
}

fn content(member: &Member) -> super::content::Content {
    block_on(async { read(&Client::new(member.client_address())).await })
}

fn an_etcd_becomes_a_metastore_and_a_metastore_an_etcd(engine: EngineKind) {
    round_trip("migration", engine, "newest", &[]);
}

#[test]
fn an_etcd_3_5_becomes_a_metastore_and_comes_back() {
    // It does not start in a cluster of a newer version.
    round_trip("migration from etcd 3.5", EngineKind::Memory, "3.5.1", &["--reported-version=3.5.1"]);
}

fn round_trip(test: &str, engine: EngineKind, flavor: &str, flags: &[&str]) {
    let Some(programs) = Programs::find(test, engine, flavor) else { return };
    let mut etcd = Member::start(&programs.reference(), &[]);
    let before = changed(&etcd, 1);
    // The last entries are in the log alone: the database is written every 100 ms.
    etcd.kill();
    let files = tree(&etcd.data_directory());
    let mut subject = in_the_place_of(&programs.subject, &etcd);
    flags.iter().for_each(|flag| subject.add_flag(flag));
    let (from, to) = (shown(&etcd.data_directory()), shown(&subject.data_directory()));
    let engine = format!("--engine={}", engine.name());
    let said = programs.metactl.run(&["migrate", "--from-etcd-data-dir", &from, "--data-dir", &to, &engine]);
    assert!(said.contains(&before.summary()), "{said}");
    assert_eq!(tree(&etcd.data_directory()), files, "the directory of the etcd is changed");
    subject.restart();
    assert_eq!(content(&subject), before);
    let before = changed(&subject, 2);
    subject.kill();
    let mut back = in_the_place_of(&programs.reference(), &etcd);
    let to_etcd = shown(&back.data_directory());
    let said = programs.metactl.run(&["migrate", "--data-dir", &to, "--to-etcd-data-dir", &to_etcd]);
    assert!(said.contains(&before.summary()), "{said}");
    back.restart();
    assert_eq!(content(&back), before);
    changed(&back, 3);
}

#[test]
fn a_running_member_is_not_converted() {
    let Some(programs) = Programs::find("conversion of a running member", EngineKind::Memory, "newest") else { return };
    let directory = Directory::new("running");
    let new = shown(&directory.path().join("new"));
    let etcd = Member::start(&programs.reference(), &[]);
    let from = shown(&etcd.data_directory());
    let said = programs.metactl.fails(1, &["migrate", "--from-etcd-data-dir", &from, "--data-dir", &new]);
    assert!(said.contains("Stop the etcd first"), "{said}");
    let subject = Member::start(&programs.subject, &[]);
    let from = shown(&subject.data_directory());
    let said = programs.metactl.fails(1, &["migrate", "--data-dir", &from, "--to-etcd-data-dir", &new]);
    assert!(said.contains("another process uses this directory"), "{said}");
    assert!(!directory.path().join("new").exists());
}

#[test]
fn three_members_change_their_program_one_after_the_other() {
    let Some(programs) = Programs::find("conversion of a cluster", EngineKind::RocksDb, "newest") else { return };
    let reference = programs.reference();
    let mut cluster = metastore_tests::cluster::Cluster::start(&[reference.clone(), reference.clone(), reference], &[]);
    cluster.put_many(cluster.leader(), 500, 64);
    let load = metastore_tests::load::Load::start(&cluster.addresses());
    for node in 0..3 {
        load.progress(200);
        cluster.kill(node);
        load.progress(200);
        let directory = cluster.member(node).data_directory();
        let etcd = directory.with_extension("etcd");
        std::fs::rename(&directory, &etcd).expect("the directory is ours");
        let arguments =
            ["migrate", "--from-etcd-data-dir", &shown(&etcd), "--data-dir", &shown(&directory), "--engine=rocksdb"];
        programs.metactl.run(&arguments);
        cluster.member_mut(node).become_another(&programs.subject);
        cluster.restart(node);
        load.progress(200);
    }
    load.stop().check(&cluster);
}
