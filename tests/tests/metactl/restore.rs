//! `metactl snapshot save`, `status` and `restore`.

use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::content::{change, read};
use super::{Programs, shown};
use crate::backup::run;

each_engine!(a_backup_is_restored, a_revision_is_raised_as_etcdutl_does);

/// The flags with which a backup is restored for a member.
pub fn for_member(member: &Member) -> Vec<String> {
    let identity = member.identity();
    let pairs = [
        ("--data-dir", shown(&member.data_directory())),
        ("--name", identity.name.clone()),
        ("--initial-cluster", identity.in_initial_cluster()),
        ("--initial-advertise-peer-urls", member.peer_url()),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

pub fn restore(programs: &Programs, file: &str, member: &Member, more: &[&str]) -> String {
    let own = for_member(member);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    programs.metactl.run(&[&["snapshot", "restore", file][..], &own, more].concat())
}

/// The backup is saved from either program by `metactl`, inspected by it and by etcdutl, and restored on the engine.
fn a_backup_is_restored(engine: EngineKind) {
    let Some(programs) = Programs::find("restore", engine, "newest") else { return };
    let directory = Directory::new("restore");
    let flag = format!("--engine={}", engine.name());
    for (name, server) in [("etcd", programs.reference()), ("ours", programs.subject.clone())] {
        let file = shown(&directory.path().join(name));
        let saved = Member::start(&server, &[]);
        let before = block_on(async {
            let client = Client::new(saved.client_address());
            change(&client, 4).await;
            read(&client).await
        });
        let said = programs.metactl.run(&["snapshot", "save", &file, "--endpoints", saved.client_address()]);
        assert_eq!(said, format!("Snapshot saved at {file}\nServer version 3.7.0\n"));
        for form in ["simple", "table", "json", "fields"] {
            let arguments = ["snapshot", "status", &file, "--write-out", form];
            assert_eq!(programs.metactl.run(&arguments), run(&programs.etcdutl(), &arguments), "{form}");
        }
        let mut restored = Member::new(&programs.subject, &[]);
        restore(&programs, &file, &restored, &[&flag]);
        restored.restart();
        let content = || block_on(async { read(&Client::new(restored.client_address())).await });
        assert_eq!(content(), before, "from {name}");
        restored.kill();
        restored.restart();
        block_on(async {
            let client = Client::new(restored.client_address());
            assert_eq!(read(&client).await, before, "from {name}, after a kill");
            change(&client, 5).await;
        });
    }
}

fn a_revision_is_raised_as_etcdutl_does(engine: EngineKind) {
    let Some(programs) = Programs::find("raised revision", engine, "newest") else { return };
    let directory = Directory::new("raised");
    let file = shown(&directory.path().join("backup"));
    let saved = Member::start(&programs.reference(), &[]);
    block_on(async { change(&Client::new(saved.client_address()), 6).await });
    programs.metactl.run(&["snapshot", "save", &file, "--endpoints", saved.client_address()]);
    let raise = ["--bump-revision=1000", "--mark-compacted"];
    let flag = format!("--engine={}", engine.name());
    let mut ours = Member::new(&programs.subject, &[]);
    restore(&programs, &file, &ours, &[&raise[..], &[&flag]].concat());
    let mut theirs = Member::new(&programs.reference(), &[]);
    let own = for_member(&theirs);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    run(&programs.etcdutl(), &[&["snapshot", "restore", &file][..], &own, &raise].concat());
    let mut contents = Vec::new();
    for member in [&mut ours, &mut theirs] {
        member.restart();
        contents.push(block_on(async {
            let client = Client::new(member.client_address());
            let put = PutRequest { key: "after".into(), ..PutRequest::default() };
            client.unary::<_, PutResponse>(paths::PUT, put).await.expect("a put");
            read(&client).await
        }));
    }
    assert_eq!(contents[0], contents[1]);
    let said = programs.metactl.fails(128, &["snapshot", "restore", &file, "--bump-revision=5"]);
    assert_eq!(said, "Error: --mark-compacted required if --bump-revision > 0\n");
}

#[test]
fn three_members_are_restored_from_one_backup() {
    let Some(programs) = Programs::find("restore of a cluster", EngineKind::Memory, "newest") else { return };
    let directory = Directory::new("cluster");
    let file = shown(&directory.path().join("backup"));
    let saved = Member::start(&programs.reference(), &[]);
    let before = block_on(async {
        let client = Client::new(saved.client_address());
        change(&client, 7).await;
        read(&client).await
    });
    programs.metactl.run(&["snapshot", "save", &file, "--endpoints", saved.client_address()]);
    let mut members: Vec<_> = (0..3)
        .map(|at| {
            Member::with_identity(&programs.subject, metastore_tests::member::Identity::local(&format!("m{at}")), &[])
        })
        .collect();
    let all: Vec<_> = members.iter().map(|member| member.identity().in_initial_cluster()).collect();
    let all = all.join(",");
    for member in &mut members {
        restore(&programs, &file, member, &["--initial-cluster", &all, "--initial-cluster-token", "other"]);
        member.add_flag(&format!("--initial-cluster={all}"));
        member.launch().expect("it starts");
    }
    for member in &members {
        member.wait_until_ready().expect("it serves");
        assert_eq!(block_on(async { read(&Client::new(member.client_address())).await }), before);
    }
}
