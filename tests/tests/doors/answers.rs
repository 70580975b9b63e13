//! One table of requests, asked at the client port and at the metrics port, in several states of a member.

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::{AlarmRequest, AlarmResponse, AlarmType};
use metastore_tests::cluster::{Cluster, block_on};
use metastore_tests::grpc::Client;
use metastore_tests::member::{Identity, Member, free_address};
use metastore_tests::paths;
use metastore_tests::programs::{Server, with_both};

use super::{Answer, ask, servers};
use crate::bad_days::observe::eventually;

/// Paths that are asked for with GET.
const PATHS: &[&str] = &[
    "/livez",
    "/livez?verbose",
    "/livez/",
    "/livez/serializable_read?verbose",
    "/livez/linearizable_read",
    "/readyz",
    "/readyz?verbose",
    "/readyz?verbose=false",
    "/readyz?verbose&exclude=non_learner",
    "/readyz?verbose&exclude=nope",
    "/readyz?verbose&exclude=data_corruption,non_learner",
    "/readyz?exclude=data_corruption",
    "/readyz?exclude=data_corruption&exclude=linearizable_read",
    "/readyz?verbose&exclude=data_corruption&exclude=serializable_read&exclude=linearizable_read&exclude=non_learner",
    "/readyz/",
    "/readyz/nope",
    "/readyz/non_learner/x",
    "/readyz/data_corruption",
    "/readyz/data_corruption?verbose&exclude=data_corruption",
    "/readyz/serializable_read",
    "/readyz/linearizable_read?verbose",
    "/readyz/non_learner?verbose",
    "/health",
    "/health/",
    "/health?serializable=true",
    "/health?serializable=True",
    "/health?exclude=NOSPACE",
    "/health?exclude=NOSPACE&exclude=CORRUPT",
    "/health?exclude=NOSPACE,CORRUPT",
    "/health?exclude=corrupt&exclude",
    "/debug",
    "/debug/requests",
    "/debug/events",
    "/nothing",
    "/",
];

/// Paths that are asked for with each of [`METHODS`].
const OTHERWISE: [&str; 7] =
    ["/livez", "/readyz/non_learner", "/readyz/nope", "/health", "/version", "/debug/vars", "/nothing"];
const METHODS: [&str; 6] = ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "FOO"];

/// The answers to the table, by request. etcd lists checks in no order.
fn table(address: &str) -> Vec<(String, Answer)> {
    let gets = PATHS.iter().map(|path| ("GET", *path));
    let others = OTHERWISE.iter().flat_map(|path| METHODS.map(|method| (method, *path)));
    let answer = |(method, path): (&str, &str)| {
        let mut answer = ask(address, method, path, "");
        let mut lines: Vec<_> = answer.body.split('\n').map(str::to_owned).collect();
        lines.sort();
        answer.body = lines.join("\n");
        (format!("{method} {path}"), answer)
    };
    gets.chain(others).map(answer).collect()
}

/// The table, at the client port and at the metrics port of a member.
fn tables(member: &Member, metrics_port: &str) -> [Vec<(String, Answer)>; 2] {
    [table(member.client_address()), table(metrics_port)]
}

fn differences<'a>(
    subject: impl IntoIterator<Item = &'a (String, Answer)>,
    etcd: impl IntoIterator<Item = &'a (String, Answer)>,
) -> Vec<String> {
    let pairs = subject.into_iter().zip(etcd).filter(|(left, right)| left != right);
    pairs.map(|(left, right)| format!("{}: {:?}, and etcd {:?}", left.0, left.1, right.1)).collect()
}

fn observed(server: &Server, flags: &[&str]) -> (Member, String) {
    let metrics_port = free_address();
    let flag = format!("--listen-metrics-urls=http://{metrics_port}");
    (Member::start(server, &[&[&*flag], flags].concat()), metrics_port)
}

fn set(member: &Member, action: AlarmAction, alarm: AlarmType) {
    let request = AlarmRequest { action: action as i32, member_id: 7, alarm: alarm as i32 };
    let set = block_on(async { Client::new(member.client_address()).unary(paths::ALARM, request).await });
    let _: AlarmResponse = set.expect("an alarm is set");
}

