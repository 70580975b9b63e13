//! Commands other than keys and leases that an etcd writes into the log of a cluster that it shares with MetaStore:
//! queries, alarms, users and roles, downgrades.

use std::time::Duration;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::{Cluster, RARE_ELECTIONS, put_request};
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};
use tonic::Code;

use super::etcdctl::Etcdctl;

/// The node of the etcd. The others are MetaStore members, one with each engine.
const ETCD: usize = 0;
/// Long enough for a lease of two seconds, and the election of a leader.
const EXPIRY: Duration = Duration::from_secs(30);

/// Each query is a command in etcd's log, but changes nothing.
const QUESTIONS: [&str; 8] = [
    "endpoint health",
    "endpoint status",
    "alarm list",
    "auth status",
    "user list",
    "role list",
    "downgrade validate 3.6.0",
    "get --prefix a",
];

/// Every member records these commands, in this order.
const RECORDS: [&str; 21] = [
    "user add root:pw",
    "user add alice:pw",
    "user add robot --no-password",
    "role add root",
    "role add r",
    "role add gone",
    "role grant-permission r readwrite a c",
    "role grant-permission r read c",
    "role grant-permission r write x --from-key",
    "role grant-permission r read a c",
    "role grant-permission r readwrite a c",
    "role grant-permission gone read b",
    "role revoke-permission r c",
    "user grant-role root root",
    "user grant-role alice r",
    "user grant-role alice gone",
    "user grant-role robot gone",
    "role delete gone",
    "user revoke-role alice r",
    "user grant-role alice r",
    "user delete robot",
];

/// An etcd accepts deeper transactions than MetaStore reads from its clients; they ended every MetaStore member.
const DEEP: usize = 128;

fn deep_transactions(cluster: &Cluster) {
    for leader in [ETCD, 1] {
        cluster.move_leader(leader);
        let put = Request::RequestPut(put_request("deep", &leader.to_string()));
        let around = |request| {
            let success = vec![RequestOp { request: Some(request) }];
            TxnRequest { success, ..TxnRequest::default() }
        };
        let nested = (1..DEEP).fold(around(put), |txn, _| around(Request::RequestTxn(txn)));
        // The answer is as deep, so it is taken for an empty message, whose decoder skips it.
        cluster.call::<_, StatusRequest>(ETCD, paths::TXN, nested).expect("a transaction");
        assert_eq!(cluster.get(2, "deep").expect("a read"), Some(leader.to_string()));
    }
}

/// Regression: the first of these commands ended every MetaStore member of the cluster, also after each restart.
#[test]
fn what_an_etcd_writes_into_the_log_beside_keys_is_recorded_alike_by_all() {
    let found = programs::etcd("newest").and_then(|etcd| {
        let metastores = [programs::subject(EngineKind::Memory)?, programs::subject(EngineKind::RocksDb)?];
        Ok((etcd, metastores))
    });
    let Some((etcd, [memory, rocksdb])) = programs::or_skip("recorded beside etcd", found) else { return };
    let mut cluster = Cluster::start(&[Server::etcd(&etcd), memory, rocksdb], &[RARE_ELECTIONS]);
    let etcdctl = Etcdctl { program: etcd.join("etcdctl"), endpoints: cluster.address(ETCD).to_string() };

    for leader in [ETCD, 1, 2] {
        cluster.move_leader(leader);
        QUESTIONS.iter().for_each(|question| _ = etcdctl.run(question));
    }
    same_state(&cluster);
    deep_transactions(&cluster);
    same_state(&cluster);
    RECORDS.iter().for_each(|record| _ = etcdctl.run(record));
    same_state(&cluster);
    alarms(&cluster, &etcdctl);
    downgrade(&cluster, &etcdctl);
    users(&cluster, &etcdctl);

    same_state(&cluster);
    for node in [1, 2] {
        cluster.kill(node);
        cluster.restart(node);
    }
    cluster.put(1, "b", "after all this").expect("a write");
    cluster.agree();
    same_state(&cluster);
}

