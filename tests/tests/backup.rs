//! `etcdctl snapshot save`: a real etcd is restored from the backup of a member, and holds the same.

mod unread;

use std::path::{Path, PathBuf};
use std::process::Command;

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, permission};
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::load::Load;
use metastore_tests::member::{Directory, Member};
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};

const KEYS: usize = 200;
const TIMES: usize = 5;
const VALUE_BYTES: usize = 3_000;
/// The lease of some keys, and its time to live.
const LEASE: i64 = 77;
const TTL_S: i64 = 3_600;
/// Writes beside a backup.
const WRITES: usize = 2_000;

each_engine!(an_etcd_is_restored_from_a_backup, a_backup_is_made_while_writes_go_on);

/// The server under test, and the directory of a real etcd; `None` if one is missing.
fn both(test: &str, engine: EngineKind) -> Option<(Server, PathBuf)> {
    let etcd = programs::etcd("newest");
    programs::or_skip(test, programs::subject(engine).and_then(|subject| Ok((subject, etcd?))))
}

/// Runs a program; what it prints on stdout.
pub fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Saves a backup of a member, and returns what etcdutl says of it.
fn save(etcd: &Path, member: &Member, file: &str) -> serde_json::Value {
    let said = run(&etcd.join("etcdctl"), &["--endpoints", member.client_address(), "snapshot", "save", file]);
    assert!(said.contains(&format!("Snapshot saved at {file}")), "{said}");
    let status = run(&etcd.join("etcdutl"), &["snapshot", "status", file, "-w", "json"]);
    serde_json::from_str(&status).expect("a status")
}

/// A real etcd that starts on a backup.
fn restored(etcd: &Path, file: &str) -> Member {
    let mut member = Member::new(&Server::etcd(etcd), &[]);
    let identity = member.identity();
    let peer_url = format!("http://{}", identity.peer_address);
    let (cluster, directory) = (identity.in_initial_cluster(), member.data_directory());
    let (name, directory) = (identity.name.clone(), directory.display().to_string());
    let arguments = [
        &["snapshot", "restore", file, "--data-dir", &directory, "--name", &name, "--initial-cluster", &cluster][..],
        &["--initial-advertise-peer-urls", &peer_url],
    ];
    run(&etcd.join("etcdutl"), &arguments.concat());
    member.restart();
    member
}

pub async fn hash_kv(client: &Client, revision: i64) -> (u32, i64) {
    let answer: HashKvResponse = client.unary(paths::HASH_KV, HashKvRequest { revision }).await.expect("a hash");
    (answer.hash, answer.compact_revision)
}

/// Keys that were written several times, some deleted, some with a lease; users; a compaction in the middle. Returns
/// the compacted revision and the newest.
async fn fill(client: &Client) -> (i64, i64) {
    let grant = LeaseGrantRequest { id: LEASE, ttl: TTL_S };
    client.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, grant).await.expect("a lease");
    Admin(client).add_user_with("alice", "alice's", permission(Type::Readwrite, "a", "b")).await.expect("a user");
    let mut newest = 0;
    for number in 0..KEYS * TIMES {
        let key = format!("key{:04}", number % KEYS);
        let lease = if number % 7 == 0 { LEASE } else { 0 };
        let value = vec![b'a' + (number % 26) as u8; VALUE_BYTES];
        let put = PutRequest { key: key.clone().into(), value: value.into(), lease, ..PutRequest::default() };
        let done: PutResponse = client.unary(paths::PUT, put).await.expect("a put");
        newest = done.header.expect("a header").revision;
        if number % 11 == 0 {
            let delete = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
            let done: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await.expect("a delete");
            newest = done.header.expect("a header").revision;
        }
    }
    let compacted = newest / 2;
    let compact = CompactionRequest { revision: compacted, physical: true };
    client.unary::<_, CompactionResponse>(paths::COMPACT, compact).await.expect("a compaction");
    (compacted, newest)
}

fn an_etcd_is_restored_from_a_backup(engine: EngineKind) {
    let Some((subject, etcd)) = both("backup", engine) else { return };
    let directory = Directory::new("backup");
    let file = directory.path().join("backup.db").display().to_string();
    let member = Member::start(&subject, &[]);
    let (compacted, newest) = block_on(async { fill(&Client::new(member.client_address())).await });
    let status = save(&etcd, &member, &file);
    assert_eq!(status["revision"], newest, "{status}");
    assert_eq!(status["version"], "3.7.0", "{status}");
    let bbolt = run(&etcd.join("bbolt"), &["check", &file_without_digest(&file)]);
    assert!(bbolt.contains("OK"), "{bbolt}");
    let restored = restored(&etcd, &file);
    block_on(async {
        let [subject, reference] = [&member, &restored].map(|member| Client::new(member.client_address()));
        // The member remembers the hash of the compaction itself, which it computed before it dropped anything.
        for revision in compacted + 1..=newest {
            assert_eq!(hash_kv(&subject, revision).await, hash_kv(&reference, revision).await, "at {revision}");
        }
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
        let [ours, theirs] = [&subject, &reference].map(|client| {
            let all = all.clone();
            async move { client.unary::<_, RangeResponse>(paths::RANGE, all).await.expect("all keys").kvs }
        });
        assert_eq!(ours.await, theirs.await);
        let lease = LeaseTimeToLiveRequest { id: LEASE, keys: true };
        let left: LeaseTimeToLiveResponse = reference.unary(paths::LEASE_TIME_TO_LIVE, lease).await.expect("the lease");
        assert_eq!(left.granted_ttl, TTL_S);
        assert!(!left.keys.is_empty(), "its keys");
        let user = AuthUserGetRequest { name: "alice".into() };
        let user: AuthUserGetResponse = reference.unary(paths::USER_GET, user).await.expect("alice");
        assert_eq!(user.roles.len(), 1);
    });
}

/// A backup ends with a digest, which is no part of the database.
fn file_without_digest(file: &str) -> String {
    let (bytes, other) = (std::fs::read(file).expect("the backup"), format!("{file}.bbolt"));
    std::fs::write(&other, &bytes[..bytes.len() - 32]).expect("a copy");
    other
}

fn a_backup_is_made_while_writes_go_on(engine: EngineKind) {
    let Some((subject, etcd)) = both("backup beside writes", engine) else { return };
    let directory = Directory::new("backup");
    let file = directory.path().join("backup.db").display().to_string();
    let member = Member::start(&subject, &[]);
    block_on(async { fill(&Client::new(member.client_address())).await });
    let load = Load::start(&[member.client_address().to_owned()]);
    load.progress(WRITES);
    let status = save(&etcd, &member, &file);
    load.progress(WRITES);
    let revision = status["revision"].as_i64().expect("a revision");
    let restored = restored(&etcd, &file);
    block_on(async {
        let [subject, reference] = [&member, &restored].map(|member| Client::new(member.client_address()));
        assert_eq!(hash_kv(&subject, revision).await, hash_kv(&reference, revision).await);
    });
    drop(load);
}