#[test]
fn a_member_answers_as_etcd_does_whatever_alarms_stand() {
    let Some(servers) = servers("doors") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (member, metrics_port) = observed(server, &[]);
        let mut all = tables(&member, &metrics_port).to_vec();
        for alarm in [AlarmType::Nospace, AlarmType::Corrupt] {
            // One at a time: etcd names any of several.
            set(&member, AlarmAction::Activate, alarm);
            all.extend(tables(&member, &metrics_port));
            set(&member, AlarmAction::Deactivate, alarm);
        }
        all
    });
    let statuses = |table: &[(String, Answer)], status| table.iter().filter(|(_, a)| a.status == status).count();
    let well = [200, 404, 405, 503].map(|status| statuses(&etcd[0], status));
    let corrupt = statuses(&etcd[4], 503);
    assert!(well[..3].iter().all(|count| *count > 5) && well[3] == 0 && corrupt > 5, "{well:?} {corrupt}");
    assert_eq!(differences(subject.iter().flatten(), etcd.iter().flatten()), [""; 0]);
}

/// The metrics port serves before the member does, so that a probe sees why it does not.
#[test]
fn a_member_that_finds_no_quorum_answers_at_its_metrics_port_as_etcd_does() {
    let Some(servers) = servers("doors without a quorum") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (metrics_port, identity) = (free_address(), Identity::local("m"));
        let founders = format!("--initial-cluster={},other=http://{}", identity.in_initial_cluster(), free_address());
        let flag = format!("--listen-metrics-urls=http://{metrics_port}");
        let mut member = Member::with_identity(server, identity, &[&founders, &flag]);
        member.launch().expect("it starts");
        eventually("an open metrics port", || std::net::TcpStream::connect(&metrics_port).is_ok());
        let paths = ["/livez", "/readyz/serializable_read", "/readyz/non_learner", "/health", "/metrics"];
        let mut answers: Vec<_> = paths.iter().map(|path| ask(&metrics_port, "GET", path, "")).collect();
        assert!(answers[4].body.contains("\netcd_server_has_leader 0\n"), "{:?}", answers[4]);
        answers.truncate(4);
        // A read that waits for a quorum takes seconds; one is enough.
        let ready = ask(&metrics_port, "GET", "/readyz", "");
        let mut list: Vec<_> = ready.body.lines().map(str::to_owned).collect();
        list.sort();
        (answers, ready.status, list)
    });
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
    assert_eq!((etcd.0[0].status, etcd.1), (200, 503), "it is alive, and not ready");
}

#[test]
fn a_learner_is_alive_and_not_ready_as_in_etcd() {
    let Some(servers) = servers("doors of a learner") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let mut cluster = Cluster::start(std::slice::from_ref(server), &[]);
        let learner = cluster.add(server, true);
        let address = cluster.address(learner).to_owned();
        ["/livez", "/readyz/non_learner", "/readyz?exclude=non_learner", "/health"].map(|path| {
            let answer = ask(&address, "GET", path, "");
            (path, answer)
        })
    });
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
    assert_eq!(etcd[1].1.status, 503);
}

/// The variables that a member shows have the names of etcd's, and the same standing in the cluster.
#[test]
fn variables_have_etcds_names() {
    let Some(servers) = servers("variables") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (member, _) = observed(server, &[]);
        let answer = ask(member.client_address(), "GET", "/debug/vars", "");
        let vars: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        (answer.status, answer.headers, vars)
    });
    assert_eq!((subject.0, &subject.1), (etcd.0, &etcd.1));
    let keys = |of: &serde_json::Value| of.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&subject.2), keys(&etcd.2));
    for group in ["memstats", "raft.status"] {
        let (ours, theirs) = (keys(&subject.2[group]), keys(&etcd.2[group]));
        assert!(!ours.is_empty() && ours.iter().all(|key| theirs.contains(key)), "{group}: {ours:?} {theirs:?}");
    }
    let standing = |of: &serde_json::Value| of["raft.status"]["raftState"].clone();
    assert_eq!((standing(&subject.2), standing(&etcd.2)), ("StateLeader".into(), "StateLeader".into()));
    let own = |of: &serde_json::Value| of["raft.status"]["id"] == of["raft.status"]["lead"];
    assert!(own(&subject.2) && own(&etcd.2));
    assert_eq!(subject.2["file_descriptor_limit"], etcd.2["file_descriptor_limit"]);
    let arguments = subject.2["cmdline"].as_array().expect("a list");
    assert!(arguments.contains(&"--data-dir".into()), "{arguments:?}");
}