/// The hash of all stored data is the same on all members.
fn same_state(cluster: &Cluster) {
    cluster.agree();
    let hash = |node| cluster.call::<_, HashResponse>(node, paths::HASH, HashRequest {}).map(|hash| hash.hash);
    cluster.eventually("equal states", |cluster| {
        let hashes: Vec<u32> = cluster.running().into_iter().map(|node| hash(node).ok()).collect::<Option<_>>()?;
        hashes.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    });
}

/// An alarm that one member raises applies to all members, and any member may disarm it.
fn alarms(cluster: &Cluster, etcdctl: &Etcdctl) {
    let alarm = |node, action: AlarmAction| {
        let request =
            AlarmRequest { action: action.into(), member_id: cluster.id(1), alarm: AlarmType::Nospace.into() };
        let answer: AlarmResponse = cluster.call(node, paths::ALARM, request).expect("an answer");
        answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect::<Vec<_>>()
    };
    let raised = [(cluster.id(1), AlarmType::Nospace)];
    assert_eq!(alarm(1, AlarmAction::Activate), raised);
    assert!(etcdctl.run("alarm list").contains("NOSPACE"));
    for node in cluster.running() {
        assert_eq!(alarm(node, AlarmAction::Get), raised);
        assert_eq!(cluster.put(node, "a", "no room").unwrap_err().code(), Code::ResourceExhausted);
    }
    assert!(cluster.status(2).expect("a status").errors.iter().any(|error| error.contains("NOSPACE")));
    same_state(cluster);
    etcdctl.run("alarm disarm");
    for node in cluster.running() {
        assert_eq!(alarm(node, AlarmAction::Get), []);
        cluster.put(node, "a", "room again").expect("a write");
    }
}

/// The leader lowers the version of the cluster when a downgrade begins, and raises it again when it is cancelled. A
/// new leader does not raise it while the downgrade goes on.
fn downgrade(cluster: &Cluster, etcdctl: &Etcdctl) {
    let shown = |cluster: &Cluster, enabled, version: &str| {
        let shows = |node| {
            let status = cluster.status(node).ok()?;
            Some(status.downgrade_info?.enabled == enabled && status.storage_version == version)
        };
        cluster.running().into_iter().all(|node| shows(node) == Some(true)).then_some(())
    };
    for (leader, next) in [(ETCD, 1), (1, ETCD), (1, 1)] {
        cluster.move_leader(leader);
        etcdctl.run("downgrade enable 3.6");
        cluster.eventually("a lower version", |cluster| shown(cluster, true, "3.6.0"));
        cluster.move_leader(next);
        etcdctl.run("downgrade cancel");
        cluster.eventually("the version as before", |cluster| shown(cluster, false, "3.7.0"));
    }
}

/// Permissions are checked when a command is applied, so MetaStore must refuse the commands that etcd refuses. While
/// authentication is on, no member serves a call without a user.
fn users(cluster: &Cluster, etcdctl: &Etcdctl) {
    for leader in [1, ETCD] {
        cluster.move_leader(leader);
        etcdctl.run("auth enable");
        let [root, alice] = ["root", "alice"].map(|user| move |rest: &str| format!("{rest} --user {user}:pw"));
        etcdctl.run(&root("put z 1"));
        etcdctl.run(&alice("put a 1"));
        for refused in [alice("put c 1"), alice("del a d"), alice("user add eve:pw"), "put a 2".into()] {
            assert!(etcdctl.try_run(&refused).1.is_some(), "{refused}");
        }
        // A lease that is not kept alive ends, regardless of the permissions on its key.
        let granted = etcdctl.run(&root("lease grant 2"));
        let lease = granted.split_whitespace().nth(1).expect("\"lease <id> granted ...\"");
        etcdctl.run(&root(&format!("put z 2 --lease={lease}")));
        cluster.within(EXPIRY, "the key of a lease is gone", |_| {
            etcdctl.run(&root("get z --print-value-only")).trim().is_empty().then_some(())
        });
        for node in cluster.running() {
            for refused in [cluster.get(node, "a").unwrap_err(), cluster.put(node, "a", "1").unwrap_err()] {
                assert_eq!(refused.code(), Code::InvalidArgument);
                assert_eq!(refused.message(), "etcdserver: user name is empty");
            }
        }
        etcdctl.run(&root("auth disable"));
    }
}
