//! Downgrade: the answers are those of a real etcd, and the version of the cluster follows.

use metastore_proto::etcdserverpb::downgrade_request::DowngradeAction::{self, Cancel, Enable, Validate};
use metastore_proto::etcdserverpb::{DowngradeRequest, DowngradeResponse, StatusRequest, StatusResponse};
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};

use crate::bad_days::observe::{self, eventually};

/// The version of the cluster of these tests; the next one is the version before it.
const NOW: &str = "3.7.0";
const BEFORE: &str = "3.6.0";

each_engine!(downgrade_answers_as_in_etcd, a_downgrade_ends_when_all_members_report_the_target);

/// The answer to a call, with the parts of its header that two servers have in common.
fn call(member: &Member, action: i32, version: &str) -> String {
    let request = DowngradeRequest { action, version: version.into() };
    let answer = block_on(async {
        Client::new(member.client_address()).unary::<_, DowngradeResponse>(paths::DOWNGRADE, request).await
    });
    match answer {
        Ok(DowngradeResponse { header, version }) => {
            let header = header.map(|header| (header.cluster_id != 0, header.member_id != 0, header.revision));
            format!("{action} {version:?} {header:?}")
        }
        Err(status) => format!("{action} {:?} {}", status.code(), status.message()),
    }
}

fn status(member: &Member) -> StatusResponse {
    let status = async { Client::new(member.client_address()).unary(paths::STATUS, StatusRequest {}).await };
    block_on(status).expect("a status")
}

/// The target of the downgrade, and the versions of the cluster and of the storage.
fn versions(member: &Member) -> (Option<String>, String, bool) {
    let StatusResponse { downgrade_info, storage_version, .. } = status(member);
    let info = downgrade_info.expect("it is always there");
    let page = observe::http_get(member.client_address(), "/version");
    let of_cluster = page.contains(&format!("\"etcdcluster\":\"{storage_version}\""));
    (info.enabled.then_some(info.target_version), storage_version, of_cluster)
}

fn becomes(member: &Member, target: Option<&str>, version: &str) {
    let expected = (target.map(str::to_owned), version.to_owned(), true);
    eventually(&format!("{expected:?}"), || versions(member) == expected);
}

fn transcript(server: &Server) -> Vec<String> {
    let member = Member::start(server, &[]);
    let mut answers = Vec::new();
    let mut make = |action: DowngradeAction, versions: &[&str]| {
        answers.extend(versions.iter().map(|version| call(&member, action.into(), version)));
    };
    // An etcd serves before its cluster has a version.
    becomes(&member, None, NOW);
    let good = ["3.6", "3.6.0", "3.6.7", "3.6.0-rc.1", "03.6", "3.6.0+b", "3.6.0-"];
    make(Validate, &good);
    make(
        Validate,
        &["3.7", "3.5", "3.8", "4.6", "2.6", "", "3", "x", "v3.6", "3.6.x", "3.6.0.1", "3.6-rc", " 3.6", "3.6.0-a_b"],
    );
    make(Cancel, &["", "x"]);
    make(Enable, &["3.5", "x", "3.6.7", "3.6", "3.5", "x"]);
    make(Validate, &["3.6", "3.5", "x"]);
    becomes(&member, Some(BEFORE), BEFORE);
    make(Validate, &["3.6", "3.5", "3.7"]);
    make(Enable, &["3.6", "3.5", "3.7"]);
    make(Cancel, &[""]);
    becomes(&member, None, NOW);
    make(Cancel, &[""]);
    answers.push(call(&member, 7, "3.6"));
    answers
}

fn downgrade_answers_as_in_etcd(engine: EngineKind) {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, programs::etcd("newest")?)));
    let Some((subject, etcd)) = programs::or_skip("downgrade beside etcd", found) else { return };
    let (subject, reference) = (transcript(&subject), transcript(&Server::etcd(&etcd)));
    assert_eq!(subject, reference, "left is the subject, right is etcd");
}

fn a_downgrade_ends_when_all_members_report_the_target(engine: EngineKind) {
    let Some(subject) = programs::or_skip("a downgrade that ends", programs::subject(engine)) else { return };
    let mut member = Member::start(&subject, &[]);
    assert_eq!(call(&member, Enable.into(), "3.6"), "1 \"3.7\" Some((true, true, 1))");
    becomes(&member, Some(BEFORE), BEFORE);
    member.kill();
    member.restart();
    becomes(&member, Some(BEFORE), BEFORE);
    member.kill();
    member.replace_flags(&["--reported-version=3.6.4".into()]);
    member.restart();
    becomes(&member, None, BEFORE);
    member.kill();
    member.replace_flags(&[]);
    member.restart();
    becomes(&member, None, NOW);
}
