//! Clusters with users, tokens that end, TLS, alarms and learners.

use std::time::Duration;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{ROOT_PASSWORD, SigningKey, enable, enable_at, log_in, token, token_at};
use metastore_tests::certificates::Authority;
use metastore_tests::cluster::{Cluster, block_on, call, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;

use super::mirror::{Running, pairs};
use super::{Programs, shown};
use crate::bad_days::observe::{comes_true, eventually};
use crate::tls;

/// Enough to be sent in several pieces.
const KEYS: usize = 300;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time for which a token is valid.
const TTL: &str = "1s";
/// The answer to a request without a token.
const NO_USER: &str = "etcdserver: user name is empty";
/// The answer to a put while the alarm stands.
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

each_engine!(users_an_alarm_and_a_learner_are_converted, a_mirror_outlives_its_tokens);

fn users_an_alarm_and_a_learner_are_converted(engine: EngineKind) {
    let Some(programs) = Programs::find("conversion of users", engine, "newest") else { return };
    let reference = programs.reference();
    // Tokens that are signed are valid over restarts.
    let key = SigningKey::new();
    let mut cluster = Cluster::start(std::slice::from_ref(&reference), &[&key.flag()]);
    cluster.put_many(0, KEYS, 64);
    let learner = cluster.add(&reference, true);
    cluster.speak_as(&enable_at(cluster.address(0)));
    cluster.put(0, "before", "v").expect("a put of root");
    let (alarm, member_id) = (AlarmType::Nospace as i32, cluster.id(0));
    let raise = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm };
    cluster.call::<_, AlarmResponse>(0, paths::ALARM, raise).expect("an alarm");
    let revision = cluster.revision(0).expect("a revision");
    cluster.eventually("the learner has all", |cluster| (cluster.revision(learner).ok()? == revision).then_some(()));
    for node in [learner, 0] {
        cluster.kill(node);
    }
    for node in [0, learner] {
        let directory = cluster.member(node).data_directory();
        let etcd = directory.with_extension("etcd");
        std::fs::rename(&directory, &etcd).expect("the directory is ours");
        let flag = format!("--engine={}", engine.name());
        let (from, to) = (shown(&etcd), shown(&directory));
        let said = programs.metactl.run(&["migrate", "--from-etcd-data-dir", &from, "--data-dir", &to, &flag]);
        assert!(said.contains(&format!("revision {revision}")), "{said}");
        cluster.member_mut(node).become_another(&programs.subject);
        cluster.restart(node);
    }
    let address = cluster.address(0).to_owned();
    let unnamed = call::<_, PutResponse>(&address, paths::PUT, put_request("k", "v"), PATIENCE);
    assert_eq!(unnamed.expect_err("users are known").message(), NO_USER);
    assert!(token_at(&address, "root", ROOT_PASSWORD).is_ok(), "the password of root is known");
    assert_eq!(cluster.get(0, "before").expect("a read of root"), Some("v".into()));
    assert_eq!(cluster.put(0, "after", "v").expect_err("the alarm stands").message(), NO_SPACE);
    let clear = AlarmRequest { action: AlarmAction::Deactivate as i32, member_id, alarm };
    let cleared: AlarmResponse = cluster.call(0, paths::ALARM, clear).expect("it is cleared");
    assert_eq!(cleared.alarms.len(), 1, "{cleared:?}");
    cluster.put(0, "after", "v").expect("there is space again");
    let learners = |cluster: &Cluster| {
        let members = cluster.members(0, true).expect("members");
        members.iter().filter(|member| member.is_learner).map(|member| member.id).collect::<Vec<_>>()
    };
    assert_eq!(learners(&cluster), [cluster.id(learner)]);
    cluster.promote(learner);
    assert!(learners(&cluster).is_empty());
    assert_eq!(cluster.get(learner, "after").expect("a read of root"), Some("v".into()));
}

/// The source is an etcd with TLS, and the tokens of both sides end after a second.
fn a_mirror_outlives_its_tokens(engine: EngineKind) {
    let Some(programs) = Programs::find("mirror of users", engine, "newest") else { return };
    let (ca, key, directory) = (Authority::new(), SigningKey::new(), Directory::new("mirror"));
    let tokens = key.flag_with_ttl(TTL);
    let source = tls::member(&programs.reference(), &ca, std::slice::from_ref(&tokens));
    let target = Member::new(&programs.subject, &[&tokens]);
    let mut sides = Sides { ca, members: [source, target] };
    for at in 0..2 {
        sides.members[at].restart();
        block_on(async { enable(&sides.client(at)).await.expect("users") });
    }
    let (from, to) = (tls::url(&sides.members[0]), sides.members[1].client_address().to_owned());
    let (ca, state) = (shown(&sides.ca.path("ca.crt")), shown(&directory.path().join("state.json")));
    let root = format!("root:{ROOT_PASSWORD}");
    let clusters = ["mirror", "--endpoints", &from, "--dest-endpoints", &to, "--prefix", "k", "--state-file", &state];
    let arguments = [&clusters[..], &["--cacert", &ca, "--user", &root, "--dest-user", &root]].concat();
    sides.put("k1");
    let running = Running::start(&programs.metactl, &arguments);
    sides.become_equal(1);
    // Nothing is written until the tokens of the mirror have ended.
    let token = block_on(async { token(&sides.client(1), "root", ROOT_PASSWORD).await.expect("root logs in") });
    eventually("a token ends", || {
        let range = RangeRequest { key: "k".into(), ..RangeRequest::default() };
        let read = async { sides.client(1).with_token(&token).unary::<_, RangeResponse>(paths::RANGE, range).await };
        block_on(read).is_err()
    });
    sides.put("k2");
    sides.become_equal(2);
    for at in 0..2 {
        sides.members[at].kill();
        sides.members[at].restart();
        sides.put(&format!("k-after-{at}"));
        sides.become_equal(3 + at);
    }
    let said = running.end();
    assert!(said.contains("4 keys are equal at revision"), "{said}");
    let wrong: Vec<_> = arguments.iter().map(|part| if *part == root { "root:wrong" } else { *part }).collect();
    let said = programs.metactl.fails(1, &wrong);
    assert!(said.contains("authentication failed, invalid user ID or password"), "{said}");
}

/// The source and the target, for root, who logs in for each call.
struct Sides {
    ca: Authority,
    members: [Member; 2],
}

impl Sides {
    fn client(&self, at: usize) -> Client {
        let address = self.members[at].client_address();
        if at == 0 { Client::with_certificate(address, &self.ca, "server") } else { Client::new(address) }
    }

    async fn root(&self, at: usize) -> Client {
        log_in(&self.client(at), "root", ROOT_PASSWORD).await.expect("root logs in")
    }

    fn put(&self, key: &str) {
        let put = put_request(key, "v");
        block_on(async { self.root(0).await.unary::<_, PutResponse>(paths::PUT, put).await.expect("a put") });
    }

    /// Waits until both have the same keys, as many as this.
    fn become_equal(&self, count: usize) {
        let read = |at| block_on(async { pairs(&self.root(at).await, "k").await });
        let equal = comes_true(|| {
            let [left, right] = [0, 1].map(read);
            left.len() == count && left == right
        });
        assert!(equal, "{:?}, and {:?} in the mirror", read(0), read(1));
    }
}
