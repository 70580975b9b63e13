//! The real etcdctl, with the endpoints of all members.

use std::path::PathBuf;
use std::process::Command;

use metastore_tests::cluster::{Cluster, RARE_ELECTIONS};
use metastore_tests::member::Identity;
use metastore_tests::programs;
use serde_json::Value;

use super::{Members, each_harness};

pub(super) struct Etcdctl {
    pub program: PathBuf,
    pub endpoints: String,
}

impl Etcdctl {
    /// Runs etcdctl, and returns its stdout. Panics if it fails.
    pub fn run(&self, arguments: &str) -> String {
        let (printed, error) = self.try_run(arguments);
        assert_eq!(error, None, "etcdctl {arguments}");
        printed
    }

    /// Runs etcdctl, and returns its stdout, and its stderr if it failed.
    pub fn try_run(&self, arguments: &str) -> (String, Option<String>) {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        let output = command.args(["--endpoints", &self.endpoints]).args(arguments.split(' ')).output();
        let output = output.expect("etcdctl runs");
        let [printed, error] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (printed, (!output.status.success()).then_some(error))
    }

    fn json(&self, arguments: &str) -> Value {
        let printed = self.run(&format!("{arguments} -w json"));
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("etcdctl {arguments}: {error}: {printed}"))
    }
}

each_harness!(; mixed: etcdctl_operates_a_cluster);

fn etcdctl_operates_a_cluster(members: Members) {
    let Some(newest) = programs::or_skip("etcdctl in a cluster", programs::etcd("newest")) else { return };
    // etcdctl does not repeat a change that an election interrupts.
    let flags = ["--strict-reconfig-check=false", RARE_ELECTIONS];
    let Some(cluster) = members.start("etcdctl in a cluster", 3, &flags) else { return };
    let etcdctl = Etcdctl { program: newest.join("etcdctl"), endpoints: cluster.addresses().join(",") };
    expect_members(&etcdctl, 3);
    expect_statuses(&etcdctl, &cluster);
    let health = etcdctl.json("endpoint health --cluster");
    let healthy = health.as_array().expect("a list").iter().filter(|endpoint| endpoint["health"] == true).count();
    assert_eq!(healthy, 3, "{health}");

    let next = cluster.followers()[0];
    let moved = etcdctl.run(&format!("move-leader {:x}", cluster.id(next)));
    assert!(moved.starts_with("Leadership transferred from "), "{moved}");
    assert_eq!(cluster.leader(), next);

    // The URL of a member that never starts.
    let url = format!("http://{}", Identity::local("m3").peer_address);
    let added = etcdctl.run(&format!("member add m3 --learner --peer-urls={url}"));
    let id = added.split_whitespace().nth(1).expect("\"Member <id> added to cluster ...\"").to_string();
    assert!(added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");
    expect_members(&etcdctl, 4);
    let (_, refused) = etcdctl.try_run(&format!("member promote {id}"));
    let refused = refused.expect("a learner that never started cannot be promoted");
    assert!(refused.contains("can only promote a learner member which is in sync with leader"), "{refused}");
    // etcdctl pads an id whose first digit is 0 with a blank.
    let moved = etcdctl.run(&format!("member update {id} --peer-urls=http://127.0.0.1:1"));
    assert!(moved.contains(&format!("Member {id:>16} updated in cluster")), "{moved}");
    let removed = etcdctl.run(&format!("member remove {id}"));
    assert!(removed.contains(&format!("Member {id:>16} removed from cluster")), "{removed}");
    expect_members(&etcdctl, 3);
}

fn expect_members(etcdctl: &Etcdctl, count: usize) {
    let list = etcdctl.json("member list");
    let members = list["members"].as_array().expect("members");
    let started = members.iter().filter(|member| member["clientURLs"].as_array().is_some_and(|urls| urls.len() == 1));
    assert_eq!((members.len(), started.count()), (count, 3), "{list}");
}

fn expect_statuses(etcdctl: &Etcdctl, cluster: &Cluster) {
    let statuses = etcdctl.json("endpoint status --cluster");
    let statuses = statuses.as_array().expect("a list");
    let mut ids: Vec<u64> = statuses.iter().filter_map(|at| at["Status"]["header"]["member_id"].as_u64()).collect();
    let mut expected: Vec<u64> = (0..3).map(|node| cluster.id(node)).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected, "{statuses:#?}");
    let leader = Some(cluster.id(cluster.leader()));
    assert!(statuses.iter().all(|at| at["Status"]["leader"].as_u64() == leader), "{statuses:#?}");
}
